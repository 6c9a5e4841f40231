"""The tokenizer: byte-level BPE with its own vocabulary, trained on a sample of the corpus."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from corpus import SEED, Document
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

VOCAB_SIZE = 4096
CHAT_SHARE = 8000
"""Chats in the sample; all of them would drown the prose."""
END_OF_TEXT, PAD, IM_START, IM_END = "<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
CONTROL = [END_OF_TEXT, PAD, IM_START, IM_END]
TOOL_MARKS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
# digits stand alone, so that numbers are copied digit by digit
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def sample(documents: list[Document]) -> list[str]:
    """All prose of the training side and some of its chats, without the marks of the chat template."""
    prose = [d.text for d in documents if d.split == "train" and d.kind == "prose"]
    chats = [d.text for d in documents if d.split == "train" and d.kind == "chat"]
    random.Random(SEED).shuffle(chats)
    marks = re.compile("|".join(re.escape(mark) for mark in CONTROL + TOOL_MARKS))
    return [marks.sub("\n", text) for text in prose + chats[:CHAT_SHARE]]


def train(documents: list[Document], folder: Path) -> Tokenizer:
    """Train the tokenizer and write `tokenizer.json` and `tokenizer_config.json`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(TOOL_MARKS),
        min_frequency=2,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample(documents), trainer)
    tokenizer.add_tokens([AddedToken(mark, normalized=False, special=False) for mark in TOOL_MARKS])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": IM_END,
        "pad_token": PAD,
        "unk_token": None,
        "additional_special_tokens": [IM_START, END_OF_TEXT],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 2048,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tokenizer


def load(folder: Path) -> Tokenizer:
    """The tokenizer of an earlier build."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
