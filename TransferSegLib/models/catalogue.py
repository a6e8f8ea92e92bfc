"""The catalogue of base models: what each one segments, and where one that is not bundled can be fetched.

It is one readable file, ``Resources/Models/catalogue.json``; ``TransferSegLib.models.locate.catalogue`` finds it. An
address is used only together with a checksum: the git blob id, which the git repository that holds the file shows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from TransferSegLib.errors import ModelError
from TransferSegLib.json_fields import json_field, names
from TransferSegLib.models.description import is_model_name, parse_json
from TransferSegLib.networks.interface import NetworkSpec
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
from TransferSegLib.progress import Task

#: The file's name in the folder of the bundled models.
CATALOGUE_FILE = "catalogue.json"
FORMAT = "transferseg-catalogue"
FORMAT_VERSION = 1

#: What a fetched file is: Keras weights in HDF5, or a model as ``transferseg models export`` writes it.
FileKind = Literal["keras", "transferseg", "nnunet"]

_GIT_BLOB = re.compile(r"[0-9a-f]{40}")
_HASHED_AT_ONCE = 2**20
#: A file whose exact size is not known may be this many times as large as the catalogue says.
_SIZE_ALLOWANCE = 2


@dataclass(frozen=True)
class Download:
    r"""Where a model's file lies and how it is recognised.

    ``git_blob`` is the SHA-1 of ``"blob <size>\0"`` and the content, in hexadecimal; ``bytes`` the exact size, None
    where it is not known, and ``about_bytes`` what to expect.
    """

    kind: FileKind
    address: str
    git_blob: str
    about_bytes: int
    bytes: int | None = None

    def __post_init__(self) -> None:
        """Raise ModelError for a file that could not be fetched safely."""
        if self.kind not in get_args(FileKind):
            raise ModelError(f"The kind of file '{self.kind}' is none of {', '.join(get_args(FileKind))}.")
        _check_https(self.address)
        if not _GIT_BLOB.fullmatch(self.git_blob):
            raise ModelError(f"The checksum '{self.git_blob}' is no git blob id: 40 hexadecimal digits.")
        if self.bytes is not None and self.bytes < 1:
            raise ModelError("The size must be larger than 0.")

    @property
    def largest_bytes(self) -> int:
        """The size at which fetching stops, because this cannot be the file any more."""
        return self.bytes if self.bytes is not None else _SIZE_ALLOWANCE * self.about_bytes


@dataclass(frozen=True)
class CatalogueEntry:
    """A base model; ``download`` is None for one that comes with TransferSeg.

    ``spacing_mm`` is the spacing the network works at, ``spacing_inferred`` that it was concluded and not stated by
    the makers; ``about_bytes`` is the size of what is fetched, or of the bundled files.
    """

    name: str
    summary: str
    modality: str
    structures: tuple[str, ...]
    spacing_mm: float
    spacing_inferred: bool
    width: int
    about_bytes: int
    license: str
    citation: str
    homepage: str
    download: Download | None

    def __post_init__(self) -> None:
        """Raise ModelError for an entry that describes no usable model."""
        if not is_model_name(self.name):
            raise ModelError(f"'{self.name}' cannot be a model's name.")
        if not self.structures or len(set(self.structures)) != len(self.structures):
            raise ModelError("The structures must be different names, at least one.")
        if not self.spacing_mm > 0 or self.width < 1 or self.about_bytes < 1:
            raise ModelError("Spacing, width and size must be larger than 0.")
        _check_https(self.homepage)

    @property
    def network(self) -> NetworkSpec:
        """The network that the model's weights belong to."""
        return unet_valid_spec(self.width, len(self.structures) + 1)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description, as in the catalogue's file."""
        download = self.download and {
            "kind": self.download.kind,
            "address": self.download.address,
            "git_blob": self.download.git_blob,
            "bytes": self.download.bytes,
        }
        plain = {name: getattr(self, name) for name in _FIELDS}
        return plain | {"structures": list(self.structures), "download": download}

    @staticmethod
    def from_json(entry: Any) -> CatalogueEntry:
        """Read a description written by ``to_json``; raises ModelError saying which part is missing or wrong."""
        plain = {name: json_field(entry, name, kind, error=ModelError) for name, kind in _FIELDS.items()}
        structures = names(
            json_field(entry, "structures", list, error=ModelError), "The entry 'structures'", error=ModelError
        )
        file = json_field(entry, "download", dict, None, error=ModelError)
        if file is None:
            return CatalogueEntry(**plain, structures=structures, download=None)
        kind, address, blob = (
            json_field(file, name, str, error=ModelError) for name in ("kind", "address", "git_blob")
        )
        size = json_field(file, "bytes", int, None, error=ModelError)
        download = Download(kind, address, blob, plain["about_bytes"], size)
        return CatalogueEntry(**plain, structures=structures, download=download)


