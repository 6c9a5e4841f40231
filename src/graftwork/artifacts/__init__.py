"""Content-addressed, create-only blobs."""

from graftwork.artifacts.artifacts import Artifacts

__all__ = ["Artifacts"]
