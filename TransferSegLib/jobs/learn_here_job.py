"""The job that learns from the corrected part of a scan: a front end's copy of it becomes a redrawn label map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from TransferSegLib.errors import JobError
from TransferSegLib.jobs.kinds import Kind
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.json_fields import damage_as
from TransferSegLib.progress import CancelToken, ProgressCallback, Task


@dataclass(frozen=True)
class LearnHereParameters:
    """What is learned from; the job's request carries ``to_json()`` as its parameters. All paths are absolute.

    ``snapshot`` is the folder that ``corrections.snapshot.Snapshot.read`` takes. The judged part is ``slices``
    ("z:10-20"), the mask in the file ``region``, or the snapshot's box. ``structures`` are redrawn with ``model`` (a
    name or path; None: the bundled one) and written to ``output``. ``features`` is the file that features are kept in.
    """

    snapshot: str
    output: str
    structures: tuple[str, ...]
    slices: str = ""
    region: str | None = None
    model: str | None = None
    features: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self) | {"structures": list(self.structures)}

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> LearnHereParameters:
        """Read what ``to_json`` wrote; raises JobError for anything else."""
        with damage_as(JobError, "The parameters of the job are"):
            return LearnHereParameters(**{**entry, "structures": tuple(map(str, entry["structures"]))})


def run_learn_here(
    request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken
) -> dict[str, Any]:
    """Learn and write the label map; the result tells what changed."""
    from TransferSegLib.corrections.inputs import JudgedSlices
    from TransferSegLib.corrections.snapshot import Snapshot
    from TransferSegLib.images.write import write_label_map
    from TransferSegLib.learn_here.learn import learn_here

    asked = LearnHereParameters.from_json(request.parameters)
    snapshot = Snapshot.read(Path(asked.snapshot))
    region = Path(asked.region) if asked.region else snapshot.annotated_region()
    judged = JudgedSlices.parse(asked.slices) if asked.slices else region
    if judged is None:
        raise JobError("It was not said which part of the scan was judged.")
    learning, writing = Task("", progress, cancel).split(19, 1)
    learned = learn_here(
        snapshot.scan(),
        snapshot.label_map(),
        judged,
        asked.model,
        asked.structures,
        names=snapshot.label_set,
        features=asked.features,
        device=request.device,
        task=learning.named("Learning here", "learn-here"),
    )
    write_label_map(learned.label_map, Path(asked.output), learned.label_set, compress=False, task=writing)
    writing.done(look=False)
    return learned.to_json() | {"output": asked.output}


#: Being killed leaves nothing behind but a part of a temporary file.
LEARN_HERE = Kind(run_learn_here, grace_s=4.0)
