"""The models a user can choose among: those that came with TransferSeg and those of the user's library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

from TransferSegLib.errors import ModelError
from TransferSegLib.models.locate import bundled_models, library_folder, library_models
from TransferSegLib.models.store import load_description


@dataclass(frozen=True)
class ModelChoice:
    """One model: ``key`` names it in a saved scene, ``problem`` tells why it cannot be used (empty: it can)."""

    key: str
    path: Path
    text: str
    details: str
    problem: str = ""


def modelChoices() -> list[ModelChoice]:
    """Return the bundled models, then those of the library; a damaged one is listed with its problem."""
    bundled = [_choice("bundled", path) for path in bundled_models()]
    return bundled + [_choice("library", path) for path in library_models()]


def noModelsMessage() -> str:
    """Return what to do when there is no model at all."""
    return _("There is no model yet: put a model's folder or zip file into {folder}").format(folder=library_folder())


def _choice(place: str, path: Path) -> ModelChoice:
    """Return the choice for a model's folder or zip file."""
    key = f"{place}/{path.name}"
    try:
        model = load_description(path)
    except ModelError as error:
        return ModelChoice(key, path, _("{name} (damaged)").format(name=path.name), str(error), str(error))
    text = _("{name}, version {version}").format(name=model.name, version=model.version)
    details = _("{modality}, works at {spacing} mm, {count} structures: {structures}").format(
        modality=model.modality,
        spacing=f"{model.spacing_mm:g}",
        count=len(model.label_set),
        structures=", ".join(model.label_set.names),
    )
    return ModelChoice(key, path, text, details)
