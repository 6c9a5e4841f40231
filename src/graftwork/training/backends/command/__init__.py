"""Trainers that are another tool's command: its config from our run, its metrics and adapter back to us.

What a tool is given is exact: rows as tokens with the labels that the native trainer would use (so weights,
tools and reasoning of the chat template mean the same), the same LoRA, schedule and seed. The order of rows
is the tool's own. What comes back is checked and measured by our own engine before it counts.
"""

from graftwork.training.backends.command.backend import CommandBackend
from graftwork.training.backends.command.recipe import Place, Recipe

__all__ = ["CommandBackend", "Place", "Recipe"]
