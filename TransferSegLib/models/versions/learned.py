"""Which corrected cases a model has learned from, in the fine-tuning that made it and in those before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from TransferSegLib.errors import ModelError
from TransferSegLib.models.versions.history import Version, read_history
from TransferSegLib.models.versions.state import VERSIONS_FOLDER


def learned_hashes(path: Path, sha256: str) -> frozenset[str]:
    """Return the content hashes of all cases that the model with these weights learned from, in one run or another.

    ``path`` is where it lies: a model's folder, with versions or without, that of a version, or a zip file. What it was
    made from is looked for among the versions beside it; of what is gone, or damaged, nothing is known.
    """
    versions = _versions(path)
    found: set[str] = set()
    looked_at: set[str] = set()
    while sha256 in versions and sha256 not in looked_at:
        looked_at.add(sha256)
        version = versions[sha256]
        if version.record is None:
            break
        found |= {case.content_hash for case in version.record.cases}
        if version.description.provenance.configuration.get("strategy") == "scratch":
            break  # it has nothing from its parent
        sha256 = version.record.parent.sha256
    return frozenset(found)


def _versions(path: Path) -> dict[str, Version]:
    """Return the versions beside a model by the checksum of their weights; a plain model is its only one."""
    return {version.sha256: version for folder in _folders(path) for version in _read(folder)}


def _folders(path: Path) -> Iterator[Path]:
    yield path
    if path.parent.name == VERSIONS_FOLDER:
        yield path.parent.parent


def _read(model: Path) -> tuple[Version, ...]:
    with suppress(ModelError):
        return read_history(model.name, model).versions
    return ()
