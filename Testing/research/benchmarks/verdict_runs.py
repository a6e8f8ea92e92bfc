"""Forty real fine-tunings on open data, half of them spoilt: held-out evidence compared with unseen patients.

    python3 Testing/run.py benchmark verdict_runs --data ../shared/data --work FOLDER --lines FILE
    python3 Testing/run.py benchmark verdict_runs --lines Testing/research/benchmarks/verdict_runs.jsonl --report

A run makes a project of some patients' cases, spoils it or not, and calls the real ``finetune`` on it. A line of FILE
holds the raw scores (Dice, surface Dice) of both models in every held-out case, and those of parent and final candidate
in patients that neither learned from. ``--report`` applies the current rule to these scores without training anything.
After an interruption the command continues with the next run.

Parents: ``base``, trained here first (width 8, five head-and-neck structures, of 90 cases that no run uses), and
``bundled``, the model that comes with TransferSeg, on the two MR collections.

What is spoilt are the user's corrected cases, used for training and as held-out references alike:

    shifted   the labels of half of the cases are moved by two voxels
    swapped   in half of the cases two structures have each other's label (left and right parotid; anterior and
              posterior hippocampus)
    other     a third of the cases (at least one) have another patient's labels
    missing   in half of the cases one structure is erased although it counts as reviewed
    short     ten optimisation steps in all
    hot       learning rates 8 times as high (a training that diverges is refused; that is noted and not counted)
    thin      the labels of half of the cases are eroded by a voxel within the slices

Not spoilt are

    right     the labels as they are, few steps
    long      the same, two and a half times as many steps
    wide      only known structures, by the convention of another clinic: every structure a voxel wider within the
              slices, in the cases handed in and in those tested on. There is something to gain

Each kind changes only some of the cases: a model learns labels that are wrong in the same way in all of them, and the
held-out references agree. Held-out evidence cannot reveal that (docs/evidence.md).
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from Testing.research.common.cases import add_line, read_lines
from Testing.research.common.label_changes import Change, changed_image, fitted, moved, on_grid_of, tighter, wider
from Testing.research.common.measuring import command_line
from Testing.research.common.open_collections import (
    BRAIN,
    HEAD,
    HEART,
    KNOWN,
    cases_of,
    divided,
    label_set_of,
    trained_base,
)
from Testing.research.common.verdict_experiment import fine_tuned, test_scores
from TransferSegLib.datasets.dataset import Case
from TransferSegLib.errors import TrainingError
from TransferSegLib.evaluation.scores import DEFAULT_TOLERANCE_MM
from TransferSegLib.evaluation.verdict import Answer, Training, Verdict, VerdictRule, judge
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.images.read import read_label_map
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.structures import LabelSet
from TransferSegLib.version import code_version

BASE, BUNDLED = "base", "bundled"
UNSPOILT = ("right", "long", "wide")
Scores = dict[str, dict[str, list[float | None]]]
Line = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One fine-tuning: on which images, spoilt how, of how many patients, from which parent, with which seed."""

    collection: str
    kind: str
    patients: int
    seed: int
    parent: str = BASE
    most_folds: int | None = None

    @property
    def name(self) -> str:
        """What the run is called in the lines."""
        return f"{self.collection}/{self.kind}/{self.patients}/{self.parent}/{self.seed}"


#: Alternately right and spoilt, so that the first N runs are a fair sample, too.
RUNS = [
    Run(BRAIN, "right", 3, 1),
    Run(BRAIN, "shifted", 4, 2),
    Run(HEAD, "right", 4, 3),
    Run(HEAD, "short", 5, 4),
    Run(HEART, "right", 4, 5),
    Run(HEART, "other", 4, 6),
    Run(BRAIN, "right", 6, 7, most_folds=4),
    Run(HEAD, "shifted", 4, 8),
    Run(HEAD, "right", 3, 9),
    Run(BRAIN, "short", 5, 10),
    Run(HEART, "right", 2, 11),
    Run(HEAD, "swapped", 4, 12, most_folds=2),
    Run(HEAD, "wide", 4, 13),
    Run(BRAIN, "swapped", 4, 14, most_folds=2),
    Run(BRAIN, "long", 8, 15, most_folds=2),
    Run(HEAD, "hot", 3, 16),
    Run(HEAD, "wide", 3, 17),
    Run(HEART, "hot", 3, 18),
    Run(BRAIN, "long", 5, 19, most_folds=2),
    Run(BRAIN, "other", 3, 20),
    Run(HEAD, "wide", 5, 21, most_folds=3),
    Run(HEART, "short", 4, 22, most_folds=2),
    Run(HEAD, "wide", 2, 23),
    Run(BRAIN, "missing", 4, 24, most_folds=2),
    Run(BRAIN, "long", 6, 25, most_folds=3),
    Run(HEAD, "missing", 4, 26, most_folds=2),
    Run(HEART, "right", 3, 27),
    Run(HEAD, "other", 3, 28),
    Run(HEAD, "wide", 6, 29, most_folds=3),
    Run(BRAIN, "thin", 4, 30, most_folds=2),
    Run(BRAIN, "long", 4, 31, most_folds=2),
    Run(BRAIN, "hot", 3, 32),
    Run(HEART, "long", 8, 33, most_folds=2),
    Run(HEAD, "short", 3, 34),
    Run(HEAD, "wide", 4, 35, most_folds=2),
    Run(HEART, "shifted", 4, 36, most_folds=2),
    Run(BRAIN, "right", 2, 37, BUNDLED),
    Run(HEAD, "thin", 3, 38),
    Run(BRAIN, "long", 10, 39, most_folds=2),
    Run(HEART, "missing", 3, 40),
]


