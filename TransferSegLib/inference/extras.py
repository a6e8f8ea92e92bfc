"""What ``transferseg segment`` writes besides the label map: a file for each structure, and a table of statistics.

Results of an earlier run, corrected or not, count as they are.
"""

from __future__ import annotations

import csv
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib.durable_writing import flush_file, replace_file
from TransferSegLib.inference.segment_file import ScanToSegment
from TransferSegLib.structures import LabelSet, Structure

if TYPE_CHECKING:
    from SimpleITK import Image


def structures_folder(output: Path) -> Path:
    """Return the folder of the files of the structures that belongs to a label map's file."""
    from TransferSegLib.images.write import label_map_suffix

    return output.with_name(f"{output.name[: -len(label_map_suffix(output))]}_structures")


def structure_files(output: Path, label_set: LabelSet) -> dict[Structure, Path]:
    """Return the file of each structure; characters that are no part of a file's name everywhere become '_'."""
    from TransferSegLib.images.write import label_map_suffix

    folder, suffix = structures_folder(output), label_map_suffix(output)
    files: dict[Structure, Path] = {}
    taken: set[str] = set()
    for structure in label_set:
        name = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", structure.name).strip(" .") or "structure"
        if name.casefold() in taken:
            name = f"{name} ({structure.label})"
        taken.add(name.casefold())
        files[structure] = folder / f"{name}{suffix}"
    return files


#: The values of COLUMNS of each structure of a scan, after its name.
Rows = list[list[str]]


class Extras:
    """Writes what was asked for of each scan, and the table of all, of which no more than a scan is in memory."""

    def __init__(
        self,
        label_set: LabelSet,
        each_structure: bool,
        statistics: Path | None,
        series: str | None,
        measures: bool = False,
    ) -> None:
        """``label_set`` are the structures that are segmented; ``statistics`` is the file of the table, if any.

        With ``measures`` results are measured also without a table, for one that someone else writes.
        """
        self._label_set = label_set
        self._each_structure = each_structure
        self._statistics = statistics
        self._series = series
        self._measures = measures or statistics is not None
        self._partial: Path | None = None

    @property
    def wanted(self) -> bool:
        """Tell whether anything was asked for."""
        return self._each_structure or self._measures

    def of_files(self, each: ScanToSegment) -> Rows | None:
        """Write and measure what was asked for from the files of a scan and its result; raises ScanError, OSError."""
        from TransferSegLib.images.read import read_label_map, read_scan

        if not self.wanted:
            return None
        labels = read_label_map(each.output)
        return self.of_images(each, read_scan(each.scan, self._series) if self._measures else None, labels)

    def of_images(self, each: ScanToSegment, scan: Image | None, labels: Image) -> Rows | None:
        """Do the same from images; returns the rows of the table, None where there is no table."""
        from TransferSegLib.images.structure_statistics import structure_statistics

        if self._each_structure:
            self._write_structures(labels, each.output)
        if not self._measures or scan is None:
            return None
        return [[row.name, *row.cells()] for row in structure_statistics(scan, labels, self._label_set)]

    def add(self, each: ScanToSegment, rows: Rows | None) -> None:
        """Add the rows of a scan to the table; raises OSError."""
        if self._statistics is None or rows is None:
            return
        if self._partial is None:
            from TransferSegLib.images.structure_statistics import COLUMNS

            folder = self._statistics.absolute().parent
            folder.mkdir(parents=True, exist_ok=True)
            self._partial = folder / f".{uuid.uuid4().hex}.partial.csv"
            self._append([["scan", "structure", *COLUMNS]])
        self._append([[str(each.scan), *row] for row in rows])

    def write_table(self) -> None:
        """Give the table its name, if one was asked for and something was measured; raises OSError."""
        if self._statistics is not None and self._partial is not None:
            flush_file(self._partial)
            replace_file(self._partial, self._statistics.absolute())
            self._partial = None

    def close(self) -> None:
        """Remove a table that was not completed."""
        if self._partial is not None:
            with suppress(OSError):
                self._partial.unlink(missing_ok=True)

    def _append(self, rows: Sequence[Sequence[str]]) -> None:
        assert self._partial is not None
        with self._partial.open("a", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows(rows)

    def _write_structures(self, labels: Image, output: Path) -> None:
        from TransferSegLib.images.write import write_label_map

        for structure, file in structure_files(output, self._label_set).items():
            write_label_map(labels == structure.label, file, LabelSet((replace(structure, label=1),)))
