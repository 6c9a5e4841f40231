"""What a run has got so far, on the disk before anything else is done with it: nothing paid for is lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import orjson

from graftwork.core.errors import Conflict, PlatformError


class Journal:
    """An append-only file of JSON lines beside the output; opened again, it goes on where it ended.

    Attributes:
        items: by item id what came of it: ``{"rows": [[question, answer], …]}`` or ``{"failed": why}``.
        scores: by row the judge's score, None where it gave none.
        spent: requests, and prompt and completion tokens, of all runs so far.
    """

    def __init__(self, path: Path, plan: dict[str, Any]) -> None:
        """Open or begin the journal of a plan.

        Raises:
            Conflict: the file is the journal of another plan (``other_plan``).
            PlatformError: it is damaged before its end (``journal_damaged``).
        """
        self.path = path
        self.items: dict[str, dict[str, Any]] = {}
        self.scores: dict[str, float | None] = {}
        self.spent = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
        self._file = None
        whole = self._read(plan) if path.exists() else 0
        self._file = path.open("ab")
        if self._file.tell() > whole:
            self._file.truncate(whole)  # a line that was cut off when the machine went down
        if whole == 0:
            self._write({"plan": plan})

    def item(self, id: str, result: dict[str, Any]) -> None:
        """Note what came of an item."""
        self.items[id] = result
        self._write({"item": id, **result})

    def score(self, row: str, score: float | None) -> None:
        """Note a judge's score."""
        self.scores[row] = score
        self._write({"judged": row, "score": score})

    def paid(self, usage: dict[str, int]) -> None:
        """Note one request and its tokens."""
        used = {"requests": 1, **usage}
        for name in self.spent:
            self.spent[name] += used.get(name, 0)
        self._write({"used": used})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, entry: dict[str, Any]) -> None:
        if self._file is None:
            return
        self._file.write(orjson.dumps(entry) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, plan: dict[str, Any]) -> int:
        """Take in what is there; how many bytes of it are whole lines."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        lines = data[:whole].splitlines()
        try:
            entries = [orjson.loads(line) for line in lines]
        except orjson.JSONDecodeError as error:
            raise PlatformError(
                f"{self.path} is damaged.", fix="Move it away to begin anew.", code="journal_damaged"
            ) from error
        if entries and entries[0].get("plan") != plan:
            raise Conflict(
                f"{self.path} is of a run with other settings.",
                fix="Give the same settings to go on with it, another output, or move it away.",
                code="other_plan",
            )
        for entry in entries[1:]:
            if "item" in entry:
                self.items[entry.pop("item")] = entry
            elif "judged" in entry:
                self.scores[entry["judged"]] = entry["score"]
            else:
                for name in self.spent:
                    self.spent[name] += entry["used"].get(name, 0)
        return whole
