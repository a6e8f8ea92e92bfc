"""Does the verdict of ``transferseg finetune`` agree with what 20 other patients show? Ten runs, half of them spoilt.

    python3 Testing/run.py benchmark verdict_truth --data DATASET --model FOLDER --lines runs.jsonl
    python3 Testing/run.py benchmark verdict_truth --lines runs.jsonl --report        # the table of the finished runs

DATASET: head-and-neck CTs in the dataset format. The model must not have learned from the cases that are reserved here
(by rule and seed: 50 cases with mandible and larynx, 20 of them for testing). Every run is the real ``finetune`` on a
project of some of the other 30, with few steps and no time limit. Finished runs are kept in the lines and not repeated.

A run is one of:

    plain       right labels: little to gain for a model of the same labels
    wide        another clinic's convention: every structure one voxel wider within the slices, in every case (those to
                learn from, held out, and to test on). There is something to gain
    tight       the same, one voxel tighter
    moved, sides, eroded, other
                spoilt: candidates learn from wrong labels (moved by two voxels; left and right exchanged; eroded; of
                another case), of the folds as well as the final one. The references they are measured on are right
    half        half of the project's cases have moved labels, as training *and as held-out* cases: what a user who
                gets half of the corrections wrong has. The test cases are right

The verdict is that of ``finetune``. The truth is parent against final candidate on the test cases, on the scans' own
grid: 'better' or 'worse' when the 90 % bootstrap interval of the mean difference over patients leaves out 0 and the
difference is at least what the verdict calls one (0.01), else 'no clear difference'. 'Too few cases to
say' never agrees.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import SimpleITK as sitk
import torch

from Testing.research.common.cases import add_line, read_lines
from Testing.research.common.label_changes import (
    Change,
    changed_image,
    eroded,
    fitted,
    moved,
    tighter,
    wider,
    with_labels,
)
from Testing.research.common.measuring import command_line
from Testing.research.common.verdict_experiment import fine_tuned, test_scores
from Testing.research.study.case_selection import SelectionRule, only_structures, select_cases, training_set
from TransferSegLib.datasets.dataset import Case, Dataset, read_dataset
from TransferSegLib.datasets.prepared import PreparedCase
from TransferSegLib.evaluation.statistics import bootstrap_interval, differences_by_patient, pair_scores
from TransferSegLib.evaluation.verdict import Answer, VerdictRule
from TransferSegLib.finetuning import cross_validation
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.images.read import read_label_map
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.structures import LabelSet

RULE = SelectionRule(("mandible", "larynx"), test=20, reserved=50, smallest_share=0.3, seed=1)
#: What is run, in this order: the kind, and the seed that draws the cases and trains.
RUNS = [
    ("moved", 1),
    ("wide", 2),
    ("plain", 3),
    ("other", 4),
    ("tight", 5),
    ("eroded", 6),
    ("wide", 7),
    ("sides", 8),
    ("plain", 9),
    ("half", 10),
]
#: Kinds in which all label maps follow another convention.
CONVENTIONS: dict[str, Change] = {"wide": wider, "tight": tighter}
Results = dict[str, dict[str, float]]
Spoil = Callable[[list[PreparedCase]], list[PreparedCase]]


def main() -> None:
    """Do the runs that are not done, and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, help="folder with a dataset.json")
    parser.add_argument("--model", help="the parent: name or folder")
    parser.add_argument(
        "--lines", type=Path, required=True, help="JSON lines of the finished runs; new ones are appended"
    )
    parser.add_argument("--report", action="store_true", help="only print the finished runs")
    parser.add_argument("--runs", type=int, default=len(RUNS), help="only the first N runs")
    parser.add_argument("--only", nargs="+", metavar="KIND", help="only runs of these kinds")
    parser.add_argument("--cases", type=int, default=6, help="corrected cases of a run [6]")
    parser.add_argument("--folds", type=int, default=6, help="[6]: leave one out")
    parser.add_argument("--test", type=int, default=RULE.test, help="test cases [20]")
    parser.add_argument("--tail-steps", type=int, default=100)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--patch", type=int, default=48)
    parser.add_argument("--patches-per-case", type=int, default=6)
    parser.add_argument("--threads", type=int, help="of torch [all]")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if not options.report:
        measure(options)
    report([line for line in read_lines(options.lines) if "run" in line])


