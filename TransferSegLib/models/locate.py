"""Where models and the sample scan lie: what came with TransferSeg, and the user's own library folder.

Nothing here needs torch. Bundled files lie in the top-level folder ``Resources`` of the source tree; an installation
has the same content elsewhere, see ``resource_folders``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from TransferSegLib.errors import ModelError
from TransferSegLib.models.archive import MODEL_FILE
from TransferSegLib.models.catalogue import CATALOGUE_FILE, Catalogue, read_catalogue
from TransferSegLib.models.combination import is_combination
from TransferSegLib.models.recovery import recover, recover_saved
from TransferSegLib.models.store import load_description
from TransferSegLib.models.versions.state import (
    current_folder,
    has_versions,
    split_version,
    unknown_version,
    version_folder,
    version_numbers,
)
from TransferSegLib.output_checks import file_in_the_way, why_no_folder
from TransferSegLib.user_folders import data_folder
from TransferSegLib.wording import did_you_mean

#: The bundled model that is used when none is named, and the sample scan that goes with it.
DEFAULT_MODEL = "head-neck-ct"
DEFAULT_SAMPLE = "head-neck-ct"
#: This environment variable names the user's library folder, if it is not to be in its usual place.
LIBRARY_VARIABLE = "TRANSFERSEG_MODELS"
#: What a message about a library that cannot be used ends with.
ANOTHER_LIBRARY = f"Choose another folder with --library or the variable {LIBRARY_VARIABLE}."


def resource_folders() -> list[Path]:
    """Return the places where the bundled ``Models`` and ``SampleData`` may lie, in the order they are looked at."""
    package = Path(__file__).resolve().parents[1]
    return [
        # pip: pyproject.toml installs the top-level Resources as the package TransferSegLib.resources.
        # Slicer, when the extension installs them as the library's own resources.
        package / "resources",
        # Slicer, when the extension's install rule keeps the folder's name as in the source tree.
        package / "Resources",
        # The source tree (also pip install -e): Resources beside the package. Slicer: beside it in qt-scripted-modules.
        package.parent / "Resources",
    ]


def bundled_models() -> list[Path]:
    """Return the folders of the models that came with TransferSeg, in order of their names."""
    folder = _first_resource("Models")
    return [] if folder is None else sorted(entry for entry in folder.iterdir() if (entry / MODEL_FILE).is_file())


def catalogue() -> Catalogue:
    """Return the catalogue of base models, empty where it is not installed; raises ModelError when it is damaged."""
    folder = _first_resource("Models")
    file = None if folder is None else folder / CATALOGUE_FILE
    return read_catalogue(file) if file is not None and file.exists() else Catalogue()


def bundled_sample() -> Path:
    """Return the folder of the sample scan that came with TransferSeg; raises ModelError when it is not there."""
    for folder in resource_folders():
        sample = folder / "SampleData" / DEFAULT_SAMPLE
        if sample.is_dir():
            return sample
    raise ModelError(
        f"The sample scan '{DEFAULT_SAMPLE}' that comes with TransferSeg is missing: install TransferSeg again. "
        f"Looked in {_listed(resource_folders())}."
    )


def library_folder() -> Path:
    """Return the folder of the user's own models, which need not exist yet.

    It is the environment variable TRANSFERSEG_MODELS, else where this platform keeps a user's application data. Raises
    ModelError when the user has no home folder.
    """
    try:
        return data_folder("Models", LIBRARY_VARIABLE)
    except RuntimeError as error:
        raise ModelError(f"There is no home folder for models: set {LIBRARY_VARIABLE} to a folder.") from error


def library_models(library: Path | None = None) -> list[Path]:
    """Return the models in the user's library folder, folders and zip files, in order of their names.

    ``library`` is another folder than the user's. A model that a killed process was replacing is put back first.
    Raises ModelError when the folder cannot be read.
    """
    folder = library_folder() if library is None else library
    try:
        if not folder.is_dir():
            check_library(folder)
            return []
        hidden = [path for path in recover(folder) if _is_model(path)]
        return (
            sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and _is_model(entry)) + hidden
        )
    except OSError as error:
        raise ModelError(f"The model library {folder} cannot be read: {error.strerror or error}.") from error


def _is_model(path: Path) -> bool:
    """Tell whether something in a library's folder is a model: a folder, also that of a combination, or a zip file."""
    if path.is_file():
        return path.suffix.lower() == ".zip"
    return (path / MODEL_FILE).is_file() or has_versions(path) or is_combination(path)


def check_library(library: Path) -> None:
    """Raise ModelError when a file lies where the library's folder, which need not exist, should be."""
    if file_in_the_way(library) is not None:
        raise ModelError(f"{library} cannot be a model library: {why_no_folder(library)}. {ANOTHER_LIBRARY}")


def find_bundled_model(name: str) -> Path | None:
    """Return the model of that name that came with TransferSeg, or None."""
    return _named(name, bundled_models())


def find_library_model(name: str, library: Path | None = None) -> Path | None:
    """Return the model of that name in the library, by its folder's name or its description's, or None."""
    return _named(name, library_models(library))


