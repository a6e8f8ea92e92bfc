"""Measure whether suggested scans teach a model more than random ones: Dice and drawing effort, scan by scan.

    python3 Testing/run.py benchmark next_scan --data DATA --work WORK --base MODEL --held-out study --steps 30 60
    python3 Testing/run.py benchmark next_scan --report

Tasks, scans, the simulated person and fine-tuning are those of ``effort_streams``. A draw (--draws) divides the scans
of a task, one of each patient, into a pool and test cases (--test). The first scan of the pool is drawn at random, for
both ways. Then "random" takes the next ones in a random order, "suggested" takes the first that ``suggest`` names with
the current model. The person corrects it, and after every --after scans the model is fine-tuned on all scans so far and
tested. Fine-tuning is limited by steps, not minutes, so that neither way depends on the computer's load.

A line of the output file holds one scan; what is there is not repeated, and a draw that was interrupted continues, in
the folder WORK. 5 draws of 8 scans make 40 fine-tunings per task with --after 2.
"""

from __future__ import annotations

from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from Testing.research.benchmarks.effort_streams import STUDY, TASKS, Stream, correct_scan, stream_of, tuned_model
from Testing.research.common.cases import add_line, read_lines
from Testing.research.common.measuring import command_line
from Testing.research.study.configuration_file import read_study
from Testing.research.study.study_data import prepare_data
from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.suggestion import suggest
from TransferSegLib.evaluation.predict_and_score import evaluate
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.store import load_model
from TransferSegLib.wording import table

RESULTS = Path(__file__).with_suffix(".jsonl")
RANDOM, SUGGESTED = "random", "suggested"
WAYS = (RANDOM, SUGGESTED)
Line = dict[str, Any]


def run_draw(options: Namespace, stream: Stream, tested: Sequence[str], way: str) -> None:
    """Pick, correct and learn from the scans of a draw that have no line yet."""
    key = {"task": stream.task, "draw": stream.seed, "way": way, "after": options.after, "steps": list(options.steps)}
    mine = [line for line in read_lines(options.output) if all(line.get(name) == key[name] for name in key)]
    folder = stream.folder / f"{way}-after-{options.after}-{'-'.join(map(str, options.steps))}"
    picked = [line["case"] for line in mine]
    for number in range(len(picked) + 1, min(options.scans, len(stream.ids)) + 1):
        model = tuned_model(options, stream, folder, number, options.after)
        id = next_case(options, stream, picked, way, model, folder)
        segmenter = Segmenter(load_model(model), options.device)
        line = correct_scan(stream, stream.dataset.case(id), stream.person, segmenter, folder)
        picked.append(id)
        dice = None
        if number % options.after == 0:
            dice = mean_dice(options, stream, tested, tuned_model(options, stream, folder, number + 1, options.after))
        kept = {name: line[name] for name in ("model", "added_path_m", "slices")}
        add_line(options.output, key | {"scan": number, "case": id} | kept | {"dice": dice})
        print(f"{stream.task}, draw {stream.seed}, {way}, scan {number}: {id}, Dice {dice}", flush=True)


def next_case(options: Namespace, stream: Stream, picked: Sequence[str], way: str, model: Path, folder: Path) -> str:
    """Return the scan to correct next; ``stream.ids`` are the pool in a random order."""
    left = [id for id in stream.ids if id not in picked]
    if way == RANDOM or not picked:
        return left[0]
    images = {stream.dataset.case(id).image: id for id in left}
    found = suggest(list(images), model, Project(folder / "project").state(), device=options.device)
    return images[found.ranked[0].scan]


def mean_dice(options: Namespace, stream: Stream, tested: Sequence[str], model: Path) -> float:
    """Return a model's mean Dice on the test cases, over structures; 0 for one that it does not know."""
    loaded = load_model(model)
    dataset = replace(stream.dataset, cases=tuple(stream.dataset.case(id) for id in tested))
    if not any(loaded.description.label_set.find(name) for name in stream.structures):
        return 0.0
    scores = evaluate(Segmenter(loaded, options.device), dataset)
    found = [[score[name].dice for score in scores.values() if name in score] or [0.0] for name in stream.structures]
    return round(float(np.mean([np.mean(one) for one in found])), 4)


