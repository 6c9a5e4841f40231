"""The trainer: engines, losses, batching, checkpoints, export. Torch lives here."""
