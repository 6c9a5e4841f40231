"""The model card that goes with an exported adapter: what it is, how it was measured, how to use it."""

from __future__ import annotations

import json
import re
from typing import Any

from graftwork.export.request import About

_USAGE = {
    "peft": """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{repository}")
```""",
    "merged": """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{repository}")
tokenizer = AutoTokenizer.from_pretrained("{repository}")
```""",
    "gguf": "```sh\nllama-cli -m {file} --jinja -cnv\n```",
    "lora-gguf": "```sh\nllama-cli -m {base_file} --lora {file} --jinja -cnv\n```",
    "ollama": "```sh\nollama create {name} -f Modelfile && ollama run {name}\n```",
    "lmstudio": "Copy this folder into LM Studio's models folder (`~/.lmstudio/models`).",
}

_IDENTIFIER = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")


def card(about: About, kind: str, *, repository: str, files: dict[str, str]) -> str:
    """A README.md with the Hub's metadata.

    Args:
        about: the version.
        kind: the format of the files.
        repository: where the files will be, or a folder's name.
        files: names for the usage text: ``file``, ``base_file``.
    """
    meta: dict[str, Any] = _licence(about.licence)
    if "/" in about.base_repository:  # else it is none of the Hub's
        relation = "adapter" if kind in {"peft", "lora-gguf"} else "finetune"
        meta |= {"base_model": about.base_repository, "base_model_relation": relation}
    meta |= {
        "library_name": {"peft": "peft", "merged": "transformers"}.get(kind, "gguf"),
        "pipeline_tag": "text-generation",
        "tags": ["lora", "graftwork"],
    }
    # Every JSON value is a YAML value.
    head = "\n".join(f"{key}: {json.dumps(value)}" for key, value in meta.items() if value)
    usage = _USAGE[kind].format(
        base=about.base_repository,
        repository=repository,
        name=about.name,
        **{"file": "", "base_file": ""} | files,
    )
    parts = [
        f"---\n{head}\n---\n\n# {about.title}\n",
        f"A LoRA adapter on `{about.base_repository}`, revision `{about.base_revision}`, by Graftwork.\n",
        "## Use\n",
        usage + "\n",
        "## Training\n",
        "\n".join(f"- {key}: {value}" for key, value in about.facts.items()) + "\n",
    ]
    if about.scores:
        parts += ["## Evaluation\n", _table(about.scores) + "\n"]
    return "\n".join(parts)


def _licence(licence: str) -> dict[str, str]:
    """As the Hub has it: one of its identifiers, or another's name."""
    if _IDENTIFIER.fullmatch(licence):
        return {"license": licence}
    return {"license": "other", "license_name": licence} if licence else {}


def _table(scores: dict[str, dict[str, float]]) -> str:
    """A table: models across, measures down."""
    models = list(scores)
    measures = sorted({measure for values in scores.values() for measure in values})
    lines = ["| measure | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
    for measure in measures:
        cells = (f"{scores[m][measure]:.4g}" if measure in scores[m] else "" for m in models)
        lines.append(f"| {measure} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
