"""What ``transferseg finetune`` is asked for: which cases, which model, what becomes of structures, how long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from TransferSegLib.errors import TrainingError
from TransferSegLib.evaluation.scores import DEFAULT_TOLERANCE_MM
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.json_fields import damage_as
from TransferSegLib.paths import as_path
from TransferSegLib.training.configuration import as_whole_number

#: Minutes for everything together by default, and their limit for a training until it no longer improves.
DEFAULT_MINUTES, LIMIT_MINUTES = 10.0, 480.0


@dataclass(frozen=True)
class FineTuneRequest:
    """A fine-tuning: ``project`` is the folder of corrected cases, ``model`` the parent's name or path.

    ``name`` is the model in the library that gets the new version (None: see ``model_name``). ``minutes`` for
    everything together replace the configuration's; 0: its steps decide. ``until_converged``:
    training ends when the Dice on held-out cases no longer improves, and the minutes are only a limit (0: none; the
    first round then has the configuration's steps). ``cases`` (ids) and ``structures`` limit what
    is learned from and what is learned (None: all). ``renamed``, ``merged``, ``split`` and ``dropped`` are those of
    ``plan_label_change``; ``dropped`` None: nothing, but on another modality ``plan.dropped_structures``. ``modality``
    is that of the cases (None: what their folder names, else what their intensities look like). ``most_folds`` caps the
    number of folds. ``promote`` makes the new version the current one unless something speaks against it (worse, not
    usable, trained too short), ``no_promote`` never does. An interrupted run is kept in ``runs`` (None: in the
    project). ``command`` is recorded in the model, without what names a person (``plain_command``). ``workers`` is how
    many candidates of the folds are trained at the same time, in processes of their own with ``threads`` CPU threads
    each (0: one after another, in this one); ``finetune`` must be told how to start them.

    Folders may be given as text, ``configuration`` as a dictionary of settings.
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
    dropped: tuple[str, ...] | None = None
    modality: str | None = None
    device: str = "auto"
    library: Path | None = None
    promote: bool = False
    no_promote: bool = False
    most_folds: int | None = None
    tolerance_mm: float = DEFAULT_TOLERANCE_MM
    runs: Path | None = None
    command: str = "transferseg finetune"
    until_converged: bool = False
    workers: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        """Take paths as text and settings as a dictionary, too; raise TrainingError for what cannot work."""
        self._take("project", as_path(self.project, "The project of a fine-tuning", TrainingError))
        for name in ("library", "runs"):
            if getattr(self, name) is not None:
                self._take(name, as_path(getattr(self, name), f"The folder '{name}' of a fine-tuning", TrainingError))
        if isinstance(self.model, Path):
            self._take("model", str(self.model))
        if isinstance(self.configuration, Mapping):
            self._take("configuration", FineTuningConfiguration.from_json(dict(self.configuration)))
        if not isinstance(self.configuration, FineTuningConfiguration):
            kind = type(self.configuration).__name__
            raise TrainingError(f"The configuration must be a dictionary or a FineTuningConfiguration, not {kind}.")
        for name in ("cases", "structures", "dropped"):
            if isinstance(getattr(self, name), str):
                raise TrainingError(f"'{name}' of a fine-tuning must be a list of names, not one text.")
            if getattr(self, name) is not None:
                self._take(name, tuple(getattr(self, name)))
        for name in ("most_folds", "workers", "threads"):
            value = getattr(self, name)
            whole = as_whole_number(value)
            if whole is None and not (name == "most_folds" and value is None):
                raise TrainingError(f"'{name}' of a fine-tuning must be a whole number, not {value!r}.")
            self._take(name, whole)
        if not 0 <= self.minutes < float("inf"):
            raise TrainingError(f"{self.minutes:g} minutes are no time to train for: give 0 (no limit) or more.")
        if self.workers < 0 or self.threads < 1:
            raise TrainingError("Give 0 workers (none) or more, and each of them 1 thread or more.")
        if self.most_folds is not None and self.most_folds < 2:
            raise TrainingError("Comparing on cases that were held out needs at least 2 folds.")
        if self.modality is not None and not self.modality.strip():
            raise TrainingError("The modality of the cases is empty: give a word, e.g. CT or MR, or leave it out.")
        if self.promote and self.no_promote:
            raise TrainingError("The new version cannot both be used and not be used: leave out one of the two.")
        if not 0 < self.tolerance_mm < float("inf"):
            raise TrainingError(f"The tolerance of the surface Dice must be above 0 mm, not {self.tolerance_mm:g}.")

    def _take(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def promotion(self) -> Literal["if better", "unless worse", "never"]:
        """When the new version becomes the current one, as ``add_version`` takes it."""
        if self.no_promote:
            return "never"
        return "unless worse" if self.promote else "if better"

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; paths become absolute, because a job runs in another folder. ``runs`` is left out."""
        entry = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("device", "runs")}
        entry = {name: list(value) if isinstance(value, tuple) else value for name, value in entry.items()}
        return entry | {
            "project": str(self.project.absolute()),
            "model": _absolute_if_there(self.model),
            "configuration": self.configuration.to_json(),
            "renamed": dict(self.renamed),
            "merged": {new: list(old) for new, old in self.merged.items()},
            "split": dict(self.split),
            "library": None if self.library is None else str(self.library.absolute()),
        }

    @staticmethod
    def from_json(entry: Mapping[str, Any], device: str = "auto", runs: Path | None = None) -> FineTuneRequest:
        """Read what ``to_json`` wrote; raises TrainingError for damaged parameters or settings that cannot work."""
        with damage_as(TrainingError, "The parameters of the fine-tuning are"):
            values = {one.name: entry[one.name] for one in fields(FineTuneRequest) if one.name in entry}
            for name in ("cases", "structures", "dropped"):
                if values.get(name) is not None:
                    values[name] = tuple(values[name])
            library, merged = entry.get("library"), entry.get("merged", {})
            values |= {
                "project": Path(entry["project"]),
                "minutes": float(entry.get("minutes", DEFAULT_MINUTES)),
                "configuration": FineTuningConfiguration.from_json(dict(entry.get("configuration", {}))),
                "merged": {new: tuple(old) for new, old in merged.items()},
                "device": device,
                "library": None if library is None else Path(library),
                "runs": runs,
            }
            return FineTuneRequest(**values)

    def with_steps(self, tail_steps: int, steps: int) -> FineTuneRequest:
        """Return the same request with a budget of steps and no clock."""
        return replace(self, minutes=0.0, configuration=self.configuration.with_steps(tail_steps, steps))


def _absolute_if_there(model: str | None) -> str | None:
    """Return a path to a model as an absolute one, and a name as it is."""
    return str(Path(model).absolute()) if model is not None and Path(model).exists() else model
