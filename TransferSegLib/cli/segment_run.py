"""One run of ``transferseg segment`` over all scans: one that fails is told, and the others are segmented.

The next scan is read, and the results of the last one are written, while the network is at a scan.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib.cli.reporting import JsonLines, task_shown
from TransferSegLib.cli.segment_report import failures_table, report
from TransferSegLib.cli.segmented_record import SegmentedRecord
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import ScanError
from TransferSegLib.inference.extras import Extras, Rows
from TransferSegLib.inference.overlapped import overlapped
from TransferSegLib.inference.segment_file import (
    ScanToSegment,
    first_image,
    read_images,
    segment_images,
    segmented_entry,
    write_results,
)
from TransferSegLib.progress import CancelToken, Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from SimpleITK import Image

    from TransferSegLib.inference.combined import CombinedSegmenter
    from TransferSegLib.inference.options import PredictionOptions
    from TransferSegLib.inference.segment import Segmentation, Segmenter

FAILED = "failed.csv"
#: What stops a scan, and not the run. OSError is a disk, which the next scan may find as it should be.
_OF_A_SCAN = (ScanError, MemoryError, OSError)


@dataclass(frozen=True)
class _Done:
    """What is told of a scan when its files are written."""

    text: str
    entry: dict[str, object]
    rows: Rows | None
    notices: tuple[str, ...]


class SegmentRun:
    """Segments scans; ``record`` is what was done before (None: nothing is kept), ``listed``: a run of a list."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        lines: JsonLines | None,
        model: Path,
        options: PredictionOptions,
        record: SegmentedRecord | None,
        extras: Extras,
        listed: bool = False,
    ) -> None:
        self._arguments, self._lines, self._record, self._extras = arguments, lines, record, extras
        self._model, self._options, self._listed = model, options, listed
        self._segmenter: CombinedSegmenter | Segmenter | None = None
        self._failures: list[tuple[str, str]] = []
        self._cancel = CancelToken()
        self._alone: set[int] = set()
        self._whole, self._count, self._number = Task(), 0, 0

    def segment(self, every: Sequence[ScanToSegment]) -> int:
        """Segment every scan and return the exit code: 2 when one of them failed."""
        self._tell(len(every), self._run(every))
        return 2 if self._failures else 0

    def _run(self, every: Sequence[ScanToSegment]) -> int:
        """Segment every scan that is not done, and return how many were done before."""
        try:
            with task_shown("Segmenting", self._lines) as task:
                self._cancel = task.cancel or self._cancel
                todo = self._todo(every, task)
                kept = len(every) - len(todo) - len(self._failures)
                self._whole, self._count = task, len(todo)
                self._work_through(todo)
            self._extras.write_table()
        finally:
            self._extras.close()
        return kept

    def _work_through(self, todo: list[ScanToSegment]) -> None:
        # What was in work when the program was ended comes first, one by one: it may have been the reason.
        suspects = [each for each in todo if self._record is not None and self._record.in_work(each)]
        self._alone = {id(each) for each in suspects}
        others = [each for each in todo if id(each) not in self._alone]
        for one in [*([each] for each in suspects), others]:
            self._work(one)

    def _todo(self, every: Sequence[ScanToSegment], task: Task) -> list[ScanToSegment]:
        """Return the scans that are not done yet; what earlier runs have done is added to the table."""
        todo = []
        for each in every:
            task.check()
            try:
                if self._record is not None and self._record.failed_in_this_run(each):
                    self._failures.append((str(each.scan), ""))
                elif self._is_done(each):
                    rows = None if self._record is None else self._record.rows(each)
                    self._extras.add(each, rows if rows is not None else self._extras.of_files(each))
                else:
                    todo.append(each)
            except _OF_A_SCAN as error:
                self._fail(each, error)
        return todo

    def _work(self, scans: list[ScanToSegment]) -> None:
        for each, outcome in overlapped(scans, self._read, self._compute, self._write, _OF_A_SCAN):
            if isinstance(outcome, Exception):
                self._fail(each, outcome)
                continue
            self._extras.add(each, outcome.rows)
            for notice in outcome.notices:
                print(f"transferseg: note: {notice}", file=sys.stderr)
            if self._lines is not None:
                self._lines.result(outcome.entry)
            elif not self._listed:
                print(outcome.text)

    def _read(self, each: ScanToSegment) -> Mapping[str, Image] | Image:
        if self._record is not None:
            self._record.begin(each, alone=id(each) in self._alone)
        return read_images(each, self._arguments.series, Task("", None, self._cancel))

    def _compute(self, each: ScanToSegment, images: Mapping[str, Image] | Image) -> Segmentation:
        arguments = self._arguments
        if self._segmenter is None:
            from TransferSegLib.inference.combined import open_segmenter

            keeps = arguments.features is not None
            self._segmenter = open_segmenter(self._model, arguments.device, arguments.memory, self._options, keeps)
        part = self._whole.share(self._number, self._count)
        self._number += 1
        if self._count > 1:
            part = part.about(f"scan {self._number} of {self._count}, {each.scan.name}")
        return segment_images(
            self._segmenter, each, images, arguments.structures, part, arguments.strict, arguments.modality
        )

    def _write(self, each: ScanToSegment, images: Mapping[str, Image] | Image, found: Segmentation) -> _Done:
        write_results(each, images, found, Task("", None, self._cancel))
        rows = self._extras.of_images(each, first_image(images), found.label_map) if self._extras.wanted else None
        if self._record is not None:
            self._record.add(each, rows)
        return _Done(report(each.scan, each.output, found), segmented_entry(each, found), rows, found.notices)

    def _is_done(self, each: ScanToSegment) -> bool:
        """Tell whether a scan was segmented by an earlier run, and say so; raises ScanError."""
        if self._record is None or self._arguments.replace or not self._record.is_done(each):
            return False
        was_changed = self._record.was_changed(each)
        wanted = [file for file in (each.preview, each.doubt) if file is not None]
        if not all(file.exists() for file in wanted) and not was_changed:
            return False
        if not self._listed:
            changed = " It was changed since, and is kept." if was_changed else ""
            message = f"{each.scan.name} is segmented already: {each.output}.{changed}"
            print(message, file=sys.stdout if self._lines is None else sys.stderr)
        return True

    def _fail(self, each: ScanToSegment, error: Exception) -> None:
        message = str(error) or f"{each.scan}: not enough memory."
        if isinstance(error, OSError):
            message = f"{error.filename or each.scan}: {error.strerror or error}."
        self._failed(each, message)

    def _failed(self, each: ScanToSegment, message: str) -> None:
        self._failures.append((str(each.scan), message))
        if self._record is not None:
            self._record.fail(each, message)
        print(f"transferseg: {message}", file=sys.stderr)
        if self._lines is not None:
            self._lines.error(message)

    def _tell(self, count: int, kept: int) -> None:
        """Print what failed and how many were segmented; a run of a list also writes the failures to a file."""
        failures, file = self._failures, None
        if self._listed and self._record is not None:
            failures = list(self._record.failures())
            file = self._arguments.output / FAILED
            write_text_durably(file, _csv_text(failures))
        if (count > 1 or self._listed) and self._lines is None:
            if failures:
                print(failures_table(failures, file))
            before = f", {kept} of them before" if kept else ""
            print(f"{count - len(self._failures)} of {count} scans segmented{before}.")


def _csv_text(failures: Sequence[tuple[str, str]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("scan", "why"))
    writer.writerows(failures)
    return text.getvalue()
