"""What ``transferseg models list`` and ``show`` print of models that are here, to fetch, or only named."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.errors import ModelError
from TransferSegLib.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from TransferSegLib.models.catalogue import Catalogue, CatalogueEntry

#: Where a model of the catalogue is that can be fetched.
TO_FETCH = "to fetch"


@dataclass(frozen=True)
class Listed:
    """A model as ``list`` shows it; ``problem`` tells why it cannot be used, ``parts`` a combination's models."""

    name: str
    where: str
    bytes: int
    version: str | None = None
    modality: str | None = None
    structures: tuple[str, ...] = ()
    spacing_mm: float | tuple[float, float, float] | None = None
    spacing_inferred: bool = False
    path: Path | None = None
    problem: str | None = None
    is_guessed: bool = False
    parts: tuple[str, ...] = ()

    def row(self) -> tuple[str, ...]:
        """Return the cells of the model's line in the table."""
        from TransferSegLib.models.catalogue import megabytes

        count = str(len(self.structures)) if self.structures else "-"
        spacing = "-" if self.spacing_mm is None else spacing_words(self.spacing_mm, self.spacing_inferred)
        size = megabytes(self.bytes) if self.path is not None else f"about {self.bytes / 1e6:.0f} MB"
        size = "unknown" if self.is_guessed else size if self.bytes else "-"
        where = f"{self.where}: {len(self.parts)} models" if self.parts else self.where
        where = where if self.problem is None else f"damaged: {self.problem}"
        return self.name, self.version or "-", self.modality or "-", count, spacing, size, where

    def to_json(self) -> dict[str, Any]:
        """Return what ``list --json`` prints of the model."""
        lists = {"structures": list(self.structures), "parts": list(self.parts)}
        return vars(self) | lists | {"path": None if self.path is None else str(self.path)}


def listed(library: Path) -> list[Listed]:
    """Return the bundled models, those of the library, and those of the catalogue that are not there yet."""
    from TransferSegLib.models.combination import is_combination
    from TransferSegLib.models.locate import bundled_models, library_models
    from TransferSegLib.models.store import load_description
    from TransferSegLib.models.versions.state import version_name

    models = []
    for where, paths in (("bundled", bundled_models()), ("library", library_models(library))):
        for path in paths:
            try:
                if is_combination(path):
                    models.append(_combination(path))
                    continue
                found = load_description(path)
            except ModelError as error:
                models.append(Listed(path.name, where, _size(path), path=path, problem=str(error)))
                continue
            models.append(
                Listed(
                    found.name,
                    where,
                    _size(path),
                    version_name(path, found.version),
                    found.modality,
                    found.label_set.names,
                    found.preparation.spacing_mm,
                    found.spacing_inferred,
                    path,
                )
            )
    there = {name.casefold() for model in models for name in (model.name, model.path.name if model.path else "")}
    known = known_catalogue()
    for entry in (*known.offered, *known.restricted):
        if entry.name.casefold() not in there:
            spacing = (entry.spacing_mm, entry.spacing_inferred)
            details = (None, entry.modality, entry.structures, *spacing)
            where = "not fetched: restricted licence" if entry.restriction else TO_FETCH
            is_guessed = not known.has_known_size(entry)
            models.append(
                Listed(entry.name, where, entry.about_bytes, *details, is_guessed=is_guessed, parts=entry.parts)
            )
    return models


def others_text(others: Sequence[Listed]) -> str:
    """Return a line on the models of the catalogue that are not listed, empty where there are none."""
    count = sum(model.where == TO_FETCH for model in others)
    if not others:
        return ""
    fetched = f"{counted(count, 'more model')} can be fetched" if count else "No other model can be fetched"
    return f"{fetched}: 'transferseg models list --all' lists {'them' if count != 1 else 'it'}."


