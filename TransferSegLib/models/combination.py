"""Several models that segment a scan one after another, under one name: what ``combination.json`` in a library says.

A combination holds no weights. Its parts are models of the library, each of which can be fine-tuned; their current
versions are used. Where two parts label the same voxel, the later one counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.errors import ModelError
from TransferSegLib.json_fields import json_field, names, read_json

if TYPE_CHECKING:
    from TransferSegLib.models.catalogue import CatalogueEntry

COMBINATION_FILE = "combination.json"
FORMAT = "transferseg-combination"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Combination:
    """A combination: the names of its parts in their order, and of the structures in the order of their labels."""

    name: str
    summary: str
    modality: str
    license: str
    citation: str
    structures: tuple[str, ...]
    parts: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raise ModelError for a combination without parts or structures, or with one twice."""
        for what, values in (("structures", self.structures), ("parts", self.parts)):
            if not values or len(set(values)) != len(values):
                raise ModelError(f"The combination's {what} must be different names, at least one.")

    @staticmethod
    def of(entry: CatalogueEntry) -> Combination:
        """Return the combination that an entry of the catalogue describes."""
        about = (entry.name, entry.summary, entry.modality, entry.license, entry.citation)
        return Combination(*about, entry.structures, entry.parts)

    def refused(self) -> ModelError:
        """Return the error for what only a single model can do."""
        return ModelError(
            f"'{self.name}' is a combination of {len(self.parts)} models, which can only segment: take the one "
            f"of them that you need: {', '.join(self.parts)}."
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        plain = {name: getattr(self, name) for name in _TEXTS}
        lists = {"structures": list(self.structures), "parts": list(self.parts)}
        return {"format": FORMAT, "format_version": FORMAT_VERSION} | plain | lists

    @staticmethod
    def from_json(entry: Any) -> Combination:
        """Read a description written by ``to_json``; raises ModelError."""
        if json_field(entry, "format", str, error=ModelError) != FORMAT:
            raise ModelError(f"Its entry 'format' is not '{FORMAT}'.")
        if json_field(entry, "format_version", int, error=ModelError) > FORMAT_VERSION:
            raise ModelError("It was made by a newer TransferSeg: update TransferSeg.")
        plain = {name: json_field(entry, name, str, error=ModelError) for name in _TEXTS}
        structures, parts = (
            names(json_field(entry, name, list, error=ModelError), f"The entry '{name}'", error=ModelError)
            for name in ("structures", "parts")
        )
        return Combination(**plain, structures=structures, parts=parts)


_TEXTS = ("name", "summary", "modality", "license", "citation")


def is_combination(path: Path) -> bool:
    """Tell whether a folder is a combination."""
    return (path / COMBINATION_FILE).is_file()


def load_combination(path: Path) -> Combination:
    """Return what a combination's folder says; raises ModelError when it is missing or damaged."""
    file = path / COMBINATION_FILE
    try:
        return Combination.from_json(read_json(file, ModelError, f"{path} is no combination of models."))
    except ModelError as error:
        raise ModelError(f"{file} cannot be used. {error}") from error
