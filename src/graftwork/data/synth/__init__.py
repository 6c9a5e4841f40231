"""Synthetic rows: from documents or seed rows, through any model that speaks OpenAI's chat API."""