def main() -> None:
    """Do the runs that are not done, or report those that are."""
    parser = command_line(__doc__, threads=1)
    parser.add_argument("--data", type=Path, help="folder with the three collections")
    parser.add_argument("--work", type=Path, help="folder for the base, kept between calls")
    parser.add_argument(
        "--lines", type=Path, required=True, help="JSON lines of the finished runs; new ones are appended"
    )
    parser.add_argument("--report", action="store_true", help="only evaluate and print the finished runs")
    parser.add_argument("--runs", type=int, default=len(RUNS), help="only the first N runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.report:
        measure(options)
    report(read_lines(options.lines))


def project_cases(cases: Sequence[Case], pool: Sequence[str], run: Run) -> list[Case]:
    """Return the cases of a run's project: all of its patients', but one phase only of every second heart."""
    if run.collection == HEAD:
        pool = [group for group in pool if len(next(case for case in cases if case.group == group).annotated) >= 5]
    chosen = np.random.default_rng([15, run.seed]).permutation(list(pool))[: run.patients]
    drawn = []
    for number, group in enumerate(chosen):
        own = [case for case in cases if case.group == group]
        drawn += own if number % 2 == 0 else own[:1]
    return drawn


# Spoiling.


def spoilt(kind: str, images: Sequence[sitk.Image], pair: tuple[int, int]) -> list[sitk.Image]:
    """Return the label maps of a project, some of them wrong; ``pair`` are the label values to swap, or to erase."""
    arrays = [sitk.GetArrayFromImage(image) for image in images]
    changes: dict[str, Change] = {
        "shifted": lambda values: moved(values, (1, 2, 2)),
        "swapped": lambda values: np.where(values == pair[0], pair[1], np.where(values == pair[1], pair[0], values)),
        "missing": lambda values: np.where(values == pair[0], 0, values),
        "thin": tighter,
    }
    if kind == "wide":
        arrays = [wider(values) for values in arrays]
    elif kind in changes:
        arrays = [changes[kind](values) if number % 2 else values for number, values in enumerate(arrays)]
    elif kind == "other":
        arrays = [
            fitted(arrays[(number + 1) % len(arrays)], values.shape) if number % 3 == 0 else values
            for number, values in enumerate(arrays)
        ]
    return [on_grid_of(image, values.astype(np.uint8)) for image, values in zip(images, arrays, strict=True)]


def knobs_of(run: Run) -> FineTuningConfiguration:
    """Return a short fine-tuning without a clock; ``short`` and ``hot`` are spoilt in it."""
    knobs = FineTuningConfiguration(
        minutes=0.0, tail_steps=60, steps=40, patch=48, tail_patch=28, patches_per_case=4, report_cases=0, seed=run.seed
    )
    if run.kind == "wide":
        return replace(knobs, steps=20)
    if run.collection != HEAD:  # all layers at once, on small scans
        knobs = replace(knobs, steps=150 if run.kind == "long" else 60)
    if run.kind == "short":
        return replace(knobs, tail_steps=5, steps=5 if run.collection == HEAD else 10)
    if run.kind == "hot":
        rates = ("tail_rate", "full_rate", "new_rate", "new_tail_rate", "vanilla_rate")
        return replace(knobs, **{name: 8 * getattr(knobs, name) for name in rates})
    return knobs


# Runs.


def measure(options: argparse.Namespace) -> None:
    """Do the runs that the lines do not have."""
    done = {line["name"] for line in read_lines(options.lines)}
    for run in RUNS[: options.runs]:
        if run.name in done:
            continue
        label_set = label_set_of(run.collection)
        cases = cases_of(options.data, run.collection, label_set)
        _, tests, pool = divided(cases, run.collection)
        parent = trained_base(options.data, options.work) if run.parent == BASE else find_model("head-neck-ct")
        test_cases = [next(case for case in cases if case.group == group) for group in tests]
        before = parent_name(run.collection, run.kind, run.parent)
        if before not in done:
            truth = truth_of(load_model(parent), test_cases, label_set, run.kind)
            add_line(options.lines, {"name": before, "truth": truth})
            done.add(before)
        began = time.process_time()
        try:
            line = outcome(run, project_cases(cases, pool, run), test_cases, label_set, parent)
        except TrainingError as error:
            line = {"name": run.name, "verdict": f"refused: {error}"}
        line |= {"seconds": round(time.process_time() - began, 1), "code": code_version()}
        add_line(options.lines, line)
        print(f"{run.name}: {line['verdict']} ({line['seconds']} s)", flush=True)


def parent_name(collection: str, kind: str, parent: str) -> str:
    """Return what the line of a parent on a collection's test cases is called, in the convention of a kind."""
    return f"parent/{collection}/{parent}" + ("/wide" if kind == "wide" else "")


def outcome(run: Run, corrected: Sequence[Case], tests: Sequence[Case], label_set: LabelSet, parent: Path) -> Line:
    """Fine-tune on a project of these cases; return the held-out scores, the verdict, and the truth."""
    pair = {HEAD: (3, 4), BRAIN: (1, 2), HEART: (1, 1)}[run.collection]
    if run.kind == "wide":
        known = [tuple(name for name in case.annotated if name in KNOWN) for case in corrected]
        corrected = [replace(case, annotated=names) for case, names in zip(corrected, known, strict=True)]
    maps = spoilt(run.kind, [read_label_map(case.labels) for case in corrected], pair)
    labels = {case.id: label_map for case, label_map in zip(corrected, maps, strict=True)}
    modality = "CT" if run.collection == HEAD else "MR"
    with fine_tuned(
        corrected, label_set, lambda case: labels[case.id], parent, knobs_of(run), run.most_folds, modality
    ) as result:
        evidence = result.evidence.to_json()
        configuration = result.plan.configuration
        return {
            "name": run.name,
            "collection": run.collection,
            "kind": run.kind,
            "parent": run.parent,
            "groups": {case.id: case.group for case in corrected},
            "strategy": configuration.strategy,
            "tail_steps": configuration.tail_steps if configuration.has_tail_stage else 0,
            "steps": configuration.steps,
            "held_out": rounded(evidence["held_out_cases"]),
            "verdict": evidence["verdict"],
            "reasons": evidence["reasons"],
            "warnings": evidence["warnings"],
            "current": result.version.current,
            "truth": truth_of(load_model(result.version.path), tests, label_set, run.kind),
        }


def truth_of(model: Model, tests: Sequence[Case], label_set: LabelSet, kind: str) -> Scores:
    """Return [Dice, surface Dice] by test case and structure, on the scans' own grid."""

    def labels_of(case: Case) -> sitk.Image:
        return changed_image(read_label_map(case.labels), wider if kind == "wide" else None)

    scores = test_scores(model, tests, label_set, labels_of, DEFAULT_TOLERANCE_MM)
    return {
        id: {name: [round(one.dice, 4), round(one.nsd, 4)] for name, one in row.items()} for id, row in scores.items()
    }


def rounded(value: Any) -> Any:
    """Return JSON values with numbers of four decimals."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


# The verdict of today on what was measured.


def verdict_on(line: Line) -> Verdict:
    """Return the verdict of the rule in use on the raw scores of a run."""
    results: dict[str, dict[str, dict[str, float]]] = {"parent": {}, "candidate": {}, "surface": {}}
    for one in line["held_out"]:
        for which, key, score in (("parent", "parent", "dice"), ("candidate", "candidate", "dice")):
            results[which][one["case"]] = {name: numbers[score] for name, numbers in one[key].items()}
        results["surface"][one["case"]] = {
            name: numbers["nsd"] for name, numbers in one["candidate"].items() if numbers["nsd"] is not None
        }
    training = Training(line["tail_steps"] + line["steps"])
    return judge(
        results["parent"],
        results["candidate"],
        line["groups"],
        surface=results["surface"],
        training=training,
    )


def means_of(truth: Scores, index: int = 0) -> dict[str, float]:
    """Return the mean Dice (1: surface Dice) of each structure over the test patients."""
    names = sorted({name for scores in truth.values() for name in scores})
    return {
        name: float(np.mean([scores[name][index] for scores in truth.values() if name in scores])) for name in names
    }


def what_is_true(before: dict[str, float], after: dict[str, float], surface: dict[str, float], new: set[str]) -> str:
    """Return what the test patients say of a candidate: a structure is 'useless', or 'worse', or nothing is wrong.

    Worse: a known structure lost 0.05 Dice or more, or the mean of the known ones lost 0.01 or more. Useless: a new
    structure, or the mean of the known ones, is not usable by the rule's thresholds.
    """
    usable, faults = VerdictRule().usability, []
    known = [name for name in after if name not in new and name in before]
    if known:
        mean = float(np.mean([after[name] for name in known]))
        if mean - float(np.mean([before[name] for name in known])) <= -0.01:
            faults.append("worse")
        faults += [f"{name} worse" for name in known if after[name] - before[name] <= -0.05]
        if mean < usable.dice:
            faults.append("useless")
    faults += [f"{name} useless" for name in sorted(new & set(after)) if not usable.reaches(after[name], surface[name])]
    return ", ".join(faults) or "nothing wrong"


def report(lines: Sequence[Line]) -> Counter[str]:
    """Print every run with verdict and truth, how many intervals hold the truth, and false claims of 'better'.

    Returns the counts that are printed.
    """
    parents = {line["name"]: line["truth"] for line in lines if line["name"].startswith("parent/")}
    counts: Counter[str] = Counter()
    for line in (line for line in lines if "held_out" in line):
        parent = parents[parent_name(line["collection"], line["kind"], line["parent"])]
        counts += report_run(line, means_of(parent))
    print(f"\n{counts['runs']} runs, {counts['spoilt']} of them spoilt.")
    for which in ("before", "after", "right", "spoilt"):
        told, held = counts[f"{which} told"], counts[f"{which} held"]
        print(f"Intervals that hold the truth ({which}): {held} of {told} ({100 * held / max(told, 1):.0f} %)")
    print("Verdicts: " + ", ".join(f"{answer} {counts[str(answer)]}" for answer in Answer if counts[str(answer)]))
    print(
        f"Better, and worse or useless in truth: {counts['false better']}. "
        f"Better, and nothing wrong: {counts['right and better']}."
    )
    return counts


def report_run(line: Line, before: dict[str, float]) -> Counter[str]:
    """Print a run with verdict and truth, and return what is counted of it."""
    verdict = verdict_on(line)
    after, surface = means_of(line["truth"]), means_of(line["truth"], 1)
    true = what_is_true(before, after, surface, {row.structure for row in verdict.new})
    print(f"{line['name']:40} {verdict.answer:26} truth: {true}")
    for row in verdict.new:
        if row.structure in after:
            low, high = row.interval
            told = f"{row.mean:.2f} ({low:.2f} to {high:.2f})"
            print(f"    {row.structure}: {told}, true {after[row.structure]:.2f}, {row.word}")
    kind = "right" if line["kind"] in UNSPOILT else "spoilt"
    counts = Counter(["runs", str(verdict.answer), *(["spoilt"] if kind == "spoilt" else [])])
    for which, name, (low, high), truth in told_intervals(verdict, before, after):
        counts.update([f"{which} told", f"{kind} told"])
        if low <= truth <= high:
            counts.update([f"{which} held", f"{kind} held"])
        else:
            print(f"    NOT HELD {name} {which}: {low:.2f} to {high:.2f}, truth {truth:.2f}")
    if verdict.answer is Answer.BETTER:
        counts["right and better" if true == "nothing wrong" else "false better"] += 1
    return counts


def told_intervals(
    verdict: Verdict, before: dict[str, float], after: dict[str, float]
) -> list[tuple[str, str, tuple[float, float], float]]:
    """Return the intervals of a verdict, before or after the training, each with the structure and the true mean."""
    told = [("after", row.structure, row.interval, after) for row in verdict.new]
    for change in verdict.structures:
        told.append(("before", str(change.structure), change.parent_interval, before))
        told.append(("after", str(change.structure), change.candidate_interval, after))
    return [(which, name, interval, truth[name]) for which, name, interval, truth in told if name in truth]


if __name__ == "__main__":
    main()
