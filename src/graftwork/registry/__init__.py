"""Adapters, versions, aliases, receipts."""

from graftwork.registry.promotion import previous, promote, rollback
from graftwork.registry.receipts import (
    DataReceipt,
    EvaluationReceipt,
    Receipt,
    canonical,
    digest,
    manifest,
    receipt_of,
    version_id,
)
from graftwork.registry.versions import (
    DEFAULT_ALIAS,
    Reference,
    check_alias,
    check_name,
    find_adapter,
    parse_reference,
    register,
    resolve,
)
from graftwork.registry.weights import Problem, check_adapter, require_adapter

__all__ = [
    "DEFAULT_ALIAS",
    "DataReceipt",
    "EvaluationReceipt",
    "Problem",
    "Receipt",
    "Reference",
    "canonical",
    "check_adapter",
    "check_alias",
    "check_name",
    "digest",
    "find_adapter",
    "manifest",
    "parse_reference",
    "previous",
    "promote",
    "receipt_of",
    "register",
    "require_adapter",
    "resolve",
    "rollback",
    "version_id",
]