def measure(options: argparse.Namespace) -> None:
    """Do the runs that the lines do not have."""
    dataset = read_dataset(options.data)
    selection = select_cases(dataset, RULE)
    path = find_model(options.model)
    parent = load_model(path)
    dataset = only_structures(dataset, parent.description.label_set.names)
    tests = dataset.select(selection.test[: options.test])
    knobs = FineTuningConfiguration(
        minutes=0.0,
        tail_steps=options.tail_steps,
        steps=options.steps,
        patch=options.patch,
        patches_per_case=options.patches_per_case,
        report_cases=0,
    )
    decides = [parent.description.to_json(), knobs.to_json(), options.cases, options.folds, list(tests.ids)]
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
    done = {line["name"]: line for line in read_lines(options.lines) if line["key"] == key}
    for kind, seed in RUNS[: options.runs]:
        if f"{kind} {seed}" in done or (options.only and kind not in options.only):
            continue
        began = time.monotonic()
        change = CONVENTIONS.get(kind)
        convention = kind if change else "as drawn"
        if convention not in done:
            scores = dice_on(parent, tests, change)
            done[convention] = {"key": key, "name": convention, "dice": scores}
            add_line(options.lines, done[convention])
        ids = training_set(dataset, selection, options.cases, seed)
        line = run(dataset.select(ids), tests, path, replace(knobs, seed=seed), kind, options.folds)
        line |= truth(done[convention]["dice"], line["dice"], {case.id: case.group for case in tests.cases})
        line |= {"key": key, "name": f"{kind} {seed}", "run": kind, "seconds": round(time.monotonic() - began)}
        add_line(options.lines, line)
        print(as_text(line), flush=True)


def run(
    corrected: Dataset, tests: Dataset, parent: Path, knobs: FineTuningConfiguration, kind: str, folds: int
) -> dict[str, Any]:
    """Fine-tune on these cases and return the verdict, its numbers, and the final candidate's Dice on test cases."""
    change = CONVENTIONS.get(kind)

    def labels_of(case: Case) -> sitk.Image:
        is_wrong = kind == "half" and corrected.ids.index(case.id) % 2 == 0
        return changed_image(drawn_labels(case, corrected.label_set), moved if is_wrong else change)

    mirrored = load_model(parent).description.label_set.mirrored_channels()
    with (
        learning_from(spoilings(mirrored).get(kind)),
        fine_tuned(corrected.cases, corrected.label_set, labels_of, parent, knobs, folds) as result,
    ):
        overall = result.evidence.verdict.overall
        assert overall is not None
        return {
            "cases": list(corrected.ids),
            "verdict": result.evidence.answer,
            "reasons": list(result.evidence.verdict.reasons),
            "seen": [round(value, 4) for value in (overall.difference, overall.low, overall.high)],
            "dice": dice_on(load_model(result.version.path), tests, change),
        }


def truth(parent: Results, candidate: Results, groups: Mapping[str, str]) -> dict[str, Any]:
    """Return what the test cases say: the answer, and mean difference with its interval."""
    differences = differences_by_patient(pair_scores(parent, candidate, groups))
    interval = bootstrap_interval(differences, confidence=0.9)
    assert interval is not None, "there are too few test cases"
    mean, least = float(differences.mean()), VerdictRule().smallest_difference
    answer = Answer.NO_CLEAR_DIFFERENCE
    if interval[0] > 0 and mean >= least:
        answer = Answer.BETTER
    elif interval[1] < 0 and mean <= -least:
        answer = Answer.WORSE
    return {"truth": str(answer), "true": [round(value, 4) for value in (mean, *interval)]}


