"""Benchmarks against the real peers; results are committed with the machine described."""
