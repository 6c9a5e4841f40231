"""Unigram and interpolated trigram models on the same tokens, to measure the base model against.

Interpolation is Witten and Bell's (1991): p(w|h) = (c(hw) + t(h) p(w|h')) / (c(h) + t(h)), where t(h) counts
the different tokens seen after h and h' is h without its first token. It has nothing to tune.
"""

from __future__ import annotations

import numpy as np

Ids = np.ndarray


class Counts:
    """Counts of packed n-grams, looked up by binary search."""

    def __init__(self, keys: Ids) -> None:
        self.keys, self.values = np.unique(keys, return_counts=True)

    def __call__(self, keys: Ids) -> Ids:
        """How often each key was seen."""
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.values[at], 0)


def packed(ids: Ids, order: int, vocabulary: int) -> Ids:
    """One integer for every n-gram of the stream; entry i ends at token i + order - 1."""
    ids = np.asarray(ids, dtype=np.int64)
    keys = np.zeros(len(ids) - order + 1, dtype=np.int64)
    for i in range(order):
        keys = keys * vocabulary + ids[i : len(ids) - order + 1 + i]
    return keys


class Ngrams:
    """Unigram to trigram probabilities from a training stream."""

    def __init__(self, ids: Ids, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.grams = [Counts(packed(ids, order, vocabulary)) for order in (1, 2, 3)]
        # after a history: how many tokens, and how many different ones
        self.totals = [Counts(packed(ids[:-1], order, vocabulary)) for order in (1, 2)]
        self.kinds = [Counts(self.grams[order].keys // vocabulary) for order in (1, 2)]
        self.size, self.distinct = len(ids), len(self.grams[0].keys)

    def losses(self, ids: Ids) -> tuple[Ids, Ids]:
        """(unigram, trigram) loss in nats of every token of the stream but the first two."""
        uniform = 1 / self.vocabulary
        unigram = (self.grams[0](packed(ids[2:], 1, self.vocabulary)) + self.distinct * uniform) / (
            self.size + self.distinct
        )
        chance = unigram
        for order in (1, 2):
            keys = packed(ids[2 - order :], order + 1, self.vocabulary)
            history = keys // self.vocabulary
            total, kinds = self.totals[order - 1](history), self.kinds[order - 1](history)
            seen = self.grams[order](keys)
            # a history never seen says nothing: fall back to the shorter one
            mixed = (seen + kinds * chance) / np.maximum(total + kinds, 1)
            chance = np.where(total + kinds > 0, mixed, chance)
        return -np.log(unigram), -np.log(chance)