_FIELDS = {
    "name": str,
    "summary": str,
    "modality": str,
    "spacing_mm": float,
    "spacing_inferred": bool,
    "width": int,
    "about_bytes": int,
    "license": str,
    "citation": str,
    "homepage": str,
}


@dataclass(frozen=True)
class Catalogue:
    """The base models by name, in the catalogue's order."""

    entries: tuple[CatalogueEntry, ...] = ()

    def __post_init__(self) -> None:
        """Raise ModelError when two entries share a name or a file."""
        names = [entry.name.casefold() for entry in self.entries]
        blobs = [entry.download.git_blob for entry in self.entries if entry.download is not None]
        for what, values in (("name", names), ("checksum", blobs)):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ModelError(f"Two models of the catalogue share the {what} {', '.join(twice)}.")

    def find(self, name: str) -> CatalogueEntry | None:
        """Return the entry of that name (upper or lower case do not matter), or None."""
        return next((entry for entry in self.entries if entry.name.casefold() == name.casefold()), None)

    def recognise(self, git_blob: str) -> CatalogueEntry | None:
        """Return the entry whose file has this git blob id, or None."""
        known = (entry for entry in self.entries if entry.download is not None)
        return next((entry for entry in known if entry.download and entry.download.git_blob == git_blob), None)

    @property
    def to_fetch(self) -> tuple[CatalogueEntry, ...]:
        """The entries that do not come with TransferSeg."""
        return tuple(entry for entry in self.entries if entry.download is not None)


def read_catalogue(file: Path) -> Catalogue:
    """Return a catalogue, everything in it checked; raises ModelError naming the file and the model at fault."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ModelError(f"The catalogue of models {file} cannot be read: {error.strerror or error}.") from error
    content = parse_json(text, str(file))
    try:
        if json_field(content, "format", str, error=ModelError) != FORMAT:
            raise ModelError(f"Its entry 'format' is not '{FORMAT}'.")
        if json_field(content, "format_version", int, error=ModelError) > FORMAT_VERSION:
            raise ModelError("It was made for a newer TransferSeg: update TransferSeg.")
        return Catalogue(tuple(_entry(entry) for entry in json_field(content, "models", list, error=ModelError)))
    except ModelError as error:
        raise ModelError(f"The catalogue of models {file} cannot be used. {error}") from error


def git_blob_id(file: Path, task: Task | None = None) -> str:
    """Return the git blob id of a file; raises ModelError when it cannot be read or is a pipe, and Cancelled."""
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise ModelError(f"{file} cannot be read: it is no file but a pipe or a device.")
    try:
        with file.open("rb") as stream:
            # SHA-1 is what git gives; a second file with a given id (a second preimage) cannot be made.
            digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
            while block := stream.read(_HASHED_AT_ONCE):
                if task is not None:
                    task.check()
                digest.update(block)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def megabytes(size: int) -> str:
    """Return a size for a person, in units of 10^6 bytes: '65.3 MB'."""
    return f"{size / 1e6:.1f} MB"


def _entry(entry: Any) -> CatalogueEntry:
    """Return one entry; the error names the model where its name is known."""
    try:
        return CatalogueEntry.from_json(entry)
    except ModelError as error:
        name = entry.get("name") if isinstance(entry, Mapping) else None
        raise ModelError(f"The model {name!r}: {error}") from error


def _check_https(address: str) -> None:
    """Raise ModelError unless an address is HTTPS, names a host and carries no password."""
    try:
        parts = urlsplit(address)
        usable = parts.scheme == "https" and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        usable = False
    if not usable:
        raise ModelError(f"The address {address!r} is not an HTTPS address without a password.")
