"""The files of a project: written to a hidden folder, moved into place, and only then named in ``dataset.json``.

::

    dataset.json                      the project; replaced as a whole, after everything it names is on the disk
    dataset.json.bak                  the same, written just before it
    cases/case-0001/revision-1/       image.nrrd, labels.seg.nrrd, judged.nrrd, prediction.seg.nrrd
    .incoming/<token>/                files of a revision that is being written
    .incoming/<token>.lock            locked by its writer as long as it lives
    .incoming/<token>.target          where the finished folder goes, written before it goes there
    patient-salt.txt                  what patients' pseudonyms are made with; made when first needed
    .lock                             held by whoever changes the project

A killed writer leaves a token whose lock is free: its folder goes, and the target too unless ``dataset.json`` names it.
Nothing else is ever deleted, so a project whose ``dataset.json`` was exchanged for an older one loses no files. Nor is
anything behind a link: a project in which one of these folders is a link is not changed at all.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import SimpleITK as sitk

from TransferSegLib.corrections.content_hash import hash_volume
from TransferSegLib.datasets.dataset import FILE_NAME, is_safe_id
from TransferSegLib.durable_writing import flush_file, flush_folder, move, unfinished_texts, write_text_durably
from TransferSegLib.errors import DatasetError, ScanError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.images.isolated_reading import first_line
from TransferSegLib.images.label_values import image_like
from TransferSegLib.images.read import read_label_map, read_scan
from TransferSegLib.images.write import write_label_map
from TransferSegLib.output_checks import why_no_folder
from TransferSegLib.own_files import is_link, linked_part, make_folder_like, refuse_links
from TransferSegLib.progress import CancelToken, Task
from TransferSegLib.structures import LabelSet

BACKUP_NAME = f"{FILE_NAME}.bak"
SALT_NAME = "patient-salt.txt"
IMAGE, LABELS, JUDGED, PREDICTION = "image.nrrd", "labels.seg.nrrd", "judged.nrrd", "prediction.seg.nrrd"
_CASES, _INCOMING, _LOCK = "cases", ".incoming", ".lock"
#: Names of folders as ``Incoming.move_to`` gives them.
_REVISION = re.compile(r"revision-[0-9]{1,9}(-again)*")


def project_lock(folder: Path, timeout_s: float, cancel: CancelToken | None = None) -> FileLock:
    """Return the lock of a project; raises DatasetError for links in it, and on entering when it is taken."""
    refuse_links_in(folder)
    message = f"The project in {folder} is being changed by another program. Try again when it is done."
    return FileLock(folder / _LOCK, timeout_s, message, DatasetError, cancel)


def refuse_links_in(folder: Path) -> None:
    """Raise DatasetError when a folder of the project, in which files are written and deleted, is a link."""
    own = [folder / _LOCK, folder / _CASES, folder / _INCOMING]
    for place in (folder / _CASES, folder / _INCOMING):
        with suppress(FileNotFoundError, NotADirectoryError):
            own += [] if is_link(place) else sorted(place.iterdir())
    refuse_links(folder, *own, error_type=DatasetError)


def save_project_text(folder: Path, text: str) -> None:
    """Write the text of ``dataset.json``, its backup first; raises OSError.

    In this order a backup never lacks what was reported saved; at worst it has one change that was not. Of a new
    project the backup comes second: alone it would stand for one whose ``dataset.json`` was lost.
    """
    names = (BACKUP_NAME, FILE_NAME) if (folder / FILE_NAME).exists() else (FILE_NAME, BACKUP_NAME)
    for name in names:
        write_text_durably(folder / name, text)


class Incoming:
    """A folder for the files of one revision that is not yet part of the project.

    >>> with incoming_folder(project, timeout_s=60) as incoming:
    ...     incoming.write_image(image)
    ...     with project_lock(project, 60):
    ...         files = incoming.move_to("case-0001", 1)  # then save dataset.json
    """

    def __init__(self, project: Path, token: str) -> None:
        """Name the folder, its lock and its target; nothing is made yet."""
        self._project = project
        self.folder = project / _INCOMING / token
        self._target_file = project / _INCOMING / f"{token}.target"
        self.lock = FileLock(project / _INCOMING / f"{token}.lock", 0, f"{self.folder} is in use.", DatasetError)

    def write_image(self, image: sitk.Image, image_hash: str, task: Task | None = None) -> None:
        """Write a scan without metadata, and read it back to compare its hash; raises ScanError, Cancelled."""
        target = self.folder / IMAGE
        writing, comparing = (task or Task()).split(2, 1)

        def write() -> None:
            sitk.WriteImage(_without_metadata(image), str(target), useCompression=True, compressionLevel=1)
            flush_file(target)

        try:
            # Waited for whatever happens: the folder is removed afterwards.
            writing.wait(write, leave=False)
        except (OSError, RuntimeError) as error:
            raise ScanError(f"{target} cannot be written: {first_line(error)}. Is the disk full?") from error
        _check_copy(target, read_scan, image_hash, comparing)

    def write_labels(self, labels: sitk.Image, name: str, label_set: LabelSet | None, task: Task | None = None) -> str:
        """Write a label map with the names of its structures, or a mask (no label set), and return its hash.

        It is read back to compare that. Raises ScanError, Cancelled.
        """
        target = self.folder / name
        writing, hashing, comparing = (task or Task()).split(2, 1, 2)
        if label_set is not None:
            write_label_map(labels, target, label_set, task=writing)
        try:
            if label_set is None:
                plain = _without_metadata(labels)
                writing.wait(lambda: sitk.WriteImage(plain, str(target), useCompression=True), leave=False)
            flush_file(target)
        except (OSError, RuntimeError) as error:
            raise ScanError(f"{target} cannot be written: {first_line(error)}. Is the disk full?") from error
        labels_hash = hash_volume(labels, hashing)
        _check_copy(target, read_label_map, labels_hash, comparing)
        return labels_hash

    def move_to(self, case_id: str, number: int) -> Path:
        """Give the folder its place among the cases and return it; the project is locked. Raises OSError."""
        case_folder = self._project / _CASES / case_id
        target = case_folder / f"revision-{number}"
        while os.path.lexists(target):  # of a project whose dataset.json was exchanged for an older one
            target = target.with_name(f"{target.name}-again")
        flush_folder(self.folder)
        write_text_durably(self._target_file, target.relative_to(self._project).as_posix())
        make_folder_like(self._project, case_folder.parent, exist_ok=True)
        make_folder_like(self._project, case_folder, exist_ok=True)
        move(self.folder, target)
        for folder in (case_folder, case_folder.parent, self._project):
            flush_folder(folder)
        return target

    def remove(self) -> None:
        """Forget the folder, which was moved or is not wanted; the project is locked and the token's lock free."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for file in (self._target_file, *unfinished_texts(self._target_file), self.lock.path):
            file.unlink(missing_ok=True)

    def target(self) -> Path | None:
        """Return where the folder was to go or has gone, None when it never got so far."""
        try:
            text = self._target_file.read_text(encoding="utf-8").strip()
        except OSError:
            return None
        parts = text.split("/")
        sound = len(parts) == 3 and parts[0] == _CASES and is_safe_id(parts[1]) and _REVISION.fullmatch(parts[2])
        target = self._project.joinpath(*parts)
        return target if sound and linked_part(self._project, target) is None else None


