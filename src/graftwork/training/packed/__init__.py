"""The packed engine: rows of many adapters, end to end without padding, through one frozen base."""
