"""A file for the library: recognised, read, checked, and turned into the files of a model.

Everything happens in memory; ``TransferSegLib.models.library`` writes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from TransferSegLib.errors import ModelError
from TransferSegLib.json_fields import json_bytes
from TransferSegLib.models.archive import MODEL_FILE, parse_model_file, read_model_files
from TransferSegLib.models.catalogue import CatalogueEntry
from TransferSegLib.models.description import ModelDescription, is_model_name, parse_json
from TransferSegLib.models.download import Download, FileKind, git_blob_id, sha256_of
from TransferSegLib.models.importers.nnunet.source import NnUNetSource, find_source
from TransferSegLib.models.locate import catalogue
from TransferSegLib.models.published_nnunet import as_published
from TransferSegLib.models.versions.state import current_folder, split_version
from TransferSegLib.progress import Task

if TYPE_CHECKING:
    from TransferSegLib.models.importers.keras.network import Background

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_ZIP_SIGNATURE = b"PK\x03\x04"
#: What has one of these names is for the reader of Keras files, which says what is wrong with it.
_KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")
#: Names that Windows keeps for devices, whatever comes after a dot.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


@dataclass(frozen=True)
class KerasOptions:
    """What a user says of a file that does not say it; None where nothing is said.

    ``fold`` and ``axes`` are for models of nnU-Net, ``modality`` for both kinds, the others for Keras files, which hold
    numbers only.
    ``structures`` are the names in channel order without the background, ``background`` tells whether it is the first
    or the last channel. A file of the catalogue needs none of it, and takes none but another spacing.
    """

    structures: tuple[str, ...] | None = None
    background: Background | None = None
    spacing_mm: float | None = None
    modality: str | None = None
    fold: str | None = None
    axes: str | None = None

    @property
    def said(self) -> tuple[str, ...]:
        """The names of the entries that say something."""
        return tuple(name for name, value in asdict(self).items() if value is not None)


@dataclass(frozen=True)
class Incoming:
    """The files of a model by name, complete and checked, and what kind of file they were made of.

    ``entry`` is what the catalogue knows of the file, if it is one of the catalogue's. ``claimed`` is the entry whose
    file an exported model says it was made of: a claim that nothing proves.
    """

    description: ModelDescription
    files: dict[str, bytes]
    entry: CatalogueEntry | None
    kind: FileKind
    claimed: CatalogueEntry | None = None


def read_incoming(
    path: Path,
    name: str | None = None,
    options: KerasOptions | None = None,
    task: Task | None = None,
    entry: CatalogueEntry | None = None,
) -> Incoming:
    """Return the model of a TransferSeg zip file, a model's folder, a Keras weights file, or nnU-Net's results.

    ``name`` is the name it gets, None the one it has: that of the catalogue for a file of the catalogue, else what the
    description says or, for other Keras files, the file's own. ``entry`` is the catalogue's entry whose file
    this is, where that was verified already. Raises ModelError when it is none of these, cannot be trusted, or the
    options do not fit; Cancelled.
    """
    task = task or Task()
    path = current_folder(path.parent if path.name == MODEL_FILE and path.is_file() else path)
    if entry is None and path.is_file():
        entry = catalogue().recognise(git_blob_id(path, task))
    is_keras = _is_keras(path)
    nnunet = None if is_keras else _nnunet_source(path)
    if nnunet is not None and not (set(options.said) - {"fold", "axes", "modality"} if options is not None else ()):
        incoming = _from_nnunet(nnunet, name, options, task, entry)
    elif options is not None and options.said and not is_keras:
        raise ModelError(
            f"{path} describes itself: leave out what is meant for Keras files ({_options(options.said)})."
        )
    elif is_keras:
        incoming = _from_keras(path, name, options or KerasOptions(), entry, task)
    else:
        incoming = task.wait(lambda: _from_model(path, name, entry))
    for file in incoming.files:
        if not is_portable_name(file):
            raise ModelError(f"{path} is refused: the name {file!r} in it does not do on every system.")
    return incoming


def check_name(name: str) -> None:
    """Raise ModelError unless a model of this name can lie in a library on every system."""
    if split_version(name) is not None:
        raise ModelError(f"'{name}' cannot be a model's name: it means a version of a model. Give another name.")
    if not is_portable_name(name) or not name.isprintable():
        raise ModelError(
            f"{name!r} cannot be a model's name: use up to 100 letters, digits, spaces and dashes, beginning with a "
            "letter or digit. Give another name."
        )


def is_portable_name(name: str) -> bool:
    """Tell whether a file or folder can have this name on every system."""
    return is_model_name(name) and name.split(".")[0].strip().casefold() not in _DEVICES


def _is_keras(path: Path) -> bool:
    """Tell whether a path is for the reader of Keras files; raises ModelError when it is no model of any kind."""
    if path.is_dir():
        return False
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is no file but a pipe or a device: save the model as a file first.")
    try:
        with path.open("rb") as stream:
            first = stream.read(len(_HDF5_SIGNATURE))
    except FileNotFoundError as error:
        raise ModelError(f"There is no file {path}.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    if first == _HDF5_SIGNATURE or path.suffix.lower() in _KERAS_SUFFIXES:
        return True
    if not first.startswith(_ZIP_SIGNATURE):
        hint = " (an ONNX file is not read: give the .h5 file)" if path.suffix.lower() == ".onnx" else ""
        raise ModelError(
            f"{path} is no model{hint}: give a .zip that 'transferseg models export' wrote, a model's folder, the .h5 "
            "file of a Keras network, or the results folder or .zip of nnU-Net v2."
        )
    return False


def _nnunet_source(path: Path) -> NnUNetSource | None:
    """Return nnU-Net's model in a folder or zip file that is not this library's."""
    if path.is_dir() and (path / MODEL_FILE).exists():
        return None
    return find_source(path)


def _from_nnunet(
    source: NnUNetSource, name: str | None, options: KerasOptions | None, task: Task, entry: CatalogueEntry | None
) -> Incoming:
    """Turn a model of nnU-Net into one of this library; its name is that of its data set where none is given.

    A published model is known by the folder in its file, which proves nothing: without ``entry`` it is a claim.
    """
    from TransferSegLib.models.importers.nnunet.convert import model_from_nnunet
    from TransferSegLib.models.store import model_files

    known = entry or _published(source)
    chosen = name or (known.name if known is not None else source.name)
    check_name(chosen)
    options = options or KerasOptions()
    for option, given in (("axes", options.axes), ("modality", options.modality)):
        if known is not None and given is not None:
            raise ModelError(f"{source.path} is a published model of which that is known: leave out --{option}.")
    description, state_dict = model_from_nnunet(source, chosen, options.fold, task, options.axes)
    if options.modality is not None:
        summary = description.summary.replace(f"({description.modality})", f"({options.modality})")
        description = replace(description, modality=options.modality, summary=summary)
    if known is not None:
        verified = None if entry is None else sha256_of(source.path, task)
        description = as_published(description, known, str(source.path), verified)
    files = task.wait(lambda: model_files(description, state_dict))
    return Incoming(description, files, entry, "nnunet", None if entry is not None else known)


def _published(source: NnUNetSource) -> CatalogueEntry | None:
    """Return the catalogue's entry that a model of nnU-Net looks like, by the name of its data set's folder."""
    folders = PurePosixPath(source.plans).parts[:-1] if source.path.is_file() else (source.path / source.plans).parts
    found = (catalogue().of_dataset(folder) for folder in folders[-3:])
    return next((entry for entry in found if entry is not None), None)


def _from_model(path: Path, name: str | None, entry: CatalogueEntry | None) -> Incoming:
    """Read a model as TransferSeg writes it; every file of it stays as it is, but for the name in model.json."""
    files = read_model_files(path)
    description, _ = parse_model_file(files[MODEL_FILE], str(path))
    check_name(name or description.name)
    if name is not None and name != description.name:
        content = parse_json(files[MODEL_FILE], str(path)) | {"name": name}
        files[MODEL_FILE] = json_bytes(content)
        description = replace(description, name=name)
    return Incoming(description, files, entry, "transferseg", _claimed(description))


def _claimed(description: ModelDescription) -> CatalogueEntry | None:
    """Return the catalogue's entry of Keras weights that a model says it was made of, if it looks like that model."""
    imported = description.provenance.configuration.get("imported_from")
    source = imported.get("source") if isinstance(imported, dict) else None
    if not isinstance(source, str):
        return None
    known = (e for e in catalogue().to_fetch if e.download is not None and e.download.git_blob is not None)
    made_of = (e for e in known if e.download is not None and source.endswith(_blob_of(e.download)))
    return next((entry for entry in made_of if is_like(description, entry)), None)


