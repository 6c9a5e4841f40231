"""``graft model``: the base models of the server, and what is known of each."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from cyclopts import App

from graftwork.cli.connection import connect
from graftwork.cli.output import Column, put_json, say, table

app = App(name="model", help="List base models, and show what is known of one.", help_format="plaintext")

_COLUMNS = [
    Column("name", "model"),
    Column("parameters", "weights", right=True),
    Column("active", "active", right=True),
    Column("context", "context", right=True),
    Column("engines", "engines"),
    Column("licence", "licence"),
]
_FACTS = [Column("what", "what"), Column("value", "value")]


@app.command
def ls(*, json: bool = False, quiet: bool = False) -> None:
    """List base models: those that may be named at once; others by repository, where the operator allows."""
    models = connect().get("/api/models")["data"]
    if json:
        put_json(models)
        return
    rows = [
        {
            **model,
            "parameters": _billions(model["parameters"]),
            "active": _billions(model["active_parameters"]),
            "engines": ", ".join(model["engines"]),
        }
        for model in models
    ]
    table(rows, _COLUMNS, quiet=quiet)


@app.command
def show(name: str, *, json: bool = False) -> None:
    """Show one base model: its shape, the parts LoRA can adapt, who trains and serves it, its memory.

    Parameters
    ----------
    name
        As in ``graft model ls``, or a repository or folder that the operator allows.
    """
    model = connect().get(f"/api/models/{quote(name)}")
    if json:
        put_json(model)
        return
    table([{"what": what, "value": value} for what, value in _facts(model)], _FACTS)
    if model["notes"]:
        say(model["notes"])


def _facts(model: dict[str, Any]) -> list[tuple[str, str]]:
    shape, adapter = model["shape"], model["adapter"]
    experts = f" ({shape['active_experts']} of {shape['experts']} experts)" if shape["experts"] else ""
    ranks = f"rank {adapter['rank']}"
    if adapter["expert_rank"] is not None:
        ranks += f", {adapter['expert_rank']} on each expert"
    facts = [
        ("name", model["name"]),
        ("repository", f"{model['repository']} @ {model['revision']}"),
        ("family", model["family"]),
        ("licence", model["licence"]),
        ("weights", f"{_billions(model['parameters'])}, {shape['layers']} layers, width {shape['hidden']}"),
        ("active", f"{_billions(model['active_parameters'])}{experts}"),
        ("context", str(model["context"])),
        ("chat", model["chat"] or "the template in its folder"),
        ("trainers", ", ".join(model["trainers"])),
        ("learning rate", f"{model['lora_learning_rate']:g}: {model['rate_reason']}"),
        ("adapter", f"{ranks}: {adapter['parameters'] / 1e6:.1f} M weights"),
    ]
    facts += [(f"targets: {part}", ", ".join(names)) for part, names in model["targets"].items()]
    facts += [
        (f"served by {name}", f"no: {why}" if why else model["unseen"].get(name, "yes"))
        for name, why in model["serving"].items()
    ]
    facts += [
        (f"memory: {row['method']} on {row['device']}{_held(row)}", f"{row['bytes'] / (1 << 30):.1f} GiB")
        for row in model["memory"]
        if row["method"] in ("sft", "dpo")
    ]
    return facts


def _held(row: dict[str, Any]) -> str:
    return "" if row["quantization"] == "none" else f", {row['quantization']}"


def _billions(count: int) -> str:
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.0f} M"
