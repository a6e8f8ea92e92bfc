"""The user's model library: a folder that several Slicers and command lines may read and change at once.

A model is added, replaced or removed by renaming a complete folder, under a lock that dies with its holder. Reading
needs no lock: a model is there as a whole or not at all. In the library lie, hidden, ``.lock``, ``.work`` (what a
change under way has not finished) and ``.downloads`` (what is being fetched).
"""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib.durable_writing import flush_folder, move
from TransferSegLib.errors import ModelError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.images.preparation import check_spacing
from TransferSegLib.models.catalogue import CatalogueEntry
from TransferSegLib.models.combination import is_combination
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.download import Download, FileKind, check_sha256, sha256_of
from TransferSegLib.models.incoming import Incoming, KerasOptions, check_name, is_like, read_incoming
from TransferSegLib.models.known_files import known_file, record_file
from TransferSegLib.models.locate import (
    ANOTHER_LIBRARY,
    catalogue,
    check_library,
    find_bundled_model,
    find_library_model,
)
from TransferSegLib.models.recovery import LOCK_FILE, NEW, REMOVED, REPLACED, WORK_FOLDER, refuse_links_in, tidy
from TransferSegLib.models.store import load_model, write_files
from TransferSegLib.models.versions.state import VERSIONS_FOLDER, has_versions
from TransferSegLib.output_checks import why_no_folder
from TransferSegLib.own_files import refuse_links
from TransferSegLib.paths import as_path
from TransferSegLib.progress import CancelToken, ProgressCallback, Task

if TYPE_CHECKING:
    import requests

DOWNLOADS_FOLDER = ".downloads"
#: Longer than any change takes: adding a model of 100 MB is a matter of seconds.
_LONGEST_WAIT_S = 120.0


@dataclass(frozen=True)
class Added:
    """A model in the library: its folder, its description, and the entry of the catalogue it is, if it is one.

    ``kind`` is what kind of file it was made of, ``claimed`` as in ``Incoming``. ``was_there`` tells that nothing was
    done because the model was in the library already. ``recorded_sha256`` is the checksum of a fetched file that was
    seen for the first time and whose makers publish none.
    """

    path: Path
    description: ModelDescription
    entry: CatalogueEntry | None
    kind: FileKind
    claimed: CatalogueEntry | None = None
    was_there: bool = False
    recorded_sha256: str | None = None


def import_model(
    file: Path | str,
    library: Path | str,
    name: str | None = None,
    options: KerasOptions | None = None,
    replace: bool = False,
    cancel: CancelToken | None = None,
    task: Task | None = None,
    entry: CatalogueEntry | None = None,
) -> Added:
    """Add a model to the library from a TransferSeg zip file, a model's folder, a Keras file, or nnU-Net's results.

    A file of the catalogue is recognised by its checksum and gets the catalogue's name and description (``entry`` is
    the one whose address the file came from); for other Keras files ``options`` say what the file does not. ``name`` is
    another name. With ``replace`` a model of that name is replaced. Raises ModelError when the file cannot be used, the
    name is taken, or the library cannot be written; then the library is as it was. So it is after Cancelled.
    """
    library = as_path(library, "The model library", ModelError)
    task = task or Task("", None, cancel)
    if name is not None:
        check_name(name)
        _check_free(name, library, replace)
    incoming = read_incoming(as_path(file, "The model file", ModelError), name, options, task, entry)
    task.check()
    return _add(incoming, library, replace, task)


