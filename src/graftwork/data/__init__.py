"""Training data: detect, read, validate, render with the chat template, count, split."""