def _combination(path: Path) -> Listed:
    """Return the line of a combination in the library; raises ModelError when a part is missing."""
    from TransferSegLib.models.combination import load_combination
    from TransferSegLib.models.combined_parts import parts_of

    combination, (label_set, parts) = load_combination(path), parts_of(path)
    spacings = {part.description.preparation.spacing_mm for part in parts}
    return Listed(
        combination.name,
        "library",
        sum(_size(part.path) for part in parts),
        None,
        combination.modality,
        label_set.names,
        spacings.pop() if len(spacings) == 1 else None,
        path=path,
        parts=combination.parts,
    )


def combination_text(path: Path) -> str:
    """Return what a combination in the library segments, with which models, in lines."""
    from TransferSegLib.models.combination import load_combination
    from TransferSegLib.models.combined_parts import parts_of
    from TransferSegLib.wording import table

    combination, (label_set, parts) = load_combination(path), parts_of(path)
    rows = []
    for structure in label_set:
        codes = [code[0] for code in (structure.terminology, structure.modifier) if code is not None]
        of = [part.description.name for part in parts if part.description.label_set.find(structure.name) is not None]
        rows.append((structure.name, str(structure.label), " + ".join(codes) or "-", of[-1] if of else "-"))
    return "\n".join(
        [
            f"{combination.name}: {combination.summary}",
            f"{combination.modality}, {len(parts)} models one after another, licence {combination.license}",
            table(("structure", "label", "SNOMED CT", "model"), rows),
            f"cite: {combination.citation}\nin: {path}",
        ]
    )


def known_catalogue() -> Catalogue:
    """Return the catalogue; a damaged one is reported and is no reason not to speak of the models that are there."""
    from TransferSegLib.models.catalogue import Catalogue
    from TransferSegLib.models.locate import catalogue

    try:
        return catalogue()
    except ModelError as error:
        print(f"transferseg: {error}", file=sys.stderr)
        return Catalogue()


def entry_text(entry: CatalogueEntry) -> str:
    """Return what is known of a model that is not on this computer, in lines."""
    from TransferSegLib.models.catalogue import megabytes

    spacing = ""
    if entry.spacing_mm is not None:
        spacing = f", works at {spacing_words(entry.spacing_mm, entry.spacing_inferred)}"
    width = "" if entry.width is None else f", network width {entry.width}"
    lines = [
        f"{entry.name}: {entry.summary}",
        f"{entry.modality}{spacing}{width}, licence {entry.license}",
        f"structures: {', '.join(entry.structures)}",
        f"homepage: {entry.homepage}",
        f"cite: {entry.citation}",
    ]
    if entry.parts:
        lines += [
            f"a combination of {len(entry.parts)} models: {', '.join(entry.parts)}",
            f"not on this computer yet; fetch about {megabytes(entry.about_bytes)} with: "
            f"transferseg models fetch {entry.name}",
        ]
    if entry.restriction:
        lines.append(f"not fetched: {entry.restriction}")
    if entry.download is not None:
        blob = entry.download.git_blob
        checksum = f"git blob id {blob}" if blob is not None else "no published checksum"
        lines += [
            f"file: {entry.download.address}\n      {checksum}",
            f"not on this computer yet; fetch about {megabytes(entry.about_bytes)}"
            f"{' (a guess, from similar files)' if entry.download.is_guessed else ''} with: "
            f"transferseg models fetch {entry.name}",
        ]
    return "\n".join(lines)


def spacing_words(spacing_mm: float | tuple[float, float, float], inferred: bool) -> str:
    """Return a spacing (x, y, z where they differ) for a person."""
    sides = spacing_mm if isinstance(spacing_mm, tuple) else (spacing_mm,)
    return f"{' x '.join(f'{side:.3g}' for side in sides)} mm{' (inferred)' if inferred else ''}"


def _size(path: Path) -> int:
    """Return the bytes on disk of a model's folder or file; what vanishes meanwhile counts nothing."""
    files = [path] if path.is_file() else list(path.rglob("*"))
    total = 0
    for file in files:
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total