def fetch_model(
    name: str,
    library: Path | str,
    replace: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    session: requests.Session | None = None,
    spacing_mm: float | None = None,
    sha256: str | None = None,
    task: Task | None = None,
) -> Added:
    """Fetch a model of the catalogue and add it to the library; a model that is there already is left as it is.

    Of two processes that fetch the same model one waits for the other. The next call continues what an interrupted one
    left. ``session`` None is a new one that sends no credentials; ``spacing_mm`` is another spacing than the inferred
    one of Keras weights. ``sha256`` is what the file must have, beside the published checksum; where none is published
    and none is given, the file must be the one that this library saw first. Raises ModelError in a line for a person,
    Cancelled.
    """
    library = as_path(library, "The model library", ModelError)
    entry = _fetchable(name)
    assert entry.download is not None
    download = _held_to(entry.download, sha256, library)
    if spacing_mm is not None and download.kind != "keras":
        raise ModelError(f"The spacing of '{entry.name}' is its makers' word: leave out --spacing-mm.")
    if spacing_mm is not None:
        check_spacing(spacing_mm)  # before many bytes are fetched for nothing
    if spacing_mm is not None or replace or find_library_model(entry.name, library) is None:
        _check_free(entry.name, library, replace)
    if download.kind == "keras" and importlib.util.find_spec("h5py") is None:
        raise ModelError(
            f"Importing '{entry.name}' needs the Python package h5py. Install it with: pip install h5py "
            '(in 3D Slicer, in the Python console: slicer.util.pip_install("h5py")), then fetch again.'
        )

    from TransferSegLib.models.fetch import Part, alone, fetch_file

    part = Part(library / DOWNLOADS_FOLDER, download)
    fetching, importing = (task or Task("", progress, cancel)).split(9, 1)
    with alone(part, entry.name, fetching):
        existing = None if replace else find_library_model(entry.name, library)
        if existing is not None:
            verified = importing.wait(lambda: _verified(existing, entry, sha256))
            return Added(existing, verified, entry, download.kind, was_there=True)
        file = fetch_file(download, part, entry.name, fetching, session)
        importing = importing.named(f"Importing {entry.name}")
        importing.at(0.0)
        options = None if spacing_mm is None else KerasOptions(spacing_mm=spacing_mm)
        added = import_model(file, library, options=options, replace=replace, task=importing, entry=entry)
        if entry.download.git_blob is None:
            added = _recorded(added, entry.download, file, library, sha256)
        with suppress(OSError):  # a leftover is found and used again, and no reason to call this a failure
            part.discard()
        importing.done(look=False)
    return added


def _held_to(download: Download, sha256: str | None, library: Path) -> Download:
    """Return a download with the checksum that the file must have: the one given, or the one that was seen first."""
    if sha256 is not None:
        check_sha256(sha256.lower())
        return dataclasses.replace(download, sha256=sha256.lower())
    known = None if download.is_verifiable else known_file(library, download.address)
    return download if known is None else dataclasses.replace(download, sha256=known.sha256)


def _recorded(added: Added, download: Download, file: Path, library: Path, sha256: str | None) -> Added:
    """Write down the checksum of a file that was seen for the first time, or that was asked for by its checksum."""
    known = known_file(library, download.address)
    if known is not None and sha256 is None:
        return added
    digest = sha256.lower() if sha256 is not None else sha256_of(file)
    with changing(library):
        record_file(library, download.address, digest, file.stat().st_size)
    return added if sha256 is not None else dataclasses.replace(added, recorded_sha256=digest)


def remove_model(name: str, library: Path) -> Path:
    """Remove a model, with all that lies in its folder, from the library; return where it was.

    Raises ModelError when there is none of that name, it comes with TransferSeg, or it cannot be removed.
    """
    if find_library_model(name, library) is None:
        if find_bundled_model(name) is not None:
            raise ModelError(f"The model '{name}' comes with TransferSeg and is not in your library: it stays.")
        raise ModelError(f"There is no model '{name}' in the library {library}.")
    with changing(library) as work:
        path = find_library_model(name, library)
        if path is None:
            raise ModelError(f"The model '{name}' was removed by another program in the meantime.")
        (work / REMOVED).mkdir()
        move(path, work / REMOVED / path.name)
        flush_folder(library, required=False)
    return path


def _fetchable(name: str) -> CatalogueEntry:
    """Return the catalogue's entry of a model that can be fetched; raises ModelError saying which can."""
    known = catalogue()
    entry = known.find(name)
    if entry is not None and entry.download is not None:
        return entry
    if entry is not None and entry.parts:
        raise ModelError(f"'{entry.name}' is a combination; fetch its parts: {', '.join(entry.parts)}.")
    if entry is not None and entry.restriction:
        raise ModelError(f"The model '{entry.name}' is not fetched: {entry.restriction} See {entry.homepage}")
    if entry is not None:
        raise ModelError(f"The model '{entry.name}' comes with TransferSeg: there is nothing to fetch.")
    names = known.names_to_fetch(name)
    raise ModelError(
        f"There is no model '{name}' in the catalogue. {f'To fetch: {names}.' if names else 'Nothing can be fetched.'} "
        "A file that you have is added with: transferseg models import FILE"
    )


def _verified(path: Path, entry: CatalogueEntry, sha256: str | None = None) -> ModelDescription:
    """Return the description of a model that is in the library already.

    Raises ModelError when it is damaged, is another model of the catalogue's name, or was made of a file with another
    checksum than ``sha256``.
    """
    try:
        description = load_model(path).description
    except ModelError as error:
        raise ModelError(f"{error} To fetch it again: --replace.") from error
    # A model of ours describes itself; what Keras weights are is known from the catalogue alone.
    is_keras = entry.download is not None and entry.download.kind == "keras"
    if is_keras and not is_like(description, entry):
        raise ModelError(
            f"The model in {path} has the name '{entry.name}', but is another one than the catalogue's: remove it, or "
            "fetch with --replace."
        )
    made_of = description.provenance.configuration.get("imported_from")
    known = made_of.get("file_sha256") if isinstance(made_of, dict) else None
    if sha256 is not None and known is not None and known != sha256.lower():
        raise ModelError(
            f"The model in {path} was made of a file with another SHA-256 ({known}): remove it, or fetch with "
            "--replace."
        )
    return description


