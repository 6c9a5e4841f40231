"""Where the server is, and how to speak to it: nothing here that the public HTTP API cannot do.

The server and key are taken from, in this order: ``GRAFTWORK_URL`` and ``GRAFTWORK_API_KEY``; the file
``client.json`` that ``graft up`` writes into its data folder (``GRAFTWORK_DATA``, else ``~/.graftwork``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import httpx

from graftwork.core import errors

CLIENT_FILE = "client.json"


def data_folder() -> Path:
    """The data folder a command means when it is not told one."""
    return Path(os.environ.get("GRAFTWORK_DATA") or Path.home() / ".graftwork")


def _settings() -> tuple[str, str]:
    url, key = os.environ.get("GRAFTWORK_URL"), os.environ.get("GRAFTWORK_API_KEY")
    if url and key:
        return url, key
    file = data_folder() / CLIENT_FILE
    if file.exists():
        saved = json.loads(file.read_text())
        return url or saved["url"], key or saved["api_key"]
    raise errors.Unauthorized(
        "No server to talk to.",
        fix="Start one with `graft up`, or set GRAFTWORK_URL and GRAFTWORK_API_KEY.",
        code="no_server",
    )


class Server:
    """A server as the public HTTP API shows it. Errors come out as our own classes."""

    def __init__(self, url: str, key: str, timeout: float = 600.0) -> None:
        self.url = url.rstrip("/")
        self.key = key
        self.http = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(timeout, connect=10.0),
            trust_env=False,
        )

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One request; the JSON body of the answer.

        Raises:
            GraftworkError: the server said no (with its code and text), or could not be reached.
        """
        try:
            answer = self.http.request(method, path, **options)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error
        if answer.status_code >= 400:
            raise from_answer(answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def get(self, path: str, **params: Any) -> Any:
        """GET with query parameters; None values are left out."""
        return self.call("GET", path, params=given(params))

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        """POST a JSON body."""
        return self.call("POST", path, json=body if body is not None else {}, **options)

    def pages(self, path: str, limit: int = 100, **params: Any) -> Iterator[dict[str, Any]]:
        """Every item of a paged list."""
        after = None
        while True:
            page = self.get(path, limit=limit, after=after, **params)
            yield from page["data"]
            if not page["has_more"] or not page["data"]:
                return
            after = page["data"][-1]["id"]

    def stream(self, path: str, body: Any) -> Iterator[dict[str, Any]]:
        """POST and read the answer's server-sent events, as parsed JSON, until ``[DONE]``."""
        try:
            with self.http.stream("POST", path, json=body) as answer:
                if answer.status_code >= 400:
                    raise from_answer(answer.status_code, answer.read().decode(errors="replace"))
                for line in answer.iter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        yield json.loads(line.removeprefix("data: "))
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error

    def download(self, path: str, into: IO[bytes]) -> None:
        """GET bytes into a file."""
        try:
            with self.http.stream("GET", path) as answer:
                if answer.status_code >= 400:
                    raise from_answer(answer.status_code, answer.read().decode(errors="replace"))
                for piece in answer.iter_bytes():
                    into.write(piece)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error

    def send(self, path: str, file: Path, **fields: str) -> Any:
        """POST a file as a form with these fields beside it."""
        with file.open("rb") as handle:
            return self.call("POST", path, data=fields, files={"file": (file.name, handle)})

    def upload(self, file: Path) -> dict[str, Any]:
        """Upload training data; the File object."""
        return self.send("/v1/files", file, purpose="fine-tune")


def connect() -> Server:
    """The server that the environment or the data folder names."""
    return Server(*_settings())


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that were given: no None, no empty dict."""
    return {key: value for key, value in values.items() if value is not None and value != {}}


def unreachable(url: str, error: Exception) -> errors.Unavailable:
    """The error for a server that does not answer."""
    return errors.Unavailable(
        f"The server at {url} does not answer ({type(error).__name__}).",
        fix="Is `graft up` running? GRAFTWORK_URL says where to look.",
        code="server_unreachable",
    )


_BY_STATUS: dict[int, type[errors.GraftworkError]] = {
    400: errors.InvalidRequest,
    401: errors.Unauthorized,
    402: errors.BudgetExceeded,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    429: errors.RateLimited,
    503: errors.Unavailable,
}


def from_answer(status: int, text: str) -> errors.GraftworkError:
    """Our error for a server's error answer."""
    cls = _BY_STATUS.get(status, errors.PlatformError)
    try:
        body = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        return cls(f"The server answered {status}.", fix=text[:200])
    return cls(
        body["message"],
        code=body.get("code") or "error",
        param=body.get("param"),
        details=body.get("graftwork") or {},
    )


def existing_file(path: str) -> Path:
    """The path, if it is a readable file; else an error that says so."""
    file = Path(path)
    if not file.is_file():
        raise errors.InvalidRequest(
            f"There is no file {path!r}.", fix="Give the path of a data set.", code="no_such_file"
        )
    return file
