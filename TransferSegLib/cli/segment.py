"""``transferseg segment``: outline structures in scans; a scan that fails is reported and the others are done."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.cli.jobs import add_background_options, start_in_background
from TransferSegLib.cli.options import add_device_option, add_progress_option
from TransferSegLib.cli.reporting import JsonLines, duration, task_shown
from TransferSegLib.cli.segment_options import add_window_options, check_images, files_given, window_options
from TransferSegLib.errors import ScanError, TransferSegError
from TransferSegLib.inference.segment_file import ScanToSegment, segment_file, segmented_entry
from TransferSegLib.output_checks import check_output_file
from TransferSegLib.structure_groups import GROUPS, named_structures
from TransferSegLib.wording import table

if TYPE_CHECKING:
    from TransferSegLib.inference.options import PredictionOptions
    from TransferSegLib.inference.segment import Segmentation

_FORMATS = (".nii.gz", ".nrrd", ".seg.nrrd")


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser = subparsers.add_parser(
        "segment",
        help="segment scans with a model",
        description="Segment the structures of a model in CT or MR scans. Each result has its scan's own voxel grid.",
    )
    parser.add_argument(
        "scans", nargs="*", metavar="SCAN", help="scan file (NIfTI, NRRD, MetaImage ...) or DICOM folder"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE|FOLDER",
        help="for one scan a file (.nii.gz, .nrrd, or .seg.nrrd for 3D Slicer), else a folder",
    )
    parser.add_argument(
        "--format", choices=_FORMATS, default=".nii.gz", help="file type when --output is a folder (default: .nii.gz)"
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
    lines = JsonLines() if arguments.progress == "json" else None
    with nullcontext() if lines is None else lines.errors_written():
        return _segment_all(arguments, lines)


def _segment_all(arguments: argparse.Namespace, lines: JsonLines | None) -> int:
    """Segment scan by scan, with text for a person, or with JSON ``lines`` for a program."""
    scans, images = files_given(arguments)
    outputs = _output_files(scans, arguments.output, arguments.format, list(images.values()))
    previews = _preview_files(scans, arguments.preview)
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
    for file in [*outputs, *(preview for preview in previews if preview is not None)]:
        check_output_file(file, makes_folders=True)
    every = [ScanToSegment(*files, images) for files in zip(scans, outputs, previews, strict=True)]
    if arguments.background:
        return _start_in_background(arguments, every, model, options)

    from TransferSegLib.inference.combined import open_segmenter

    segmenter = open_segmenter(model, arguments.device, arguments.memory, options)
    failed = 0
    with task_shown("Segmenting", lines) as task:
        for number, each in enumerate(every):
            task.check()
            try:
                segmentation = segment_file(
                    segmenter,
                    each,
                    arguments.structures,
                    arguments.series,
                    task.share(number, len(scans)),
                    strict=arguments.strict,
                    modality=arguments.modality,
                )
            except (ScanError, MemoryError) as error:
                failed += 1
                message = str(error) or f"{each.scan}: not enough memory."
                print(f"transferseg: {message}", file=sys.stderr)
                if lines is not None:
                    lines.error(message)
                continue
            for notice in segmentation.notices:
                print(f"transferseg: note: {notice}", file=sys.stderr)
            if lines is None:
                print(report(each.scan, each.output, segmentation))
            else:
                lines.result(segmented_entry(each, segmentation))
    if len(scans) > 1 and lines is None:
        print(f"{len(scans) - failed} of {len(scans)} scans segmented.")
    return 2 if failed else 0


def _start_in_background(
    arguments: argparse.Namespace, every: list[ScanToSegment], model: Path, options: PredictionOptions
) -> int:
    from TransferSegLib.jobs.request import JobRequest
    from TransferSegLib.jobs.segment_job import SegmentParameters

    parameters = SegmentParameters(
        tuple(every),
        str(model.absolute()),
        tuple(arguments.structures) if arguments.structures else None,
        arguments.memory,
        arguments.series,
        arguments.strict,
        arguments.modality,
        options,
    )
    title = f"segment {every[0].scan.name if len(every) == 1 else f'{len(every)} scans'}"
    return start_in_background(JobRequest("segment", parameters.to_json(), arguments.device, title), arguments)


def report(scan: Path, output: Path, segmentation: Segmentation) -> str:
    """Return the lines printed for a segmented scan: structures with volumes, doubts, where they are, what computed."""
    volumes, doubtful = segmentation.volumes_ml(), segmentation.fit.doubtful
    rows = [
        (name, (f"{volume:.1f}" if volume else "not found") + (" (do not trust)" if name in doubtful else ""))
        for name, volume in volumes.items()
    ]
    if not any(volumes.values()):
        rows.append(("(nothing found: is this the kind of scan the model is for? see transferseg models show)", ""))
    doubts = "".join(f"warning: {line}\n" for line in segmentation.fit.lines())
    return (
        f"{scan.name}\n{table(('structure', 'ml'), rows)}\n{doubts}"
        f"written to {output} ({duration(segmentation.seconds)} on {segmentation.device})"
    )


def stem(scan: Path) -> str:
    """Return a scan's name without its image extension: 'head.nii.gz' -> 'head', a DICOM folder's name as it is."""
    if scan.is_dir():
        return scan.resolve().name
    extension = _written_extension(scan)
    if extension is not None:
        return scan.name[: -len(extension)]
    # A DICOM file's name is often numbers and dots (an UID), of which the last is no extension.
    return scan.name if scan.suffix[1:].isdigit() else scan.stem


def _written_extension(path: Path) -> str | None:
    """Return the known label map extension a file name ends with, None when it has none."""
    from TransferSegLib.images.write import LABEL_MAP_SUFFIXES

    return next((suffix for suffix in LABEL_MAP_SUFFIXES if path.name.lower().endswith(suffix)), None)


def _output_files(scans: list[Path], output: Path, extension: str, others: list[Path]) -> list[Path]:
    """Return one output file per scan; raises TransferSegError when two would be one, or one is an input.

    ``others`` are further inputs.
    """
    if len(scans) == 1 and not output.is_dir() and _written_extension(output) is not None:
        files = [output]
    else:
        if _written_extension(output) is not None and not output.is_dir():
            raise TransferSegError(f"--output {output} is one file, but there are {len(scans)} scans: give a folder.")
        if len(scans) == 1 and output.suffix and not output.is_dir():
            raise TransferSegError(
                f"--output {output}: the extension '{output.suffix}' is not known. Use {', '.join(_FORMATS)}, "
                "or the name of a folder."
            )
        files = [output / f"{stem(scan)}_segmentation{extension}" for scan in scans]
    twice = sorted({str(file) for file in files if files.count(file) > 1})
    if twice:
        raise TransferSegError(
            f"Several scans would be written to {', '.join(twice)}: rename them, or use several folders."
        )
    inputs = {scan.resolve() for scan in (*scans, *others)}
    for file in files:
        if file.resolve() in inputs:
            raise TransferSegError(
                f"--output {file} is one of the scans: it would be overwritten. Choose another name."
            )
    return files


def _preview_files(scans: list[Path], preview: Path | None) -> list[Path | None]:
    """Return one picture file per scan, or None for each when no preview was asked for."""
    if preview is None:
        return [None] * len(scans)
    if len(scans) == 1 and preview.suffix.lower() == ".png" and not preview.is_dir():
        return [preview]
    if preview.suffix and not preview.is_dir():
        raise TransferSegError(
            f"--preview {preview}: for one scan give a name ending in .png, for several the name of a folder."
        )
    return [preview / f"{stem(scan)}.png" for scan in scans]
