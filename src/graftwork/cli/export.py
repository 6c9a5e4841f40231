"""``graft adapter export`` and ``push``: adapters on their way out."""

from __future__ import annotations

import getpass
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from graftwork.cli.connection import Server, connect
from graftwork.cli.files import whole_file
from graftwork.cli.output import put, put_json, say

Format = Literal["peft", "merged", "gguf", "lora-gguf", "ollama", "lmstudio"]
Quant = Literal["f16", "q8_0", "q4_k_m"]
_POLL = 0.5
"""Seconds between two looks at an export."""


def export(
    version: str,
    /,
    *,
    format: Format = "peft",
    quant: Quant = "f16",
    with_base: Annotated[bool, Parameter(negative=())] = False,
    to: Annotated[Path | None, Parameter(name=["--to", "-o"])] = None,
    json: bool = False,
) -> None:
    """Write a version in another format; the folder its files are in is printed.

    Parameters
    ----------
    version:
        The version, as adapter@number; a name alone is its production version.
    format:
        peft (the adapter as it is), merged (a full checkpoint), gguf (for llama.cpp), lora-gguf (the adapter
        alone, for llama.cpp), ollama (GGUF and Modelfile), lmstudio (GGUF in LM Studio's folders).
    quant:
        How a GGUF holds the weights.
    with_base:
        With lora-gguf: write the base model's GGUF too.
    to:
        The folder for the files, made if need be; adapter-number-format-quant if left out.
    """
    from graftwork.cli.adapter import numbered

    server = connect()
    name, number = numbered(server, version)
    body = {"format": format, "quant": quant, "with_base": with_base}
    made = server.post(f"/api/adapters/{name}/versions/{number}/exports", body)
    done = wait(server, made)
    kind = format if format in {"peft", "merged"} else f"{format}-{quant}"
    folder = to or Path(f"{name}-{number}-{kind}")
    for file in done["files"]:
        fetch(server, done["id"], file, folder / file["path"])
    if json:
        put_json({**done, "folder": str(folder)})
        return
    for file in done["files"]:
        say(f"  {file['path']}  {file['bytes'] / 1e6:.1f} MB")
    put(str(folder))


def push(
    version: str,
    repository: str,
    /,
    *,
    format: Format = "peft",
    quant: Quant = "f16",
    public: Annotated[bool, Parameter(negative=())] = False,
    token: str | None = None,
    json: bool = False,
) -> None:
    """Push a version to a repository of the Hugging Face Hub, with a model card; its address is printed.

    Parameters
    ----------
    version:
        The version, as adapter@number; a name alone is its production version.
    repository:
        The repository, as owner/name; made if need be.
    format:
        What to push, as in `graft adapter export`.
    quant:
        How a GGUF holds the weights.
    public:
        Make a new repository public; it is private otherwise.
    token:
        A token of the Hub that may write; $HF_TOKEN if not given, or asked for on a terminal.
    """
    from graftwork.cli.adapter import numbered

    server = connect()
    name, number = numbered(server, version)
    body = {
        "repository": repository,
        "token": token or os.environ.get("HF_TOKEN") or _ask(),
        "private": not public,
        "format": format,
        "quant": quant,
    }
    done = wait(server, server.post(f"/api/adapters/{name}/versions/{number}/push", body))
    put_json(done) if json else put(done["url"])


def wait(server: Server, export: dict[str, Any]) -> dict[str, Any]:
    """The export once it has ended well.

    Raises:
        GraftworkError: it failed, with its code and why.
    """
    if export["state"] == "pending":
        say("The server is at work; Ctrl-C leaves it at that, and the same command goes on.")
    while export["state"] == "pending":
        time.sleep(_POLL)
        export = server.get(f"/api/exports/{export['id']}")
    if export["state"] == "failed":
        from graftwork.core.errors import InvalidRequest

        error = export["error"] or {}
        raise InvalidRequest(error.get("message", "The export failed."), code=error.get("code"))
    return export


def fetch(server: Server, export_id: str, file: dict[str, Any], target: Path) -> None:
    """Download one file; it is there whole or not at all, and one that is there already stays.

    Raises:
        Conflict: something else is there under its name.
        PlatformError: what came is not what the server said.
    """
    from graftwork.core.errors import Conflict, PlatformError

    if ".." in Path(file["path"]).parts or Path(file["path"]).is_absolute():
        raise PlatformError(f"{file['path']!r} is no name for a file.", code="bad_download")
    if target.exists():
        if _sha256(target) == file["sha256"]:
            return
        raise Conflict(
            f"{target} is there already, with other content.",
            fix="Give another folder with --to, or move the file away.",
            code="file_exists",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as part:
        with part.open("wb") as handle:
            server.download(f"/api/exports/{export_id}/files/{file['path']}", handle)
        if _sha256(part) != file["sha256"]:
            raise PlatformError(f"{file['path']} came damaged.", fix="Try again.", code="bad_download")


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _ask() -> str:
    from graftwork.core.errors import InvalidRequest

    if not sys.stdin.isatty():
        raise InvalidRequest(
            "A push needs a token of the Hub.", fix="Set HF_TOKEN.", code="hub_token_missing"
        )
    return getpass.getpass("Token of the Hugging Face Hub: ")