def _check_not_borrowed(incoming: Incoming) -> None:
    """Raise ModelError when a file that is not the catalogue's would get the name of a model that can be fetched.

    An exported model that says it was made of the catalogue's file keeps its name: that is how it travels.
    """
    name = incoming.description.name
    entry = catalogue().find(name)
    if find_bundled_model(name) is not None:
        return  # ``_check_free`` refuses it, in words that fit the bundled model's own export too
    if entry is not None and entry not in (incoming.entry, incoming.claimed):
        raise ModelError(
            f"'{entry.name}' is the catalogue's name of a model, and this file is not that model: give another name "
            "with --name."
        )


def _check_free(name: str, library: Path, replace: bool) -> Path | None:
    """Return the library's model of that name, which may be replaced, or None; raises ModelError if it is taken."""
    if find_bundled_model(name) is not None:
        raise ModelError(f"'{name}' is the name of a model that comes with TransferSeg: give another with --name.")
    existing = find_library_model(name, library)
    if existing is not None and is_combination(existing):
        raise ModelError(f"'{name}' is a combination of models in the library: give another name, or remove it first.")
    if existing is not None and has_versions(existing):
        raise ModelError(
            f"There is a model '{name}' in the library already ({existing}), and it has versions, which would lose "
            "what they were made from: give another name with --name, or remove it first."
        )
    if existing is not None and not replace:
        raise ModelError(
            f"There is a model '{name}' in the library already ({existing}). Give another name with --name, or "
            "replace it with --replace."
        )
    return existing


def _add(incoming: Incoming, library: Path, replace: bool, task: Task) -> Added:
    """Write a model into the library, verify what was written, and give it its place."""
    name = incoming.description.name
    _check_not_borrowed(incoming)
    _check_free(name, library, replace)
    with changing(library, task.cancel) as work:
        existing = _check_free(name, library, replace)
        # A folder that is replaced keeps its name, and with it whatever else lies in it.
        target = existing if existing is not None and existing.is_dir() else library / name
        if existing is None and target.exists():
            raise ModelError(f"{target} exists already, and is no model: move it away, or give another name.")
        written = work / NEW / name
        written.mkdir(parents=True)
        write_files(written, incoming.files, task.cancel)
        task.wait(lambda: load_model(written))
        if existing is not None:
            (work / REPLACED).mkdir()
            move(existing, work / REPLACED / existing.name)
        move(written, target)
        if existing is not None and existing != target:
            (work / REMOVED).mkdir()
            move(work / REPLACED / existing.name, work / REMOVED / existing.name)
        flush_folder(library, required=False)
    return Added(target, incoming.description, incoming.entry, incoming.kind, incoming.claimed)


@contextmanager
def changing(library: Path, cancel: CancelToken | None = None) -> Iterator[Path]:
    """Hold the library's lock and yield an empty folder in it for what is under way; tidy up before and after.

    Raises ModelError when the library cannot be locked or written.
    """
    check_library(library)
    refuse_links_in(library)
    try:
        library.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(library, error) from error
    busy = f"The model library {library} is being changed by another program. Try again when it is done."
    with FileLock(library / LOCK_FILE, _LONGEST_WAIT_S, busy, ModelError, cancel, ANOTHER_LIBRARY):
        try:
            tidy(library)
            work = library / WORK_FOLDER / uuid.uuid4().hex
            work.mkdir(parents=True)
            try:
                yield work
            finally:
                tidy(library)
        except OSError as error:
            raise _not_writable(library, error) from error


def refuse_linked_versions(model: Path, library: Path, *numbers: int) -> None:
    """Raise ModelError when a model with versions, or one of these versions, is a link: it is read, never changed."""
    folders = [model / VERSIONS_FOLDER / str(number) for number in numbers] or [model / VERSIONS_FOLDER]
    if model.is_relative_to(library):
        refuse_links(library, *folders, error_type=ModelError)


def _not_writable(library: Path, error: OSError) -> ModelError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ModelError(f"The disk is full: free some space for the model library {library} and try again.")
    if isinstance(error, PermissionError) and os.name == "nt":
        return ModelError(
            f"The model library {library} cannot be changed: {error.strerror}. Is one of its models in use by another "
            "program? Close it and try again."
        )
    return ModelError(
        f"The model library {library} cannot be changed: {why_no_folder(library, error)}. Choose another folder with "
        "--library or the variable TRANSFERSEG_MODELS."
    )
