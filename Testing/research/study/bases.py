"""The base models of a study: handed in ready, or trained once and kept in the work folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from Testing.research.study.configuration import Study
from Testing.research.study.runs import base_identity, hash_of
from Testing.research.study.study_data import StudyData, base_dataset
from TransferSegLib.datasets.dataset import Dataset, write_dataset
from TransferSegLib.datasets.split import split_groups
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import ModelError, StudyError
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.store import load_description
from TransferSegLib.structures import structure_key
from TransferSegLib.training.configuration import TrainingConfiguration

#: Settings that decide how often something is written, not what is learned.
_WITHOUT_EFFECT = ("checkpoint_every", "validate_every")
#: Settings that models of earlier versions do not name, and what those versions did.
_LATER_KNOBS = {
    "size_share": 0.0,
    "network": "unet3d-valid",
    "levels": 5,
    "spacing_z_mm": 0.0,
    "decay_share": 1.0,
    "adam_share": 0.0,
}
_READY_FILE = "ready.json"

#: Trains a base in a worker process: (request) -> its result.
TrainInWorker = Callable[[dict[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class ReadyBase:
    """A base model's folder, and the hash of its weights."""

    model: Path
    weights: str


def handed_in(study: Study, data: StudyData, name: str, folder: Path) -> ReadyBase:
    """Return a base that was trained elsewhere, after checking that it is the one that the study describes.

    Raises StudyError when it has other structures or was trained with other knobs, or is no model.
    """
    description = _description(name, folder)
    base = study.bases[name]
    if not base.model:
        dataset = base_dataset(study, data, name)
        wanted = {structure_key(structure) for structure in dataset.label_set.names}
        found = {structure.key for structure in description.label_set}
        if wanted != found:
            raise StudyError(
                f"The model {folder} cannot be used as the base '{name}': it knows {', '.join(sorted(found))}, "
                f"the base {', '.join(sorted(wanted))}."
            )
        knobs = base.training().to_json()
        made_with = dict(description.provenance.configuration) if description.provenance else {}
        # A model made by an earlier version does not name the knobs that came later.
        made_with = _LATER_KNOBS | made_with
        other = [knob for knob in knobs if knob not in _WITHOUT_EFFECT and made_with.get(knob) != knobs[knob]]
        if other:
            raise StudyError(
                f"The model {folder} cannot be used as the base '{name}': it was trained with another "
                f"{', '.join(other)} than the study says."
            )
        _check_cases(description, dataset, base.training(), folder)
    return ReadyBase(folder, weights_hash(folder))


def _check_cases(description: ModelDescription, dataset: Dataset, knobs: TrainingConfiguration, folder: Path) -> None:
    """Raise StudyError when a model was validated on other cases than training on this dataset would have been.

    A model does not say what it was trained on, but which cases it was validated on, and these are drawn from all.
    """
    validated = description.metrics.get("validation", {}).get("ids")
    if validated is None or not knobs.validation_share:
        return
    wanted = split_groups(dataset, knobs.validation_share, knobs.seed).validation
    if set(validated) != set(wanted):
        raise StudyError(
            f"The model {folder} cannot be used as the base: it was validated on {', '.join(sorted(validated))}, this "
            f"base would be on {', '.join(sorted(wanted))}. So it was trained on other cases."
        )


def ready_base(study: Study, name: str, folder: Path) -> ReadyBase | None:
    """Return a base that was trained in the work folder before, None when it was not, or not to its end."""
    place = _place(study, name, folder)
    try:
        ready = json.loads((place / _READY_FILE).read_text(encoding="utf-8"))
        return ReadyBase(place / "run" / "model", str(ready["weights"]))
    except (OSError, ValueError, KeyError):
        return None


def train(study: Study, data: StudyData, name: str, folder: Path, device: str, in_worker: TrainInWorker) -> ReadyBase:
    """Train a base, or resume its training, and return it; raises StudyError."""
    dataset = base_dataset(study, data, name)
    place = _place(study, name, folder)
    write_dataset(dataset, place / "dataset")
    result = in_worker(
        {
            "dataset": str(place / "dataset"),
            "output": str(place / "run"),
            "configuration": study.bases[name].training().to_json(),
            "name": f"study-base-{name}",
            "device": device,
        }
    )
    base = ReadyBase(Path(result["model"]), weights_hash(Path(result["model"])))
    write_text_durably(place / _READY_FILE, json.dumps({"weights": base.weights}))
    return base


def _place(study: Study, name: str, folder: Path) -> Path:
    """Return the folder of a base; another one for other knobs, so that nothing trained is ever lost."""
    return folder / f"{name}-{hash_of(base_identity(study, name))[:8]}"


def _description(name: str, folder: Path) -> ModelDescription:
    """Return what a model says of itself; raises StudyError."""
    try:
        return load_description(folder)
    except ModelError as error:
        raise StudyError(f"The base '{name}' cannot be used: {error}") from error


def weights_hash(model: Path) -> str:
    """Return a short hash of a model folder's weights; raises StudyError."""
    try:
        return hashlib.sha256((model / "weights.pt").read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise StudyError(f"The weights of {model} cannot be read: {error.strerror or error}.") from error
