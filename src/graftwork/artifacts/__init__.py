"""Content-addressed, create-only blobs."""

from graftwork.artifacts.archive import zipped
from graftwork.artifacts.artifacts import Artifacts

__all__ = ["Artifacts", "zipped"]
