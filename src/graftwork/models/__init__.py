"""Base-model catalogue, shapes, memory, time and price plan, base-model cache."""
