"""``transferseg learn-here``: redraw the rest of a scan from the part of its segmentation that was corrected."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.cli.options import add_device_option, add_progress_option
from TransferSegLib.cli.reporting import JsonLines, duration, task_shown
from TransferSegLib.errors import TransferSegError
from TransferSegLib.output_checks import check_output_file
from TransferSegLib.wording import table

if TYPE_CHECKING:
    from TransferSegLib.learn_here.learn import LearnedHere


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser = subparsers.add_parser(
        "learn-here",
        help="redraw the rest of a scan from the part that was corrected",
        description=(
            "Learn from the corrected slices or region of one scan, and redraw the rest of this scan. Judged voxels "
            "and the model stay as they are."
        ),
    )
    parser.add_argument("scan", type=Path, metavar="SCAN", help="scan file or DICOM folder")
    parser.add_argument(
        "--segmentation",
        type=Path,
        required=True,
        metavar="FILE",
        help="label map whose judged part is correct, the rest as the model predicted it",
    )
    judged = parser.add_mutually_exclusive_group(required=True)
    judged.add_argument("--judged", type=Path, metavar="FILE", help="mask of the part that is correct (0: not judged)")
    judged.add_argument(
        "--judged-slices", metavar="SLICES", help="the correct part as slices, e.g. z:10,20,30-35 (they count from 0)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="label map that is written")
    parser.add_argument("--model", help="model name, folder or .zip (default: the bundled head and neck CT model)")
    parser.add_argument(
        "--structures", nargs="+", metavar="NAME", help="redraw only these (default: those in the judged part)"
    )
    parser.add_argument(
        "--names", type=Path, metavar="FILE", help="JSON file of the label values' names, if the label map has none"
    )
    parser.add_argument(
        "--features",
        type=Path,
        metavar="FILE",
        help="features that `segment --features` kept of this scan; computed and kept there if they are missing",
    )
    parser.add_argument("--features-mb", type=float, metavar="MB", help="the most that they take (default: 256)")
    parser.add_argument("--series", metavar="UID", help="DICOM series to read if the folder holds several")
    add_device_option(parser)
    add_progress_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Learn, write the label map and print what changed."""
    from TransferSegLib.images.write import label_map_suffix

    label_map_suffix(arguments.output)
    inputs = {path.resolve() for path in (arguments.scan, arguments.judged) if path is not None}
    for output in (arguments.output, arguments.features):
        if output is not None and output.resolve() in inputs:
            raise TransferSegError(f"{output} is an input, and would be overwritten: choose another name.")
    check_output_file(arguments.output, makes_folders=True)
    if arguments.features is not None:
        check_output_file(arguments.features, makes_folders=True)
    return _learn(arguments, JsonLines() if arguments.progress == "json" else None)


def _learn(arguments: argparse.Namespace, lines: JsonLines | None) -> int:
    from TransferSegLib.corrections.inputs import JudgedSlices
    from TransferSegLib.images.read import read_scan
    from TransferSegLib.images.write import write_label_map
    from TransferSegLib.inference.kept_features import BUDGET_MB
    from TransferSegLib.learn_here.learn import learn_here

    slices = arguments.judged_slices
    with task_shown("Learning here", lines) as task:
        learning, writing = task.split(9, 1)
        scan = arguments.scan if arguments.series is None else read_scan(arguments.scan, arguments.series)
        learned = learn_here(
            scan,
            arguments.segmentation,
            arguments.judged if slices is None else JudgedSlices.parse(slices),
            arguments.model,
            arguments.structures,
            names=arguments.names,
            features=arguments.features,
            budget_mb=BUDGET_MB if arguments.features_mb is None else arguments.features_mb,
            device=arguments.device,
            task=learning,
        )
        write_label_map(learned.label_map, arguments.output, learned.label_set, task=writing)
    if lines is None:
        print(_report(arguments.output, learned))
    else:
        lines.result({"output": str(arguments.output)} | learned.to_json())
    return 0


def _report(output: Path, learned: LearnedHere) -> str:
    """Return the lines for a person."""
    rows = [(one.name, str(one.slices), f"{one.changed_voxels:,}") for one in learned.structures]
    header = ("structure", "judged slices", "voxels changed")
    again = "" if learned.features_kept else ", most of it to compute the features"
    return f"{table(header, rows)}\nwritten to {output} ({duration(learned.seconds)}{again})"
