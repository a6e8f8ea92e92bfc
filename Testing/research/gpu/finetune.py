"""Fine-tuning to the verdict with five cases, in pieces: give the same command again until it says it has finished.

    python3 Testing/run.py gpu finetune --work WORK [--data DATASET] [--minutes 10] [--width 32] [--device auto]

WORK keeps the cases, the library and the run between the pieces; a finished one is not run again. Without --data the
cases are synthetic. With --width the parent is a network of that width with random weights, else it is the bundled
model. The exit code is 3 while the run has not finished.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from Testing.research.common.measuring import command_line
from Testing.research.common.models import random_model
from Testing.research.gpu.measuring import PIECE_MINUTES, device_of, piece, print_line
from Testing.research.gpu.synthetic import ORGANS, project_of
from TransferSegLib.errors import Cancelled
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.finetune import FineTuned, finetune
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.models.store import save_model
from TransferSegLib.progress import Progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a piece and print one line; returns 3 while the run has not finished."""
    parser = command_line(__doc__, device=True)
    parser.add_argument("--work", type=Path, required=True, help="folder that is kept between the pieces")
    parser.add_argument("--data", type=Path, help="folder with a dataset.json")
    parser.add_argument("--cases", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the whole run; 0: the settings' steps")
    parser.add_argument("--width", type=int, help="a parent of this width with random weights")
    parser.add_argument("--configuration", type=Path, help="JSON file with settings of fine-tuning")
    parser.add_argument("--scan-side", type=int, default=96, help="of synthetic scans, in voxels of 3 mm")
    parser.add_argument("--piece-minutes", type=float, default=PIECE_MINUTES)
    options = parser.parse_args(arguments)
    device = device_of(options.device)
    settings = {} if options.configuration is None else json.loads(options.configuration.read_text(encoding="utf-8"))
    request = FineTuneRequest(
        project_of(options.work / "cases", options.data, options.cases, options.scan_side),
        model=None if options.width is None else str(random_parent(options.work / "parent", options.width)),
        name="measured",
        minutes=options.minutes,
        configuration=FineTuningConfiguration.from_json(settings),
        device=options.device,
        library=options.work / "library",
        runs=options.work / "runs",
    )
    steps, started, finished = Steps(), time.monotonic(), options.work / "finished.json"
    found = json.loads(finished.read_text(encoding="utf-8")) if finished.exists() else None
    if found is None:
        with piece(options.piece_minutes) as cancel, suppress(Cancelled):
            found = outcome(finetune(request, steps.report, cancel))
            finished.write_text(json.dumps(found), encoding="utf-8")
    seconds = time.monotonic() - started
    print_line(
        "finetune",
        device,
        cases=options.cases,
        minutes=options.minutes,
        finished=found is not None,
        seconds=round(seconds, 1),
        steps=steps.count,
        steps_per_second=round(steps.count / seconds, 2),
        **(found or {}),
    )
    return 0 if found is not None else 3


def random_parent(folder: Path, width: int) -> Path:
    """Write a model of a width with random weights, once, and return its folder."""
    if not (folder / "model.json").exists():
        model = random_model(ORGANS.classes, width, 3.0)
        save_model(folder, model.description, model.state_dict)
    return folder


class Steps:
    """Counts the steps that all trainings of a piece report."""

    def __init__(self) -> None:
        """Begin with none."""
        self.count = 0
        self._last = ("", 0)

    def report(self, progress: Progress) -> None:
        """Count a step of a training, which is told by its loss."""
        here = (progress.key, progress.step or 0)
        if progress.loss is not None and here != self._last:
            self.count, self._last = self.count + 1, here


def outcome(result: FineTuned) -> dict[str, object]:
    """Return what came out: the strategy, the plan's words for the time, the verdict."""
    return {
        "strategy": result.plan.configuration.strategy,
        "plan": result.time_plan.text,
        "whole_seconds": round(result.seconds, 1),
        "verdict": result.evidence.answer,
        "verdict_text": result.evidence.verdict.text,
    }


if __name__ == "__main__":
    raise SystemExit(main())
