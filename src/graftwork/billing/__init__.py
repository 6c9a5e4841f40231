"""Price book, ledger, budgets, bills."""

from graftwork.billing.bills import Bill, BillLine, UnitPrice, bill
from graftwork.billing.budgets import Budget, budget_of, reserve
from graftwork.billing.prices import (
    ModelPrice,
    PriceBook,
    current_prices,
    ensure_prices,
    publish,
    read_book,
)
from graftwork.billing.training import (
    INFERENCE,
    MACHINE,
    TRAINING,
    Quote,
    machine_key,
    quote,
    release_training,
    reserve_machine,
    reserve_training,
    settle_machine,
    settle_training,
    shared_key,
    split,
    training_key,
)

__all__ = [
    "INFERENCE",
    "MACHINE",
    "TRAINING",
    "Bill",
    "BillLine",
    "Budget",
    "ModelPrice",
    "PriceBook",
    "Quote",
    "UnitPrice",
    "bill",
    "budget_of",
    "current_prices",
    "ensure_prices",
    "machine_key",
    "publish",
    "quote",
    "read_book",
    "release_training",
    "reserve",
    "reserve_machine",
    "reserve_training",
    "settle_machine",
    "settle_training",
    "shared_key",
    "split",
    "training_key",
]
