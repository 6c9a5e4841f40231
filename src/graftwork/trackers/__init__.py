"""Metrics told to MLflow, TensorBoard and Weights & Biases, as the run folders' events have them."""
