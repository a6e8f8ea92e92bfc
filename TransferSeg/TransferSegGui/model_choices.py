"""The models a user can choose among: those that came with TransferSeg and those of the user's library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

from TransferSegGui.model_words import (
    combinationDetails,
    combinationToolTip,
    inputObstacle,
    modelDetails,
    modelToolTip,
)
from TransferSegLib.errors import ModelError
from TransferSegLib.models.combination import is_combination, load_combination
from TransferSegLib.models.combined_parts import parts_of
from TransferSegLib.models.locate import bundled_models, library_folder, library_models
from TransferSegLib.models.store import load_description
from TransferSegLib.models.versions.record import load_record
from TransferSegLib.models.versions.state import current_folder, version_name

#: The key of the chosen model in the parameter node, and thereby in saved scenes.
MODEL = "Model"
#: How keys of models begin: those that came with TransferSeg, and those of the user's library.
BUNDLED, LIBRARY = "bundled", "library"


@dataclass(frozen=True)
class ModelChoice:
    """One model: ``key`` names it in a saved scene, ``problem`` tells why it cannot be used here (empty: it can).

    One that is whole can be written to a file, even if the panel cannot run it. A combination of models only segments.
    """

    key: str
    path: Path
    text: str
    details: str
    problem: str = ""
    toolTip: str = ""
    isWhole: bool = False
    isCombination: bool = False

    @property
    def isOfLibrary(self) -> bool:
        """Whether the model lies in the user's library, where it may have versions."""
        return self.key.startswith(f"{LIBRARY}/")


def modelChoices() -> list[ModelChoice]:
    """Return the bundled models, then those of the library; a damaged one is listed with its problem."""
    bundled = [_choice(BUNDLED, path) for path in bundled_models()]
    return bundled + [_choice(LIBRARY, path) for path in library_models()]


def chosenModel(choices: Sequence[ModelChoice], parameterNode) -> ModelChoice | None:
    """Return the choice that a parameter node (None: there is none) names, None when it is not here."""
    key = "" if parameterNode is None else parameterNode.GetParameter(MODEL)
    return next((choice for choice in choices if choice.key == key), None)


def libraryKey(path: Path) -> str:
    """Return the key of a model that lies at a path in the library."""
    return f"{LIBRARY}/{path.name}"


def noModelsMessage() -> str:
    """Return what to do when there is no model at all."""
    return _("There is no model yet. Put a model folder or zip file into {folder}").format(folder=library_folder())


def _combination(key: str, path: Path) -> ModelChoice:
    """Return the choice of a combination; raises ModelError for one that is damaged."""
    combination = load_combination(path)
    try:
        label_set, parts = parts_of(path)
    except ModelError as error:
        text = _("{name} (incomplete)").format(name=path.name)
        return ModelChoice(key, path, text, str(error), str(error), isCombination=True)
    text = _("{name}, {count} models").format(name=combination.name, count=len(parts))
    details = combinationDetails(combination, label_set, parts)
    return ModelChoice(key, path, text, details, "", combinationToolTip(combination, label_set), isCombination=True)


def _choice(place: str, path: Path) -> ModelChoice:
    key = f"{place}/{path.name}"
    try:
        if is_combination(path):
            return _combination(key, path)
        found = current_folder(path)
        model, record = load_description(found), load_record(found)
        version = version_name(path, model.version)
        details = modelDetails(model, record, found)
    except (ModelError, OSError) as error:
        return ModelChoice(key, path, _("{name} (damaged)").format(name=path.name), str(error), str(error))
    text, obstacle = _("{name}, version {version}").format(name=model.name, version=version), inputObstacle(model)
    if obstacle:
        text = _("{model} (needs several images)").format(model=text)
        details = f"{obstacle}\n{details}"
    return ModelChoice(key, path, text, details, obstacle, modelToolTip(model), isWhole=True)
