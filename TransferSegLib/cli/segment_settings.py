"""What decides about the labels of a run of ``transferseg segment``, as its record keeps it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from TransferSegLib.inference.options import PredictionOptions
    from TransferSegLib.models.combined_parts import Described

#: The settings that are the model's.
OF_THE_MODEL = frozenset({"weights", "labels"})


@dataclass(frozen=True)
class RunSettings:
    """All that decides about labels: a model is known by its weights, wherever it lies and whatever it is called.

    ``model`` is what it is called, for a person. ``earlier`` is the digest that earlier versions kept, of the model's
    path instead of its weights: it counts only for results that are newer than ``weights_since_ns``, the time of the
    weights' files that can have changed under one name and version.
    """

    deciding: Mapping[str, Any]
    model: str = ""
    earlier: str = ""
    weights_since_ns: int = 0

    @property
    def digest(self) -> str:
        """What stands for the settings in a record."""
        return _digest(self.deciding)

    def difference(self, model: str, deciding: Mapping[str, Any]) -> str:
        """Return in words how a result was made with other settings than these."""
        other = sorted(key for key in {*deciding, *self.deciding} if deciding.get(key) != self.deciding.get(key))
        if OF_THE_MODEL & set(other):
            return f"with other weights of the model {model}" if model == self.model else f"with the model {model}"
        return f"with other settings ({', '.join(other)})"


def run_settings(arguments: argparse.Namespace, model: Path, options: PredictionOptions) -> RunSettings:
    """Return the settings of a run that segments with a model or a combination; raises ModelError."""
    from TransferSegLib.models.combined_parts import described
    from TransferSegLib.models.versions.record import ModelReference

    said = described(model)
    asked = {
        "structures": arguments.structures,
        "series": arguments.series,
        "modality": arguments.modality,
        "strict": arguments.strict,
        "options": asdict(options),
    }
    labels = [[structure.label, structure.name] for structure in said.label_set]
    weights = [ModelReference.of(part.path).sha256 for part in said.parts]
    earlier = {"model": said.name, "version": said.version, "path": str(model.resolve()), **asked}
    return RunSettings(
        {"weights": weights, "labels": _digest(labels), **asked},
        f"{said.name} {said.version}",
        _digest(earlier),
        _weights_since_ns(said),
    )


def _weights_since_ns(said: Described) -> int:
    """Return when the latest of a model's weights were written, 0 for bundled ones: they change with their version."""
    from TransferSegLib.models.archive import WEIGHTS_FILE
    from TransferSegLib.models.locate import bundled_models
    from TransferSegLib.models.versions.state import current_folder

    bundled = [model.resolve() for model in bundled_models()]
    places = [place for part in said.parts if (place := current_folder(part.path)).resolve() not in bundled]
    return max(((place / WEIGHTS_FILE if place.is_dir() else place).stat().st_mtime_ns for place in places), default=0)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
