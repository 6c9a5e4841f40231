"""Reconcilers: each makes the desired state in some rows true, again and again; killing one breaks nothing.

Load (a short transaction, by claiming) → act (no transaction) → apply (guarded by lease and fence).
"""
