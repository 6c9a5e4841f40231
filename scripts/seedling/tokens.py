"""Token streams: what the model is trained on, in order, and what it is measured on."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from corpus import SEED, Document
from tokenizers import Tokenizer
from train_tokenizer import END_OF_TEXT

PROSE_PASSES = 3
"""How often the prose is seen; there is less of it than of the chats, which are seen once."""

Ids = np.ndarray


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[Ids]:
    """Token ids of each text, each ended by the end-of-text mark."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    coded = tokenizer.encode_batch(texts, add_special_tokens=False)
    return [np.array([*c.ids, end], dtype=np.uint16) for c in coded]


def training_stream(documents: list[Document], tokenizer: Tokenizer) -> Ids:
    """All training documents in a shuffled order, the prose PROSE_PASSES times."""
    chats = [d.text for d in documents if d.split == "train" and d.kind == "chat"]
    prose = [d.text for d in documents if d.split == "train" and d.kind == "prose"]
    coded = encode(tokenizer, chats) + encode(tokenizer, prose) * PROSE_PASSES
    random.Random(SEED).shuffle(coded)
    return np.concatenate(coded)


def once(documents: list[Document], tokenizer: Tokenizer) -> Ids:
    """Every training document once, for the n-gram models, whose counts repeats would only inflate."""
    return np.concatenate(encode(tokenizer, [d.text for d in documents if d.split == "train"]))


def held_out_stream(documents: list[Document], tokenizer: Tokenizer, kind: str) -> Ids:
    """The held-out documents of one kind."""
    texts = [d.text for d in documents if d.split == "valid" and d.kind == kind]
    return np.concatenate(encode(tokenizer, texts))


def save(path: Path, ids: Ids) -> None:
    """Write a stream."""
    np.save(path, ids)


def load(path: Path) -> Ids:
    """Map a stream into memory."""
    return np.load(path, mmap_mode="r")
