"""``graft up``: everything on one machine, in one process with its engine and trainers as children."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from graftwork.cli.connection import CLIENT_FILE, data_folder
from graftwork.cli.output import put, say

if TYPE_CHECKING:
    from graftwork.control.platform import Platform
    from graftwork.control.settings import Settings


def up(
    *,
    data: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    database: str | None = None,
    allow_base: Annotated[list[str] | None, Parameter(negative_iterable="")] = None,
    organization: str = "personal",
    mlflow: str | None = None,
    tensorboard: Path | None = None,
    wandb: Literal["online", "offline"] | None = None,
    show_key: bool = False,
) -> int:
    """Start everything on this machine, and stop it cleanly on Ctrl-C or SIGTERM.

    When ready it prints one line of JSON on stdout: url, api_key and data. The key is that of the first
    project, printed on the first start and later only with --show-key. The next start finds everything again.

    Parameters
    ----------
    data:
        Folder for everything that must last; $GRAFTWORK_DATA or ~/.graftwork when not given.
    host:
        Address to listen on.
    port:
        Port to listen on; 0 takes a free one.
    database:
        SQLite or PostgreSQL URL; a SQLite file in the data folder when not given.
    allow_base:
        More base models that jobs may name: a pattern of hub ids (Qwen/*) or of absolute folder paths
        (/models/*); give it once for each.
    organization:
        Name of the first organization, made on the first start; part of every ft: name.
    mlflow:
        URL of an MLflow server that is told every step of every job.
    tensorboard:
        Folder for TensorBoard's event files of every job.
    wandb:
        Tell Weights & Biases every step of every job: online ($WANDB_API_KEY), or offline into the data
        folder.
    show_key:
        Print the first project's key although it was printed before.
    """
    from graftwork.api.serve import loop_factory
    from graftwork.control.settings import Settings

    settings = Settings(
        data=(data or data_folder()).expanduser().resolve(),
        host=host,
        port=port,
        database=database or "",
        allow=tuple(allow_base or ()),
        organization=organization,
        mlflow=mlflow or "",
        wandb=wandb or "",
        tensorboard=None if tensorboard is None else tensorboard.expanduser().resolve(),
    )
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_serve(settings, show_key))


async def _serve(settings: Settings, show_key: bool) -> int:
    from graftwork.api.serve import serve
    from graftwork.control.platform import Platform

    async with Platform.start(settings) as platform:

        def ready(url: str) -> None:
            _announce(platform, settings.data, url, show_key)

        await serve(platform, settings.host, settings.port, on_ready=ready)
        say("Stopping; trainers save their state.")
    say("Stopped.")
    return 0


def _announce(platform: Platform, folder: Path, url: str, show_key: bool) -> None:
    key = platform.first_key()
    shown = key if show_key or platform.first_start else None
    _remember(folder, url, key)
    say(f"Graftwork is at {url}; its data is in {folder}. Stop it with Ctrl-C.")
    say(
        f"In another terminal:  export GRAFTWORK_DATA={folder}  and then  graft train, graft chat, graft bill"
    )
    put(json.dumps({"url": url, "api_key": shown, "data": str(folder)}))


def _remember(folder: Path, url: str, key: str) -> None:
    """Write ``client.json`` for commands run on this machine, readable by its owner alone."""
    path = folder / CLIENT_FILE
    fresh = path.with_suffix(".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump({"url": url, "api_key": key}, file)
    fresh.replace(path)
