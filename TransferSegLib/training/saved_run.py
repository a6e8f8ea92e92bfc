"""What a training of a base model finds in its folder: the run that it resumes, with that run's cases."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib import safe_json
from TransferSegLib.datasets.split import split_groups
from TransferSegLib.durable_writing import replace_file
from TransferSegLib.errors import ModelError, TrainingError
from TransferSegLib.models.store import load_description
from TransferSegLib.output_checks import why_no_folder
from TransferSegLib.own_files import new_file
from TransferSegLib.training.checkpoint import CHECKPOINT, MODEL, read_checkpoint
from TransferSegLib.training.configuration import NNUNET, TrainingConfiguration
from TransferSegLib.training.optimiser import ADAM_SHARE, ADAM_SHARE_NORMALISED

if TYPE_CHECKING:
    from TransferSegLib.training.base import BaseModelPlan

#: Settings that a resumed run may change: they move its end and its reports, not what it learns from.
_CHANGEABLE = ("steps", "validate_every", "checkpoint_every")


def holds_model(output: Path) -> bool:
    """Tell whether there is anything in an output folder where a training writes its model."""
    model = output / MODEL
    return any(model.iterdir()) if model.is_dir() else model.exists()


def saved_run(plan: BaseModelPlan, resume: bool) -> dict[str, Any] | None:
    """Return the state to go on from, None for a new run; raises TrainingError when the two do not fit."""
    checkpoint_file = plan.output / CHECKPOINT
    if not resume:
        if checkpoint_file.exists():
            raise TrainingError(
                f"{plan.output} holds a training run already: resume it (--resume), or choose another output folder."
            )
        if holds_model(plan.output):
            raise TrainingError(
                f"{plan.output / MODEL} holds a model, and there is no checkpoint beside it to continue from: a new "
                "training would replace the model. Move that folder away, or choose another output folder."
            )
        try:
            plan.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"The output folder {plan.output} cannot be made: {why_no_folder(plan.output, error)}."
            ) from error
        return None
    if not checkpoint_file.exists():
        raise TrainingError(f"There is no checkpoint in {plan.output} to resume from: start without --resume.")
    saved = read_checkpoint(checkpoint_file)
    if saved["structures"] != list(plan.dataset.label_set.names):
        raise TrainingError(
            f"The run in {plan.output} was started with other structures ({', '.join(saved['structures'])}): "
            "choose another output folder."
        )
    if saved.get("start") != start_name(plan):
        began = f"with the model {saved['start']}" if saved.get("start") else "with random weights"
        raise TrainingError(
            f"The run in {plan.output} began {began}: resume it the same way, or choose another folder."
        )
    before, now = made_with(saved["configuration"]), in_full(plan.configuration.to_json())
    changed = [setting for setting in now if setting not in _CHANGEABLE and before[setting] != now[setting]]
    if changed:
        raise TrainingError(
            f"The run in {plan.output} was started with another {', '.join(changed)}: only "
            f"{', '.join(_CHANGEABLE)} may change when a run is resumed."
        )
    return saved


def what_was_asked(output: Path) -> dict[str, Any]:
    """Return ``configuration`` and ``name`` of a run, so that they need not be given again; nothing where none is.

    Raises TrainingError for a checkpoint that cannot be read.
    """
    if not (output / CHECKPOINT).exists():
        return {}
    saved = read_checkpoint(output / CHECKPOINT)
    name = saved.get("name")
    if name is None:  # the checkpoint is of an earlier version
        with suppress(ModelError):
            name = load_description(output / MODEL).name
    return {"configuration": dict(saved["configuration"]), "name": name}


def split_of(plan: BaseModelPlan, saved: dict[str, Any] | None) -> tuple[Sequence[str], Sequence[str]]:
    """Return the ids of training and validation cases; those of a resumed run are the ones it began with."""
    if saved is None:
        held_out = _unseen_by_start(plan)
        if held_out:
            return _of_other_patients(plan, held_out), held_out
        if plan.configuration.validation_share == 0:
            return plan.dataset.ids, ()
        split = split_groups(plan.dataset, plan.configuration.validation_share, plan.configuration.seed)
        return split.training, split.validation
    ids = (saved["training_ids"], saved["validation_ids"])
    missing = sorted({id for part in ids for id in part} - set(plan.dataset.ids))
    if missing:
        raise TrainingError(f"Cases of the run in {plan.output} are no longer in the dataset: {', '.join(missing)}.")
    return ids


def made_with(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run, maybe of an older version, in full: what did not exist then had its default.

    Every network's heads learned at a twentieth of Muon's rate.
    """
    return in_full({"adam_share": ADAM_SHARE} | settings)


def in_full(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with defaults for those left out, and the AdamW share that 0 stands for."""
    settings = TrainingConfiguration().to_json() | settings
    usual = ADAM_SHARE_NORMALISED if settings["network"] == NNUNET else ADAM_SHARE
    return settings | {"adam_share": settings["adam_share"] or usual}


def _unseen_by_start(plan: BaseModelPlan) -> tuple[str, ...]:
    """Return the cases that the model begun with was validated on: the only ones that it surely has not seen.

    Another split would validate on cases that it has learned from.
    """
    if plan.start is None:
        return ()
    ids = set(plan.start.description.metrics.get("validation", {}).get("ids", ()))
    return tuple(id for id in plan.dataset.ids if id in ids)


def _of_other_patients(plan: BaseModelPlan, held_out: Sequence[str]) -> tuple[str, ...]:
    """Return the cases of patients of whom no case is held out; raises TrainingError when there is none."""
    patients = {case.group for case in plan.dataset.cases if case.id in set(held_out)}
    training = tuple(case.id for case in plan.dataset.cases if case.group not in patients)
    if not training and plan.start is not None:
        raise TrainingError(
            f"All cases are of patients that '{plan.start.description.name}' was validated on, so there is nothing to "
            "train on: add cases of other patients."
        )
    return training


def start_name(plan: BaseModelPlan) -> str | None:
    """Return name and version of the model that the training begins with."""
    if plan.start is None:
        return None
    return f"{plan.start.description.name} {plan.start.description.version}"


def forget_after(history: Path, step: int) -> None:
    """Drop the lines of steps that were made after the checkpoint a run goes on from: they will be made again."""
    if not history.exists():
        return
    lines = history.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    part = history.with_name(history.name + ".part")
    with new_file(part) as stream:
        stream.write("".join(line + "\n" for line in kept).encode("utf-8"))
    replace_file(part, history)


def _step_of(line: str) -> float:
    """Return the step of a line of the history; a line cut short by a crash counts as never written."""
    try:
        return float(safe_json.parse(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
