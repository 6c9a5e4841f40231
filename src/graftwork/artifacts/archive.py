"""Several blobs as one zip file, for people to take away."""

from __future__ import annotations

import asyncio
import tempfile
import zipfile
from collections.abc import Mapping
from typing import IO

from graftwork.artifacts.artifacts import Artifacts
from graftwork.artifacts.blobs import storage_errors

_IN_MEMORY = 16 << 20


async def zipped(artifacts: Artifacts, files: Mapping[str, str]) -> tuple[IO[bytes], int]:
    """A zip of exactly these blobs (file name to sha256), rewound, and its size. The caller closes it.

    It is complete, and every byte hashed, before this returns: a damaged blob is an error and never half a
    file. The same files give the same bytes.

    Raises:
        PlatformError: a blob is missing or corrupt, or there is no space to put the zip together.
    """
    whole: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - the caller's to close
    try:
        with storage_errors():
            await _fill(whole, artifacts, files)
            size = whole.tell()
            whole.seek(0)
    except BaseException:
        whole.close()
        raise
    return whole, size


async def _fill(whole: IO[bytes], artifacts: Artifacts, files: Mapping[str, str]) -> None:
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:  # weights do not get smaller
        for name in sorted(files):
            entry = zipfile.ZipInfo(name)  # its time is 1980, so that equal content is an equal zip
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w", force_zip64=True) as member:
                async for chunk in artifacts.stream(files[name]):
                    await asyncio.to_thread(member.write, chunk)
    whole.seek(0, 2)
