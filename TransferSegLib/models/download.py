"""A file of a published model: where it lies, how large it is, and the checksums that tell whether it is the one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from TransferSegLib.errors import ModelError
from TransferSegLib.json_fields import json_field
from TransferSegLib.progress import Task

#: What a fetched file is: Keras weights in HDF5, or a model as ``transferseg models export`` writes it.
FileKind = Literal["keras", "transferseg", "nnunet"]

_GIT_BLOB, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_HASHED_AT_ONCE = 2**20
#: A file whose exact size is not known may be this many times as large as the catalogue says, and so large where that
#: is a guess.
_SIZE_ALLOWANCE, _LARGEST_GUESSED = 2, 3 * 10**9


@dataclass(frozen=True)
class Download:
    r"""Where a model's file lies and how it is recognised.

    ``git_blob`` is the SHA-1 of ``"blob <size>\0"`` and the content, in hexadecimal, ``sha256`` the SHA-256; None where
    the makers publish none. ``bytes`` is the exact size, None where it is not known, and ``about_bytes`` what to
    expect; ``is_guessed`` tells that the latter is only the size of similar files.
    """

    kind: FileKind
    address: str
    git_blob: str | None
    about_bytes: int
    bytes: int | None = None
    sha256: str | None = None
    is_guessed: bool = False

    def __post_init__(self) -> None:
        """Raise ModelError for a file that could not be fetched safely."""
        if self.kind not in get_args(FileKind):
            raise ModelError(f"The kind of file '{self.kind}' is none of {', '.join(get_args(FileKind))}.")
        check_https(self.address)
        if self.git_blob is not None and not _GIT_BLOB.fullmatch(self.git_blob):
            raise ModelError(f"The checksum '{self.git_blob}' is no git blob id: 40 hexadecimal digits.")
        if self.sha256 is not None:
            check_sha256(self.sha256)
        if self.git_blob is None and self.kind == "keras":
            raise ModelError("A Keras file needs its git blob id: nothing else in it can be verified.")
        if self.bytes is not None and self.bytes < 1:
            raise ModelError("The size must be larger than 0.")

    @property
    def is_verifiable(self) -> bool:
        """Whether a checksum of the file is known."""
        return self.git_blob is not None or self.sha256 is not None

    @property
    def key(self) -> str:
        """A name for what is fetched from here: the published checksum, or else a hash of the address."""
        return self.git_blob or hashlib.sha256(self.address.encode()).hexdigest()[:40]

    @property
    def file_name(self) -> str:
        """The name of the file at its address."""
        return PurePosixPath(urlsplit(self.address).path).name

    @property
    def largest_bytes(self) -> int:
        """The size at which fetching stops, because this cannot be the file any more."""
        if self.bytes is not None:
            return self.bytes
        return _LARGEST_GUESSED if self.is_guessed else _SIZE_ALLOWANCE * self.about_bytes

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description, as in the catalogue's file."""
        entry: dict[str, Any] = {
            "kind": self.kind,
            "address": self.address,
            "git_blob": self.git_blob,
            "bytes": self.bytes,
        }
        if self.sha256 is not None:
            entry["sha256"] = self.sha256
        return entry | {"is_guessed": True} if self.is_guessed else entry

    @staticmethod
    def from_json(file: dict[str, Any], about_bytes: int) -> Download:
        """Read a description written by ``to_json``; raises ModelError."""
        kind, address = (json_field(file, name, str, error=ModelError) for name in ("kind", "address"))
        blob = json_field(file, "git_blob", str, None, error=ModelError)
        size = json_field(file, "bytes", int, None, error=ModelError)
        sha256 = json_field(file, "sha256", str, error=ModelError) if "sha256" in file else None
        is_guessed = json_field(file, "is_guessed", bool, error=ModelError) if "is_guessed" in file else False
        return Download(kind, address, blob, about_bytes, size, sha256, is_guessed)


def git_blob_id(file: Path, task: Task | None = None) -> str:
    """Return the git blob id of a file; raises ModelError when it cannot be read or is a pipe, and Cancelled."""
    # SHA-1 is what git gives; a second file with a given id (a second preimage) cannot be made.
    return _hashed(file, lambda size: hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), task)


def sha256_of(file: Path, task: Task | None = None) -> str:
    """Return the SHA-256 of a file in hexadecimal; raises as ``git_blob_id`` does."""
    return _hashed(file, lambda size: hashlib.sha256(), task)


def check_sha256(digest: str) -> None:
    """Raise ModelError unless a text is a SHA-256 in hexadecimal, in small letters."""
    if not _SHA256.fullmatch(digest):
        raise ModelError(f"{digest!r:.80} is no SHA-256: give its 64 hexadecimal digits.")


def check_https(address: str) -> None:
    """Raise ModelError unless an address is HTTPS, names a host and carries no password."""
    try:
        parts = urlsplit(address)
        usable = parts.scheme == "https" and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        usable = False
    if not usable:
        raise ModelError(f"The address {address!r} is not an HTTPS address without a password.")


def _hashed(file: Path, begin: Callable[[int], Any], task: Task | None) -> str:
    """Return the hash of a file that ``begin`` makes for its size."""
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise ModelError(f"{file} cannot be read: it is no file but a pipe or a device.")
    try:
        with file.open("rb") as stream:
            digest = begin(file.stat().st_size)
            while block := stream.read(_HASHED_AT_ONCE):
                if task is not None:
                    task.check()
                digest.update(block)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    return str(digest.hexdigest())
