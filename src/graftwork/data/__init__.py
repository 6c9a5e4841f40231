"""Training data: detect, read, validate, render with the chat template, count, split."""

from graftwork.data.encoding import Encoded
from graftwork.data.rendering import Renderer
from graftwork.data.rows import (
    Message,
    Row,
    answer,
    canonical,
    fingerprint,
    kind,
    question,
    read_canonical,
)

__all__ = [
    "Encoded",
    "Message",
    "Renderer",
    "Row",
    "answer",
    "canonical",
    "fingerprint",
    "kind",
    "question",
    "read_canonical",
]
