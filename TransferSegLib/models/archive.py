"""A model as one zip file: writing it, and reading one that a stranger may have made.

Nothing is ever extracted to disk: the few known entries are read into memory, after their names, kinds and sizes were
checked. Nothing here needs torch.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from TransferSegLib.durable_writing import replace_file
from TransferSegLib.errors import ModelError
from TransferSegLib.models.combination import is_combination, load_combination
from TransferSegLib.models.description import ModelDescription, parse_json
from TransferSegLib.models.leaving import without_identifiers
from TransferSegLib.models.part_names import abandoned, part_of
from TransferSegLib.output_checks import file_in_the_way, why_no_folder
from TransferSegLib.progress import CancelToken, Task
from TransferSegLib.safe_json import read_bounded
from TransferSegLib.wording import first_of

MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.pt"
#: Texts and pictures for people that may lie beside the two files; they travel in an archive and are not read here.
CARD_FILES = ("README.md", "card.md", "LICENSE", "LICENSE.txt")
#: Files for the reader of Keras files, which says what is wrong with them; they have to be imported to be used.
KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")

#: Largest accepted size in bytes of each kind of file, and of an archive's whole content.
LARGEST_MODEL_FILE = 4 * 2**20
LARGEST_WEIGHTS_FILE = 2 * 2**30
LARGEST_CARD_FILE = 32 * 2**20
LARGEST_CARDS = 64 * 2**20
#: Weights and pictures do not shrink much when they are packed; what grows more than this was made to fill a memory.
_LARGEST_RATIO = 50
_NOT_LOOKED_AT = 2**20
#: Bytes of a weights file beside its values, of which each takes at most four.
_WEIGHTS_OVERHEAD = 2**20
_MOST_ENTRIES = 100
#: Bytes that are written before the next look at the cancel token.
_WRITTEN_AT_ONCE = 2**22
#: A fixed date, so that the same model always gives the same archive.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class WeightsRecord:
    """What model.json says of the weights file: its SHA-256 in hexadecimal and its size in bytes."""

    sha256: str
    size: int

    @staticmethod
    def of(weights: bytes) -> WeightsRecord:
        """Return the record of a weights file's content."""
        return WeightsRecord(sha256(weights).hexdigest(), len(weights))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {"file": WEIGHTS_FILE, "sha256": self.sha256, "size": self.size}

    @staticmethod
    def from_json(entry: Any) -> WeightsRecord:
        """Read a description written by ``to_json``; raises ModelError when it is not one."""
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        size = entry.get("size") if isinstance(entry, dict) else None
        if not isinstance(digest, str) or len(digest) != 64 or not isinstance(size, int) or isinstance(size, bool):
            raise ModelError("The model's entry 'weights' must hold the SHA-256 and the size of its weights file.")
        return WeightsRecord(digest.lower(), size)

    def check_size(self, size: int, source: str) -> None:
        """Raise ModelError unless the weights file has the size that was written down, before it is read."""
        if size != self.size:
            raise ModelError(
                f"{source} has {size:,} bytes instead of {self.size:,}: it is incomplete. Get the model again."
            )

    def check(self, weights: bytes, source: str) -> None:
        """Raise ModelError unless these are the bytes the record was made of; ``source`` names the file."""
        self.check_size(len(weights), source)
        if sha256(weights).hexdigest() != self.sha256:
            raise ModelError(
                f"{source} is not the file that the model's description was written for (its SHA-256 differs): "
                "it was damaged or changed. Get the model again."
            )


def parse_model_file(text: bytes, source: str) -> tuple[ModelDescription, WeightsRecord]:
    """Return what a model.json says; raises ModelError naming ``source`` and what is wrong with it."""
    entry = parse_json(text, source)
    try:
        description, record = ModelDescription.from_json(entry), WeightsRecord.from_json(entry.get("weights"))
        largest = 4 * description.folds * description.backbone.parameters + _WEIGHTS_OVERHEAD
        if record.size > largest:
            raise ModelError(f"Its weights would have {record.size:,} bytes; the network needs {largest:,} at most.")
        return description, record
    except ModelError as error:
        raise ModelError(f"{source} cannot be used. {error}") from error


def read_model_entry(path: Path, name: str, record: WeightsRecord | None = None) -> bytes:
    """Return the content of one file, such as ``model.json``, of a model that is a folder or a zip file.

    With a ``record`` its size is compared before anything is read. Raises ModelError when there is no model, the file
    is missing, too large, or the archive is not to be trusted.
    """
    if path.is_dir():
        if is_combination(path):
            raise load_combination(path).refused()
        return _read_file(path / name, _largest(name), record)
    if path.is_file():
        if path.suffix.lower() in KERAS_SUFFIXES:
            raise ModelError(f"{path} is a Keras file: import it first with: transferseg models import {path}")
        return _read_zipped(path, name, record)
    raise ModelError(f"There is no model at {path}: give a model's folder or zip file.")


