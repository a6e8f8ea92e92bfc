"""Measure how well ways of telling doubt point at real errors, what they cost, and whether calibrated doubt is right.

    python3 Testing/run.py benchmark doubt_map --data DATA --work WORK
    python3 Testing/run.py benchmark doubt_map --report

DATA holds the study's collections. The task "head and neck" takes the cases that the bundled model was validated on.
"hippocampus" first fine-tunes it on some cases of that collection (--cases, --steps), once, into WORK, and takes other
cases; there the candidates of the folds, which fine-tuning makes anyway, are a further way. A line of the output file
holds what one case showed; what is there is not repeated.

Of each annotated structure the region within 10 mm of what is drawn or predicted counts. Its voxels are looked at in
the order of the doubt: the share of the wrong ones (only drawn or only predicted) among the first 10 %, and the area
under the curve of the share found over the share looked at (0.5 by chance); the same for large errors, deeper than 1.5
voxel sides from the drawn surface. Places are judged apart: how many of the first ones have a large error within 6 mm.
"""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from Testing.research.common.cases import add_line, corrected_project, read_lines
from Testing.research.common.doubt_candidates import (
    LARGE_ERROR_SIDES,
    SHIFTS,
    disagreement,
    hits,
    judge_structure,
    logit_margin,
    probabilities,
    probability_margin,
    shifted_probabilities,
    surface_distance_mm,
)
from Testing.research.common.measuring import command_line
from Testing.research.common.open_collections import BRAIN, HEAD, cases_of, label_set_of
from TransferSegLib.datasets.dataset import Case
from TransferSegLib.doubt.calibration import DoubtCalibration, DoubtCounts
from TransferSegLib.doubt.places import doubtful_places
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.images.grid_to_scan import values_on_scan
from TransferSegLib.images.preprocess import labels_on_grid, preprocess
from TransferSegLib.images.preprocessed_scan import PreprocessedScan
from TransferSegLib.images.read import read_label_map_on, read_scan
from TransferSegLib.inference.devices import Device, choose_device
from TransferSegLib.inference.predict import Predictor, predictor_of
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.progress import Progress
from TransferSegLib.wording import table

RESULTS = Path(__file__).with_suffix(".jsonl")
TASKS = {"head and neck": HEAD, "hippocampus": BRAIN}
#: The weights of the folds' candidates, in WORK beside the library.
_FOLDS = "folds"
#: The way that the library takes.
CHOSEN = "logit margin"
Line = dict[str, Any]


