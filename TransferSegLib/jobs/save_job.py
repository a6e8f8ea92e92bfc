"""The job that saves a corrected case: a front end's copy of the scan and its segments becomes a case of a project.

The patient's id is in no file: what was typed comes by the worker's environment variable ``PATIENT_VARIABLE``, what
DICOM says by ``DICOM_PATIENT_VARIABLE``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from TransferSegLib.errors import JobError
from TransferSegLib.jobs.kinds import Kind, PartlyDone
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.json_fields import damage_as
from TransferSegLib.progress import CancelToken, ProgressCallback, Task

PATIENT_VARIABLE = "TRANSFERSEG_PATIENT"
DICOM_PATIENT_VARIABLE = "TRANSFERSEG_DICOM_PATIENT"


@dataclass(frozen=True)
class SaveParameters:
    """What is saved; the job's request carries ``to_json()`` as its parameters. All paths are absolute.

    ``snapshot`` is the folder that ``corrections.snapshot.Snapshot.read`` takes. The annotated region is ``slices``
    ("z:10-20"), the mask in the file ``region``, the snapshot's box, or everything. ``model`` and ``model_version``
    made the ``prediction`` that was corrected. The others are as in ``corrections.adding.CorrectedCase``.
    """

    snapshot: str
    project: str
    reviewed: tuple[str, ...]
    notes: str = ""
    modality: str = ""
    any_modality: bool = False
    slices: str = ""
    region: str | None = None
    prediction: str | None = None
    model: str | None = None
    model_version: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self) | {"reviewed": list(self.reviewed)}

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> SaveParameters:
        """Read what ``to_json`` wrote; raises JobError for anything else."""
        with damage_as(JobError, "The parameters of the job are"):
            return SaveParameters(**{**entry, "reviewed": tuple(map(str, entry["reviewed"]))})


def run_save(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
    """Save the case; the result is what ``transferseg cases list --json`` says of it, with ``remarks``.

    A scan of another modality than the project's is refused, with ``another_modality`` in the result.
    """
    from TransferSegLib.corrections.adding import CorrectedCase
    from TransferSegLib.corrections.case_modality import AnotherModality
    from TransferSegLib.corrections.inputs import JudgedSlices
    from TransferSegLib.corrections.project import Project
    from TransferSegLib.corrections.revisions import ModelReference
    from TransferSegLib.corrections.snapshot import Snapshot

    asked = SaveParameters.from_json(request.parameters)
    snapshot = Snapshot.read(Path(asked.snapshot))
    region = Path(asked.region) if asked.region else snapshot.annotated_region()
    case = CorrectedCase(
        image=snapshot.scan(),
        label_map=snapshot.label_map(),
        structures=snapshot.label_set,
        reviewed=asked.reviewed,
        judged=JudgedSlices.parse(asked.slices) if asked.slices else region,
        prediction=Path(asked.prediction) if asked.prediction else None,
        model=ModelReference(asked.model, asked.model_version) if asked.model else None,
        patient=os.environ.pop(PATIENT_VARIABLE, ""),
        notes=asked.notes,
        modality=asked.modality,
        any_modality=asked.any_modality,
        dicom_patient=os.environ.pop(DICOM_PATIENT_VARIABLE, ""),
    )
    try:
        return Project(Path(asked.project), create=True).add(case, Task("", progress, cancel)).to_json()
    except AnotherModality as error:
        found = {"scan": error.scan, "project": error.project}
        raise PartlyDone(str(error), {"another_modality": found}) from error


#: Nothing is in the project before the last file has its name: being killed leaves it as it was.
SAVE = Kind(run_save, grace_s=4.0, uses_device=False)
