"""Training a base at full width, in pieces: give the same command again with --resume until it says it has finished.

    python3 Testing/run.py gpu train_base --work WORK [--data DATASET] [--width 32] [--steps 20000] [--device auto]
    python3 Testing/run.py gpu train_base --work WORK [...] --resume

WORK/run is an output folder of ``transferseg train-base``: its model is the best so far. Without --data the cases are
synthetic. ``--configuration`` takes the JSON file of ``train-base``. The exit code is 3 while the run has not finished.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from Testing.research.common.measuring import command_line
from Testing.research.gpu.measuring import PIECE_MINUTES, device_of, piece, print_line
from Testing.research.gpu.synthetic import project_of
from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.errors import Cancelled
from TransferSegLib.progress import Progress
from TransferSegLib.training.base import BaseModelPlan, train_base
from TransferSegLib.training.configuration import TrainingConfiguration


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a piece and print one line; returns 3 while the run has not finished."""
    parser = command_line(__doc__, device=True)
    parser.add_argument("--work", type=Path, required=True, help="folder that is kept between the pieces")
    parser.add_argument("--data", type=Path, help="folder with a dataset.json")
    parser.add_argument("--cases", type=int, default=20, help="synthetic cases")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--configuration", type=Path, help="JSON file with settings of train-base")
    parser.add_argument("--scan-side", type=int, default=96, help="of synthetic scans, in voxels of 3 mm")
    parser.add_argument("--minutes", type=float, default=PIECE_MINUTES, help="of this piece")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    device = device_of(options.device)
    given = {} if options.configuration is None else json.loads(options.configuration.read_text(encoding="utf-8"))
    settings = TrainingConfiguration.from_json({"width": options.width, "steps": options.steps} | given)
    if options.data is not None:
        dataset = read_dataset(options.data)
    else:
        dataset = Project(project_of(options.work / "cases", None, options.cases, options.scan_side)).dataset()
    plan = BaseModelPlan(dataset, options.work / "run", settings, "measured", options.device)
    # A piece that ended while the cases were read has left no checkpoint.
    resume = options.resume and (plan.output / "checkpoint.pt").exists()
    clock, is_finished = StepClock(), True
    with piece(options.minutes) as cancel:
        try:
            train_base(plan, resume, clock.report, cancel)
        except Cancelled:
            is_finished = False
    print_line(
        "train_base",
        device,
        width=settings.width,
        patch=settings.patch,
        batch=settings.batch,
        finished=is_finished,
        step=clock.last,
        seconds=round(clock.seconds, 1),
        steps_per_second=round(clock.steps / max(clock.seconds, 1e-9), 3),
        loss=clock.loss,
        validation_dice=clock.dice,
    )
    return 0 if is_finished else 3


class StepClock:
    """The steps of this piece after its first one, and the seconds they took, validation included."""

    def __init__(self) -> None:
        """Begin before the first step."""
        self.first = self.last = 0
        self.loss: float | None = None
        self.dice: float | None = None
        self._began = self._at = 0.0

    def report(self, progress: Progress) -> None:
        """Note a step, which is told by its loss."""
        if progress.loss is None or not progress.step or progress.step == self.last:
            return
        self._at, self.last = time.monotonic(), progress.step
        self.loss, self.dice = progress.loss, progress.dice
        if self.first == 0:
            self.first, self._began = progress.step, self._at

    @property
    def steps(self) -> int:
        """Steps after the first one."""
        return self.last - self.first

    @property
    def seconds(self) -> float:
        """Seconds from the first step's end to the last one's."""
        return self._at - self._began


if __name__ == "__main__":
    raise SystemExit(main())
