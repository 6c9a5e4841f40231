"""The price book: what tokens and machines cost, by version, so that a bill can be read years later."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, ValidationError

from graftwork.core.errors import PlatformError
from graftwork.core.money import tokens_cost
from graftwork.core.nouns import Json
from graftwork.core.specs import Spec
from graftwork.store import Tx

Price = Annotated[int, Field(ge=0)]
"""Micro-dollars."""


class ModelPrice(Spec):
    """What a million tokens of one base model cost, in micro-dollars."""

    train: Price
    input: Price
    output: Price

    def training_cost(self, trained_tokens: int) -> int:
        """Micro-dollars for a training run."""
        return tokens_cost(trained_tokens, self.train)


class PriceBook(Spec):
    """Prices by base model. The snapshot's ``prices`` is one of these as JSON."""

    version: str
    models: dict[str, ModelPrice] = Field(default_factory=dict)

    def model(self, base: str) -> ModelPrice:
        """The prices of a base model.

        Raises:
            PlatformError: the book has none (code ``price_missing``): nothing may be spent on it.
        """
        found = self.models.get(base)
        if found is None:
            raise PlatformError(
                f"The base model {base!r} has no price.",
                code="price_missing",
                fix="Add it to the price book.",
            )
        return found


EMPTY = PriceBook(version="none")
"""Before anything has a price."""


def read_book(stored: Json) -> PriceBook:
    """The price book from its JSON (``{}`` is the empty one).

    Raises:
        PlatformError: it is not a price book (code ``price_book_invalid``).
    """
    try:
        return PriceBook.model_validate(stored) if stored else EMPTY
    except ValidationError as error:
        raise PlatformError(
            f"The stored price book cannot be read: {error.error_count()} problems.",
            code="price_book_invalid",
            fix="Publish the prices again.",
        ) from error


async def current_prices(tx: Tx) -> PriceBook:
    """The prices that count now."""
    return read_book(await tx.prices.current())


async def publish(tx: Tx, models: Mapping[str, ModelPrice]) -> PriceBook:
    """Make these the prices: a new version, unless they are what counts already.

    Old versions stay: entries and quotes of the ledger name the version they were made under.
    """
    now = await current_prices(tx)
    if now.models == dict(models):
        return now
    number = 1 + int(now.version.partition("-")[0] if now is not EMPTY else 0)
    book = PriceBook(version="pending", models=dict(sorted(models.items())))
    text = book.model_dump_json(include={"models"})
    book = book.model_copy(update={"version": f"{number}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"})
    await tx.prices.put(book.version, book.model_dump(mode="json"))
    return book


async def ensure_prices(tx: Tx, models: Mapping[str, ModelPrice]) -> PriceBook:
    """Add models that have no price yet; prices that were set stay as they are."""
    now = await current_prices(tx)
    return await publish(tx, {**models, **now.models})
