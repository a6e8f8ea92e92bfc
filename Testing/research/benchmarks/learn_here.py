"""Measure what Learn here saves a simulated person after a few slices of a structure are corrected.

    python3 Testing/run.py benchmark learn_here --data DATA --work WORK [--half recipe] [--output FILE]
    python3 Testing/run.py benchmark learn_here --report

DATA holds the study's collections. The person (``common/annotator.py``) corrects the first, the last and some slices
between them, evenly apart, in the prediction of a model. From there it goes on in three ways until the surface Dice is
0.95, at each of --tolerance-voxels:

- leave: the other slices stay as the model predicted them;
- interpolate: the same slices are drawn without a prediction, and the computer fills the slices between;
- learn here: the other slices are redrawn by ``TransferSegLib.learn_here``.

Slices beyond the first and the last hold nothing in all three. Head-and-neck scans are those that the bundled model
was validated on: every second one chose the recipe (``--half recipe``), the others are reported. For the hippocampus
and the left ventricle, which the bundled model does not know, it is first fine-tuned by ``--steps`` on ``--learn``
cases; the scans are the study's test cases, none of which was used to choose the method (``--half recipe``: scans that
are neither). Models, segmentations and features are kept in WORK.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from Testing.research.benchmarks.effort_streams import STUDY
from Testing.research.common.annotator import Person, SomeSlices, draw_some_slices, draw_structure
from Testing.research.common.cases import add_line, corrected_project, read_lines
from Testing.research.common.learning_person import Segmented, judged_mask
from Testing.research.common.measuring import command_line
from Testing.research.study.case_selection import only_structures
from Testing.research.study.configuration_file import read_study
from Testing.research.study.study_data import prepare_data
from TransferSegLib.datasets.dataset import Case
from TransferSegLib.evaluation.surface_distance import surface_dice
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.images.label_values import image_like
from TransferSegLib.images.read import read_label_map_on, read_scan
from TransferSegLib.inference.kept_features import FeatureKeeper, load_features, model_key, scan_key
from TransferSegLib.inference.segment import Segmentation, Segmenter
from TransferSegLib.learn_here.learn import learn_here
from TransferSegLib.learn_here.refit import Recipe
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model, load_description, load_model
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet
from TransferSegLib.wording import table

RESULTS = Path(__file__).with_suffix(".jsonl")
HEAD_NECK = "mandible"
#: By task: the task of the study whose cases it takes, and its structures.
TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "larynx": (HEAD_NECK, ("larynx",)),
    "parotids": (HEAD_NECK, ("right parotid gland", "left parotid gland")),
    "mandible": (HEAD_NECK, ("mandible",)),
    "oesophagus": (HEAD_NECK, ("oesophagus",)),
    "brainstem": (HEAD_NECK, ("brainstem",)),
    "hippocampus": ("hippocampus", ("anterior hippocampus", "posterior hippocampus")),
    "left ventricle": ("left_ventricle", ("left ventricle",)),
}
#: Sides of the training patches, in voxels of the model's grid.
PATCHES = {"hippocampus": 32, "left_ventricle": 40}
LEAVE, INTERPOLATE, LEARN = MODES = ("leave", "interpolate", "learn here")
#: Structures in fewer slices than twice those that are drawn leave too little to redraw.
_LEAST_SLICES = 2


def cases_of(options: Namespace, data: Any, task: str) -> list[Case]:
    """Return the scans of a task."""
    source, _ = TASKS[task]
    whole = data.datasets[read_study(STUDY).tasks[source].collection]
    if source != HEAD_NECK:
        chosen = data.selections[source]
        # Of a patient's scans only the first: those are the more alike.
        ids = chosen.pool[options.learn :] if options.half == "recipe" else chosen.test
        first = {case.group: case for case in reversed([whole.case(id) for id in ids])}
        return list(reversed(first.values()))[: options.scans]
    known = sorted(load_description(find_model(None)).metrics["validation"]["ids"])
    half = known[::2] if options.half == "recipe" else known[1::2]
    return [whole.case(id) for id in half if id in whole.ids]


def model_of(options: Namespace, data: Any, task: str) -> Model:
    """Return the model of a task, fine-tuned first where the bundled one does not know its structures."""
    source, names = TASKS[task]
    if source == HEAD_NECK:
        return load_model(find_model(None))
    tail_steps, steps = options.steps
    folder = options.work / f"model-{source}-{options.learn}-{tail_steps}-{steps}"
    note = folder / "version.txt"
    if not note.exists():
        whole = data.datasets[read_study(STUDY).tasks[source].collection]
        dataset = only_structures(whole, names)
        cases = [dataset.case(id) for id in data.selections[source].pool[: options.learn]]
        folder.mkdir(parents=True, exist_ok=True)
        project = corrected_project(folder / "project", cases, dataset.label_set)
        request = FineTuneRequest(
            project,
            name="tuned",
            modality=dataset.modality,
            device=options.device,
            library=folder / "library",
            promote=True,
            most_folds=2,
            configuration=FineTuningConfiguration(patch=PATCHES[source]),
        ).with_steps(tail_steps, steps)
        note.write_text(str(finetune(request).version.path), encoding="utf-8")
    return load_model(Path(note.read_text(encoding="utf-8")))


def measure_case(
    options: Namespace, segmenter: Segmenter, tasks: Sequence[str], case: Case, label_set: LabelSet
) -> None:
    """Segment one scan, let the person draw the structures of the tasks in all ways, and write a line for each."""
    scan = read_scan(case.image)
    truth_zyx = sitk.GetArrayFromImage(read_label_map_on(scan, case.labels))
    wanted = [
        (task, name, slices)
        for task in tasks
        for name in TASKS[task][1]
        for slices in options.slices
        if name in case.annotated and (task, case.id, name, slices) not in options.done
    ]
    if not wanted:
        return
    found = segmented(options.work / "segmented" / TASKS[tasks[0]][0], case, scan, segmenter)
    for task, name, slices in wanted:
        structure = label_set.find(name)
        assert structure is not None
        truth = truth_zyx == structure.label
        if np.count_nonzero(truth.any(axis=(1, 2))) >= _LEAST_SLICES * slices:
            line = {"task": task, "case": case.id, "structure": name, "slices": slices, "half": options.half}
            line |= {"precision": options.precision}
            for result in measure_structure(options, found, truth, name, slices):
                add_line(options.output, line | result)
            print(task, case.id, name, slices, flush=True)


def segmented(folder: Path, case: Case, scan: sitk.Image, segmenter: Segmenter) -> Segmented:
    """Segment a scan and keep its features, unless a folder holds both."""
    model, features, labels = segmenter.model, folder / f"{case.id}.features", folder / f"{case.id}.nrrd"
    if labels.exists() and load_features(features, scan_key(scan), model_key(model)) is not None:
        found = Segmentation(sitk.ReadImage(str(labels)), model.description.label_set, "kept", 0.0)
        return Segmented(scan, found, model, features)
    keeper = FeatureKeeper()
    found = segmenter.segment_within(Task(), scan, keeper=keeper)
    assert keeper.kept is not None
    here = Segmented.keeping(scan, found, model, keeper.kept, features)
    sitk.WriteImage(found.label_map, str(labels), True)
    return here


def measure_structure(
    options: Namespace, here: Segmented, truth: np.ndarray, name: str, slices: int
) -> Iterator[dict[str, Any]]:
    """Let the person draw some slices of a structure, and yield what each way of going on takes."""
    scan, found = here.scan, here.found
    x_mm, y_mm, z_mm = scan.GetSpacing()
    spacing = (z_mm, y_mm, x_mm)
    person = Person(options.precision, worth_correcting=0.0, seed=1)
    label = found.label_set.structures[found.label_set.channel(name) - 1].label
    labels = sitk.GetArrayFromImage(found.label_map)
    drawn = draw_some_slices(labels == label, truth, spacing, person, slices)
    labels[labels == label] = 0
    labels[drawn.mask_zyx] = label
    started = time.process_time()
    learned = learn_here(
        scan,
        image_like(labels, scan),
        image_like(judged_mask(drawn, truth.shape), scan),
        here.model,
        [name],
        names=found.label_set,
        features=here.features,
        recipe=options.recipe,
    )
    seconds = round(time.process_time() - started, 2)
    masks = {
        LEAVE: (drawn.mask_zyx, drawn.path_mm),
        INTERPOLATE: (drawn.interpolated_zyx, drawn.interpolated_path_mm),
        LEARN: (sitk.GetArrayFromImage(learned.label_map) == label, drawn.path_mm),
    }
    for tolerance in options.tolerance_voxels:
        for mode, (mask_zyx, path_mm) in masks.items():
            until = replace(person, tolerance_voxels=tolerance)
            result = {"tolerance_voxels": tolerance, "mode": mode}
            result |= finished(mask_zyx, truth, spacing, until, drawn, path_mm)
            if mode == LEARN:
                weight, kept = learned.structures[0].weight, learned.features_kept
                result |= {"seconds": seconds, "weight": round(weight, 3), "features_kept": kept}
            yield result


def finished(
    mask_zyx: np.ndarray,
    truth_zyx: np.ndarray,
    spacing_zyx_mm: tuple[float, float, float],
    person: Person,
    drawn: SomeSlices,
    path_mm: float,
) -> dict[str, Any]:
    """Return how good a result is where nothing was judged, and what the person still draws."""
    rest = np.moveaxis(np.zeros(truth_zyx.shape, bool), drawn.axis, 0)
    rest[~drawn.judged] = True
    region = np.moveaxis(rest, 0, drawn.axis)
    mask, truth = mask_zyx & region, truth_zyx & region
    both, sizes = (int(np.count_nonzero(one)) for one in (mask & truth, np.stack([mask, truth])))
    dice = 2 * both / max(1, sizes)
    tolerance_mm = person.tolerance_voxels * min(spacing_zyx_mm)
    more = draw_structure(mask_zyx, truth_zyx, spacing_zyx_mm, person)
    return {
        "rest_dice": round(dice, 4),
        "rest_surface_dice": round(surface_dice(mask_zyx, truth_zyx, spacing_zyx_mm, tolerance_mm, region), 4),
        "slices_path_m": round(path_mm / 1000, 4),
        "rest_path_m": round(more.path_mm / 1000, 4),
        "rest_slices": more.slices,
    }


def is_asked_for(options: Namespace, line: dict[str, Any]) -> bool:
    """Return whether a line was measured with the same scans and one of the targets."""
    return bool(line["half"] == options.half and line["tolerance_voxels"] in options.tolerance_voxels)


def overview(lines: list[dict[str, Any]]) -> str:
    """Return the table of all that is drawn, by tolerance, number of slices and task; surface Dice by mode."""
    rows = []
    groups = dict.fromkeys((line["tolerance_voxels"], line["slices"]) for line in lines)
    for tolerance, slices in sorted(groups):
        for task in TASKS:
            some = [
                line
                for line in lines
                if (line["tolerance_voxels"], line["slices"], line["task"]) == (tolerance, slices, task)
            ]
            if not some:
                continue
            of = {mode: [line for line in some if line["mode"] == mode] for mode in MODES}
            means = {mode: drawn_in_all_mm(lines) for mode, lines in of.items()}
            others = min(means[LEAVE], means[INTERPOLATE])
            agreement = (float(np.mean([line["rest_surface_dice"] for line in of[mode]])) for mode in MODES)
            rows.append(
                (
                    f"{tolerance:g}",
                    str(slices),
                    task,
                    str(len(of[LEARN])),
                    *(f"{means[mode]:.0f}" for mode in MODES),
                    f"{100 * (means[LEARN] / others - 1):+.0f} %",
                    "  ".join(f"{one:.2f}" for one in agreement),
                )
            )
    header = (
        "tolerance", "slices", "task", "structures", *(f"{mode}, mm" for mode in MODES), "vs. the better",
        "surface Dice of the rest",
    )  # fmt: skip
    return table(header, rows)


def drawn_in_all_mm(lines: Sequence[dict[str, Any]]) -> float:
    """Return the mean contour that is drawn, the first slices and the rest."""
    return 1000 * float(np.mean([line["slices_path_m"] + line["rest_path_m"] for line in lines]))


def report(lines: list[dict[str, Any]]) -> str:
    """Return the table of the reported scans, by task, number of slices and mode."""
    rows = []
    groups = {(line["task"], line["slices"], line["mode"]) for line in lines}
    for task, slices, mode in sorted(groups, key=lambda one: (list(TASKS).index(one[0]), one[1], MODES.index(one[2]))):
        some = [line for line in lines if (line["task"], line["slices"], line["mode"]) == (task, slices, mode)]

        def mean(name: str, of: list[dict[str, Any]] = some) -> float:
            return float(np.mean([line[name] for line in of]))

        rows.append(
            (
                task,
                str(slices),
                mode,
                str(len(some)),
                f"{mean('rest_dice'):.3f}",
                f"{mean('rest_surface_dice'):.3f}",
                f"{1000 * mean('rest_path_m'):.0f}",
                f"{mean('rest_slices'):.1f}",
                f"{drawn_in_all_mm(some):.0f}",
                f"{mean('seconds'):.1f}" if mode == LEARN else "",
            )
        )
    header = (
        "task", "slices", "then", "structures", "Dice of the rest", "surface Dice", "then drawn, mm", "slices drawn",
        "in all, mm", "processor s",
    )  # fmt: skip
    return table(header, rows)


def main() -> None:
    """Measure what is missing, or print what was measured."""
    parser = command_line(__doc__, device=True)
    parser.add_argument("--report", action="store_true", help="print the table of what was measured")
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="features, projects and models")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--half", choices=("recipe", "report"), default="report")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--slices", type=int, nargs="+", default=[4], help="slices that are drawn first (default: 4)")
    parser.add_argument("--scans", type=int, default=10, help="test scans of other collections (default: 10)")
    parser.add_argument("--learn", type=int, default=6, help="cases that they are fine-tuned on (default: 6)")
    parser.add_argument(
        "--steps",
        type=int,
        nargs=2,
        default=(100, 200),
        metavar=("LAST", "ALL"),
        help="steps of fine-tuning the last layers and all of them (default: 100 200)",
    )
    parser.add_argument("--precision", type=float, default=0.5, help="of the hand, in pixels (default: 0.5)")
    parser.add_argument(
        "--tolerance-voxels", type=float, nargs="+", default=[1.0, 2.0], help="of the surface Dice (default: 1 and 2)"
    )
    parser.add_argument("--ridge", type=float, default=Recipe.ridge)
    parser.add_argument("--untouched", type=float, default=Recipe.untouched)
    parser.add_argument("--trust", type=float, default=Recipe.trust)
    options = parser.parse_args()
    options.recipe = Recipe(options.untouched, options.ridge, trust=options.trust)
    if not options.report:
        measure(options)
    lines = [line for line in read_lines(options.output) if is_asked_for(options, line)]
    if len(options.tolerance_voxels) > 1:
        print(overview(lines))
    else:
        print(report(lines))


def measure(options: Namespace) -> None:
    """Measure the tasks that are asked for."""
    if options.data is None or options.work is None:
        raise SystemExit("Name the folders --data and --work.")
    options.work.mkdir(parents=True, exist_ok=True)
    study = read_study(STUDY)
    sources = dict.fromkeys(TASKS[task][0] for task in options.tasks)
    collections = {study.tasks[source].collection for source in sources}
    # The head-and-neck scans are those that the model names: nothing is selected by reading all labels.
    study = replace(
        study,
        collections={name: one for name, one in study.collections.items() if name in collections},
        tasks={name: one for name, one in study.tasks.items() if name in sources and name != HEAD_NECK},
    )
    data = prepare_data(study, options.data, options.work / "datasets")
    options.done = {
        (line["task"], line["case"], line["structure"], line["slices"])
        for line in read_lines(options.output)
        if line["mode"] == LEARN and is_asked_for(options, line)
    }
    for source in sources:
        tasks = [task for task in options.tasks if TASKS[task][0] == source]
        label_set = data.datasets[read_study(STUDY).tasks[source].collection].label_set
        segmenter = Segmenter(model_of(options, data, tasks[0]), options.device, features=True)
        for case in cases_of(options, data, tasks[0]):
            measure_case(options, segmenter, tasks, case, label_set)


if __name__ == "__main__":
    main()
