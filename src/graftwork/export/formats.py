"""One export: files of the format that was asked for, in a fresh folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from graftwork.export.card import card
from graftwork.export.ollama import modelfile
from graftwork.export.request import Request

CARD = "README.md"


def export(request: Request) -> list[str]:
    """Write the files; their paths below ``into``, sorted.

    Raises:
        InvalidRequest: the format has no place for this model or adapter, and why.
    """
    request.into.mkdir(parents=True)
    _WRITERS[request.format](request)
    return sorted(
        path.relative_to(request.into).as_posix() for path in request.into.rglob("*") if path.is_file()
    )


def _peft(request: Request) -> None:
    for path in request.adapter.iterdir():
        shutil.copyfile(path, request.into / path.name)
    _card(request, request.into)


def _merged(request: Request) -> None:
    from graftwork.models.merge import merge

    request.into.rmdir()  # merge makes it, whole
    merge(request.base, request.adapter, request.into)
    _card(request, request.into)


def _gguf(request: Request) -> None:
    _card(request, request.into, file=_model(request, request.into))


def _lora_gguf(request: Request) -> None:
    from graftwork.export.gguf_lora import write_lora
    from graftwork.export.gguf_model import write_model

    about, into = request.about, request.into
    file = f"{about.name}-lora-f16.gguf"
    write_lora(request.base, request.adapter, into / file, name=about.title)
    base_file = _file_name(_plain(about.base), request.quant)
    if request.with_base:
        write_model(request.base, None, into / base_file, request.quant, name=about.base)
    (into / "Modelfile").write_text(modelfile(request.base, f"./{base_file}", f"./{file}"))
    _card(request, into, file=file, base_file=base_file)


def _ollama(request: Request) -> None:
    # The template first: if it cannot be said, nothing large was written for nothing.
    text = modelfile(request.base, f"./{_file_name(request.about.name, request.quant)}")
    _model(request, request.into)
    (request.into / "Modelfile").write_text(text)
    _card(request, request.into)


def _lmstudio(request: Request) -> None:
    """LM Studio finds ``publisher/model/file.gguf`` below its models folder."""
    folder = request.into / request.about.publisher / f"{request.about.name}-GGUF"
    folder.mkdir(parents=True)
    _card(request, folder, file=_model(request, folder))


_WRITERS: dict[str, Callable[[Request], None]] = {
    "peft": _peft,
    "merged": _merged,
    "gguf": _gguf,
    "lora-gguf": _lora_gguf,
    "ollama": _ollama,
    "lmstudio": _lmstudio,
}


def _model(request: Request, folder: Path) -> str:
    from graftwork.export.gguf_model import write_model

    file = _file_name(request.about.name, request.quant)
    title = request.about.title
    write_model(request.base, request.adapter, folder / file, request.quant, name=title)
    return file


def _file_name(name: str, quant: str) -> str:
    return f"{name}-{quant.upper() if quant != 'f16' else quant}.gguf"


def _plain(name: str) -> str:
    return name.rpartition("/")[2] or "base"


def _card(request: Request, folder: Path, **files: str) -> None:
    repository = request.push.repository if request.push else request.about.name
    text = card(request.about, request.format, repository=repository, files=files)
    (folder / CARD).write_text(text, encoding="utf-8")
