"""Forty real fine-tunings on open data, half of them spoilt: what was held out, and what patients nobody saw show.

    python3 Testing/run.py benchmark verdict_runs --data ../shared/data --work FOLDER --lines FILE
    python3 Testing/run.py benchmark verdict_runs --lines Testing/research/benchmarks/verdict_runs.jsonl --report

A run makes a project of some patients' cases, spoils it or not, and calls the real ``finetune`` on it. A line of FILE
holds the raw scores (Dice, surface Dice) of both models in every held-out case, and those of parent and final candidate
in the patients that neither learned from. So they can be judged again after the rule changed (``--report`` does),
without training anything. Killed, the command goes on with the next run.

Parents: ``base``, trained here first (width 8, five head-and-neck structures, of 90 cases that no run uses), and
``bundled``, the model that comes with TransferSeg, on the two MR collections.

Spoilt are the cases that a user hands in, for learning and as held-out references alike:

    shifted   the labels of half of the cases are moved by two voxels
    swapped   in half of the cases two structures have each other's label (left and right parotid; anterior and
              posterior hippocampus)
    other     a third of the cases (at least one) have another patient's labels
    missing   in half of the cases one structure is erased, and yet called reviewed
    short     ten optimisation steps in all
    hot       learning rates 8 times as high (a training that diverges is refused: that is noted, and no run here)
    thin      the labels of half of the cases are eroded by a voxel within the slices

Not spoilt are

    right     the labels as they are, few steps
    long      the same, two and a half times as many steps
    wide      only known structures, by the convention of another clinic: every structure a voxel wider within the
              slices, in the cases handed in and in those tested on. There is something to gain

Each kind changes only some of the cases: labels that are wrong in the same way in all of them are learned, and the
held-out ones agree. No held-out evidence can know that (docs/evidence.md).
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.dataset import Case, Dataset, write_dataset
from TransferSegLib.errors import TrainingError
from TransferSegLib.evaluation.predict_and_score import score_label_maps
from TransferSegLib.evaluation.scores import DEFAULT_TOLERANCE_MM
from TransferSegLib.evaluation.verdict import Answer, Training, Verdict, VerdictRule, judge
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.images.read import read_label_map, read_scan
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model, load_description, load_model
from TransferSegLib.structures import LabelSet, Structure
from TransferSegLib.training.base import BaseModelPlan, train_base
from TransferSegLib.training.configuration import TrainingConfiguration
from TransferSegLib.version import code_version

HEAD, BRAIN, HEART = "head_neck_ct", "hippocampus_mr", "left_ventricle_mr"
BASE, BUNDLED = "base", "bundled"
#: The head-and-neck structures that the base knows; larynx and mandible are new to it.
KNOWN = ("brainstem", "spinal cord", "right parotid gland", "left parotid gland", "oesophagus")
BASE_CASES, BASE_STEPS = 90, 500
TEST_PATIENTS = {HEAD: 16, BRAIN: 30, HEART: 14}
UNSPOILT = ("right", "long", "wide")
Scores = dict[str, dict[str, list[float | None]]]


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


#: Alternately right and spoilt, so that a part of the runs is a fair sample, too.
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the three collections")
    parser.add_argument("--work", type=Path, help="folder for the base, kept between calls")
    parser.add_argument("--lines", type=Path, required=True, help="JSON lines: what is done, added to")
    parser.add_argument("--report", action="store_true", help="only judge and print what is done")
    parser.add_argument("--runs", type=int, default=len(RUNS), help="only the first so many")
    parser.add_argument("--threads", type=int, default=1, help="of torch [1]")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.report:
        measure(options)
    report(read_lines(options.lines))


# Cases.


def cases_of(data: Path, collection: str, label_set: LabelSet) -> list[Case]:
    """Return all cases of a collection in a fixed order; the group is the patient."""
    if collection == HEAD:
        folder = data / HEAD / "cases"
        with (data / HEAD / "cases.csv").open(encoding="utf-8") as stream:
            rows = list(csv.reader(stream))[1:]
        return [
            Case(
                row[0],
                folder / f"{row[0]}_ct.nii.gz",
                folder / f"{row[0]}_label.nii.gz",
                tuple(name for name, voxels in zip(label_set.names, row[3:], strict=True) if int(voxels)),
            )
            for row in rows
        ]
    if collection == BRAIN:
        files = sorted((data / BRAIN / "images").glob("*.nii.gz"))
        return [
            Case(file.name.split(".")[0], file, data / BRAIN / "labels" / file.name, label_set.names) for file in files
        ]
    images = sorted((data / HEART).glob("*_mr.nii.gz"))
    return [
        Case(
            image.name.removesuffix("_mr.nii.gz"),
            image,
            image.with_name(image.name.replace("_mr.", "_label.")),
            label_set.names,
            group=image.name.split("_ph")[0],
        )
        for image in images
    ]


def label_set_of(collection: str) -> LabelSet:
    """Return the structures of a collection with their label values."""
    if collection == HEAD:
        return load_description(find_model("head-neck-ct")).label_set
    names = ("anterior hippocampus", "posterior hippocampus") if collection == BRAIN else ("left ventricle",)
    return LabelSet(tuple(Structure(name, value, (200, 40 * value, 60)) for value, name in enumerate(names, start=1)))


def divided(cases: Sequence[Case], collection: str) -> tuple[list[str], list[str], list[str]]:
    """Return the patients of the base, those to test on, and those to draw projects from; always the same."""
    order = np.random.default_rng(15).permutation(sorted({case.group for case in cases}))
    patients = [str(group) for group in order]
    base, rest = (patients[:BASE_CASES], patients[BASE_CASES:]) if collection == HEAD else ([], patients)
    if collection == HEAD:  # those with the most structures drawn test: every structure is to have a truth
        drawn = {case.group: len(case.annotated) for case in cases}
        rest = sorted(rest, key=lambda group: -drawn[group])
        rest = [*rest[::2], *rest[1::2]]
    count = TEST_PATIENTS[collection]
    return base, rest[:count], rest[count:]


def project_cases(cases: Sequence[Case], pool: Sequence[str], run: Run) -> list[Case]:
    """Return the cases of a run's project: all of so many patients, of the heart one phase of every second."""
    if run.collection == HEAD:
        pool = [group for group in pool if len(next(case for case in cases if case.group == group).annotated) >= 5]
    chosen = np.random.default_rng([15, run.seed]).permutation(list(pool))[: run.patients]
    drawn = []
    for number, group in enumerate(chosen):
        own = [case for case in cases if case.group == group]
        drawn += own if number % 2 == 0 else own[:1]
    return drawn


