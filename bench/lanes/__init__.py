"""What the benchmarks' child processes run."""
