"""The models a user can choose among: those that came with TransferSeg and those of the user's library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

from TransferSegLib.errors import ModelError
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.locate import bundled_models, library_folder, library_models
from TransferSegLib.models.store import load_description
from TransferSegLib.models.versions.record import VersionRecord, load_record
from TransferSegLib.models.versions.state import version_name

#: The key of the chosen model in the parameter node, and thereby in saved scenes.
MODEL = "Model"
#: How keys of models begin: those that came with TransferSeg, and those of the user's library.
BUNDLED, LIBRARY = "bundled", "library"


@dataclass(frozen=True)
class ModelChoice:
    """One model: ``key`` names it in a saved scene, ``problem`` tells why it cannot be used (empty: it can)."""

    key: str
    path: Path
    text: str
    details: str
    problem: str = ""

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
    return _("There is no model yet: put a model's folder or zip file into {folder}").format(folder=library_folder())


def _choice(place: str, path: Path) -> ModelChoice:
    key = f"{place}/{path.name}"
    try:
        model, record = load_description(path), load_record(path)
        version = version_name(path, model.version)
    except ModelError as error:
        return ModelChoice(key, path, _("{name} (damaged)").format(name=path.name), str(error), str(error))
    text = _("{name}, version {version}").format(name=model.name, version=version)
    spacing = model.preparation.spacing_text + (_(" (inferred)") if model.spacing_inferred else "")
    details = _("{modality}, works at {spacing}, {count} structures: {structures}").format(
        modality=model.modality,
        spacing=spacing,
        count=len(model.label_set),
        structures=", ".join(model.label_set.names),
    )
    return ModelChoice(key, path, text, f"{details}\n{evidenceText(model, record)}")


def evidenceText(model: ModelDescription, record: VersionRecord | None) -> str:
    """Return in a sentence what is known of how good a model is."""
    if record is not None and record.verdict:
        before, after = record.mean_dice
        text = _("Evidence: {verdict}, against {parent}").format(verdict=record.verdict, parent=record.parent)
        if before is not None and after is not None:
            text += ", " + _("mean Dice {before} to {after} on held-out cases").format(
                before=f"{before:.3f}", after=f"{after:.3f}"
            )
        return text + "."
    measured = model.metrics.get("validation") or model.metrics.get("held out") or {}
    mean, cases = measured.get("mean_dice"), measured.get("cases")
    if isinstance(mean, int | float) and isinstance(cases, int):
        return _("Evidence: mean Dice {mean} on {cases} unseen cases").format(mean=f"{mean:.3f}", cases=cases)
    return _("Evidence: none is recorded.")
