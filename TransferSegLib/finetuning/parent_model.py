"""The parent of a fine-tuning, and the model in the library that gets the new version."""

from __future__ import annotations

from pathlib import Path

from TransferSegLib.errors import ModelError
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.models.combination import is_combination, load_combination
from TransferSegLib.models.incoming import check_name
from TransferSegLib.models.locate import find_bundled_model, find_library_model, library_folder
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.models.versions.record import ModelReference
from TransferSegLib.models.versions.state import split_version

#: A parent that is replaced while it is read, as by a base training beside, is read again so often.
_ATTEMPTS = 3


def load_parent(path: Path) -> tuple[Model, ModelReference]:
    """Return a model and its reference, both of the same weights; raises ModelError, and where it keeps changing."""
    for _ in range(_ATTEMPTS):
        before = ModelReference.of(path)
        parent = load_model(path)
        if ModelReference.of(path) == before:
            return parent, before
    raise ModelError(f"The model {path} is being replaced at the moment: try again when that has ended.")


def library_of(request: FineTuneRequest) -> Path:
    """Return the folder that gets the version; raises ModelError when it is none, before anything takes long."""
    library = library_folder() if request.library is None else request.library
    if library.exists() and not library.is_dir():
        raise ModelError(f"{library} is a file, so no model can be kept in it: name a folder for your models.")
    return library


def model_name(request: FineTuneRequest, parent_path: Path, library: Path) -> str:
    """Return the name of the model that gets the version: the one asked for, else that of a parent in the library.

    A bundled model's name cannot be taken: its child is called NAME-corrected. Raises ModelError for a name that
    cannot be one.
    """
    name = request.name
    if name is None:
        asked = "" if request.model is None else request.model
        split = split_version(asked)
        found = None
        for wanted in (asked, split[0] if split else ""):
            if found is None and wanted and find_bundled_model(wanted) is None:
                found = find_library_model(wanted, library)
        name = found.stem if found is not None and found.is_file() else found.name if found is not None else None
    if name is None:
        name = f"{ModelReference.of(parent_path).name}-corrected"
    check_name(name)
    if find_bundled_model(name) is not None:
        raise ModelError(f"'{name}' comes with TransferSeg and stays as it is: give the new model another --name.")
    same = find_library_model(name, library)
    if same is not None and is_combination(same):
        if request.name is None:
            raise load_combination(same).refused()
        raise ModelError(f"'{name}' is a combination of models in your library: give the new model another --name.")
    return name


def gets_version(parent_path: Path, name: str, library: Path) -> bool:
    """Tell whether a parent is a version of the very model that gets the new one."""
    model = find_library_model(name, library)
    return model is not None and model.resolve() in (parent_path.resolve(), *parent_path.resolve().parents)
