"""Versions of a model in the user's library: adding a candidate, choosing the current one, going back.

>>> record = VersionRecord(ModelReference.of(parent), cases, evidence=verdict.to_json(), forgetting=fates)
>>> version = add_version(library, "our clinic", description, state_dict, record, origin=parent)
>>> find_model("our clinic")  # the current version, which the candidate is when its verdict says so
>>> rollback("our clinic", library)

Every change is one renaming under the library's lock. Reading needs no lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from TransferSegLib.durable_writing import flush_folder, move
from TransferSegLib.errors import ModelError
from TransferSegLib.models.archive import WEIGHTS_FILE, WeightsRecord, read_model_files
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.incoming import check_name, read_incoming
from TransferSegLib.models.library import changing, refuse_linked_versions
from TransferSegLib.models.locate import bundled_models, find_bundled_model, find_library_model, library_models
from TransferSegLib.models.store import check_weights, load_description, load_model, model_files, write_files
from TransferSegLib.models.versions.card import card
from TransferSegLib.models.versions.history import Version, find_model_with_versions, read_history, read_version
from TransferSegLib.models.versions.record import (
    ModelReference,
    VersionRecord,
    descended,
    now,
    with_record,
)
from TransferSegLib.models.versions.state import (
    VERSIONS_FOLDER,
    DamagedState,
    VersionState,
    has_versions,
    read_state,
    tidy_state,
    unknown_version,
    version_folder,
    version_numbers,
    write_state,
)
from TransferSegLib.paths import as_path
from TransferSegLib.progress import CancelToken, Task

if TYPE_CHECKING:
    import torch

LOG_FILE = "log.txt"
#: When a candidate, whose parent is the current version, becomes the current one at once: if its verdict is "better"
#: and nothing in its evidence speaks against it; unless something speaks against it; or not at all. One that is worse,
#: or not usable, never does by itself.
Promotion = Literal["if better", "unless worse", "never"]


def add_version(
    library: Path,
    name: str,
    description: ModelDescription,
    state_dict: Mapping[str, torch.Tensor],
    record: VersionRecord,
    *,
    origin: Path | None = None,
    log: str = "",
    promote: Promotion = "if better",
    half_precision: bool = False,
    cancel: CancelToken | None = None,
) -> Version:
    """Keep a candidate as the next version of a model in the library; a model of a new name begins with its parent.

    ``origin`` is where the parent lies, None if it is to be looked for among the models that are here by its
    checksum. A plain model of that name becomes version 0 and stays as it is. The name, version, parent, licence,
    citation and training data in ``description`` are filled in. A candidate that is there already (same weights, parent
    and cases: its process was killed before it could say so) is not added twice. Raises ModelError when the name is
    that of a bundled model, the parent of a new model is not there, or something cannot be written, and Cancelled; then
    nothing has changed.
    """
    _check_name_of_version(name, library)
    parent = _parent(record.parent, origin, library)
    with changing(library, cancel) as work:
        model = _check_name_of_version(name, library)
        if model is None and parent is None:
            raise ModelError(
                f"The model '{name}' would begin with {record.parent}, of which there is no copy with these weights "
                "any more: say where one is, or add the candidate to another model."
            )
        target = library / name if model is None else model
        refuse_linked_versions(target, library)
        title = name if model is None else _title(model)
        number = _next_number(target)
        record = replace(record, model_name=title, number=number)
        described = descended(description, title, record, None if parent is None else load_description(parent))
        task = Task("", None, cancel)
        files = task.wait(lambda: model_files(described, state_dict, half_precision))
        same = None if model is None else _same_version(model, WeightsRecord.of(files[WEIGHTS_FILE]).sha256, record)
        if same is not None:
            if _chosen(target, record, promote):
                write_state(target, read_state(target).promoted(same, now()))
            return read_version(target, same, _current(target))
        written = work / "new" / VERSIONS_FOLDER
        _write_version(written / str(number), described, record, files, log, task)
        if not has_versions(target):
            _write_origin(written / "0", title, model, parent, task)
        _put(written, target, number, _chosen(target if has_versions(target) else written / "0", record, promote))
        flush_folder(library, required=False)
    return read_version(target, number, _current(target))


def promote(name: str, library: Path | str, number: int, force: bool = False) -> Version:
    """Make a version the current one and return it.

    Its description and the checksum of its weights are verified first, which needs no torch; that the weights are those
    of its network was verified when it was written. A version that is worse than its parent needs ``force``; what else
    speaks against one (``VersionRecord.warning``) is for the caller to tell. Raises ModelError when that is missing,
    there is no such version, it is damaged, or the library cannot be written.
    """
    library = as_path(library, "The model library", ModelError)
    with changing(library):
        model = find_model_with_versions(name, library)
        refuse_linked_versions(model, library)
        _check_there(model, number)
        version = read_version(model, number, None)
        record = version.record
        if record is not None and number and record.is_worse and not force:
            raise ModelError(
                f"Version {number} of '{name}' is worse than what it was made from, {record.parent}. {record.reasons} "
                "To use it all the same: --force."
            )
        check_weights(version.path)
        try:
            before = read_state(model)
        except DamagedState:
            write_state(model, VersionState().promoted(number, now()))
        else:
            after = before.promoted(number, now())
            if after is not before or before.problem:
                write_state(model, after)
            else:
                tidy_state(model)
    return replace(version, current=True)


def rollback(name: str, library: Path | str) -> Version:
    """Make the version current that was so before the current one, and return it; repeated, it goes further back.

    Raises ModelError when there is nothing to go back to, what there was is damaged, or the library cannot be written.
    """
    library = as_path(library, "The model library", ModelError)
    with changing(library):
        model = find_model_with_versions(name, library)
        refuse_linked_versions(model, library)
        if not has_versions(model):
            raise ModelError(f"The model '{name}' has no versions: there is nothing to go back to.")
        after = read_state(model).rolled_back(now())
        _check_there(model, after.current)
        check_weights(version_folder(model, after.current))
        write_state(model, after)
    return read_version(model, after.current, after.current)


def remove_version(name: str, library: Path, number: int, force: bool = False) -> Path:
    """Remove a version from a model and return where it was; its number is not given again.

    The current version, and one that others were made from, need ``force``; without the current one that before it
    becomes current. Version 0 goes only with the whole model. Raises ModelError.
    """
    with changing(library) as work:
        model = find_model_with_versions(name, library)
        refuse_linked_versions(model, library, number)
        _check_there(model, number)
        if number == 0:
            raise ModelError(
                f"Version 0 is what '{name}' began with and stays. The whole model goes with: transferseg models remove"
            )
        found = read_history(name, model)
        children = [str(child.number) for child in found.children_of(number)]
        reasons = ["is the current one"] if found.current == number else []
        reasons += [f"is what version {', '.join(children)} was made from"] if children else []
        if reasons and not force:
            raise ModelError(
                f"Version {number} of '{name}' {' and '.join(reasons)}. To remove it all the same: --force."
            )
        # The state first: a number that was given must not be given again, whatever happens in between.
        state = read_state(model)
        write_state(model, state.removed(number, now()))
        folder = version_folder(model, number)
        (work / "removed").mkdir()
        move(folder, work / "removed" / folder.name)
        flush_folder(folder.parent, required=False)
    return folder


def _check_name_of_version(name: str, library: Path) -> Path | None:
    """Return the library's folder of a model of that name, None where there is none.

    Raises ModelError when no candidate can be added under that name.
    """
    check_name(name)
    if find_bundled_model(name) is not None:
        raise ModelError(
            f"'{name}' is the name of a model that comes with TransferSeg and stays as it is: give the model that is "
            "made from it another name."
        )
    model = find_library_model(name, library)
    if model is not None and model.is_file():
        raise ModelError(
            f"The model '{name}' lies in your library as the file {model}, which can have no versions: make it a "
            f"folder with: transferseg models import FILE --replace"
        )
    if model is None and (library / name).exists():
        raise ModelError(f"{library / name} exists already, and is no model: move it away, or give another name.")
    return model


def _title(model: Path) -> str:
    """Return what a model's versions are called: what its current or first version is, else as its folder."""
    for path in (model, version_folder(model, 0)):
        with suppress(ModelError):
            return load_description(path).name
    return model.name


