"""Adapters, versions, aliases, receipts."""
