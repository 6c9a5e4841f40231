"""Base-model catalogue, shapes, memory, time and price plan, base-model cache."""

from graftwork.models.cache import locate, pin
from graftwork.models.catalogue import Catalogue, base_ref
from graftwork.models.entry import CatalogueEntry, Prices
from graftwork.models.planning import Fitted, Plan, Target, fit, plan
from graftwork.models.schedule import DataSize, choose

__all__ = [
    "Catalogue",
    "CatalogueEntry",
    "DataSize",
    "Fitted",
    "Plan",
    "Prices",
    "Target",
    "base_ref",
    "choose",
    "fit",
    "locate",
    "pin",
    "plan",
]