def _next_number(model: Path) -> int:
    """Return a number that no version of a model has or had."""
    folder = model / VERSIONS_FOLDER
    taken = [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()] if folder.is_dir() else []
    with suppress(DamagedState):
        taken += [switch.version for switch in read_state(model).switches]
    return max(taken, default=0) + 1


def _parent(reference: ModelReference, origin: Path | None, library: Path) -> Path | None:
    """Return where the parent lies, None where it cannot be found; raises ModelError if ``origin`` is another model."""
    if origin is None:
        return next((path for path in _everywhere(library) if _has_weights(path, reference.sha256)), None)
    found = ModelReference.of(origin)
    if found.sha256 != reference.sha256:
        raise ModelError(
            f"The model in {origin} is now {found}, with other weights than the {reference} that the candidate was "
            "made from."
        )
    return Path(origin)


def _everywhere(library: Path) -> Iterator[Path]:
    """Yield every model that is here, of those with versions every one."""
    for path in (*bundled_models(), *library_models(library)):
        if has_versions(path):
            yield from (version_folder(path, number) for number in version_numbers(path))
        else:
            yield path


def _has_weights(path: Path, sha256: str) -> bool:
    """Tell whether a model has these weights; a damaged one has not."""
    try:
        return ModelReference.of(path).sha256 == sha256
    except ModelError:
        return False


