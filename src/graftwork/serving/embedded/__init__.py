"""The embedded engine: transformers on this machine, many adapters in one batch. Torch lives here."""
