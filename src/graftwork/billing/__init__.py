"""Price book, ledger, budgets, bills."""
