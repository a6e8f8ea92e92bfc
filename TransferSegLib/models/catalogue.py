"""The catalogue of base models: what each one segments, and where one that is not bundled can be fetched.

It is one readable file, ``Resources/Models/catalogue.json``; ``TransferSegLib.models.locate.catalogue`` finds it. A
file is verified by a checksum: the git blob id, which the git repository that holds the file shows, or the SHA-256.
Where the makers publish neither, the first fetch records the SHA-256 (``TransferSegLib.models.known_files``).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from TransferSegLib.errors import ModelError
from TransferSegLib.images.preparation import Resampling
from TransferSegLib.json_fields import checked, json_field, names
from TransferSegLib.models.description import is_model_name, parse_json
from TransferSegLib.models.download import Download, check_https
from TransferSegLib.networks.interface import NetworkSpec
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec

#: The file's name in the folder of the bundled models.
CATALOGUE_FILE = "catalogue.json"
FORMAT = "transferseg-catalogue"
FORMAT_VERSION = 1
#: A message names no more models than these.
_MOST_NAMED = 3


@dataclass(frozen=True)
class NnUNetProfile:
    """How a published model of nnU-Net is used, which its file does not say.

    ``axes`` and ``resampling`` are as in ``Preparation``, ``overlap`` is the share by which windows overlap.
    """

    axes: str
    resampling: Resampling
    overlap: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {"axes": self.axes, "resampling": self.resampling, "overlap": self.overlap}

    @staticmethod
    def from_json(entry: Any) -> NnUNetProfile:
        """Read a description written by ``to_json``; raises ModelError."""
        axes, resampling = (json_field(entry, name, str, error=ModelError) for name in ("axes", "resampling"))
        overlap = json_field(entry, "overlap", float, error=ModelError)
        if not 0 <= overlap < 1:
            raise ModelError(f"The overlap {overlap} is not a share from 0 to below 1.")
        if resampling not in ("nnunet", "totalsegmentator"):
            raise ModelError(f"The resampling '{resampling}' is none of nnU-Net's.")
        return NnUNetProfile(axes, resampling, float(overlap))


@dataclass(frozen=True)
class CatalogueEntry:
    """A base model; ``download`` is None for one that comes with TransferSeg or cannot be fetched.

    ``spacing_mm`` is the spacing the network works at (x, y, z where they differ; None where only the file says it),
    ``spacing_inferred`` that it was concluded and not stated by the makers; ``about_bytes`` is the size of what is
    fetched, or of the bundled files, 0 for what is not fetched. ``width`` is for networks of the paper, ``profile`` for
    those of nnU-Net. ``restriction`` says why a model is named but never fetched, empty for all others. ``parts`` names
    the models of a combination, which has no file of its own.
    """

    name: str
    summary: str
    modality: str
    structures: tuple[str, ...]
    spacing_mm: float | tuple[float, float, float] | None
    spacing_inferred: bool
    width: int | None
    about_bytes: int
    license: str
    citation: str
    homepage: str
    download: Download | None
    profile: NnUNetProfile | None = None
    restriction: str = ""
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ModelError for an entry that describes no usable model."""
        if not is_model_name(self.name):
            raise ModelError(f"'{self.name}' cannot be a model's name.")
        if not self.structures or len(set(self.structures)) != len(self.structures):
            raise ModelError("The structures must be different names, at least one.")
        width = 1 if self.width is None else self.width
        smallest = 0 if self.restriction else 1
        if not all(side > 0 for side in self._sides_mm) or width < 1 or self.about_bytes < smallest:
            raise ModelError("Spacing, width and size must be larger than 0.")
        if bool(self.restriction) + bool(self.parts) + (self.download is not None) > 1:
            raise ModelError("A model has one of restriction, parts and download.")
        is_nnunet = self.download is not None and self.download.kind == "nnunet"
        has_no_width = is_nnunet or bool(self.restriction) or bool(self.parts)
        if is_nnunet != (self.profile is not None) or (self.width is None) != has_no_width:
            raise ModelError("A model of nnU-Net needs a profile and has no width; others need a width.")
        check_https(self.homepage)

    @property
    def _sides_mm(self) -> tuple[float, ...]:
        if self.spacing_mm is None:
            return ()
        return self.spacing_mm if isinstance(self.spacing_mm, tuple) else (self.spacing_mm,)

    @property
    def network(self) -> NetworkSpec | None:
        """The network that the model's weights belong to, None where only the file says it."""
        return None if self.width is None else unet_valid_spec(self.width, len(self.structures) + 1)

    @property
    def is_bundled(self) -> bool:
        """Whether the model comes with TransferSeg."""
        return self.download is None and not self.restriction and not self.parts

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description, as in the catalogue's file."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in (*_FIELDS, "width")}
        spacing = list(self.spacing_mm) if isinstance(self.spacing_mm, tuple) else self.spacing_mm
        entry = plain | {"spacing_mm": spacing, "structures": list(self.structures)}
        entry["download"] = None if self.download is None else self.download.to_json()
        if self.profile is not None:
            entry["profile"] = self.profile.to_json()
        if self.parts:
            entry["parts"] = list(self.parts)
        return entry | {"restriction": self.restriction} if self.restriction else entry

    @staticmethod
    def from_json(entry: Any) -> CatalogueEntry:
        """Read a description written by ``to_json``; raises ModelError saying which part is missing or wrong."""
        plain = {name: json_field(entry, name, kind, error=ModelError) for name, kind in _FIELDS.items()}
        structures = names(
            json_field(entry, "structures", list, error=ModelError), "The entry 'structures'", error=ModelError
        )
        spacing = json_field(entry, "spacing_mm", float, list, None, error=ModelError)
        if isinstance(spacing, list):
            sides = [checked(side, "A side of 'spacing_mm'", float, error=ModelError) for side in spacing]
            if len(sides) != 3:
                raise ModelError("The entry 'spacing_mm' must be one number or three: x, y and z.")
            spacing = (sides[0], sides[1], sides[2])
        file = json_field(entry, "download", dict, None, error=ModelError)
        profile = json_field(entry, "profile", dict, error=ModelError) if "profile" in entry else None
        parts = json_field(entry, "parts", list, error=ModelError) if "parts" in entry else []
        return CatalogueEntry(
            **plain,
            spacing_mm=spacing,
            width=json_field(entry, "width", int, None, error=ModelError),
            structures=structures,
            download=None if file is None else Download.from_json(file, plain["about_bytes"]),
            profile=None if profile is None else NnUNetProfile.from_json(profile),
            parts=names(parts, "The entry 'parts'", error=ModelError),
            restriction=json_field(entry, "restriction", str, error=ModelError) if "restriction" in entry else "",
        )