def read_model_files(path: Path) -> dict[str, bytes]:
    """Return the files of a model that is a folder or a zip file: model.json, weights.pt, then its card and pictures.

    The description is checked, and the weights against its checksum; other files of a folder are left out. Raises
    ModelError as ``read_model_entry`` does, and when the model is damaged.
    """
    text = read_model_entry(path, MODEL_FILE)
    _, record = parse_model_file(text, file_in(path, MODEL_FILE))
    weights = read_model_entry(path, WEIGHTS_FILE, record)
    record.check(weights, file_in(path, WEIGHTS_FILE))
    cards = {name: read_model_entry(path, name) for name in _card_names(path)}
    return {MODEL_FILE: text, WEIGHTS_FILE: weights, **cards}


def is_model_file(name: str) -> bool:
    """Tell whether a file of this name, without folders, is part of a model: the two files, a card or a picture."""
    return name in (MODEL_FILE, WEIGHTS_FILE) or _is_card(name)


def file_in(path: Path, name: str) -> str:
    """Return how a message names a file of a model that is a folder or a zip file."""
    return f"{name} in {path}" if path.is_file() else str(path / name)


def export_model(
    path: Path,
    zip_path: Path,
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
    cancel: CancelToken | None = None,
) -> Path:
    """Write a model, a folder or a zip file, as one zip file and return its path; the same model gives the same bytes.

    The model's files are verified first. A card and pictures that lie beside them go along, other files do not; nor
    does what names folders of this computer and cases, of which ``report`` is told in lines for a person. Raises
    ModelError when the model is damaged, the target's name does not end in .zip, it exists and is not to be
    overwritten, its folder is missing, or it cannot be written; Cancelled, and nothing is written then.
    """
    path, zip_path = Path(path), Path(zip_path)
    if zip_path.suffix.lower() != ".zip":
        raise ModelError(f"A model is exported as a .zip file: give a name that ends in .zip instead of {zip_path}.")
    if zip_path.exists() and not overwrite:
        raise ModelError(f"{zip_path} exists already: choose another name, or replace it with --replace.")
    if file_in_the_way(zip_path.parent) is not None:
        raise ModelError(f"{zip_path} cannot be written: {why_no_folder(zip_path.parent)}. Name another file.")
    if not zip_path.parent.is_dir():
        raise ModelError(f"{zip_path} cannot be written: there is no folder {zip_path.parent}.")
    files = Task("", None, cancel).wait(lambda: read_model_files(path))
    entries, left_out = without_identifiers(files, MODEL_FILE, _case_ids(path))
    if report is not None:
        for line in left_out:
            report(line)
    temporary = part_of(zip_path)
    try:
        for left in abandoned(zip_path):  # by a process that was killed
            left.unlink()
        _write_zip(temporary, entries, cancel)
        replace_file(temporary, zip_path)
    except OSError as error:
        raise ModelError(
            f"The model cannot be written to {zip_path}: {why_no_folder(zip_path.parent, error)}."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return zip_path


def _case_ids(path: Path) -> list[str]:
    """Return the ids of the cases that a version learned from, by its own record; none without one."""
    try:
        entry = parse_json(read_bounded(path / "record.json"), str(path))
        return [case["id"] for case in entry["cases"] if isinstance(case.get("id"), str)]
    except (OSError, ValueError, ModelError, LookupError, TypeError, AttributeError):
        return []


def blocks_of(content: bytes, cancel: CancelToken | None = None) -> Iterator[memoryview]:
    """Iterate over the blocks of a file's content, and look before each whether to stop; raises Cancelled."""
    for start in range(0, len(content), _WRITTEN_AT_ONCE):
        if cancel is not None:
            cancel.check()
        yield memoryview(content)[start : start + _WRITTEN_AT_ONCE]


def _write_zip(path: Path, entries: dict[str, bytes], cancel: CancelToken | None) -> None:
    """Write the entries in their order with fixed dates; weights are stored, as noise does not compress."""
    with path.open("xb") as stream:
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in entries.items():
                info = zipfile.ZipInfo(name, _ZIP_DATE)
                info.create_system = 3
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                kind = zipfile.ZIP_STORED if name == WEIGHTS_FILE else zipfile.ZIP_DEFLATED
                info.compress_type, info.file_size = kind, len(content)
                with archive.open(info, "w") as entry:
                    for block in blocks_of(content, cancel):
                        entry.write(block)
        stream.flush()
        os.fsync(stream.fileno())


def _card_names(path: Path) -> list[str]:
    """Return the names of a model's cards and pictures in order; raises ModelError."""
    if path.is_dir():
        return sorted(file.name for file in path.iterdir() if _is_card(file.name) and file.is_file())
    with _opened(path) as archive:
        return sorted(name for name in _checked_entries(path, archive.infolist()) if _is_card(name))


def _read_file(path: Path, largest: int, record: WeightsRecord | None = None) -> bytes:
    """Return a file's content; raises ModelError when it is missing, too large or cannot be read."""
    try:
        size = path.stat().st_size
        if size > largest:
            raise ModelError(f"{path} has {size:,} bytes, more than the {largest:,} that a model's file may have.")
        if record is not None:
            record.check_size(size, str(path))
        return read_bounded(path, largest)
    except ValueError as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    except FileNotFoundError as error:
        raise ModelError(_not_there(path)) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error


def _read_zipped(path: Path, name: str, record: WeightsRecord | None = None) -> bytes:
    """Return one entry of an archive after checking all of them; raises ModelError."""
    with _opened(path) as archive:
        entries = _checked_entries(path, archive.infolist())
        if name not in entries:
            raise ModelError(f"{path} is not a model: there is no {name} in it.")
        if record is not None:
            record.check_size(entries[name].file_size, file_in(path, name))
        with archive.open(entries[name]) as stream:
            content = stream.read(entries[name].file_size + 1)
    if len(content) != entries[name].file_size:
        raise ModelError(f"{path} is damaged: {name} has not the size the archive declares. Get the model again.")
    return content


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive; what goes wrong with it is a ModelError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path} is not a zip file or is damaged ({error}). Get the model again.") from error


