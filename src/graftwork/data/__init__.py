"""Training data: detect, read, validate, render with the chat template, count, split."""

from graftwork.data.encoding import Encoded
from graftwork.data.findings import FINDINGS, Finding
from graftwork.data.measure import measure
from graftwork.data.rendering import Renderer
from graftwork.data.report import Format, Report, Size
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
from graftwork.data.split import split
from graftwork.data.validation import check_pair, detect, validate

__all__ = [
    "FINDINGS",
    "Encoded",
    "Finding",
    "Format",
    "Message",
    "Renderer",
    "Report",
    "Row",
    "Size",
    "answer",
    "canonical",
    "check_pair",
    "detect",
    "fingerprint",
    "kind",
    "measure",
    "question",
    "read_canonical",
    "split",
    "validate",
]
