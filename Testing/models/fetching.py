"""What the tests of fetching share: a file to fetch, what is left of it, and how fetching it fails."""

from __future__ import annotations

import hashlib

import pytest
from misbehaving_server import Server, some_content

from TransferSegLib.errors import ModelError
from TransferSegLib.models.download import Download
from TransferSegLib.models.fetch import Part, fetch_file
from TransferSegLib.progress import CancelToken, Task

CONTENT = some_content(300_000)
ADDRESS = "https://models.example/raw/weights.h5"
QUICK = (0.0, 0.0, 0.0)
HTML = b"<!DOCTYPE html><title>Guest network</title>"


def blob_of(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def download(address: str = ADDRESS, content: bytes = CONTENT, exact: bool = False) -> Download:
    return Download("keras", address, blob_of(content), 290_000, len(content) if exact else None)


def fetched(server: Server, part: Part, exact: bool = False, cancel: CancelToken | None = None) -> bytes:
    """Fetch and return the content; the file must be all there is in the folder."""
    file = fetch_file(download(exact=exact), part, "weights", Task("", None, cancel), server.session(), QUICK)
    assert file == part.complete and file.suffix == ".h5"
    return file.read_bytes()


def failure(server: Server, part: Part, exact: bool = False) -> str:
    """Return the one line with which fetching fails."""
    with pytest.raises(ModelError) as caught:
        fetch_file(download(exact=exact), part, "weights", None, server.session(), QUICK)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left(part: Part) -> dict[str, int]:
    """Return what lies in the folder, endings and sizes."""
    return {file.suffix: file.stat().st_size for file in part.path.parent.iterdir()}


def begun(part: Part, count: int, content: bytes = CONTENT) -> None:
    """Make a part as an earlier try left it."""
    part.path.write_bytes(content[:count])