def _write_version(
    folder: Path, description: ModelDescription, record: VersionRecord, files: Mapping[str, bytes], log: str, task: Task
) -> None:
    """Write a version's folder and verify what was written; raises ModelError, OSError and Cancelled."""
    complete = with_record(files, record)
    complete["README.md"] = card(description, record.without_cases()).encode("utf-8")
    if log:
        complete[LOG_FILE] = log.encode("utf-8")
    folder.mkdir(parents=True)
    write_files(folder, complete, task.cancel)
    task.wait(lambda: load_model(folder))


def _write_origin(folder: Path, title: str, plain: Path | None, parent: Path | None, task: Task) -> None:
    """Write version 0: the plain model that is there already, else the parent under the model's name."""
    if plain is not None:
        files = read_model_files(plain)
    else:
        assert parent is not None
        files = read_incoming(parent, title, task=task).files
    folder.mkdir(parents=True)
    write_files(folder, files, task.cancel)
    task.wait(lambda: load_model(folder))


def _same_version(model: Path, sha256: str, record: VersionRecord) -> int | None:
    """Return the version of a model that is this very candidate, None if there is none."""
    for number in version_numbers(model):
        with suppress(ModelError):
            other = read_version(model, number, None)
            if number and other.sha256 == sha256 and other.record is not None:
                hashes = [[case.content_hash for case in one.cases] for one in (other.record, record)]
                if other.record.parent.sha256 == record.parent.sha256 and hashes[0] == hashes[1]:
                    return number
    return None


def _chosen(model: Path, record: VersionRecord, promotion: Promotion) -> bool:
    """Tell whether a candidate becomes the current version at once; ``model`` is where it is or begins."""
    if promotion == "never" or record.is_worse or record.warning:
        return False
    if promotion == "if better" and not record.is_promoted_by_itself:
        return False
    try:
        current = version_folder(model, read_state(model).current) if has_versions(model) else model
    except DamagedState:
        return False  # the user has to choose the current version, and is asked to
    # What it is beside its parent says nothing of another version that is in use.
    return _has_weights(current, record.parent.sha256)


def _put(written: Path, model: Path, number: int, chosen: bool) -> None:
    """Give the written versions (and with them a new model) their place, then make the new one current if chosen."""
    if not model.exists():
        if chosen:
            write_state(written.parent, VersionState().promoted(number, now()))
        move(written.parent, model)
        return
    places = model / VERSIONS_FOLDER
    places.mkdir(exist_ok=True)
    # Version 0, which makes it a model with versions, goes first.
    for folder in sorted(written.iterdir(), key=lambda path: int(path.name)):
        move(folder, places / folder.name)
    flush_folder(places, required=False)
    if chosen:
        write_state(model, read_state(model).promoted(number, now()))


def _check_there(model: Path, number: int) -> None:
    if not has_versions(model) or number not in version_numbers(model):
        raise unknown_version(model, number)


def _current(model: Path) -> int | None:
    """Return the current version's number, None where the state is damaged."""
    try:
        return read_state(model).current
    except ModelError:
        return None