# Spoiling.


def like(labels: sitk.Image, values: np.ndarray) -> sitk.Image:
    """Return values as an image on the same grid."""
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(labels)
    return image


def wider(labels: sitk.Image) -> sitk.Image:
    """Return labels in which every structure takes the background's voxels beside it, within the slices."""
    values = sitk.GetArrayFromImage(labels)
    cross = ndimage.generate_binary_structure(2, 1)[None]
    return like(labels, np.where(values == 0, ndimage.grey_dilation(values, footprint=cross), values))


def spoilt(kind: str, images: Sequence[sitk.Image], pair: tuple[int, int]) -> list[sitk.Image]:
    """Return the label maps of a project, some of them wrong; ``pair`` are the label values to swap, or to erase."""
    images = [wider(image) for image in images] if kind == "wide" else images
    arrays = [sitk.GetArrayFromImage(image) for image in images]
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "shifted": lambda values: np.roll(values, (1, 2, 2), (0, 1, 2)),
        "swapped": lambda values: np.where(values == pair[0], pair[1], np.where(values == pair[1], pair[0], values)),
        "missing": lambda values: np.where(values == pair[0], 0, values),
        "thin": eroded,
    }
    if kind in changes:
        arrays = [changes[kind](values) if number % 2 else values for number, values in enumerate(arrays)]
    elif kind == "other":
        arrays = [
            fitted(arrays[(number + 1) % len(arrays)], values.shape) if number % 3 == 0 else values
            for number, values in enumerate(arrays)
        ]
    return [like(image, values.astype(np.uint8)) for image, values in zip(images, arrays, strict=True)]


def eroded(values: np.ndarray) -> np.ndarray:
    """Return labels in which every structure lost its outermost voxels within the slices, where any is left."""
    cross = ndimage.generate_binary_structure(2, 1)[None]
    kept = np.zeros_like(values)
    for value in np.unique(values[values > 0]):
        mask = values == value
        inner = ndimage.binary_erosion(mask, cross)
        kept[inner if inner.any() else mask] = value
    return kept


