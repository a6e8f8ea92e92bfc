"""Measure the time from ``transferseg finetune`` to the verdict, with five corrected cases and the bundled model.

    python3 Testing/run.py benchmark time_to_verdict --data DATASET                # last layers only, default steps
    python3 Testing/run.py benchmark time_to_verdict --data DATASET --minutes 3    # both stages, within 3 minutes
    python3 Testing/run.py benchmark time_to_verdict --data DATASET --profile FILE # and a cProfile of the run

DATASET is a folder in the dataset format with head-and-neck CTs. The cases are the first of the bundled model's
validation cases, which it did not learn from; their reference labels serve as corrections. Printed are the seconds and
the processor seconds (of this process and its children) of each part. An idle machine needs about the processor seconds
divided by the number of threads. The verdict is known before the final candidate is trained; the user waits for both.
"""

from __future__ import annotations

import cProfile
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from Testing.research.common.cases import corrected_project, validation_ids
from Testing.research.common.measuring import command_line, processor_seconds
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.finetune import FineTuned, finetune
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.progress import Progress


def main() -> None:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with a dataset.json")
    parser.add_argument("--cases", type=int, default=5, help="number of corrected cases [5]")
    parser.add_argument("--model", help="default: the bundled one")
    parser.add_argument("--minutes", type=float, help="both stages within so many minutes, as for a user")
    parser.add_argument("--strategy", default="finetune")
    parser.add_argument("--threads", type=int, help="of torch [all]")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="write a cProfile of the run")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        dataset = read_dataset(arguments.data)
        ids = validation_ids(dataset, arguments.cases, arguments.model)[: arguments.cases]
        project = corrected_project(Path(folder) / "project", dataset.select(ids).cases, dataset.label_set)
        knobs = FineTuningConfiguration(strategy=arguments.strategy)
        if arguments.minutes is None:
            knobs = replace(knobs, steps=0, minutes=0.0)
        request = FineTuneRequest(
            project,
            model=arguments.model,
            name="timed",
            minutes=arguments.minutes or 0.0,
            configuration=knobs,
            device="cpu",
            library=Path(folder) / "library",
        )
        load = os.getloadavg()[0]
        parts = Parts()
        with profiled(arguments.profile):
            result = finetune(request, parts.report)
        parts.end()
    show(parts, result, load)


class Parts:
    """Seconds and processor seconds by part, told apart by the keys of the progress reports.

    ``until_verdict`` are those until the last comparison ended: the final training comes after it.
    """

    def __init__(self) -> None:
        """Start the clocks."""
        self.began, self.began_cpu = time.monotonic(), processor_seconds()
        self._title, self._at, self._at_cpu = "Beginning", self.began, self.began_cpu
        self.rows: dict[str, tuple[float, float]] = {}
        self.until_verdict = (0.0, 0.0)

    def report(self, progress: Progress) -> None:
        """Note a part's end when another one is reported."""
        title = kind(progress.key)
        if title != self._title:
            self.end()
            self._title = title

    def end(self) -> None:
        """Add the time since the last part to the current one."""
        now, now_cpu = time.monotonic(), processor_seconds()
        wall, cpu = self.rows.get(self._title, (0.0, 0.0))
        self.rows[self._title] = (wall + now - self._at, cpu + now_cpu - self._at_cpu)
        self._at, self._at_cpu = now, now_cpu
        if self._title.startswith("compare-"):
            self.until_verdict = now - self.began, now_cpu - self.began_cpu


def kind(key: str) -> str:
    """Return a part's key without its number: 'train-finetune:2/all-layers' is 'train-finetune/all-layers'."""
    return re.sub(r":\d+", "", key)


@contextmanager
def profiled(file: Path | None) -> Iterator[None]:
    """Profile what is done within, where a file is given."""
    if file is None:
        yield
        return
    profile = cProfile.Profile()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        profile.dump_stats(file)


def show(parts: Parts, result: FineTuned, load: float) -> None:
    """Print the table and the verdict."""
    evidence = result.evidence
    print(f"{len(result.plan.dataset.cases)} cases, {result.time_plan.text}")
    print(f"{torch.get_num_threads()} threads; load average of the machine before: {load:.1f}")
    print(f"{'part':55} {'seconds':>8} {'processor seconds':>18}")
    for title, (wall, cpu) in parts.rows.items():
        print(f"{title:55} {wall:8.1f} {cpu:18.1f}")
    together = tuple(sum(row[i] for row in parts.rows.values()) for i in (0, 1))
    for title, (wall, cpu) in (("until the verdict is known", parts.until_verdict), ("together", together)):
        print(f"{title:55} {wall:8.1f} {cpu:18.1f}")
    print(f"Verdict: {evidence.answer}. {evidence.verdict.text}")


if __name__ == "__main__":
    main()