def _checked_entries(path: Path, infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Return the files of an archive by name; raises ModelError unless all of them belong to a model.

    The files lie at the archive's root or, as when a folder was compressed by hand, all in one folder.
    """
    if len(infos) > _MOST_ENTRIES:
        raise ModelError(f"{path} is not a model: it has {len(infos)} entries.")
    packed = sum(info.compress_size for info in infos)
    if packed > path.stat().st_size:
        raise ModelError(f"{path} is refused: its entries lie over each other.")
    for info in infos:
        check_place(path, info)
        check_size(path, info)
    top = {PurePosixPath(info.filename).parts[0] for info in infos}
    prefix = f"{top.pop()}/" if len(top) == 1 and all("/" in info.filename for info in infos) else ""
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename.removeprefix(prefix)
        if prefix and not name:
            continue
        if name not in (MODEL_FILE, WEIGHTS_FILE) and not _is_card(name):
            raise ModelError(f"{path} is refused: a model has no file '{info.filename}'.")
        if name.casefold() in (known.casefold() for known in entries):
            raise ModelError(f"{path} is refused: it holds '{info.filename}' twice.")
        if info.file_size > _largest(name):
            raise ModelError(f"{path} is refused: '{info.filename}' would unpack to {info.file_size:,} bytes.")
        entries[name] = info
    cards = sum(info.file_size for name, info in entries.items() if _is_card(name))
    if cards > LARGEST_CARDS:
        raise ModelError(f"{path} is refused: its texts and pictures would unpack to {cards:,} bytes.")
    return entries


def check_place(path: Path, info: zipfile.ZipInfo) -> None:
    """Raise ModelError for an entry of an archive whose name leads elsewhere, or that is a link or encrypted."""
    name = info.filename
    steps = PurePosixPath(name).parts
    unsafe = not steps or name != info.orig_filename or "\\" in name or ":" in name or name.startswith("/")
    if unsafe or ".." in steps:
        raise ModelError(f"{path} is refused: the name {info.orig_filename!r} in it leads out of its folder.")
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ModelError(f"{path} is refused: '{name}' in it is a link or a device, not a file.")
    if info.flag_bits & _ENCRYPTED:
        raise ModelError(f"{path} is encrypted: unpack it and give the folder.")


def check_size(path: Path, info: zipfile.ZipInfo) -> None:
    """Raise ModelError for an entry of an archive that unpacks to far more than weights or texts do."""
    if info.file_size > _NOT_LOOKED_AT + _LARGEST_RATIO * info.compress_size:
        raise ModelError(f"{path} is refused: '{info.filename}' in it would unpack to {info.file_size:,} bytes.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ModelError(f"{path} is refused: '{info.filename}' in it is packed in a way that models do not use.")


def _is_card(name: str) -> bool:
    """Tell whether a file of this name, without folders, is a text or picture that goes along with a model."""
    return name in CARD_FILES or ("/" not in name and name.lower().endswith(PICTURE_SUFFIXES))


def _largest(name: str) -> int:
    return {MODEL_FILE: LARGEST_MODEL_FILE, WEIGHTS_FILE: LARGEST_WEIGHTS_FILE}.get(name, LARGEST_CARD_FILE)


def _not_there(path: Path) -> str:
    """Return what is said of a file of a model that is missing: its folder may be one of models."""
    folder = path.parent
    if path.name != MODEL_FILE:
        return f"{path} is missing: {folder} is not a complete model."
    try:
        models = sorted(each.name for each in folder.iterdir() if (each / MODEL_FILE).is_file())
    except OSError:
        models = []
    if models:
        return f"{folder} is a folder of models, not a model. Name one of them: {first_of(models, 5)}."
    return f"{folder} is not a model: there is no {MODEL_FILE} in it."
