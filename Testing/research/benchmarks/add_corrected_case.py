"""Measure how long adding a corrected case takes, by the size of its scan, and how much disk space it needs.

    python3 Testing/run.py benchmark add_corrected_case [--slices 50 100 200]

The scans are noise in the range of a CT inside a smooth body. They compress no better than real scans.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from Testing.research.common.measuring import command_line
from TransferSegLib.corrections.project import Project


def main() -> None:
    """Print a line per size."""
    parser = command_line(__doc__)
    parser.add_argument("--slices", type=int, nargs="+", default=[50, 100, 200])
    print("slices of 512 x 512   add, s   add a revision, s   remove, s   on disk, MB (int16 voxels, MB)")
    for slices in parser.parse_args().slices:
        scan = np.random.default_rng(0).normal(40, 20, (slices, 512, 512)).astype(np.int16)
        scan[:, :100] = -1000
        labels = np.zeros(scan.shape, np.uint8)
        labels[slices // 4 : slices // 2, 200:300, 200:300] = 1
        image, label_map = sitk.GetImageFromArray(scan), sitk.GetImageFromArray(labels)
        with tempfile.TemporaryDirectory() as folder:
            project = Project(Path(folder) / "project", create=True)
            seconds = []
            for change in (
                lambda: project.add_case(image, label_map, "all", structures={1: "liver"}),  # noqa: B023
                lambda: project.add_case(image, label_map, "all", structures={1: "liver"}),  # noqa: B023
                lambda: project.remove_case("case-0001"),  # noqa: B023
            ):
                started = time.perf_counter()
                change()
                seconds.append(time.perf_counter() - started)
            size = sum(path.stat().st_size for path in project.folder.rglob("*") if path.is_file()) / 2**20
        print(
            f"{slices:>19} {seconds[0]:>8.1f} {seconds[1]:>19.1f} {seconds[2]:>11.2f} {size:>9.0f} "
            f"({scan.nbytes / 2**20:.0f})"
        )


if __name__ == "__main__":
    main()
