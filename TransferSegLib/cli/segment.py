"""``transferseg segment``: outline structures in scans: what is asked for, and the checks before any work."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.cli.jobs import add_background_options, start_in_background
from TransferSegLib.cli.options import add_device_option, add_progress_option
from TransferSegLib.cli.output_files import FORMATS, doubt_files, listed_outputs, output_files, preview_files
from TransferSegLib.cli.reporting import JsonLines
from TransferSegLib.cli.scan_folders import listed_scans, scans_in
from TransferSegLib.cli.segment_options import add_window_options, check_images, files_given, window_options
from TransferSegLib.cli.segment_run import SegmentRun
from TransferSegLib.cli.segment_settings import run_settings
from TransferSegLib.cli.segment_spread import SpreadRun, add_spread_options, check_spread, is_spread, take_left_results
from TransferSegLib.cli.segmented_record import SegmentedRecord
from TransferSegLib.cli.supervised import run_supervised, supervised_run
from TransferSegLib.errors import TransferSegError
from TransferSegLib.images.dicom_seg import check_dicom_seg
from TransferSegLib.inference.extras import Extras
from TransferSegLib.inference.segment_file import DICOM_SEG_SUFFIX, ScanToSegment
from TransferSegLib.output_checks import check_output_file
from TransferSegLib.structure_groups import GROUPS, named_structures

if TYPE_CHECKING:
    from TransferSegLib.inference.options import PredictionOptions
    from TransferSegLib.jobs.segment_job import SegmentParameters

#: The word for DICOM Segmentations among the file types.
DICOM_SEG = "dicom-seg"
#: From so many files on, only their folders are tried before the work.
_MANY = 100


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser = subparsers.add_parser(
        "segment",
        help="segment scans with a model",
        description="Segment the structures of a model in CT or MR scans. Each result has its scan's own voxel grid.",
    )
    parser.add_argument(
        "scans",
        nargs="*",
        metavar="SCAN",
        help="scan file (NIfTI, NRRD, MetaImage ...), DICOM folder, or folder of scans",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE|FOLDER",
        help="for one scan a file (.nii.gz, .nrrd, or .seg.nrrd for 3D Slicer), else a folder",
    )
    parser.add_argument(
        "--format",
        choices=(*FORMATS, DICOM_SEG),
        default=".nii.gz",
        help="file type when --output is a folder (default: .nii.gz); dicom-seg: a DICOM Segmentation for each series",
    )
    parser.add_argument(
        "--list",
        type=Path,
        metavar="FILE|FOLDER",
        help="many scans: a text file with a path in each line, or a folder: all scans in it and below",
    )
    parser.add_argument(
        "--beside", action="store_true", help="with --list: write each result beside its scan, not into --output"
    )
    add_spread_options(parser)
    parser.add_argument(
        "--resume", action="store_true", help="continue a run that was stopped (this is the default with a folder)"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="segment again what is in the output folder already (default: continue, and keep what is done)",
    )
    parser.add_argument(
        "--each-structure",
        action="store_true",
        help="write also one file for each structure, into a folder beside the result",
    )
    parser.add_argument(
        "--statistics",
        type=Path,
        metavar="FILE.csv",
        help="write a table of volume, intensity, surface and centroid of each structure in each scan",
    )
    parser.add_argument("--model", help="model name, folder or .zip (default: the bundled head and neck CT model)")
    add_device_option(parser)
    parser.add_argument(
        "--structures", nargs="+", metavar="NAME", help=f"only these structures, or groups: {', '.join(GROUPS)}"
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="GB",
        help="memory limit (default: 6, or half of the computer's memory if that is less)",
    )
    parser.add_argument("--series", metavar="UID", help="DICOM series to read if a folder holds several")
    parser.add_argument(
        "--preview", type=Path, metavar="PNG", help="picture of the result over three slices (several scans: a folder)"
    )
    parser.add_argument(
        "--doubt",
        type=Path,
        metavar="FILE",
        help="also write how doubtful each voxel is, 0 to 1, and say where to look first (several scans: a folder)",
    )
    parser.add_argument(
        "--features",
        type=Path,
        metavar="FILE",
        help="keep here what `learn-here` needs of the scan (one scan only; usually 10 to 100 MB)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="treat a scan that does not fit the model as an error: write nothing for it and exit with code 2",
    )
    parser.add_argument(
        "--modality",
        default="",
        metavar="WORD",
        help="modality of the scans, e.g. CT or MR, if their files do not state it (DICOM files do)",
    )
    add_window_options(parser)
    add_progress_option(parser)
    add_background_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Segment every scan; exit code 2 when one of them failed."""
    check_spread(arguments)
    if arguments.list is not None and not supervised_run():
        _check_list(arguments)
    if arguments.list is not None and not supervised_run() and not is_spread(arguments):
        return run_supervised(arguments.words, arguments.output)
    return _segment_all(arguments, JsonLines() if arguments.progress == "json" else None)