def is_like(description: ModelDescription, entry: CatalogueEntry) -> bool:
    """Tell whether a model has the network and the structures of an entry of the catalogue."""
    known = entry.network in (None, description.network)
    return known and description.label_set.names == entry.structures


def _blob_of(download: Download) -> str:
    """Return how the provenance of a model that was made of a file of the catalogue ends, whatever its address."""
    return f" (git blob {download.git_blob})"


def _from_keras(
    path: Path, name: str | None, options: KerasOptions, entry: CatalogueEntry | None, task: Task
) -> Incoming:
    """Turn Keras weights into a model: as the catalogue says, or else as the user does."""
    from TransferSegLib.models.importers.keras.convert import PUBLISHED, KerasImport, model_from_keras
    from TransferSegLib.models.store import model_files

    if entry is None:
        check_name(name or path.stem)
        # What the user says of a file of their own is no guess.
        said = {what: getattr(options, what) for what in options.said}
        inferred = options.spacing_mm is None
        asked = KerasImport(**{"name": name or path.stem, "spacing_inferred": inferred, **said})
        source = ""
    else:
        refused = [what for what in options.said if what != "spacing_mm"]
        if refused:
            raise ModelError(
                f"{path} is the published file of '{entry.name}', of which everything but the spacing is known: leave "
                f"out {_options(refused)}."
            )
        check_name(name or entry.name)
        assert isinstance(entry.spacing_mm, float | int)  # a network of the paper has one
        asked = replace(
            PUBLISHED,
            name=name or entry.name,
            structures=entry.structures,
            summary=entry.summary,
            modality=entry.modality,
            spacing_mm=entry.spacing_mm if options.spacing_mm is None else options.spacing_mm,
            spacing_inferred=entry.spacing_inferred,
            license=entry.license,
            citation=entry.citation,
        )
        source = f"{entry.download.address}{_blob_of(entry.download)}" if entry.download else ""
    description, state_dict = model_from_keras(path, asked, source, task)
    files = task.wait(lambda: model_files(description, state_dict))
    return Incoming(description, files, entry, "keras")


def _options(names: tuple[str, ...] | list[str]) -> str:
    """Return options as the command line calls them: 'spacing_mm' -> '--spacing-mm'."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)
