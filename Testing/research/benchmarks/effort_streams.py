"""Measure what a simulated person has to draw, scan after scan, with and without a model that learns from it.

    python3 Testing/run.py benchmark effort_streams --data DATA --work WORK --base MODEL --held-out study
    python3 Testing/run.py benchmark effort_streams --report [--picture FILE.png]

DATA holds the study's collections. A stream is a row of scans of different patients of one task, which the person
(``common/annotator.py``) corrects one after the other until the surface Dice is 0.95 at 2 voxels. The modes:

- interpolate: no model. The person draws every k-th slice and the computer fills the slices between, for several k; the
  report takes the k with which the task needs least;
- base: every scan starts from the prediction of the base;
- tune 1, tune 2, tune 4: corrected scans become cases of a project, and after every 1, 2 or 4 of them the model is
  fine-tuned for --minutes on all cases so far. The next scans start from its current version;
- base + learn here, tune 2 + learn here: of a prediction that needs work the person corrects four slices, lets Learn
  here redraw the others (``common/learning_person.py``) and corrects what is left.

Where there is no prediction, or one of which too little is right, the person interpolates with the same k as above.

Scans must be new to the base. ``--held-out study`` takes those that the study keeps from its bases (use such a base),
``--held-out validation`` those that the base was validated on (use it with the bundled model); scans of other
collections are new to both. A line of the output file holds what one scan took; what is there is not repeated, and a
stream that was interrupted continues, in the folder WORK.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from Testing.research.common.annotator import Drawn, Person, draw_structure
from Testing.research.common.cases import add_line, read_lines
from Testing.research.common.effort_report import draw_report, print_report
from Testing.research.common.learning_person import Segmented, draw_and_learn
from Testing.research.common.measuring import command_line
from Testing.research.study.case_selection import Selection, only_structures, training_set
from Testing.research.study.configuration_file import read_study
from Testing.research.study.study_data import prepare_data
from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.revisions import ModelReference
from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import TrainingError, TransferSegError
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.images.label_values import image_like
from TransferSegLib.images.read import read_label_map_on, read_scan
from TransferSegLib.inference.kept_features import FeatureKeeper
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_description, load_model
from TransferSegLib.models.versions.history import history
from TransferSegLib.models.versions.state import version_name
from TransferSegLib.progress import Task

RESULTS = Path(__file__).with_suffix(".jsonl")
STUDY = Path(__file__).parents[1] / "study.json"
PAROTIDS = ("right parotid gland", "left parotid gland")
#: By task: the task of the study whose cases it takes, and its structures.
TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "hippocampus": ("hippocampus", ("anterior hippocampus", "posterior hippocampus")),
    "left ventricle": ("left_ventricle", ("left ventricle",)),
    "mandible": ("mandible", ("mandible",)),
    "larynx": ("larynx", ("larynx",)),
    "parotids": ("mandible", PAROTIDS),
}
SLICE_STEPS = (2, 3, 4, 6, 8, 12)
INTERPOLATE, BASE, TUNE = "interpolate", "base", "tune"
#: What is added to the name of a mode in which the person uses Learn here, after so many slices.
LEARNING, LEARNING_SLICES = " + learn here", 4
MODES = (INTERPOLATE, BASE, f"{TUNE} 1", f"{TUNE} 2", f"{TUNE} 4", BASE + LEARNING, f"{TUNE} 2{LEARNING}")
#: The model that a stream fine-tunes, in a library of its own.
TUNED = "stream"


@dataclass(frozen=True)
class Stream:
    """The scans of a task in their order, for one seed; ``folder`` is kept between calls."""

    task: str
    seed: int
    dataset: Dataset
    ids: tuple[str, ...]
    folder: Path
    person: Person

    @property
    def structures(self) -> tuple[str, ...]:
        """The structures that the person draws."""
        return self.dataset.label_set.names


@dataclass(frozen=True)
class Prediction:
    """What a scan starts from: masks (zyx) by structure, without those that the model does not know."""

    masks: dict[str, np.ndarray]
    model: ModelReference | None
    #: With the features that Learn here needs; None where the person works without it.
    segmented: Segmented | None = None


def stream_of(options: Namespace, data: Any, task: str, seed: int) -> Stream:
    """Choose the scans of a stream; raises TransferSegError when there are too few that are new to the base."""
    source, names = TASKS[task]
    selection = data.selections[source]
    whole = data.datasets[read_study(STUDY).tasks[source].collection]
    pool = (*selection.pool, *selection.test)
    if options.held_out == "validation":
        known = load_description(find_model(options.base)).metrics.get("validation", {}).get("ids", [])
        pool = tuple(id for id in known if id in whole.ids) or pool
    dataset = only_structures(whole, names)
    drawn = [id for id in pool if id in dataset.ids and set(names) <= set(dataset.case(id).annotated)]
    ids = training_set(dataset, Selection((), tuple(drawn)), 0, seed)
    patients: dict[str, str] = {}
    for id in ids:
        patients.setdefault(dataset.case(id).group, id)
    chosen = tuple(patients.values())[: options.scans]
    if len(chosen) < 2:
        raise TransferSegError(
            f"The task '{task}' has {len(chosen)} patients with {', '.join(names)} that are held out."
        )
    person = Person(options.precision, options.target, options.tolerance_voxels, seed=seed)
    return Stream(task, seed, dataset, chosen, options.work / "streams" / f"{task}-{seed}", person)


def run_stream(options: Namespace, stream: Stream, mode: str, every: int) -> None:
    """Correct the scans of a stream that have no line yet."""
    key = {"task": stream.task, "mode": mode, "seed": stream.seed, "every": every} | settings(options, mode)
    done = {line["scan"] for line in read_lines(options.output) if all(line.get(name) == key[name] for name in key)}
    person = replace(stream.person, every=every)
    folder = stream.folder / f"{mode.replace(' ', '-')}-k{every}-{options.minutes:g}min"
    model, loaded = "", None
    for number, id in enumerate(stream.ids, start=1):
        if number in done:
            continue
        path = None if mode == INTERPOLATE else find_model(options.base)
        if mode.startswith(TUNE):
            path = tuned_model(options, stream, folder, number, int(mode.split()[1]))
        if path is not None and str(path) != model:
            learns = mode.endswith(LEARNING)
            model, loaded = str(path), Segmenter(load_model(path), options.device, features=learns)
        project = folder if mode.startswith(TUNE) else None
        features = folder / "features" if mode.endswith(LEARNING) else None
        line = correct_scan(stream, stream.dataset.case(id), person, loaded, project, features)
        add_line(options.output, key | {"scan": number, "case": id} | line)
        print(f"{stream.task}, {mode} (k {every}), scan {number}: {line['added_path_m']} m", flush=True)


def correct_scan(
    stream: Stream,
    case: Case,
    person: Person,
    segmenter: Segmenter | None,
    folder: Path | None,
    features: Path | None = None,
) -> dict[str, Any]:
    """Let the person draw one scan; with a folder, it becomes a case of the project there.

    With a folder of features the person uses Learn here.
    """
    scan = read_scan(case.image)
    truth_zyx = sitk.GetArrayFromImage(read_label_map_on(scan, case.labels))
    x_mm, y_mm, z_mm = scan.GetSpacing()
    prediction = Prediction({}, None) if segmenter is None else predicted(segmenter, scan, stream.structures, features)
    made: dict[str, Drawn] = {}
    result_zyx = np.zeros(truth_zyx.shape, np.uint8)
    before_zyx = np.zeros(truth_zyx.shape, np.uint8)
    for structure in stream.dataset.label_set:
        start = prediction.masks.get(structure.name)
        truth, spacing = truth_zyx == structure.label, (z_mm, y_mm, x_mm)
        if start is None or prediction.segmented is None:
            drawn = draw_structure(start, truth, spacing, person)
        else:
            drawn = draw_and_learn(prediction.segmented, structure.name, truth, spacing, person, LEARNING_SLICES)
        made[structure.name] = drawn
        result_zyx[drawn.mask_zyx] = structure.label
        if start is not None:
            before_zyx[start] = structure.label
    line: dict[str, Any] = {
        "model": None if prediction.model is None else str(prediction.model),
        "added_path_m": round(sum(one.path_mm for one in made.values()) / 1000, 4),
        "slices": sum(one.slices for one in made.values()),
        "before": {name: round(one.before, 4) for name, one in made.items()},
        "after": {name: round(one.after, 4) for name, one in made.items()},
        "interpolated": [name for name, one in made.items() if one.interpolated],
    }
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        added = Project(folder / "project", create=True).add_case(
            scan,
            image_like(result_zyx, scan),
            stream.structures,
            structures=stream.dataset.label_set,
            prediction=image_like(before_zyx, scan),
            model=prediction.model,
            case_id=case.id,
            group=case.group,
            modality=stream.dataset.modality,
        )
        effort = added.revision.effort
        assert effort is not None
        line["kept_path_m"] = round(effort.added_path_mm / 1000, 4)
    return line


def predicted(segmenter: Segmenter, scan: sitk.Image, names: Sequence[str], features: Path | None = None) -> Prediction:
    """Return what a model makes of these structures in a scan; with a folder, its features are kept there."""
    description = segmenter.model.description
    reference = ModelReference(description.name, version_name(segmenter.model.path, description.version))
    if not any(description.label_set.find(name) for name in names):
        return Prediction({}, reference)
    keeper = None if features is None else FeatureKeeper()
    found = segmenter.segment_within(Task(), scan, keeper=keeper)
    labels_zyx = sitk.GetArrayFromImage(found.label_map)
    known = {name: found.label_set.find(name) for name in names}
    masks = {name: labels_zyx == one.label for name, one in known.items() if one is not None}
    if features is None or keeper is None or keeper.kept is None:
        return Prediction(masks, reference)
    features.mkdir(parents=True, exist_ok=True)
    segmented = Segmented.keeping(scan, found, segmenter.model, keeper.kept, features / "last.features")
    return Prediction(masks, reference, segmented)


def tuned_model(options: Namespace, stream: Stream, folder: Path, number: int, after: int) -> Path:
    """Return the model for the scan of this number, fine-tuned first if it is due.

    What is done is noted in the folder. A fine-tuning that is refused leaves the model as it is.
    """
    library, learned = folder / "library", number - 1
    note = folder / f"tuned-after-{learned}.json"
    if learned and learned % after == 0 and not note.exists():
        request = FineTuneRequest(
            folder / "project",
            model=str(current_model(library) or find_model(options.base)),
            name=TUNED,
            minutes=options.minutes,
            configuration=replace(options.configuration, seed=stream.seed),
            modality=stream.dataset.modality,
            device=options.device,
            library=library,
            promote=True,
        )
        if options.steps is not None:
            request = request.with_steps(*options.steps)
        try:
            tuned = finetune(request)
            outcome = {"version": tuned.version.number, "answer": str(tuned.evidence.answer), "seconds": tuned.seconds}
        except TrainingError as error:
            outcome = {"refused": str(error)}
            print(f"{stream.task}: fine-tuning after {learned} scans was refused: {error}", flush=True)
        write_text_durably(note, json.dumps(outcome))
    return current_model(library) or find_model(options.base)


def current_model(library: Path) -> Path | None:
    """Return the folder of the version in use, None before the first fine-tuning."""
    if not (library / TUNED).is_dir():
        return None
    versions = history(TUNED, library)
    return None if versions.current is None else versions.find(versions.current).path


def steps_between(options: Namespace, stream: Stream) -> int:
    """Return the k with which interpolating needs least in this stream, measuring what is missing."""
    for every in options.every:
        run_stream(options, stream, INTERPOLATE, every)
    lines = [
        line
        for line in read_lines(options.output)
        if (line["task"], line["mode"], line["seed"]) == (stream.task, INTERPOLATE, stream.seed)
        and all(line[name] == value for name, value in settings(options, INTERPOLATE).items())
    ]
    sums = {every: sum(one["added_path_m"] for one in lines if one["every"] == every) for every in options.every}
    return min(sums, key=lambda every: (sums[every], every))


def settings(options: Namespace, mode: str) -> dict[str, Any]:
    """Return what else makes lines comparable: the drawing, the choice of scans, the base, how long it learns."""
    learning = {"minutes": options.minutes, "steps": options.steps} if mode.startswith(TUNE) else {}
    drawing = {name: getattr(options, name) for name in ("precision", "target", "tolerance_voxels")}
    base = None if mode == INTERPOLATE else load_description(find_model(options.base)).name
    return drawing | {"held_out": options.held_out, "base": base, "minutes": 0.0, "steps": None} | learning


def main() -> None:
    """Do what is missing, or print what was measured."""
    parser = command_line(__doc__, device=True)
    parser.add_argument("--report", action="store_true", help="print the table of the streams so far")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="with --report: draw the curves (matplotlib)")
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="projects and models of the streams")
    parser.add_argument("--base", metavar="MODEL", help="name or folder (default: the bundled model)")
    parser.add_argument("--held-out", choices=("study", "validation"), default="study")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--scans", type=int, default=10, help="scans of a stream (default: 10)")
    parser.add_argument("--minutes", type=float, default=2.0, help="of a fine-tuning (default: 2)")
    parser.add_argument("--steps", type=int, nargs=2, metavar=("TAIL", "ALL"), help="steps in place of minutes")
    parser.add_argument(
        "--every", type=int, nargs="+", default=list(SLICE_STEPS), help="slice steps to interpolate with"
    )
    parser.add_argument("--precision", type=float, default=0.5, help="of the hand, in pixels (default: 0.5)")
    parser.add_argument("--target", type=float, default=0.95, help="surface Dice to reach (default: 0.95)")
    parser.add_argument("--tolerance-voxels", type=float, default=2.0, help="of the surface Dice (default: 2)")
    parser.set_defaults(configuration=FineTuningConfiguration())
    options = parser.parse_args()
    if not options.report:
        measure(options)
    print_report(read_lines(options.output))
    if options.picture is not None:
        draw_report(read_lines(options.output), options.picture)


def measure(options: Namespace) -> None:
    """Run the streams that are asked for."""
    if options.data is None or options.work is None:
        raise SystemExit("Name the folders --data and --work.")
    options.work.mkdir(parents=True, exist_ok=True)
    data = prepare_data(read_study(STUDY), options.data, options.work / "datasets")
    for seed in options.seeds:
        for task in options.tasks:
            stream = stream_of(options, data, task, seed)
            every = steps_between(options, stream)
            for mode in options.modes:
                if mode != INTERPOLATE:
                    run_stream(options, stream, mode, every)


if __name__ == "__main__":
    main()
