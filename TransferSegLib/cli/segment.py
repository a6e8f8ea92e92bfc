"""``transferseg segment``: outline structures in scans; a scan that fails is reported and the others are done."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.cli.jobs import add_background_options, start_in_background
from TransferSegLib.cli.options import add_device_option, add_progress_option
from TransferSegLib.cli.output_files import FORMATS, doubt_files, output_files, preview_files
from TransferSegLib.cli.reporting import JsonLines, duration, task_shown
from TransferSegLib.cli.scan_folders import SegmentedRecord, scans_in
from TransferSegLib.cli.segment_extras import Extras, failures_table
from TransferSegLib.cli.segment_options import add_window_options, check_images, files_given, window_options
from TransferSegLib.errors import ScanError, TransferSegError
from TransferSegLib.inference.segment_file import ScanToSegment, segment_file, segmented_entry
from TransferSegLib.output_checks import check_output_file
from TransferSegLib.progress import Task
from TransferSegLib.structure_groups import GROUPS, named_structures
from TransferSegLib.wording import table

if TYPE_CHECKING:
    from TransferSegLib.inference.combined import CombinedSegmenter
    from TransferSegLib.inference.options import PredictionOptions
    from TransferSegLib.inference.segment import Segmentation, Segmenter

#: Doubtful places that are printed; programs get all.
_PLACES_SHOWN = 5


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
        "--format", choices=FORMATS, default=".nii.gz", help="file type when --output is a folder (default: .nii.gz)"
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
    into_folder = len(scans) > 1 or scans[0].is_dir() or arguments.output.is_dir()
    if not images:
        scans = [scan for given in scans for scan in scans_in(given, arguments.series, arguments.output)]
    outputs = output_files(scans, arguments.output, arguments.format, list(images.values()))
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
    _check_outputs(arguments, [*outputs, *(file for file in (*previews, *doubts) if file is not None)])
    every = [
        ScanToSegment(scan, output, preview, images, doubt)
        for scan, output, preview, doubt in zip(scans, outputs, previews, doubts, strict=True)
    ]
    if arguments.background:
        return _start_in_background(arguments, every, model, options)
    extras = Extras(label_set, arguments.each_structure, arguments.statistics, arguments.series)
    record = None
    if into_folder and outputs[0].parent == arguments.output:
        record = SegmentedRecord(arguments.output, _settings(arguments, model, options))
    return _Run(arguments, lines, model, options, record, extras).segment(every)


class _Run:
    """One run over all scans: a scan that fails is told, and the others are segmented."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        lines: JsonLines | None,
        model: Path,
        options: PredictionOptions,
        record: SegmentedRecord | None,
        extras: Extras,
    ) -> None:
        self._arguments, self._lines, self._record, self._extras = arguments, lines, record, extras
        self._model, self._options = model, options
        self._segmenter: CombinedSegmenter | Segmenter | None = None
        self._failures: list[tuple[Path, str]] = []
        self._kept = 0

    def segment(self, every: list[ScanToSegment]) -> int:
        """Segment every scan and return the exit code: 2 when one of them failed."""
        with task_shown("Segmenting", self._lines) as task:
            for number, each in enumerate(every):
                task.check()
                try:
                    if not self._is_done(each):
                        self._segment_one(each, task.share(number, len(every)))
                    self._extras.write(each)
                except (ScanError, MemoryError) as error:
                    self._fail(each, str(error) or f"{each.scan}: not enough memory.")
        self._extras.write_table()
        if len(every) > 1 and self._lines is None:
            if self._failures:
                print(failures_table(self._failures))
            kept = f", {self._kept} of them before" if self._kept else ""
            print(f"{len(every) - len(self._failures)} of {len(every)} scans segmented{kept}.")
        return 2 if self._failures else 0

    def _is_done(self, each: ScanToSegment) -> bool:
        """Tell whether a scan was segmented by an earlier run, and say so; raises ScanError."""
        if self._record is None or self._arguments.replace or not self._record.is_done(each):
            return False
        wanted = [file for file in (each.preview, each.doubt) if file is not None]
        if not all(file.exists() for file in wanted) and not self._record.was_changed(each):
            return False
        self._kept += 1
        changed = " It was changed since, and is kept." if self._record.was_changed(each) else ""
        message = f"{each.scan.name} is segmented already: {each.output}.{changed}"
        print(message, file=sys.stdout if self._lines is None else sys.stderr)
        return True

    def _segment_one(self, each: ScanToSegment, task: Task) -> None:
        arguments = self._arguments
        if self._segmenter is None:
            from TransferSegLib.inference.combined import open_segmenter

            self._segmenter = open_segmenter(self._model, arguments.device, arguments.memory, self._options)
        segmentation = segment_file(
            self._segmenter,
            each,
            arguments.structures,
            arguments.series,
            task,
            strict=arguments.strict,
            modality=arguments.modality,
        )
        if self._record is not None:
            self._record.add(each)
        for notice in segmentation.notices:
            print(f"transferseg: note: {notice}", file=sys.stderr)
        if self._lines is None:
            print(report(each.scan, each.output, segmentation))
        else:
            self._lines.result(segmented_entry(each, segmentation))

    def _fail(self, each: ScanToSegment, message: str) -> None:
        self._failures.append((each.scan, message))
        print(f"transferseg: {message}", file=sys.stderr)
        if self._lines is not None:
            self._lines.error(message)


def _check_outputs(arguments: argparse.Namespace, files: list[Path]) -> None:
    """Raise TransferSegError for what cannot be written, before any work."""
    if arguments.background and (arguments.each_structure or arguments.statistics or arguments.replace):
        raise TransferSegError(
            "--each-structure, --statistics and --replace are not for --background: leave one of them out."
        )
    if arguments.statistics is not None:
        if arguments.statistics.suffix.lower() != ".csv":
            raise TransferSegError(f"--statistics {arguments.statistics}: give the name of a file that ends in .csv.")
        files = [*files, arguments.statistics]
    for file in files:
        check_output_file(file, makes_folders=True)


def _settings(arguments: argparse.Namespace, model: Path, options: PredictionOptions) -> dict[str, Any]:
    """Return what decides about the labels of a scan: the model's version and the options."""
    from TransferSegLib.models.combined_parts import described

    said = described(model)
    return {
        "model": said.name,
        "version": said.version,
        "path": str(model.resolve()),
        "structures": arguments.structures,
        "series": arguments.series,
        "modality": arguments.modality,
        "strict": arguments.strict,
        "options": asdict(options),
    }


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
        f"{scan.name}\n{table(('structure', 'ml'), rows)}\n{doubts}{places_text(segmentation)}"
        f"written to {output} ({duration(segmentation.seconds)} on {segmentation.device})"
    )


def places_text(segmentation: Segmentation) -> str:
    """Return the table of the most doubtful places, and what the doubt means; empty where it was not asked for."""
    if not segmentation.doubts:
        return ""
    meaning = (
        "Doubt is the expected share of wrong voxels."
        if segmentation.doubt_is_calibrated
        else "Doubt is not calibrated for this model: it ranks places, and is no share of wrong voxels."
    )
    if not segmentation.places:
        return f"no doubtful place. {meaning}\n"
    rows = [
        (
            place.structure,
            " ".join(f"{value:.0f}" for value in place.position_ras_mm),
            f"{place.doubt:.2f}",
            f"{place.volume_ml:.2f}",
        )
        for place in segmentation.places[:_PLACES_SHOWN]
    ]
    return f"\n{table(('look first at', 'R A S, mm', 'doubt', 'ml'), rows)}\n{meaning}\n\n"
