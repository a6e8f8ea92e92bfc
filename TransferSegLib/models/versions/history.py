"""The versions of a model in the user's library, as they are read: in order, which is current, what was made from what.

Nothing here needs torch or changes anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from TransferSegLib.errors import ModelError
from TransferSegLib.models.archive import MODEL_FILE, file_in, parse_model_file, read_model_entry
from TransferSegLib.models.combination import is_combination, load_combination
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.locate import find_bundled_model, find_library_model
from TransferSegLib.models.versions.record import VersionRecord, load_record
from TransferSegLib.models.versions.state import (
    VersionState,
    has_versions,
    read_state,
    unknown_version,
    version_folder,
    version_numbers,
)
from TransferSegLib.paths import as_path


@dataclass(frozen=True)
class Version:
    """A version of a model: where it lies, what it says of itself, and its record, which version 0 may lack."""

    number: int
    path: Path
    description: ModelDescription
    sha256: str
    record: VersionRecord | None
    current: bool


@dataclass(frozen=True)
class History:
    """A model's versions in order, and its state; ``damaged`` lists those that cannot be read, with the reason.

    ``current`` is None where the state is damaged; ``state.problem`` or ``damaged`` then says what to do.
    """

    name: str
    path: Path
    versions: tuple[Version, ...]
    state: VersionState
    current: int | None
    damaged: tuple[str, ...] = ()

    def find(self, number: int) -> Version:
        """Return a version; raises ModelError listing those there are."""
        found = next((version for version in self.versions if version.number == number), None)
        if found is None:
            raise unknown_version(self.path, number)
        return found

    def parent_of(self, version: Version) -> Version | None:
        """Return the version of this model that another one was made from, None if it was made from elsewhere."""
        if version.record is None or version.number == 0:
            return None
        sha256 = version.record.parent.sha256
        earlier = [other for other in self.versions if other.number < version.number and other.sha256 == sha256]
        return earlier[-1] if earlier else None

    def children_of(self, number: int) -> tuple[Version, ...]:
        """Return the versions that were made from the one of this number."""
        parents = [(version, self.parent_of(version)) for version in self.versions]
        return tuple(version for version, parent in parents if parent is not None and parent.number == number)


def history(name: str, library: Path | str) -> History:
    """Return the versions of a model in the library; a plain model has itself as version 0. Raises ModelError."""
    library = as_path(library, "The model library", ModelError)
    return read_history(name, find_model_with_versions(name, library))


def read_history(name: str, model: Path) -> History:
    """Return the versions in a model's folder; what is damaged hides nothing else."""
    if not has_versions(model):
        return History(name, model, (_read_folder(model, 0, current=True),), VersionState(), 0)
    damaged: list[str] = []
    state, current = VersionState(), None
    try:
        state = read_state(model)
        current = state.current
    except ModelError as error:
        damaged.append(str(error))
    versions = []
    for number in version_numbers(model):
        try:
            versions.append(read_version(model, number, current))
        except ModelError as error:
            damaged.append(f"Version {number} cannot be read. {error}")
    return History(name, model, tuple(versions), state, current, tuple(damaged))


def find_model_with_versions(name: str, library: Path) -> Path:
    """Return the library's model of that name; raises ModelError when there is none, or it is a combination."""
    model = find_library_model(name, library)
    if model is not None and is_combination(model):
        raise load_combination(model).refused()
    if model is None:
        if find_bundled_model(name) is not None:
            raise ModelError(f"The model '{name}' comes with TransferSeg: only models of your library have versions.")
        raise ModelError(f"There is no model '{name}' in the library {library}.")
    return model


def read_version(model: Path, number: int, current: int | None) -> Version:
    """Return a version of a model; raises ModelError."""
    return _read_folder(version_folder(model, number), number, number == current)


def _read_folder(path: Path, number: int, current: bool) -> Version:
    """Return a version from its folder, or a plain model; raises ModelError."""
    description, weights = parse_model_file(read_model_entry(path, MODEL_FILE), file_in(path, MODEL_FILE))
    return Version(number, path, description, weights.sha256, load_record(path), current)
