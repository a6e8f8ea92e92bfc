"""What ``transferseg segment`` writes besides the label map: a file for each structure, and a table of statistics.

Both are made from the files of scan and result, so that results of an earlier run, corrected or not, count as they are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.inference.segment_file import ScanToSegment
from TransferSegLib.structures import LabelSet, Structure

if TYPE_CHECKING:
    from SimpleITK import Image

    from TransferSegLib.images.structure_statistics import StructureStatistics


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


class Extras:
    """Writes what was asked for of each scan, and the table of all."""

    def __init__(self, label_set: LabelSet, each_structure: bool, statistics: Path | None, series: str | None) -> None:
        """``label_set`` are the structures that are segmented; ``statistics`` is the file of the table, if any."""
        self._label_set = label_set
        self._each_structure = each_structure
        self._statistics = statistics
        self._series = series
        self._rows: list[tuple[str, StructureStatistics]] = []

    def write(self, each: ScanToSegment) -> None:
        """Write the files of a scan's structures, and measure them; raises ScanError and OSError."""
        from TransferSegLib.images.read import read_label_map, read_scan
        from TransferSegLib.images.structure_statistics import structure_statistics

        if not self._each_structure and self._statistics is None:
            return
        labels = read_label_map(each.output)
        if self._each_structure:
            self._write_structures(labels, each.output)
        if self._statistics is not None:
            scan = read_scan(each.scan, self._series)
            rows = structure_statistics(scan, labels, self._label_set)
            self._rows += [(str(each.scan), row) for row in rows]

    def write_table(self) -> None:
        """Write the table of statistics, if one was asked for and something was measured; raises OSError."""
        if self._statistics is None or not self._rows:
            return
        from TransferSegLib.images.structure_statistics import COLUMNS

        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("scan", "structure", *COLUMNS))
        for scan, row in self._rows:
            writer.writerow((scan, row.name, *row.cells()))
        self._statistics.absolute().parent.mkdir(parents=True, exist_ok=True)
        write_text_durably(self._statistics, text.getvalue())

    def _write_structures(self, labels: Image, output: Path) -> None:
        from TransferSegLib.images.write import write_label_map

        for structure, file in structure_files(output, self._label_set).items():
            write_label_map(labels == structure.label, file, LabelSet((replace(structure, label=1),)))


def failures_table(failures: Sequence[tuple[Path, str]]) -> str:
    """Return the table of the scans that were not segmented, with the reasons."""
    from TransferSegLib.wording import table

    rows = [(scan.name, " ".join(reason.removeprefix(f"{scan}: ").split())) for scan, reason in failures]
    return table(("not segmented", "why"), rows)
