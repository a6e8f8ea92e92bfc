"""``transferseg cases effort``: what each corrected case had to be drawn, in the order in which they were done."""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib.cli.options import add_json_option
from TransferSegLib.cli.reporting import task_shown
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import TransferSegError
from TransferSegLib.output_checks import check_output_file
from TransferSegLib.wording import counted, local_time, table

if TYPE_CHECKING:
    from TransferSegLib.corrections.effort_curve import CaseOfCurve
    from TransferSegLib.evaluation.effort import DrawingEffort

_CSV_HEADER = (
    "scan", "case", "done_utc", "model", "version", "structure", "added_path_mm", "added_path_beyond_mm", "path_mm",
    "slices_touched", "slices", "surface_dice", "tolerance_mm",
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    add_json_option(parser)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write a line for every case and structure")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="also draw the curve")


def run_effort(arguments: argparse.Namespace) -> int:
    """Print a line per case, then the sum and the first and the last one in words."""
    from TransferSegLib.corrections.effort_curve import effort_curve, in_words
    from TransferSegLib.corrections.project import Project
    from TransferSegLib.pictures.drawing import check_png_path

    for file in (arguments.csv, arguments.picture):
        if file is not None:
            check_output_file(file)
    if arguments.picture is not None:
        check_png_path(arguments.picture)
    project = Project(arguments.project)
    with task_shown() as task:
        curve = effort_curve(project.state(), task)
    if arguments.csv is not None:
        _write(arguments.csv, _csv_text(curve))
    if arguments.picture is not None:
        _draw(curve, arguments.picture)
    if arguments.json:
        print(json.dumps({"project": str(project.folder), "cases": [case.to_json() for case in curve]}))
        return 0
    if not curve:
        print(f"The project in {project.folder} has no cases yet.")
        return 0
    print(_table(curve))
    print(f"\n{in_words(curve) or 'No case was added with the prediction that was corrected (--prediction).'}")
    return 0


def _table(curve: list[CaseOfCurve]) -> str:
    """Return a row per case and one with the sums."""
    rows = []
    added_mm = path_mm = touched = 0.0
    measured = [case.effort for case in curve if case.effort is not None]
    for number, case in enumerate(curve, start=1):
        effort = case.effort
        cells = [str(number), case.id, local_time(case.done)[:10], case.model_text, ", ".join(case.structures) or "-"]
        if effort is None:
            rows.append((*cells, "-", "-", "-", "-"))
            continue
        nsd = "-" if effort.surface_dice is None else f"{effort.surface_dice:.3f}"
        rows.append(
            (
                *cells,
                _m(effort.added_path_mm),
                _part(effort.added_path_mm, effort.path_mm),
                str(effort.slices_touched),
                nsd,
            )
        )
        added_mm, path_mm = added_mm + effort.added_path_mm, path_mm + effort.path_mm
        touched += effort.slices_touched
    total = (
        "",
        "all",
        "",
        "",
        counted(len(measured), "case"),
        _m(added_mm),
        _part(added_mm, path_mm),
        f"{touched:.0f}",
        "",
    )
    header = (
        "scan", "case", "date", "started from", "structures", "added path, m", "of contour", "slices touched",
        "surface Dice",
    )  # fmt: skip
    return table(header, [*rows, total])


def _m(length_mm: float) -> str:
    return f"{length_mm / 1000:.2f}"


def _part(added_mm: float, path_mm: float) -> str:
    """Return which part of the contour had to be drawn."""
    return f"{100 * added_mm / path_mm:.0f} %" if path_mm else "-"


def _draw(curve: list[CaseOfCurve], path: Path) -> None:
    from TransferSegLib.corrections.effort_curve import metres
    from TransferSegLib.pictures.bars import Bar, draw_bars

    bars = [
        Bar(
            str(number),
            None if case.effort is None else case.effort.added_path_mm / 1000,
            "-" if case.effort is None else metres(case.effort.added_path_mm),
            f"started from {case.model_text}" if case.model else "the model is not known",
        )
        for number, case in enumerate(curve, start=1)
    ]
    if not bars:
        raise TransferSegError("The project has no cases yet: there is nothing to draw.")
    draw_bars(bars, "Contour drawn per scan", "added path, m; scans in the order in which they were corrected", path)


def _csv_text(curve: list[CaseOfCurve]) -> str:
    """Return a line for every case and structure; cases without a prediction have none."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(_CSV_HEADER)
    for number, case in enumerate(curve, start=1):
        if case.effort is not None:
            model = ("", "") if case.model is None else (case.model.name, case.model.version)
            for name, effort in case.effort.structures.items():
                writer.writerow([number, case.id, case.done, *model, name, *_numbers(effort)])
    return stream.getvalue()


def _numbers(effort: DrawingEffort) -> list[float | int | str]:
    lengths = [effort.added_path_mm, effort.added_path_beyond_mm, effort.path_mm]
    nsd = "" if effort.surface_dice is None else effort.surface_dice
    return [*lengths, effort.slices_touched, effort.slices, nsd, effort.tolerance_mm]


def _write(file: Path, text: str) -> None:
    """Write a file whole or not at all; raises TransferSegError."""
    try:
        write_text_durably(file.resolve(), text)
    except OSError as error:
        raise TransferSegError(f"{file} cannot be written: {error.strerror}. Choose another place.") from error