def fitted(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return labels cut or filled up to a shape, centre on centre."""
    result = np.zeros(shape, values.dtype)
    into, out = [], []
    for wanted, there in zip(shape, values.shape, strict=True):
        length = min(wanted, there)
        into.append(slice((wanted - length) // 2, (wanted - length) // 2 + length))
        out.append(slice((there - length) // 2, (there - length) // 2 + length))
    result[tuple(into)] = values[tuple(out)]
    return result


def knobs_of(run: Run) -> FineTuningConfiguration:
    """Return a short fine-tuning without a clock; ``short`` and ``hot`` are spoilt in it."""
    if run.kind == "wide":
        return FineTuningConfiguration(
            minutes=0.0,
            tail_steps=60,
            steps=20,
            patch=48,
            tail_patch=28,
            patches_per_case=4,
            report_cases=0,
            seed=run.seed,
        )
    knobs = FineTuningConfiguration(
        minutes=0.0, tail_steps=60, steps=40, patch=48, tail_patch=28, patches_per_case=4, report_cases=0, seed=run.seed
    )
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
        parent = trained_base(options) if run.parent == BASE else find_model("head-neck-ct")
        test_cases = [next(case for case in cases if case.group == group) for group in tests]
        before = parent_name(run.collection, run.kind, run.parent)
        if before not in done:
            truth = scores_of(load_model(parent), test_cases, label_set, run.kind)
            add_line(options.lines, {"name": before, "truth": truth})
            done.add(before)
        began = time.process_time()
        try:
            line = fine_tuned(run, project_cases(cases, pool, run), test_cases, label_set, parent)
        except TrainingError as error:
            line = {"name": run.name, "verdict": f"refused: {error}"}
        line |= {"seconds": round(time.process_time() - began, 1), "code": code_version()}
        add_line(options.lines, line)
        print(f"{run.name}: {line['verdict']} ({line['seconds']} s)", flush=True)


def parent_name(collection: str, kind: str, parent: str) -> str:
    """Return what the line of a parent on a collection's test cases is called, in the convention of a kind."""
    return f"parent/{collection}/{parent}" + ("/wide" if kind == "wide" else "")


def trained_base(options: argparse.Namespace) -> Path:
    """Return the base's model folder; it is trained if it is not there, or gone on with."""
    output = options.work / "base-run"
    finished = options.work / "base-finished"
    if not finished.exists():
        label_set = label_set_of(HEAD)
        cases = cases_of(options.data, HEAD, label_set)
        patients = set(divided(cases, HEAD)[0])
        known = label_set.select(KNOWN)
        own = [
            replace(case, annotated=tuple(name for name in case.annotated if name in KNOWN))
            for case in cases
            if case.group in patients
        ]
        own = [case for case in own if case.annotated]
        folder = options.work / "base-dataset"
        for case in own:  # without the structures that the base is not to know
            labels = read_label_map(case.labels)
            values = sitk.GetArrayFromImage(labels)
            folder.mkdir(parents=True, exist_ok=True)
            kept = np.where(np.isin(values, known.label_values), values, 0).astype(np.uint8)
            sitk.WriteImage(like(labels, kept), str(folder / f"{case.id}.nii.gz"))
        own = [replace(case, labels=folder / f"{case.id}.nii.gz") for case in own]
        dataset = Dataset(
            folder, "head and neck", "base of the verdict runs", "MIT (Open-KBP)", "CT", known, tuple(own)
        )
        write_dataset(dataset, folder)
        knobs = TrainingConfiguration(
            width=8, steps=BASE_STEPS, patch=48, validation_share=0.03, validate_every=BASE_STEPS, average=0.99
        )
        plan = BaseModelPlan(dataset, output, knobs, "verdict-base", "cpu")
        train_base(plan, resume=(output / "checkpoint.pt").exists())
        finished.touch()
    return output / "model"


def fine_tuned(
    run: Run, corrected: Sequence[Case], tests: Sequence[Case], label_set: LabelSet, parent: Path
) -> dict[str, Any]:
    """Fine-tune on a project of these cases; return the held-out scores, the verdict, and the truth."""
    folder = Path(tempfile.mkdtemp(prefix="verdict-runs-"))
    pair = {HEAD: (3, 4), BRAIN: (1, 2), HEART: (1, 1)}[run.collection]
    try:
        project = Project(folder / "project", create=True)
        images = [read_label_map(case.labels) for case in corrected]
        for case, labels in zip(corrected, spoilt(run.kind, images, pair), strict=True):
            drawn = tuple(name for name in case.annotated if name in KNOWN or run.kind != "wide")
            project.add_case(case.image, labels, drawn, structures=label_set, group=case.group, case_id=case.id)
        request = FineTuneRequest(
            project.folder,
            model=str(parent),
            name="candidate",
            configuration=knobs_of(run),
            minutes=0.0,
            modality="CT" if run.collection == HEAD else "MR",
            device="cpu",
            library=folder / "library",
            most_folds=run.most_folds,
        )
        result = finetune(request)
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
            "truth": scores_of(load_model(result.version.path), tests, label_set, run.kind),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def scores_of(model: Model, tests: Sequence[Case], label_set: LabelSet, kind: str) -> Scores:
    """Return [Dice, surface Dice] by test case and structure, on the scans' own grid."""
    segmenter = Segmenter(model, "cpu")
    scores: Scores = {}
    for case in tests:
        found = segmenter.segment(read_scan(case.image)).label_map
        labels = read_label_map(case.labels)
        labels = wider(labels) if kind == "wide" else labels
        names = model.description.label_set
        by_structure = score_label_maps(found, names, labels, label_set, case, DEFAULT_TOLERANCE_MM)
        scores[case.id] = {name: [round(one.dice, 4), round(one.nsd, 4)] for name, one in by_structure.items()}
    return scores


# What is done.


def rounded(value: Any) -> Any:
    """Return JSON values with numbers of four decimals."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return what was measured; a line that was cut off by a kill is left out."""
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def add_line(file: Path, line: dict[str, Any]) -> None:
    """Add what was measured."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line, ensure_ascii=False) + "\n")


# The verdict of today on what was measured.


def verdict_on(line: dict[str, Any]) -> Verdict:
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


def report(lines: Sequence[dict[str, Any]]) -> Counter[str]:
    """Print every run with verdict and truth, how many intervals hold the truth, and false claims of 'better'.

    Returns the counts that are printed.
    """
    parents = {line["name"]: line["truth"] for line in lines if line["name"].startswith("parent/")}
    counts: Counter[str] = Counter()
    for line in (line for line in lines if "held_out" in line):
        verdict = verdict_on(line)
        before = means_of(parents[parent_name(line["collection"], line["kind"], line["parent"])])
        after, surface = means_of(line["truth"]), means_of(line["truth"], 1)
        new = {row.structure for row in verdict.new}
        is_spoilt = line["kind"] not in UNSPOILT
        told = [("after", row.structure, row.interval, after) for row in verdict.new]
        for change in verdict.structures:
            told.append(("before", str(change.structure), change.parent_interval, before))
            told.append(("after", str(change.structure), change.candidate_interval, after))
        missed = []
        for which, name, (low, high), truth in told:
            if name not in truth:
                continue
            held = low <= truth[name] <= high
            counts[f"{which} told"] += 1
            counts[f"{which} held"] += held
            counts["spoilt told" if is_spoilt else "right told"] += 1
            counts["spoilt held" if is_spoilt else "right held"] += held
            missed += [] if held else [f"{name} {which}: {low:.2f} to {high:.2f}, truth {truth[name]:.2f}"]
        true = what_is_true(before, after, surface, new)
        counts["runs"] += 1
        counts["spoilt"] += is_spoilt
        counts[str(verdict.answer)] += 1
        if verdict.answer is Answer.BETTER and true != "nothing wrong":
            counts["false better"] += 1
        counts["right and better"] += verdict.answer is Answer.BETTER and true == "nothing wrong"
        print(f"{line['name']:40} {verdict.answer:26} truth: {true}")
        for row in verdict.new:
            if row.structure not in after:
                continue
            low, high = row.interval
            told_as = f"{row.mean:.2f} ({low:.2f} to {high:.2f})"
            print(f"    {row.structure}: {told_as}, true {after[row.structure]:.2f}, {row.word}")
        for text in missed:
            print(f"    NOT HELD {text}")
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


if __name__ == "__main__":
    main()