def dice_on(model: Model, tests: Dataset, change: Change | None) -> Results:
    """Return the Dice of a model by test case and structure, on the scans' own grid, in a convention."""

    def labels_of(case: Case) -> sitk.Image:
        return changed_image(drawn_labels(case, tests.label_set), change)

    scores = test_scores(model, tests.cases, tests.label_set, labels_of)
    return {
        id: {name: round(score.dice, 5) for name, score in row.items() if np.isfinite(score.dice)}
        for id, row in scores.items()
    }


def drawn_labels(case: Case, label_set: LabelSet) -> sitk.Image:
    """Return a case's label map with only these structures, without those that the model is not to know."""
    return changed_image(
        read_label_map(case.labels), lambda values: np.where(np.isin(values, label_set.label_values), values, 0)
    )


def spoilings(mirrored: tuple[int, ...]) -> dict[str, Spoil]:
    """Return, by kind, what makes wrong training cases of right ones, on the model's grid."""

    def each(change: Change) -> Spoil:
        return lambda cases: [with_labels(case, change(case.labels)) for case in cases]

    return {
        "moved": each(moved),
        "sides": each(lambda labels: np.array(mirrored, np.uint8)[labels]),
        "eroded": each(eroded),
        "other": lambda cases: [
            with_labels(case, fitted(other.labels, case.labels.shape))
            for case, other in zip(cases, [*cases[1:], cases[0]], strict=True)
        ],
    }


@contextmanager
def learning_from(spoil: Spoil | None) -> Iterator[None]:
    """Within, candidates are trained on what ``spoil`` makes of their cases, and measured on them as they are.

    Both ways by which labels reach a training are replaced: the cases, and the features that carry their labels.
    """
    if spoil is None:
        yield
        return
    adapt, cache_features = cross_validation.adapt, cross_validation.cache_features

    def adapt_spoilt(parent: Any, training: Any, *others: Any, **more: Any) -> Any:
        return adapt(parent, spoil(training), *others, **more)

    def cache_spoilt(network: Any, cases: Any, *others: Any, **more: Any) -> Any:
        return cache_features(network, spoil(cases), *others, **more)

    with patch.multiple(cross_validation, adapt=adapt_spoilt, cache_features=cache_spoilt):
        yield


def as_text(line: dict[str, Any]) -> str:
    """Return a run as a line for a person."""
    seen, true = ("{:+.3f} ({:+.3f} to {:+.3f})".format(*line[which]) for which in ("seen", "true"))
    agrees = "agree" if line["verdict"] == line["truth"] else "DISAGREE"
    return f"{line['name']:10} verdict: {line['verdict']:22} {seen}   truth: {line['truth']:20} {true}   {agrees}"


def report(lines: list[dict[str, Any]]) -> None:
    """Print every run, the table of verdict against truth, and how often they agree."""
    answers = [str(answer) for answer in (Answer.BETTER, Answer.NO_CLEAR_DIFFERENCE, Answer.WORSE)]
    print(f"\n{len(lines)} runs: held-out difference (90 % interval), and that on the test cases")
    for line in lines:
        print(as_text(line))
    counts = Counter((line["verdict"], line["truth"]) for line in lines)
    print("\n" + f"{'verdict / truth':24}" + "".join(f"{truth:>22}" for truth in answers))
    for verdict in map(str, Answer):
        print(f"{verdict:24}" + "".join(f"{counts[verdict, truth]:22d}" for truth in answers))
    agree = sum(line["verdict"] == line["truth"] for line in lines)
    harmful = counts["better", "worse"]
    print(f"\nVerdict and truth agree in {agree} of {len(lines)} runs (floor: 8 of 10).")
    print(f"Says better, is worse: {harmful}. Says worse, is better: {counts['worse', 'better']}.")
    print(f"Says better, no clear difference in truth: {counts['better', str(Answer.NO_CLEAR_DIFFERENCE)]}.")


if __name__ == "__main__":
    main()