def _segment_all(arguments: argparse.Namespace, lines: JsonLines | None) -> int:
    """Segment scan by scan, with text for a person, or with JSON ``lines`` for a program."""
    scans, images, outputs = _scans_and_outputs(arguments)
    into_folder = len(scans) > 1 or arguments.output.is_dir() or outputs[0].parent == arguments.output
    previews, doubts = preview_files(scans, arguments.preview), doubt_files(scans, arguments.doubt)
    if arguments.memory is not None and not 0 < arguments.memory < float("inf"):
        raise TransferSegError(f"--memory {arguments.memory:g} is no amount of memory: give gigabytes, e.g. 4.")

    from TransferSegLib.models.combined_parts import parts_of
    from TransferSegLib.models.locate import find_model

    model = find_model(arguments.model)
    # What does not fit the model is told before any work.
    label_set, parts = parts_of(model)
    for part in parts:
        check_images(images, part.description)
        options = window_options(arguments, part.description)
    if arguments.structures:
        arguments.structures = list(named_structures(label_set, arguments.structures))
        label_set = label_set.select(arguments.structures)
    features = arguments.features
    if features is not None and (len(scans) > 1 or arguments.list is not None):
        raise TransferSegError("--features is for one scan: segment scan by scan, each with a file of its own.")
    _check_outputs(arguments, [*outputs, *(file for file in (*previews, *doubts, features) if file is not None)])
    every = [
        ScanToSegment(scan, output, preview, images, doubt, arguments.series, features)
        for scan, output, preview, doubt in zip(scans, outputs, previews, doubts, strict=True)
    ]
    if arguments.background:
        return _start_in_background(arguments, every, model, options)
    extras = Extras(label_set, arguments.each_structure, arguments.statistics, arguments.series)
    record = None
    if arguments.list is not None or (into_folder and outputs[0].parent == arguments.output):
        record = SegmentedRecord(arguments.output, run_settings(arguments, model, options), supervised_run())
        take_left_results(arguments.output, record)
    listed = arguments.list is not None
    if is_spread(arguments):
        assert record is not None
        parameters = _job_parameters(arguments, every, model, options)
        return SpreadRun(arguments, lines, model, options, record, extras, listed).segment_with(parameters, every)
    return SegmentRun(arguments, lines, model, options, record, extras, listed).segment(every)


def _scans_and_outputs(arguments: argparse.Namespace) -> tuple[list[Path], dict[str, Path], list[Path]]:
    """Return the scans, the images by name of a scan that has several, and the file of each result."""
    suffix = DICOM_SEG_SUFFIX if arguments.format == DICOM_SEG else arguments.format
    if arguments.list is not None:
        scans = listed_scans(arguments.list, arguments.output)
        return scans, {}, listed_outputs(scans, arguments.output, suffix, arguments.beside)
    scans, images = files_given(arguments)
    if not images:
        scans = [scan for given in scans for scan in scans_in(given, arguments.series, arguments.output)]
    return scans, images, output_files(scans, arguments.output, suffix, list(images.values()))


def _check_list(arguments: argparse.Namespace) -> None:
    """Raise TransferSegError for options that are not for a list."""
    for given, what in (
        (arguments.scans, "SCAN"),
        (arguments.channel, "--channel"),
        (arguments.background, "--background"),
        (arguments.preview, "--preview"),
        (arguments.doubt, "--doubt"),
    ):
        if given:
            raise TransferSegError(f"{what} is not for --list: leave one of the two out.")
    if arguments.output.exists() and not arguments.output.is_dir():
        raise TransferSegError(f"--output {arguments.output} is a file: a list needs a folder.")


def _check_outputs(arguments: argparse.Namespace, files: list[Path]) -> None:
    """Raise TransferSegError for what cannot be written, before any work."""
    if arguments.background and arguments.replace:
        raise TransferSegError("--replace is not for --background, which replaces anyway: leave it out.")
    if arguments.background and arguments.format == DICOM_SEG:
        raise TransferSegError("--format dicom-seg is not for --background: leave one of the two out.")
    if arguments.statistics is not None:
        if arguments.statistics.suffix.lower() != ".csv":
            raise TransferSegError(f"--statistics {arguments.statistics}: give the name of a file that ends in .csv.")
        files = [*files, arguments.statistics]
    if any(file.suffix.lower() == DICOM_SEG_SUFFIX for file in files):
        check_dicom_seg()
        if arguments.each_structure:
            raise TransferSegError("--each-structure is not for DICOM Segmentations: they hold each structure anyway.")
    if arguments.beside and arguments.list is None:
        raise TransferSegError("--beside is for --list.")
    # Of a long list every folder is tried once: each trial writes a file there.
    for file in {file.parent: file for file in files}.values() if len(files) > _MANY else files:
        check_output_file(file, makes_folders=True)


def _start_in_background(
    arguments: argparse.Namespace, every: list[ScanToSegment], model: Path, options: PredictionOptions
) -> int:
    from TransferSegLib.jobs.request import JobRequest

    parameters = replace(
        _job_parameters(arguments, every, model, options), model=str(model.absolute()), statistics=arguments.statistics
    )
    title = f"segment {every[0].scan.name if len(every) == 1 else f'{len(every)} scans'}"
    return start_in_background(JobRequest("segment", parameters.to_json(), arguments.device, title), arguments)


def _job_parameters(
    arguments: argparse.Namespace, every: list[ScanToSegment], model: Path, options: PredictionOptions
) -> SegmentParameters:
    """Return what a job is asked to do; without a table of all scans, which only the caller can write.

    The bundled model has no path: it lies with the program, on another computer elsewhere.
    """
    from TransferSegLib.jobs.segment_job import SegmentParameters

    return SegmentParameters(
        tuple(every),
        None if arguments.model is None else str(model.absolute()),
        tuple(arguments.structures) if arguments.structures else None,
        arguments.memory,
        arguments.series,
        arguments.strict,
        arguments.modality,
        options,
        each_structure=arguments.each_structure,
    )
