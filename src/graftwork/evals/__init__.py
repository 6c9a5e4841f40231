"""Evaluators, statistics, the gate."""