def library_names(library: Path | None = None) -> set[str]:
    """Return the names, case folded, by which ``find_library_model`` finds a model: each description is read once."""
    models = library_models(library)
    return {_file_name(model) for model in models} | {name.casefold() for _, name in _described(models)}


def find_model(name_or_path: str | Path | None = None, library: Path | None = None) -> Path:
    """Return the folder or zip file of a model; raises ModelError listing the known models.

    None is the default bundled model. A bare word is the name of a bundled model or of one in the library folder (its
    folder's, or the one its description gives, in this order; upper or lower case do not matter), or else a path.
    Anything else is a path: a model's folder, its model.json, or a zip file. Of a model with versions the current one
    is found, and ``name@3`` is version 3. ``library`` is another library folder than the user's.
    """
    wanted = DEFAULT_MODEL if name_or_path is None else str(name_or_path)
    path = _expanded(wanted)
    if name_or_path is not None and not _is_bare_word(wanted) and not path.exists():
        recover_saved(path.parent)
    if name_or_path is not None and (isinstance(name_or_path, Path) or not _is_bare_word(wanted)) and path.exists():
        return _model_of(path)
    # First, so that a model that is called 'liver@3' is not taken for version 3 of 'liver'.
    version = find_version(wanted, library)
    if version is not None:
        return version
    found = find_bundled_model(wanted)
    if found is None and name_or_path is not None:
        found = find_library_model(wanted, library)
    if found is not None:
        return current_folder(found)
    if name_or_path is None:
        raise ModelError(
            f"The model '{wanted}' that comes with TransferSeg is missing: install TransferSeg again, or name another "
            f"model. Looked in {_listed([folder / 'Models' for folder in resource_folders()])}."
        )
    if path.exists():
        return _model_of(path)
    raise ModelError(_not_found(wanted, library))


def find_version(name: str, library: Path | None = None) -> Path | None:
    """Return the folder of a version of a model, named like 'liver@3', or None when that is no version of a model.

    A model without versions is its own version 0. Raises ModelError when the model has no such version.
    """
    split = split_version(name)
    model = None if split is None else find_bundled_model(split[0]) or find_library_model(split[0], library)
    if split is None or model is None:
        return None
    if not has_versions(model):
        if split[1] == 0:
            return model
        raise unknown_version(model, split[1])
    if split[1] not in version_numbers(model):
        raise unknown_version(model, split[1])
    return version_folder(model, split[1])


def _first_resource(part: str) -> Path | None:
    """Return the first folder of that name in the places of bundled files, None when there is none."""
    return next((folder / part for folder in resource_folders() if (folder / part).is_dir()), None)


def _named(wanted: str, models: list[Path]) -> Path | None:
    """Return the model of that folder or file name, else of that name in its description, else None."""
    key = wanted.casefold()
    for model in models:
        if key == _file_name(model):
            return model
    return next((model for model, name in _described(models) if name.casefold() == key), None)


def _file_name(model: Path) -> str:
    """Return the name of a model's folder, or of its file without the suffix, case folded."""
    return (model.stem if model.is_file() else model.name).casefold()


def _described(models: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the models whose description can be read with the name it gives; a damaged one hides no other."""
    for model in models:
        try:
            name = load_description(model).name
        except ModelError:
            continue
        yield model, name


def _is_bare_word(text: str) -> bool:
    """Tell whether a text may be a model's name: no folders, not a zip file."""
    return not any(mark in text for mark in "/\\~") and text not in (".", "..") and not text.lower().endswith(".zip")


def _expanded(text: str) -> Path:
    """Return a path with the user's home folder for ``~``, where there is one."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _model_of(path: Path) -> Path:
    """Return the model's folder when the path is that of its model.json, else the path itself.

    Of a model with versions that is the current one's.
    """
    return current_folder(path.parent if path.name == MODEL_FILE and path.is_file() else path)


def _not_found(wanted: str, library: Path | None) -> str:
    """Return the message for a model that is not there: what is, and how to get it if it is in the catalogue."""
    try:
        offered = catalogue()
    except ModelError:
        offered = Catalogue()  # a damaged catalogue is no reason to say less about the models that are there
    entry = offered.find(wanted)
    if entry is not None and (entry.download is not None or entry.parts):
        name = entry.name
        return f"The model '{name}' is not on this computer yet. Fetch it with: transferseg models fetch {name}"
    models = [*bundled_models(), *library_models(library)]
    names = [model.stem if model.is_file() else model.name for model in models]
    known = f"Known are: {', '.join(names)}" if names else "No models are installed"
    to_fetch = offered.names_to_fetch(wanted)
    fetchable = f" To fetch (transferseg models fetch NAME): {to_fetch}." if to_fetch else ""
    meant = did_you_mean(wanted, names)
    return f"There is no model '{wanted}', neither as a name nor as a path. {known}.{fetchable}{meant}"


def _listed(folders: list[Path]) -> str:
    return ", ".join(str(folder) for folder in folders)