_FIELDS = {
    "name": str,
    "summary": str,
    "modality": str,
    "spacing_inferred": bool,
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
        keys = [entry.download.key for entry in self.entries if entry.download is not None]
        for what, values in (("name", names), ("file", keys)):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise ModelError(f"Two models of the catalogue share the {what} {', '.join(twice)}.")
        fetchable = {entry.name for entry in self.to_fetch}
        for entry in self.combinations:
            if not set(entry.parts) <= fetchable:
                raise ModelError(f"A part of '{entry.name}' is not in the catalogue: {', '.join(entry.parts)}.")

    def find(self, name: str) -> CatalogueEntry | None:
        """Return the entry of that name (upper or lower case do not matter), or None."""
        return next((entry for entry in self.entries if entry.name.casefold() == name.casefold()), None)

    def recognise(self, git_blob: str) -> CatalogueEntry | None:
        """Return the entry whose file has this git blob id, or None."""
        return next((entry for entry in self.to_fetch if entry.download and entry.download.git_blob == git_blob), None)

    def of_dataset(self, folder: str) -> CatalogueEntry | None:
        """Return the entry of a published model of nnU-Net by its folder, such as ``Dataset297_...``, or None."""
        of_nnunet = (entry for entry in self.to_fetch if entry.download and entry.download.kind == "nnunet")
        return next((e for e in of_nnunet if e.download and e.download.file_name == f"{folder}.zip"), None)

    @property
    def to_fetch(self) -> tuple[CatalogueEntry, ...]:
        """The entries that can be fetched."""
        return tuple(entry for entry in self.entries if entry.download is not None)

    def names_to_fetch(self, wanted: str) -> str:
        """Return for a message which models can be fetched, of many those whose names are most like ``wanted``."""
        names = [entry.name for entry in self.offered]
        if len(names) <= _MOST_NAMED:
            return ", ".join(names)
        near = difflib.get_close_matches(wanted.casefold(), names, _MOST_NAMED, 0.0)
        return f"{', '.join(near)} and {len(names) - len(near)} others ('transferseg models list --all' shows them)"

    def has_known_size(self, entry: CatalogueEntry) -> bool:
        """Tell whether the size of what is fetched for an entry, for a combination that of all its models, is known."""
        files = [self.find(part) for part in entry.parts] or [entry]
        return all(each is not None and not (each.download and each.download.is_guessed) for each in files)

    @property
    def offered(self) -> tuple[CatalogueEntry, ...]:
        """The models that can be fetched and the combinations of them, in the catalogue's order."""
        return tuple(entry for entry in self.entries if entry.download is not None or entry.parts)

    @property
    def combinations(self) -> tuple[CatalogueEntry, ...]:
        """The entries that stand for several others."""
        return tuple(entry for entry in self.entries if entry.parts)

    @property
    def restricted(self) -> tuple[CatalogueEntry, ...]:
        """The entries that are named, but never fetched."""
        return tuple(entry for entry in self.entries if entry.restriction)


def read_catalogue(file: Path) -> Catalogue:
    """Return a catalogue, everything in it checked; raises ModelError naming the file and the model at fault."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ModelError(f"The catalogue of models {file} cannot be read: {error.strerror or error}.") from error
    return _parsed(text, file)


@lru_cache(maxsize=2)
def _parsed(text: bytes, file: Path) -> Catalogue:
    """Return what a file's content says; the panel asks for the same again with all that it shows."""
    content = parse_json(text, str(file))
    try:
        if json_field(content, "format", str, error=ModelError) != FORMAT:
            raise ModelError(f"Its entry 'format' is not '{FORMAT}'.")
        if json_field(content, "format_version", int, error=ModelError) > FORMAT_VERSION:
            raise ModelError("It was made for a newer TransferSeg: update TransferSeg.")
        return Catalogue(tuple(_entry(entry) for entry in json_field(content, "models", list, error=ModelError)))
    except ModelError as error:
        raise ModelError(f"The catalogue of models {file} cannot be used. {error}") from error


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
