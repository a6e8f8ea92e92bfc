"""The job that trains a base model, and continues from its checkpoint when it is resumed.

Run and model are in the output folder, or in the job's own folder where none is named; so is ``checkpoint.pt``, and
``transferseg train-base --resume`` can continue it as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from TransferSegLib.errors import JobError
from TransferSegLib.jobs.kinds import Kind
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.json_fields import damage_as
from TransferSegLib.progress import CancelToken, ProgressCallback
from TransferSegLib.training.configuration import TrainingConfiguration

#: An empty file in the job's folder: the checkpoint in the output folder is this job's own.
OUTPUT_IS_OURS = "output-is-ours"


@dataclass(frozen=True)
class TrainBaseParameters:
    """What is trained, on what; the job's request carries ``to_json()`` as its parameters.

    ``output`` None: the job's own folder. With ``resume`` the job continues from a checkpoint that is in the output
    folder before it begins. ``command`` is what the model's description says it was made by.
    """

    data: Path
    name: str
    output: Path | None = None
    configuration: TrainingConfiguration = field(default_factory=TrainingConfiguration)
    resume: bool = False
    start_from: Path | None = None
    command: str = "transferseg train-base"

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; paths become absolute, because a job runs in another folder."""
        return {
            "data": str(self.data.absolute()),
            "name": self.name,
            "output": None if self.output is None else str(self.output.absolute()),
            "configuration": self.configuration.to_json(),
            "resume": self.resume,
            "start_from": None if self.start_from is None else str(self.start_from.absolute()),
            "command": self.command,
        }

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> TrainBaseParameters:
        """Read a request's parameters; raises JobError for damaged ones, TrainingError for impossible settings."""
        with damage_as(JobError, "The parameters of the training are"):
            output, start_from = entry.get("output"), entry.get("start_from")
            return TrainBaseParameters(
                Path(entry["data"]),
                str(entry["name"]),
                None if output is None else Path(output),
                TrainingConfiguration.from_json(dict(entry.get("configuration", {}))),
                bool(entry.get("resume", False)),
                None if start_from is None else Path(start_from),
                str(entry.get("command", "transferseg train-base")),
            )


def run_train_base(
    request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken
) -> dict[str, Any]:
    """Train, or continue training; the result is ``{"model": folder, "validation": metrics}``."""
    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.models.store import load_description, load_model
    from TransferSegLib.training.base import BaseModelPlan, train_base
    from TransferSegLib.training.saved_run import holds_model

    parameters = TrainBaseParameters.from_json(request.parameters)
    output = parameters.output or folder
    plan = BaseModelPlan(
        dataset=read_dataset(parameters.data),
        output=output,
        configuration=parameters.configuration,
        name=parameters.name,
        device=request.device,
        start=None if parameters.start_from is None else load_model(parameters.start_from),
        command=parameters.command,
    )
    has_checkpoint = (output / "checkpoint.pt").exists()
    ours = folder / OUTPUT_IS_OURS
    resume = has_checkpoint if ours.exists() else parameters.resume
    if has_checkpoint == resume and (resume or not holds_model(output)):
        ours.touch()  # from here on a checkpoint that is found there was written by this job, or adopted by it
    model = train_base(plan, resume, progress, cancel)
    return {"model": str(model), "validation": load_description(model).metrics.get("validation", {})}


TRAIN_BASE = Kind(run_train_base)