def report(lines: Sequence[Line]) -> str:
    """Return the tables: means over draws, and what suggesting gains over random in each draw."""
    if not lines:
        return "Nothing was measured yet."
    found: dict[tuple[str, int, str], dict[int, Line]] = defaultdict(dict)
    for line in lines:
        found[line["task"], line["draw"], line["way"]][line["scan"]] = line
    rows = []
    for task in dict.fromkeys(line["task"] for line in lines):
        draws = sorted({line["draw"] for line in lines if line["task"] == task})
        for scan in sorted({line["scan"] for line in lines if line["task"] == task}):
            pairs = [[found[task, draw, way] for way in WAYS] for draw in draws]
            pairs = [pair for pair in pairs if all(scan in scans for scans in pair)]
            if pairs:
                dice = _compared([[scans[scan]["dice"] for scans in pair] for pair in pairs])
                rows.append((task, str(scan), str(len(pairs)), *dice, *_drawn(pairs, scan)))
    header = (
        "task", "scans", "draws", "Dice: random", "suggested", "difference", "drawn so far, m: random", "suggested",
    )  # fmt: skip
    return table(header, rows)


def _compared(pairs: Sequence[Sequence[float | None]]) -> tuple[str, str, str]:
    """Return the means of both ways, and the mean difference with the smallest and the largest one of a draw."""
    values = np.array([pair for pair in pairs if None not in pair], np.float64)
    if not values.size:
        return "-", "-", "-"
    difference = values[:, 1] - values[:, 0]
    spread = f"{difference.mean():+.3f} ({difference.min():+.3f} to {difference.max():+.3f})"
    return f"{values[:, 0].mean():.3f}", f"{values[:, 1].mean():.3f}", spread


def _drawn(pairs: Sequence[Sequence[dict[int, Line]]], scan: int) -> tuple[str, str]:
    """Return the contour drawn up to a scan, the mean over draws, by way."""
    sums = np.array(
        [
            [sum(line["added_path_m"] for number, line in scans.items() if number <= scan) for scans in pair]
            for pair in pairs
        ]
    )
    random, suggested = sums.mean(axis=0)
    return f"{random:.2f}", f"{suggested:.2f}"


def main() -> None:
    """Do what is missing, or print what was measured."""
    parser = command_line(__doc__, device=True)
    parser.add_argument("--report", action="store_true", help="print the table of what was measured")
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="projects and models of the draws")
    parser.add_argument("--base", metavar="MODEL", help="name or folder (default: the bundled model)")
    parser.add_argument("--held-out", choices=("study", "validation"), default="study")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--scans", type=int, default=8, help="that are corrected (default: 8)")
    parser.add_argument("--pool", type=int, default=24, help="scans to pick from (default: 24)")
    parser.add_argument("--test", type=int, default=10, help="test cases (default: 10)")
    parser.add_argument("--after", type=int, default=2, help="fine-tune after so many scans (default: 2)")
    parser.add_argument("--steps", type=int, nargs=2, metavar=("TAIL", "ALL"), default=(30, 60))
    parser.add_argument("--every", type=int, default=4, help="slice step of interpolating without a model (default: 4)")
    parser.set_defaults(
        configuration=FineTuningConfiguration(), minutes=0.0, precision=0.5, target=0.95, tolerance_voxels=2.0
    )
    options = parser.parse_args()
    if not options.report:
        measure(options)
    print(report(read_lines(options.output)))


def measure(options: Namespace) -> None:
    """Run the draws that are asked for."""
    if options.data is None or options.work is None:
        raise SystemExit("Name the folders --data and --work.")
    options.work.mkdir(parents=True, exist_ok=True)
    data = prepare_data(read_study(STUDY), options.data, options.work / "datasets")
    wanted = options.scans
    for draw in options.draws:
        for task in options.tasks:
            options.scans = options.pool + options.test
            whole = stream_of(options, data, task, draw)
            options.scans = wanted
            tested, pool = whole.ids[: options.test], whole.ids[options.test :]
            stream = replace(whole, ids=pool, person=replace(whole.person, every=options.every))
            for way in WAYS:
                run_draw(options, stream, tested, way)


if __name__ == "__main__":
    main()
