"""``transferseg dataset``: make a dataset from folders, check it, show what is in it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from TransferSegLib.cli.case_pictures import add_pictures_option, check_pictures_folder, draw_cases
from TransferSegLib.cli.options import add_overlap_option
from TransferSegLib.cli.reporting import task_shown
from TransferSegLib.errors import DatasetError
from TransferSegLib.output_checks import check_output_folder
from TransferSegLib.wording import table


def add_parser(subparsers: Any) -> None:
    """Add the verb with its own verbs make, make-head-neck, check and show."""
    parser = subparsers.add_parser(
        "dataset",
        help="make, check and show datasets",
        description="A dataset is a folder whose dataset.json lists scans, label maps and what is annotated in each.",
    )
    verbs = parser.add_subparsers(dest="dataset_command", metavar="COMMAND", title="commands", required=True)
    _add_make(verbs)
    head_neck = verbs.add_parser("make-head-neck", help="make the dataset of the Open-KBP head and neck CT")
    head_neck.add_argument("source", type=Path, metavar="FOLDER", help="folder with cases/, cases.csv and labels.json")
    _add_output(head_neck)
    check = verbs.add_parser("check", help="read every file and report every problem of every case")
    check.add_argument("folder", type=Path, metavar="FOLDER", help="folder with a dataset.json")
    add_pictures_option(check)
    show = verbs.add_parser("show", help="show structures and how often they are annotated")
    show.add_argument("folder", type=Path, metavar="FOLDER", help="folder with a dataset.json")
    parser.set_defaults(run=run)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where dataset.json is written")
    parser.add_argument("--copy", action="store_true", help="copy the files there (default: refer to them)")
    parser.add_argument("--replace", action="store_true", help="replace an existing dataset.json")


def _add_make(verbs: Any) -> None:
    make = verbs.add_parser(
        "make",
        help="make a dataset from folders of images and label maps",
        description="Pairs images and label maps by name: the same name in two folders, case_0000 with case (nnU-Net), "
        "case_ct or case_image with case_label or case_seg. Other names: give patterns.",
    )
    make.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="folder of images or DICOM folders")
    make.add_argument(
        "--labels", type=Path, metavar="FOLDER", help="folder of label maps (default: the images' folder)"
    )
    _add_output(make)
    make.add_argument(
        "--structures",
        type=Path,
        metavar="FILE",
        help='JSON file like {"1": "spleen"} or {"spleen": 1}, or nnU-Net\'s dataset.json (default: the names in '
        ".seg.nrrd files, else a labels.json or dataset.json beside the label maps)",
    )
    make.add_argument(
        "--annotated",
        default="present",
        metavar="present|all|FILE",
        help="which structures are annotated: those with voxels in a case (present, the default), all of them in every "
        "case, or as a CSV file states: a row per case, a column per structure, 0 or empty for not annotated",
    )
    make.add_argument("--image-pattern", metavar="PATTERN", help="how images are named, e.g. {case}_ct or {case}/ct")
    make.add_argument("--label-pattern", metavar="PATTERN", help="how label maps are named, e.g. {case}_label")
    make.add_argument(
        "--group",
        metavar="REGEX",
        help="finds the patient in a case's name, e.g. '^(.+)_ph'; cases of one patient are never split between "
        "training and validation (default: every case is its own patient)",
    )
    add_overlap_option(make)
    make.add_argument("--keep-names", action="store_true", help="do not replace names by those of the catalogue")
    make.add_argument("--name", default="", help="name of the dataset (default: the output folder's)")
    make.add_argument("--description", default="", help="one line about the dataset")
    make.add_argument("--license", default="", help="licence of the images and labels")
    make.add_argument("--modality", default="", help="e.g. CT or MR")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb and return the exit code: 2 when a checked dataset has errors."""
    verb = {"make": _make, "make-head-neck": _make_head_neck, "check": _check, "show": _show}
    return verb[arguments.dataset_command](arguments)


def _make(arguments: argparse.Namespace) -> int:
    from TransferSegLib.datasets.make import DatasetFacts, FolderSource, dataset_from_folders

    check_output_folder(arguments.output, DatasetError)
    annotated = arguments.annotated
    source = FolderSource(
        images=arguments.images,
        labels=arguments.labels or arguments.images,
        structures=arguments.structures,
        annotated=annotated if annotated in ("present", "all") else Path(annotated),
        image_pattern=arguments.image_pattern,
        label_pattern=arguments.label_pattern,
        group_pattern=arguments.group,
        keep_names=arguments.keep_names,
        overlap_priority=tuple(arguments.overlap_priority),
    )
    facts = DatasetFacts(arguments.name, arguments.description, arguments.license, arguments.modality)
    with task_shown() as task:
        made = dataset_from_folders(
            source,
            arguments.output,
            facts,
            copy=arguments.copy,
            replace=arguments.replace,
            task=task,
        )
    _print_made(made)
    return 0


def _make_head_neck(arguments: argparse.Namespace) -> int:
    from TransferSegLib.datasets.openkbp import dataset_from_head_neck_ct

    check_output_folder(arguments.output, DatasetError)
    with task_shown() as task:
        made = dataset_from_head_neck_ct(
            arguments.source,
            arguments.output,
            copy=arguments.copy,
            replace=arguments.replace,
            task=task,
        )
    _print_made(made)
    return 0


def _print_made(made: Any) -> None:
    for note in made.notes:
        print(note)
    print(_description(made.dataset))
    print(f"\nWritten to {made.dataset.folder}. Check it with: transferseg dataset check '{made.dataset.folder}'")


def _check(arguments: argparse.Namespace) -> int:
    """Print every problem of a dataset; 2 when one of them is an error."""
    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.datasets.validate import check_dataset, has_errors, report

    check_pictures_folder(arguments.pictures)
    dataset = read_dataset(arguments.folder)
    with task_shown() as task:
        checking, drawing = task.split(1, 0 if arguments.pictures is None else 1)
        problems = check_dataset(dataset, checking)
        drawn = "" if arguments.pictures is None else draw_cases(dataset, problems, arguments.pictures, drawing)
    print("\n".join([report(problems), *([drawn] if drawn else [])]))
    return 2 if has_errors(problems) else 0


def _show(arguments: argparse.Namespace) -> int:
    from TransferSegLib.datasets.dataset import read_dataset

    print(_description(read_dataset(arguments.folder)))
    return 0


def _description(dataset: Any) -> str:
    """Return a dataset as text: its facts and a table of its structures."""
    lines = [dataset.name or str(dataset.folder)]
    lines += [
        f"{what}: {value}"
        for what, value in (("", dataset.description), ("modality", dataset.modality), ("licence", dataset.license))
        if value
    ]
    lines = [line.removeprefix(": ") for line in lines]
    groups = len({case.group for case in dataset.cases})
    lines.append(f"{len(dataset)} cases of {groups} patients")
    counts = dataset.annotated_counts()
    rows = [
        (s.name, str(s.label), str(counts[s.name]), "" if s.terminology is None else s.terminology[0])
        for s in dataset.label_set
    ]
    return "\n".join([*lines, "", table(("structure", "label", "annotated in", "SNOMED CT"), rows)])
