"""``transferseg evaluate``: how good a model is on the cases of a dataset, on each scan's own grid."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.cli.options import add_device_option
from TransferSegLib.cli.reporting import task_shown
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import TransferSegError
from TransferSegLib.output_checks import check_output_file
from TransferSegLib.wording import counted, table

if TYPE_CHECKING:
    from TransferSegLib.evaluation.predict_and_score import Summary
    from TransferSegLib.evaluation.scores import Score


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a model on the annotated structures of a dataset",
        description="Segment the cases of a dataset and compare every annotated structure with its label.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folder with a dataset.json")
    parser.add_argument("--model", help="model name, folder or .zip (default: the bundled model)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--cases", nargs="+", metavar="ID", help="only these cases (default: all)")
    which.add_argument(
        "--validation",
        action="store_true",
        help="only the cases on which the model was validated, as its description states by their ids",
    )
    add_device_option(parser)
    parser.add_argument(
        "--surface",
        action="store_true",
        help="also measure the normalised surface Dice (NSD) and the 95%% Hausdorff distance (HD95, mm)",
    )
    parser.add_argument(
        "--tolerance-mm",
        type=_tolerance,
        metavar="MM",
        help="measure them with this tolerance of the NSD (default: 3 mm, about what two experts differ by)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="also write every case's numbers to a file: Dice by case and structure, with surfaces all numbers",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write a line for every case and structure")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a table of mean, median, smallest and number of cases by structure."""
    from TransferSegLib.cli.evaluated_cases import learned_note, validation_cases
    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.evaluation.predict_and_score import evaluate, summarise
    from TransferSegLib.evaluation.scores import DEFAULT_TOLERANCE_MM
    from TransferSegLib.inference.segment import Segmenter
    from TransferSegLib.models.locate import find_model
    from TransferSegLib.models.store import load_model

    tolerance_mm = arguments.tolerance_mm
    if tolerance_mm is None and arguments.surface:
        tolerance_mm = DEFAULT_TOLERANCE_MM
    _check_files(arguments.json, arguments.csv)
    path = find_model(arguments.model)
    model, dataset, note = load_model(path), read_dataset(arguments.data), ""
    if arguments.validation:
        dataset, note = validation_cases(model.description, dataset)
    elif arguments.cases:
        dataset = dataset.select(arguments.cases)
    with task_shown() as task:
        looking, segmenting = task.split(1, 20)
        note = note or learned_note(path, model.description, dataset, looking)
        segmenter = Segmenter(model, arguments.device)
        results = evaluate(segmenter, dataset, tolerance_mm, segmenting)
    cases = counted(len(dataset), "case")
    print(f"Dice on each scan's own grid, {cases} of '{dataset.name}', model '{model.description.name}'")
    if note:
        print(note)
    print(_table(summarise(results, model.description.label_set.names), tolerance_mm))
    if arguments.json is not None:
        content: dict[str, dict[str, Any]] = {
            case: {name: score.dice if tolerance_mm is None else score.to_json() for name, score in scores.items()}
            for case, scores in results.items()
        }
        _write(arguments.json, json.dumps(content, indent=1) + "\n")
    if arguments.csv is not None:
        groups = {case.id: case.group for case in dataset.cases}
        _write(arguments.csv, _csv_text(results, groups, tolerance_mm))
    return 0


def _table(summary: Mapping[str, Summary], tolerance_mm: float | None) -> str:
    """Return the table to print; surfaces have columns when they were measured."""
    header = ["structure", "cases", "mean", "median", "smallest"]
    if tolerance_mm is not None:
        header += [f"NSD at {tolerance_mm:g} mm", "median HD95, mm"]
    rows = []
    for name, row in summary.items():
        cells = [name, str(row.cases), f"{row.mean:.3f}", f"{row.median:.3f}", f"{row.smallest:.3f}"]
        if tolerance_mm is not None:
            cells += [f"{row.mean_nsd:.3f}", f"{row.median_hd95_mm:.1f}"]
        rows.append(cells)
    return table(header, rows)


def _csv_text(results: Mapping[str, Mapping[str, Score]], groups: Mapping[str, str], tolerance_mm: float | None) -> str:
    """Return a line for every case and structure; what was not measured is empty, an infinite distance is 'inf'."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(
        ["case", "patient", "structure", "dice", "nsd", "tolerance_mm", "hd95_mm", "volume_ml", "reference_ml"]
    )
    for case, scores in results.items():
        for name, score in scores.items():
            values = [score.dice, score.nsd, tolerance_mm, score.hd95_mm, score.volume_ml, score.reference_ml]
            cells = ["" if value is None or math.isnan(value) else f"{value:.6g}" for value in values]
            writer.writerow([case, groups[case], name, *cells])
    return stream.getvalue()


def _write(file: Path, text: str) -> None:
    """Write a result whole or not at all (what is no file, such as /dev/stdout, is written to as it is)."""
    target = file.resolve()
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as stream:
                stream.write(text.encode("utf-8"))
        else:
            write_text_durably(target, text)
    except OSError as error:
        raise TransferSegError(
            f"{file} cannot be written: {error.strerror}. Choose another place; the table above holds the summary."
        ) from error


def _tolerance(text: str) -> float:
    """Return a tolerance in mm; argparse turns the error into its message."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number of mm from 0 up")
    return value


def _check_files(*files: Path | None) -> None:
    """Raise TransferSegError for a result that could not be written, before minutes are spent on it."""
    for file in files:
        if file is not None:
            check_output_file(file)