class Measured:
    """One model with what it is measured on."""

    def __init__(self, task: str, model: Model, cases: Sequence[Case], folds: Sequence[Model], device: Device) -> None:
        self.task, self.cases = task, cases
        self.segmenter = Segmenter(model, device)
        self._predictor = _predictor(model, device)
        self._folds = [_predictor(fold, device) for fold in folds]

    def line(self, case: Case) -> Line:
        """Return what one case shows."""
        label_set, description = label_set_of(TASKS[self.task]), self.segmenter.model.description
        image = read_scan(case.image)
        spacing = tuple(image.GetSpacing()[::-1])
        reference = read_label_map_on(image, case.labels)
        true_zyx = sitk.GetArrayFromImage(reference)
        began = process_time()
        plain = self.segmenter.segment(image)
        plain_s, began = process_time() - began, process_time()
        found = self.segmenter.segment(image, doubt=True)
        doubt_s, began = process_time() - began, process_time()
        found.doubt_volume()
        after_s = process_time() - began
        labels_zyx = sitk.GetArrayFromImage(plain.label_map)
        scan = preprocess(image, description.preparation)
        candidates, shifts_s = self._candidates(scan)
        (doubt,) = found.doubts
        structures: dict[str, Line] = {}
        for name in case.annotated:
            structure = found.label_set.find(name)
            drawn = label_set.find(name)
            if structure is None or drawn is None:
                continue
            masks = labels_zyx == structure.label, true_zyx == drawn.label
            own = -values_on_scan(doubt.margins_of([name]), scan.grid, 16.0)
            line = judge_structure(candidates | {f"{CHOSEN} of the structure": own}, *masks, spacing)
            if line is not None:
                structures[name] = line
        values = [label_set.find(name).label for name in found.label_set.names]  # type: ignore[union-attr]
        counts = doubt.counts(labels_on_grid(reference, values, scan.grid), case.annotated, None)
        return {
            "seconds": {"segment": plain_s, "with doubt": doubt_s, "volume and places": after_s, "shifts": shifts_s},
            "structures": structures,
            "counts": counts.to_json(),
        }

    def places(self, case: Case) -> dict[str, list[bool]]:
        """Return whether there is a large error near each place of a case, and near random ones on the surface.

        Only places in annotated structures can be judged.
        """
        label_set, image = label_set_of(TASKS[self.task]), read_scan(case.image)
        spacing = tuple(image.GetSpacing()[::-1])
        true_zyx = sitk.GetArrayFromImage(read_label_map_on(image, case.labels))
        found = self.segmenter.segment(image, doubt=True)
        labels_zyx = sitk.GetArrayFromImage(found.label_map)
        large_zyx = np.zeros(true_zyx.shape, bool)
        values = []
        for name in case.annotated:
            structure, drawn = found.label_set.find(name), label_set.find(name)
            if structure is not None and drawn is not None:
                values.append(structure.label)
                predicted, true = labels_zyx == structure.label, true_zyx == drawn.label
                deep = surface_distance_mm(true, spacing) > LARGE_ERROR_SIDES * max(spacing)
                large_zyx |= (predicted != true) & deep
        doubts = {"calibrated": found.doubts, "uncalibrated": [replace(one, calibration=None) for one in found.doubts]}
        every = {"random": self._on_surface(labels_zyx, values)}
        for name, those in doubts.items():
            places = doubtful_places(those, image, found.label_set.names)
            judged = [place.position_mm for place in places if place.structure in case.annotated]
            every[name] = [image.TransformPhysicalPointToIndex(position)[::-1] for position in judged]
        return {name: hits(indices, large_zyx, spacing) for name, indices in every.items()}

    def _candidates(self, scan: PreprocessedScan) -> tuple[dict[str, np.ndarray], float]:
        """Return each way's doubt on the scan's grid, and the seconds of predicting the shifted scans."""
        prepared = scan.intensities_czyx, scan.padding_values
        plain = probabilities(self._predictor, *prepared)
        began = process_time()
        moved = [plain, *(shifted_probabilities(self._predictor, *prepared, shift) for shift in SHIFTS)]
        shifts_s = process_time() - began
        ways = {
            "probability margin": -probability_margin(plain),
            CHOSEN: -logit_margin(plain),
            f"mean of {len(moved)} shifts": -logit_margin(np.mean(moved, axis=0)),
            f"variance of {len(moved)} shifts": disagreement(moved),
        }
        if self._folds:
            folds = [probabilities(predictor, *prepared) for predictor in self._folds]
            ways[f"mean of {len(folds)} folds"] = -logit_margin(np.mean([plain, *folds], axis=0))
            ways[f"variance of {len(folds)} folds"] = disagreement([plain, *folds])
        return {name: values_on_scan(values, scan.grid) for name, values in ways.items()}, shifts_s

    def _on_surface(self, labels_zyx: np.ndarray, values: Sequence[int], count: int = 20) -> list[tuple[int, int, int]]:
        """Return voxels drawn at random from the predicted structures' surfaces: what is found without a doubt."""
        inside = np.isin(labels_zyx, values)
        surface = np.argwhere(inside & (surface_distance_mm(inside, (1.0, 1.0, 1.0)) <= 1.0))
        chosen = np.random.default_rng(0).permutation(len(surface))[:count]
        return [(int(z), int(y), int(x)) for z, y, x in surface[chosen]]


