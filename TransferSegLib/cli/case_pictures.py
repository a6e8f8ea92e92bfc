"""``--pictures`` of ``dataset check`` and ``cases check``: a small picture of every case, and sheets of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib.errors import ScanError, TransferSegError
from TransferSegLib.output_checks import check_output_folder
from TransferSegLib.progress import Task
from TransferSegLib.wording import counted

if TYPE_CHECKING:
    from SimpleITK import Image

    from TransferSegLib.datasets.dataset import Case, Dataset
    from TransferSegLib.datasets.validate import Problem
    from TransferSegLib.pictures.contact_sheet import CasePicture

_SHEETS = "contact-sheet-{number:02d}.png"


def add_pictures_option(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help="also draw image and label map of every case, and sheets of these pictures to look through",
    )


def check_pictures_folder(folder: Path | None) -> None:
    """Raise TransferSegError for a folder that cannot be written, before any work."""
    if folder is not None:
        check_output_folder(folder)


def draw_cases(dataset: Dataset, problems: Sequence[Problem], folder: Path, task: Task) -> str:
    """Draw every case of a dataset, those with problems first, and return a line on what was written."""
    from TransferSegLib.pictures.contact_sheet import COLUMNS, ROWS, write_sheet
    from TransferSegLib.pictures.drawing import write_png

    by_case = {case.id: [one for one in problems if one.case == case.id] for case in dataset.cases}
    cases = sorted(dataset.cases, key=lambda case: _rank(by_case[case.id]))
    on_a_sheet = COLUMNS * ROWS
    sheets = -(-len(cases) // on_a_sheet)
    pictures: list[CasePicture] = []
    written = 0
    for case, part in task.named("Drawing cases").each(cases, lambda case: case.id):
        part.check()
        picture = _picture_of(case, dataset, by_case[case.id], part)
        try:
            write_png(picture.canvas, folder / "cases" / f"{case.id}.png")
            pictures.append(picture)
            if len(pictures) == on_a_sheet or case is cases[-1]:
                written += 1
                title = f"{dataset.name or dataset.folder.name}: sheet {written} of {sheets}"
                write_sheet(pictures, dataset.label_set, title, folder / _SHEETS.format(number=written))
                pictures.clear()
        except ScanError as error:
            raise TransferSegError(str(error)) from error
    return f"{counted(len(cases), 'picture')} and {counted(sheets, 'contact sheet')} are in {folder}"


def _rank(problems: Sequence[Problem]) -> int:
    """Return which cases come first: those with errors, then those with warnings."""
    severities = {one.severity for one in problems}
    return 0 if "error" in severities else 1 if severities else 2


def _picture_of(case: Case, dataset: Dataset, problems: Sequence[Problem], task: Task) -> CasePicture:
    from TransferSegLib.pictures.contact_sheet import case_picture

    notes = [one.what for one in sorted(problems, key=lambda one: one.severity)]
    severity = ("error", "warning", "")[_rank(problems)]
    label_set = dataset.label_set
    try:
        scan = _read(case, task)
        return task.wait(lambda: case_picture(scan, label_set, case.id, notes, severity), 1.0)
    except ScanError as error:
        return case_picture(None, label_set, case.id, notes or [str(error)], "error")


def _read(case: Case, task: Task) -> tuple[Image, Image]:
    """Return image and label map on the image's grid; raises ScanError."""
    from TransferSegLib.images.lattice import to_scan_lattice
    from TransferSegLib.images.read import read_label_map, read_scan

    reading, reading_labels, _ = task.split(2, 1, 1)
    image = read_scan(case.image, task=reading)
    return image, to_scan_lattice(read_label_map(case.labels, task=reading_labels), image, "the label map")
