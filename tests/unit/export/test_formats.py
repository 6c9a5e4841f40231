"""What each format's folder holds, and what its card says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
import yaml
from controlhouse import adapter_files

from graftwork.export.__main__ import run
from graftwork.export.card import card
from graftwork.export.request import About, Answer, Request
from graftwork.models.folder import seedling_folder

ROOT = Path(__file__).parents[3]
ABOUT = About(
    name="support-3",
    title="support@3",
    publisher="acme",
    base="seedling",
    base_repository="Qwen/Qwen3-8B",
    base_revision="abc",
    licence="apache-2.0",
    facts={"training data": "400 rows, sha256 `00`"},
    scores={"new": {"loss": 0.5, "exact_match": 1.0}, "base": {"loss": 2.0}},
)
FILES = {
    "peft": {"README.md", "adapter_config.json", "adapter_model.safetensors"},
    "gguf": {"README.md", "support-3-Q8_0.gguf"},
    "lora-gguf": {"README.md", "Modelfile", "support-3-lora-f16.gguf"},
    "ollama": {"README.md", "Modelfile", "support-3-Q8_0.gguf"},
    "lmstudio": {f"acme/support-3-GGUF/{name}" for name in ("README.md", "support-3-Q8_0.gguf")},
}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name, data in adapter_files().items():
        (folder / name).write_bytes(data)
    return folder


def request(adapter: Path, **fields: Any) -> Request:
    given = {"format": "gguf", "quant": "q8_0", "base": seedling_folder(), "adapter": adapter, "about": ABOUT}
    return Request(**{**given, "into": adapter.parent / "out", **fields})


@pytest.mark.parametrize("format", FILES)
def test_each_format_has_its_files(format: str, adapter: Path):
    answer = run(request(adapter, format=format))
    assert answer.code is None, answer.message
    assert set(answer.files) == FILES[format]


def test_merged_is_a_checkpoint_with_a_card(adapter: Path):
    answer = run(request(adapter, format="merged"))
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(answer.files)


def test_the_bases_own_gguf_comes_if_it_is_wanted(adapter: Path):
    answer = run(request(adapter, format="lora-gguf", with_base=True))
    assert "seedling-Q8_0.gguf" in answer.files
    told = (adapter.parent / "out/Modelfile").read_text()
    assert told.startswith("FROM ./seedling-Q8_0.gguf\nADAPTER ./support-3-lora-f16.gguf\n")


def test_a_gguf_says_what_it_is(adapter: Path):
    run(request(adapter, quant="q4_k_m"))
    reader = gguf.GGUFReader(adapter.parent / "out/support-3-Q4_K_M.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "qwen3"
    assert fields["general.name"] == "support@3"
    assert fields["qwen3.block_count"] == 6
    assert fields["tokenizer.ggml.pre"] == "qwen2"
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["token_embd.weight"] == "Q6_K"  # it is the output layer too
    assert kinds["blk.0.attn_q.weight"] == "Q4_K"
    assert kinds["blk.5.attn_v.weight"] == "Q6_K"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_an_adapter_of_another_model_is_refused(adapter: Path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": 7}))
    answer = run(request(adapter))
    assert (answer.code, answer.user) == ("invalid_adapter", True)


def test_a_card_has_metadata_that_the_hub_reads_and_a_table():
    text = card(ABOUT, "peft", repository="acme/support", files={})
    _, head, body = text.split("---\n", 2)
    meta = yaml.safe_load(head)
    assert meta["base_model"] == "Qwen/Qwen3-8B"
    assert meta["base_model_relation"] == "adapter"
    assert meta["license"] == "apache-2.0"
    assert 'PeftModel.from_pretrained(base, "acme/support")' in body
    assert "| loss | 0.5 | 2 |" in body
    assert "- training data: 400 rows" in body


def test_a_licence_or_base_that_the_hub_does_not_know_is_said_otherwise():
    own = ABOUT.model_copy(update={"licence": "same as graftwork", "base_repository": "seedling"})
    meta = yaml.safe_load(card(own, "gguf", repository="x", files={}).split("---\n")[1])
    assert (meta["license"], meta["license_name"]) == ("other", "same as graftwork")
    assert "base_model" not in meta


def test_the_process_answers_in_json_and_never_repeats_what_it_was_sent():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "graftwork.export"],
        input=b'{"format": "gguf", "push": {"token": "hf_secret"}}',
        capture_output=True,
        env=environment,
    )
    assert Answer.model_validate_json(done.stdout).code == "invalid_export"
    assert b"hf_secret" not in done.stdout + done.stderr