def _predictor(model: Model, device: Device) -> Predictor:
    return predictor_of(model.networks(), model.description.backbone, device)


def tasks(options: Namespace) -> Iterator[Measured]:
    """Yield what is measured, one task at a time."""
    device = choose_device(options.device)
    for task in options.tasks:
        every = {case.id: case for case in cases_of(options.data, TASKS[task], label_set_of(TASKS[task]))}
        model = load_model(find_model(None))
        if task == "head and neck":
            ids = model.description.metrics["validation"]["ids"]
            yield Measured(task, model, [every[id] for id in ids], (), device)
            continue
        order = [str(id) for id in np.random.default_rng(options.seed).permutation(sorted(every))]
        learned, tested = order[: options.cases], order[options.cases : options.cases + options.test_cases]
        version, folds = fine_tuned(options, [every[id] for id in learned])
        yield Measured(task, version, [every[id] for id in tested], folds, device)


def fine_tuned(options: Namespace, cases: Sequence[Case]) -> tuple[Model, list[Model]]:
    """Return a version that learned the hippocampus from some cases, and the candidates of its folds, made once."""
    name, library, kept = "hippocampus", options.work / "library", options.work / _FOLDS
    project = options.work / "project"
    if not (library / name / "versions" / "1").is_dir():
        if not project.is_dir():
            options.work.mkdir(parents=True, exist_ok=True)
            corrected_project(project, cases, label_set_of(BRAIN))
        runs = options.work / "runs"

        def keep(progress: Progress) -> None:
            # They are removed when the version is safe.
            for file in runs.glob("run-*/fold-*-trained.pt"):
                if not (kept / file.name).exists():
                    kept.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, kept / file.name)

        request = FineTuneRequest(
            project, name=name, modality="MR", device=options.device, library=library, runs=runs, most_folds=2
        )
        finetune(request.with_steps(*options.steps), keep)
    version = load_model(library / name / "versions" / "1")  # in use or not
    folds = [torch.load(file, weights_only=True, map_location="cpu") for file in sorted(kept.glob("*.pt"))]
    return version, [Model(version.description, state["state_dict"], version.path) for state in folds]


def measure(options: Namespace) -> None:
    """Measure the cases that have no lines yet: one for the doubt, one for the places."""
    done = {(line["task"], line["case"], "places" in line) for line in read_lines(options.output)}
    for measured in tasks(options):
        for case in measured.cases:
            key = {"task": measured.task, "case": case.id}
            if (measured.task, case.id, True) not in done:
                add_line(options.output, key | {"places": measured.places(case)})
            if not options.only_places and (measured.task, case.id, False) not in done:
                add_line(options.output, key | measured.line(case))
            print(f"{measured.task}, {case.id}", flush=True)


def report(lines: Sequence[Line]) -> str:
    """Return the tables: what each way finds, what it costs, how right calibrated doubt is, and what places hit."""
    by_task: dict[str, list[Line]] = defaultdict(list)
    places: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        (places if "places" in line else by_task)[line["task"]].append(line)
    parts = [table(("task", "way", "first 10 %", "area", "large: first 10 %", "large: area"), _found_rows(by_task))]
    parts.append(table(("task", "cases", "segmenting, s", "with doubt", "volume, places", "3 shifts"), _costs(by_task)))
    parts.append(table(("task", "doubt", "voxels", "expected wrong", "wrong"), _reliability(by_task)))
    parts.append(table(("task", "places", "cases", *_KINDS), _place_rows(places)))
    return "\n\n".join(parts)


