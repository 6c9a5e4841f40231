"""An allowed folder, of another architecture than the built-in model: all the way to an answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tinyserving import client_of, engine, plain_greedy, plain_model
from tinytraining import make_rows, make_run
from transformers import LlamaConfig, LlamaForCausalLM

from graftwork.core.errors import InvalidRequest, NotFound
from graftwork.core.specs import LoraSpec
from graftwork.core.states import Outcome
from graftwork.data import Renderer, question
from graftwork.models import Catalogue, base_ref, locate
from graftwork.models.folder import seedling_folder
from graftwork.runs.reader import RunReader
from graftwork.runs.transport import LocalTransport
from graftwork.serving.probe import agreement, effect
from graftwork.training import main

pytestmark = pytest.mark.slow
END = "<|im_end|>"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with grouped queries and a head of its own, and seedling's tokenizer and template."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(seedling_folder() / name, folder / name)
    renderer = Renderer.load(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=renderer.tokenize(END)[0],
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_only_folders_that_are_allowed_can_be_named(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="may not be used here"):
        Catalogue(allow=["Qwen/*", f"{tmp_path}/*"]).get(str(llama))


async def test_an_allowed_llama_is_trained_exported_and_served(llama: Path, tmp_path: Path) -> None:
    entry = Catalogue(allow=[f"{llama.parent}/*"]).get(str(llama))
    assert (entry.source, entry.shape.family, entry.shape.tied) == ("local", "llama", False)
    weights = sum(p.numel() for p in plain_model(llama, None).parameters())
    assert entry.parameters == pytest.approx(weights, rel=1e-3)  # but for the norms
    folder = locate(entry, tmp_path / "cache")
    rows = make_rows(8)
    run = make_run(
        tmp_path / "run",
        rows,
        base=base_ref(entry),
        lora=LoraSpec(rank=8, alpha=16),
        n_epochs=30,
        batch_size=8,
        learning_rate=0.02,
    )

    assert main([run]) == 0

    result = RunReader(LocalTransport(Path(run))).result(1)
    assert result is not None and result.outcome is Outcome.SUCCEEDED and result.adapter is not None
    adapter = Path(run) / result.adapter.dir
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-llama"
    renderer = Renderer.load(folder)
    asked = question(rows[0])
    prompt = renderer.tokenize(renderer.render_prompt(asked))
    expected = plain_greedy(plain_model(folder, adapter), prompt, 24)
    expected = expected[: next((i for i, token in enumerate(expected) if token in renderer.eos_ids), 24)]
    async with engine(folder) as backend, client_of(backend) as client:
        await backend.load("mine", adapter)
        answers = {
            model: await client.chat(model, asked, temperature=0, max_tokens=24) for model in ("base", "mine")
        }
        words = {model: answer["choices"][0]["message"]["content"] for model, answer in answers.items()}
        assert words["mine"] == renderer.decode(expected)
        assert words["mine"] != words["base"]
        probes = result.probes
        served = [await client.score("mine", probe.tokens) for probe in probes]
        plain = [await client.score("base", probe.tokens) for probe in probes]
        assert effect(probes, served, plain).ok
        assert agreement(probes, served, bound=1e-3).ok


def test_a_folder_that_changed_since_it_was_pinned_is_refused(llama: Path, tmp_path: Path) -> None:
    moved = tmp_path / "models" / "copy"
    shutil.copytree(llama, moved)
    entry = Catalogue(allow=[f"{tmp_path}/*"]).get(str(moved))
    template = moved / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(InvalidRequest) as refused:
        locate(entry, tmp_path / "cache")
    assert refused.value.code == "base_changed"
