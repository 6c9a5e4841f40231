"""What training costs at today's prices: a base model that has none yet costs what its entry lists."""

from __future__ import annotations

from graftwork.billing import ModelPrice, current_prices
from graftwork.models import CatalogueEntry
from graftwork.store import Tx


def listed(entry: CatalogueEntry) -> ModelPrice:
    """The prices that a base model's entry lists."""
    prices = entry.prices
    return ModelPrice(train=prices.train, input=prices.input, output=prices.output)


async def training_price(tx: Tx, entry: CatalogueEntry, tokens: int) -> int:
    """Micro-dollars for training so many tokens now."""
    book = await current_prices(tx)
    return book.models.get(entry.name, listed(entry)).training_cost(tokens)
