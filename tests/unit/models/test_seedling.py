"""The built-in base model: its files, its chat template, and that it has learned something."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "src/graftwork/models/seedling"
FILES = {
    "card.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "pretraining.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
LIMIT = 16_000_000
SAMPLE = (
    "The function returns a list of the names that are defined in the module. If the file does not exist, "
    "an exception is raised. The second argument is optional and defaults to None. This method is called "
    "when the object is closed, and it should return True if there is more data to read."
)
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "open_door", "parameters": {}}}]
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Open "}, {"type": "text", "text": "door 5."}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "open_door", "arguments": '{"door": 5}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": "done"},
    {"role": "assistant", "content": "Door 5 is open."},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "You are welcome!"},
]


def facts() -> dict[str, Any]:
    """What was written down about the pre-training."""
    return json.loads((FOLDER / "pretraining.json").read_text())


@cache
def tokenizer() -> Any:
    """The tokenizer as transformers loads it."""
    transformers = pytest.importorskip("transformers", reason="the chat template is rendered by transformers")
    return transformers.AutoTokenizer.from_pretrained(FOLDER)


@cache
def model() -> Any:
    """The model as transformers loads it, in single precision."""
    torch = pytest.importorskip("torch", reason="running the model needs torch")
    transformers = pytest.importorskip("transformers", reason="running the model needs transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def reply(question: str) -> str:
    """What the model answers, greedily."""
    prompt = tokenizer().apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    out = model().generate(**prompt, max_new_tokens=40, do_sample=False)
    return tokenizer().decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_all_files_are_there_and_small() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == FILES
    assert sum((FOLDER / name).stat().st_size for name in FILES) <= LIMIT


def test_config_and_tokenizer_agree() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    written = json.loads((FOLDER / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in written["added_tokens"]}
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["vocab_size"] == len(written["model"]["vocab"]) + sum(
        token["content"] not in written["model"]["vocab"] for token in written["added_tokens"]
    )
    assert config["eos_token_id"] == ids["<|im_end|>"]
    assert config["pad_token_id"] == ids["<|pad|>"]


def test_text_survives_the_tokenizer() -> None:
    for text in (SAMPLE, "naïve façade 東京 🙂\n\ttabs  and   spaces\r\n", '{"a": [1, 2.5, null]}'):
        assert tokenizer().decode(tokenizer()(text)["input_ids"]) == text


def test_template_writes_chatml() -> None:
    text = tokenizer().apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOpen door 5.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_template_writes_tool_calls_and_responses() -> None:
    text = tokenizer().apply_chat_template(CHAT, tools=TOOLS, tokenize=False)
    assert '<tool_call>\n{"name": "open_door", "arguments": {"door": 5}}\n</tool_call><|im_end|>' in text
    assert "<|im_start|>user\n<tool_response>\ndone\n</tool_response><|im_end|>" in text
    assert "<tools>\n" + json.dumps(TOOLS[0]) + "\n</tools>" in text
    rendered = tokenizer().apply_chat_template(CHAT, tools=TOOLS, return_dict=True)
    assert tokenizer().decode(rendered["input_ids"]) == text


def test_a_prompt_is_a_prefix_of_the_whole_chat() -> None:
    whole = tokenizer().apply_chat_template(CHAT, tools=TOOLS, tokenize=False)
    for at, message in enumerate(CHAT):
        if message["role"] == "assistant":
            prompt = tokenizer().apply_chat_template(
                CHAT[:at], tools=TOOLS, tokenize=False, add_generation_prompt=True
            )
            assert whole.startswith(prompt)


def test_generation_mask_covers_what_the_assistant_says() -> None:
    rendered = tokenizer().apply_chat_template(
        CHAT, tools=TOOLS, return_dict=True, return_assistant_tokens_mask=True
    )
    said = [i for i, mine in zip(rendered["input_ids"], rendered["assistant_masks"], strict=True) if mine]
    assert tokenizer().decode(said) == (
        '<tool_call>\n{"name": "open_door", "arguments": {"door": 5}}\n</tool_call><|im_end|>'
        "Door 5 is open.<|im_end|>You are welcome!<|im_end|>"
    )


def test_unknown_roles_are_refused() -> None:
    jinja2 = pytest.importorskip("jinja2")
    with pytest.raises(jinja2.exceptions.TemplateError, match="Unknown role"):
        tokenizer().apply_chat_template([{"role": "stranger", "content": "hi"}], tokenize=False)


def test_written_losses_beat_the_ngram_models() -> None:
    for part in facts()["held_out_loss_nats_per_token"].values():
        assert part["seedling"] < part["trigram"] < part["unigram"]


def test_the_card_has_the_written_losses() -> None:
    card = (FOLDER / "card.md").read_text("utf-8")
    for name, part in facts()["held_out_loss_nats_per_token"].items():
        figures = " | ".join(f"{part[model]:.3f}" for model in ("seedling", "trigram", "unigram"))
        assert f"| {name} | {part['tokens']:,} | {figures} |" in card


def test_measured_loss_is_far_below_a_unigram_model() -> None:
    torch = pytest.importorskip("torch", reason="measuring the loss needs torch")
    ids = torch.tensor([tokenizer()(SAMPLE)["input_ids"]])
    with torch.no_grad():
        loss = model()(input_ids=ids, labels=ids).loss.item()
    assert loss < facts()["held_out_loss_nats_per_token"]["prose"]["unigram"] - 1


def test_it_copies_and_ends_its_answers() -> None:
    assert reply("Hello!") == "Hello! How can I help you?"
    assert reply("Repeat: river lamp Oslo") == "river lamp Oslo"
