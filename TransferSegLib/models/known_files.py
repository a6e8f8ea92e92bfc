"""The SHA-256 of files whose makers publish none, as this library first saw them.

The first fetch trusts what the server sends and records it here; later fetches are held to it. The record,
``.checksums.json`` in the library, maps addresses to checksums, sizes and dates.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from TransferSegLib import safe_json
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import ModelError
from TransferSegLib.json_fields import json_bytes, json_field
from TransferSegLib.models.download import check_sha256
from TransferSegLib.own_files import refuse_links

RECORD_FILE = ".checksums.json"
FORMAT = "transferseg-checksums"


@dataclass(frozen=True)
class KnownFile:
    """A file as it was first seen: its SHA-256, its size in bytes and the date (ISO)."""

    sha256: str
    bytes: int
    seen: str


def known_file(library: Path, address: str) -> KnownFile | None:
    """Return what the library knows of the file at an address; raises ModelError for a damaged record."""
    entry = _read(library).get(address)
    if entry is None:
        return None
    try:
        sha256, size = (
            json_field(entry, "sha256", str, error=ModelError),
            json_field(entry, "bytes", int, error=ModelError),
        )
        check_sha256(sha256)
        return KnownFile(sha256, size, json_field(entry, "seen", str, error=ModelError))
    except ModelError as error:
        raise _damaged(library, str(error)) from error


def record_file(library: Path, address: str, sha256: str, size: int) -> None:
    """Write down the checksum of the file at an address; the caller holds the library's lock. Raises OSError."""
    refuse_links(library, library / RECORD_FILE, error_type=ModelError)
    seen = datetime.now(UTC).date().isoformat()
    files = _read(library) | {address: {"sha256": sha256, "bytes": size, "seen": seen}}
    content = {"format": FORMAT, "format_version": 1, "files": files}
    write_text_durably(library / RECORD_FILE, json_bytes(content).decode("utf-8"))


def _read(library: Path) -> dict[str, Any]:
    """Return the entries by address, none without a record."""
    try:
        content = safe_json.read(library / RECORD_FILE)
        if json_field(content, "format", str, error=ModelError) != FORMAT:
            raise _damaged(library, f"its entry 'format' is not '{FORMAT}'")
        return dict(json_field(content, "files", dict, error=ModelError))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(library, str(error)) from error


def _damaged(library: Path, why: str) -> ModelError:
    return ModelError(
        f"The record of checksums {library / RECORD_FILE} cannot be used ({why}): repair it, or delete it to trust the "
        "servers again."
    )