@contextmanager
def incoming_folder(project: Path, timeout_s: float, cancel: CancelToken | None = None) -> Iterator[Incoming]:
    """Make a folder for new files; when its block ends, whatever happened, no more is left than the project names.

    Raises DatasetError when the project cannot be written.
    """
    incoming = Incoming(project, uuid.uuid4().hex)
    try:
        with project_lock(project, timeout_s, cancel):
            make_folder_like(project, incoming.folder.parent, exist_ok=True)
            incoming.lock.acquire()
            make_folder_like(project, incoming.folder)
    except OSError as error:
        incoming.lock.release()
        raise DatasetError(f"{project} cannot be written: {why_no_folder(project, error)}.") from error
    try:
        yield incoming
    finally:
        incoming.lock.release()  # from here on the next writer would clear it away as well


def clear_leftovers(folder: Path, text: str | None, named: Collection[Path]) -> list[str]:
    """Remove what dead writers left in a project that is locked; returns a line for each thing removed.

    ``text`` is that of ``dataset.json`` (None: there is none yet), ``named`` the files it names. Raises OSError.
    """
    removed = []
    for name in (FILE_NAME, BACKUP_NAME, SALT_NAME):
        for file in unfinished_texts(folder / name):
            file.unlink(missing_ok=True)
            removed.append(f"{file.name}: an unfinished {name}")
    for incoming in _dead_writers(folder):
        target = incoming.target()
        if target is not None and not any(file.is_relative_to(target) for file in named):
            _restore_backup(folder / BACKUP_NAME, text)
            if target.is_dir():
                shutil.rmtree(target)
                removed.append(f"{target.relative_to(folder).as_posix()}: files of a revision that was never saved")
            with suppress(OSError):
                target.parent.rmdir()  # of a case that has no other revision
        if incoming.folder.exists():
            removed.append(f"{incoming.folder.name}: files of a revision that was never finished")
        with suppress(FileNotFoundError):
            incoming.remove()
    return removed


def _restore_backup(backup: Path, text: str | None) -> None:
    """Make the backup that of ``dataset.json`` again: written first, it may name what was never saved."""
    if text is not None and (not backup.exists() or backup.read_bytes() != text.encode("utf-8")):
        write_text_durably(backup, text)


def unnamed_folders(folder: Path, named: Collection[Path]) -> list[Path]:
    """Return the folders of revisions that ``dataset.json`` does not name."""
    found = [path for path in (folder / _CASES).glob("*/*") if path.is_dir()]
    return sorted(path for path in found if not any(file.is_relative_to(path) for file in named))


def has_case_folder(folder: Path, case_id: str) -> bool:
    """Tell whether there is a folder of that case already, named by ``dataset.json`` or not."""
    return (folder / _CASES / case_id).exists()


def _dead_writers(folder: Path) -> list[Incoming]:
    """Return what belongs to writers that are gone; the project is locked, so no new one can begin meanwhile."""
    tokens = {path.name.split(".")[0] for path in (folder / _INCOMING).glob("*")}
    found = []
    for token in sorted(token for token in tokens if re.fullmatch("[0-9a-f]{32}", token)):
        incoming = Incoming(folder, token)
        try:
            with incoming.lock:
                pass
        except DatasetError:
            continue  # its writer lives
        found.append(incoming)
    return found


def _without_metadata(image: sitk.Image) -> sitk.Image:
    """Return a copy of an image that has voxels and geometry and nothing else."""
    return image_like(sitk.GetArrayViewFromImage(image), image)


def _check_copy(path: Path, read: Callable[..., sitk.Image], original_hash: str, task: Task) -> None:
    """Raise ScanError unless a file gives back what was written: ITK does not always notice a full disk."""
    try:
        reading, hashing = task.split(2, 1)
        same = hash_volume(read(path, task=reading), hashing) == original_hash
    except ScanError as error:
        raise ScanError(f"{path} cannot be written completely: is the disk full?") from error
    if not same:
        raise ScanError(f"{path} does not hold what was written to it: is the disk full, or failing?")