def _found_rows(by_task: dict[str, list[Line]]) -> list[tuple[str, ...]]:
    """Return a row per task and way: means over structures and cases."""
    rows = []
    for task, lines in by_task.items():
        found: dict[str, list[list[float | None]]] = defaultdict(list)
        for structure in (one for line in lines for one in line["structures"].values()):
            best = min(1.0, 0.1 * structure["voxels"] / max(1, structure["wrong"]))
            found["(the most that is possible)"].append([best, None, None, None])
            for way, numbers in structure.items():
                if isinstance(numbers, list):
                    found[way].append(numbers)
        for way, numbers in found.items():
            means = [[one for one in column if one is not None] for column in zip(*numbers, strict=True)]
            rows.append((task, way, *(f"{np.mean(column):.3f}" if column else "-" for column in means)))
    return rows


def _costs(by_task: dict[str, list[Line]]) -> list[tuple[str, ...]]:
    """Return a row per task: processor seconds of a scan on average."""
    rows = []
    for task, lines in by_task.items():
        seconds = [line["seconds"] for line in lines]
        means = [np.mean([one[key] for one in seconds]) for key in seconds[0]]
        rows.append((task, str(len(lines)), *(f"{mean:.2f}" for mean in means)))
    return rows


def _reliability(by_task: dict[str, list[Line]]) -> list[tuple[str, ...]]:
    """Return a row per task and range of doubt: expected and real errors, calibrated on every other case."""
    rows = []
    for task, lines in by_task.items():
        counts = [DoubtCounts.from_json(line["counts"]) for line in lines]
        halves = [(counts[::2], counts[1::2]), (counts[1::2], counts[::2])]
        voxels, expected, wrong = (np.zeros(len(_RANGES) - 1) for _ in range(3))
        for known, tested in halves:
            calibration = DoubtCalibration.of(DoubtCounts.total(known))
            if calibration is None:
                continue
            seen = DoubtCounts.total(tested)
            shares = calibration.share_wrong(DoubtCounts.middles())
            bins = np.clip(np.searchsorted(_RANGES, shares, side="right") - 1, 0, len(_RANGES) - 2)
            voxels += np.bincount(bins, seen.voxels, minlength=len(voxels))
            expected += np.bincount(bins, seen.voxels * shares, minlength=len(voxels))
            wrong += np.bincount(bins, seen.wrong, minlength=len(voxels))
        for number in np.flatnonzero(voxels)[::-1]:
            name = f"{_RANGES[number]:g} to {_RANGES[number + 1]:g}"
            both = [f"{each[number] / voxels[number]:.3f}" for each in (expected, wrong)]
            rows.append((task, name, f"{voxels[number]:.0f}", *both))
    return rows


_RANGES = np.array([0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0])


_KINDS = ("calibrated", "uncalibrated", "random")


def _place_rows(by_task: dict[str, list[Line]]) -> list[tuple[str, ...]]:
    """Return a row per task and number of first places: the share of them with a large error near, by kind."""
    rows = []
    for task, lines in by_task.items():
        for count in (3, 5, 10):
            shares = [
                np.mean([hit for line in lines for hit in line["places"][kind][:count]] or [0.0]) for kind in _KINDS
            ]
            rows.append((task, f"first {count}", str(len(lines)), *(f"{share:.2f}" for share in shares)))
    return rows


def main() -> None:
    """Measure what is missing, or print what was measured."""
    parser = command_line(__doc__, threads=1, device=True)
    parser.add_argument("--report", action="store_true", help="print the tables of what was measured")
    parser.add_argument("--only-places", action="store_true", help="measure the doubtful places and nothing else")
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="the fine-tuned model")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--cases", type=int, default=8, help="that the hippocampus is learned from (default: 8)")
    parser.add_argument("--steps", type=int, nargs=2, default=(40, 60), metavar=("TAIL", "ALL"))
    parser.add_argument("--test-cases", type=int, default=20, help="of the hippocampus (default: 20)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not options.report:
        if options.data is None or options.work is None:
            parser.error("give --data and --work, or --report")
        torch.set_num_threads(options.threads)
        measure(options)
    print(report(read_lines(options.output)))


if __name__ == "__main__":
    main()
