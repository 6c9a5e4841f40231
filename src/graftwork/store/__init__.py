"""Tables, one repository per noun, migrations; SQLite and PostgreSQL."""

from graftwork.store.aliases import AliasMove
from graftwork.store.claims import Claim
from graftwork.store.engine import Store
from graftwork.store.ledger import LedgerTotal, Settlement
from graftwork.store.pages import Page
from graftwork.store.snapshot import Snapshot
from graftwork.store.tx import Tx

__all__ = ["AliasMove", "Claim", "LedgerTotal", "Page", "Settlement", "Snapshot", "Store", "Tx"]
