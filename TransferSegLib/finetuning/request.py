"""What ``transferseg finetune`` is asked for: which cases, which model, what becomes of structures, how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from TransferSegLib.errors import TrainingError
from TransferSegLib.evaluation.scores import DEFAULT_TOLERANCE_MM
from TransferSegLib.finetuning.configuration import FineTuningConfiguration

#: Minutes for everything together when nobody says otherwise.
DEFAULT_MINUTES = 10.0


@dataclass(frozen=True)
class FineTuneRequest:
    """A fine-tuning: ``project`` is the folder of corrected cases, ``model`` the parent's name or path.

    ``name`` is the model in the library that gets the new version (None: see ``model_name``). ``cases`` limits what is
    learned from, and compared on, to the cases with these ids (None: all of the project). ``minutes`` for
    everything together replace the configuration's; 0: its steps decide. ``structures`` limits what is learned to
    these (None: all that were reviewed). ``renamed``, ``merged``, ``split`` and ``dropped`` as in
    ``plan_label_change``. ``modality`` is that of the cases (None: what their folder names, else what their
    intensities look like). ``most_folds`` caps the number of folds. ``promote`` makes the candidate the current version
    unless something speaks against it (worse, not usable, trained too short), ``no_promote`` never, so that somebody
    decides. ``runs`` is where
    an interrupted run is kept (None: in the project). ``command`` is
    what the model is to be made by; only what names nobody of it gets into the model (``plain_command``).
    """

    project: Path
    model: str | None = None
    name: str | None = None
    minutes: float = DEFAULT_MINUTES
    configuration: FineTuningConfiguration = field(default_factory=FineTuningConfiguration)
    cases: tuple[str, ...] | None = None
    structures: tuple[str, ...] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    merged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    split: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    modality: str | None = None
    device: str = "auto"
    library: Path | None = None
    promote: bool = False
    no_promote: bool = False
    most_folds: int | None = None
    tolerance_mm: float = DEFAULT_TOLERANCE_MM
    runs: Path | None = None
    command: str = "transferseg finetune"

    def __post_init__(self) -> None:
        """Raise TrainingError for what cannot work."""
        if not 0 <= self.minutes < float("inf"):
            raise TrainingError(f"{self.minutes:g} minutes are no time to train for: give 0 (no limit) or more.")
        if self.most_folds is not None and self.most_folds < 2:
            raise TrainingError("Comparing on cases that were held out needs at least 2 folds.")
        if self.modality is not None and not self.modality.strip():
            raise TrainingError("The modality of the cases is empty: give a word, e.g. CT or MR, or leave it out.")
        if self.promote and self.no_promote:
            raise TrainingError("The new version cannot both be used and not be used: leave out one of the two.")
        if not 0 < self.tolerance_mm < float("inf"):
            raise TrainingError(f"The tolerance of the surface Dice must be above 0 mm, not {self.tolerance_mm:g}.")

    @property
    def promotion(self) -> Literal["if better", "unless worse", "never"]:
        """When the new version becomes the current one, as ``add_version`` takes it."""
        if self.no_promote:
            return "never"
        return "unless worse" if self.promote else "if better"

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; paths become absolute, because a job runs in another folder. ``runs`` is left out."""
        return {
            "project": str(self.project.absolute()),
            "model": _absolute_if_there(self.model),
            "name": self.name,
            "minutes": self.minutes,
            "configuration": self.configuration.to_json(),
            "cases": None if self.cases is None else list(self.cases),
            "structures": None if self.structures is None else list(self.structures),
            "renamed": dict(self.renamed),
            "merged": {new: list(old) for new, old in self.merged.items()},
            "split": dict(self.split),
            "dropped": list(self.dropped),
            "modality": self.modality,
            "library": None if self.library is None else str(self.library.absolute()),
            "promote": self.promote,
            "no_promote": self.no_promote,
            "most_folds": self.most_folds,
            "tolerance_mm": self.tolerance_mm,
            "command": self.command,
        }

    @staticmethod
    def from_json(entry: Mapping[str, Any], device: str = "auto", runs: Path | None = None) -> FineTuneRequest:
        """Read what ``to_json`` wrote; raises TrainingError for damaged parameters or knobs that cannot work."""
        try:
            cases, structures, library = entry.get("cases"), entry.get("structures"), entry.get("library")
            return FineTuneRequest(
                project=Path(entry["project"]),
                model=entry.get("model"),
                name=entry.get("name"),
                minutes=float(entry.get("minutes", DEFAULT_MINUTES)),
                configuration=FineTuningConfiguration.from_json(dict(entry.get("configuration", {}))),
                cases=None if cases is None else tuple(cases),
                structures=None if structures is None else tuple(structures),
                renamed=dict(entry.get("renamed", {})),
                merged={new: tuple(old) for new, old in entry.get("merged", {}).items()},
                split=dict(entry.get("split", {})),
                dropped=tuple(entry.get("dropped", ())),
                modality=entry.get("modality"),
                device=device,
                library=None if library is None else Path(library),
                promote=bool(entry.get("promote", False)),
                no_promote=bool(entry.get("no_promote", False)),
                most_folds=entry.get("most_folds"),
                tolerance_mm=float(entry.get("tolerance_mm", DEFAULT_TOLERANCE_MM)),
                runs=runs,
                command=str(entry.get("command", "transferseg finetune")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TrainingError(
                f"The parameters of the fine-tuning are damaged ({type(error).__name__}: {error})."
            ) from error

    def with_steps(self, tail_steps: int, steps: int) -> FineTuneRequest:
        """Return the same request with a budget of steps and no clock."""
        return replace(self, minutes=0.0, configuration=self.configuration.with_steps(tail_steps, steps))


def _absolute_if_there(model: str | None) -> str | None:
    """Return a path to a model as an absolute one, and a name as it is."""
    return str(Path(model).absolute()) if model is not None and Path(model).exists() else model
