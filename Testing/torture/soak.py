"""Many scans segmented in one process: memory stays flat, no file stays open, no temporary file stays behind."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import tiny
from trials import Outcome
from warm import Warm

from TransferSegLib.images.read import read_scan
from TransferSegLib.images.write import write_label_map
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.store import load_model

#: Sizes of scans (zyx), over and over: torch keeps prepared convolutions for the last 1,024 shapes, so memory grows
#: with every new size for a while, up to that bound. What grows with a size seen before would be a leak.
SIZES = ((8, 9, 10), (12, 20, 20), (27, 11, 9), (16, 16, 16), (9, 27, 27), (22, 25, 13))
#: Scans before memory counts: caches and the allocator's pools fill up first.
WARMING_UP = 40
#: By so much, in bytes, the memory of the later half may lie above the earlier.
MOST_GROWTH_BYTES = 25_000_000
_FORMATS = ("scan.nii.gz", "scan.nrrd", "scan.vtk")
_GIVE_UP_S = 60.0


def trials(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Yield after each scan, in one process to the end, what grew."""
    temporary = folder / "temporary"
    temporary.mkdir()
    worker = Warm(_segment, str(folder), str(temporary), chance.randrange(1 << 30))
    told: list[tuple[int, int]] = []
    try:
        while worker.read(1.0):
            lines, worker.lines = worker.lines, []
            for line in lines:
                if not line.startswith("scan "):
                    yield 1, [line]
                    return
                resident, descriptors, left = (int(word) for word in line.split()[1:])
                told.append((resident, descriptors))
                failures = [f"{left} temporary files are left"] if left else []
                later = told[WARMING_UP:]
                fact = f"fact: {resident / 1e6:.0f} MB"
                if len(later) >= 40:
                    sizes = np.array([one[0] for one in later], float)
                    half = len(sizes) // 2
                    growth = float(np.median(sizes[half:]) - np.median(sizes[:half]))
                    fact += f", {growth / 1e6:+.1f} MB from the earlier half to the later"
                    if growth > MOST_GROWTH_BYTES:
                        failures.append(f"memory grew by {growth / 1e6:.0f} MB within {len(later)} scans")
                    if later[-1][1] > later[0][1] + 2:
                        failures.append(f"open files: {later[0][1]} at first, {later[-1][1]} now")
                yield 1, [*failures, fact]
            if time.monotonic() - worker.heard > _GIVE_UP_S:
                yield 1, [f"no scan within {_GIVE_UP_S:g} s"]
                return
        yield 1, ["the process ended"]
    finally:
        worker.kill()


def _segment(folder: str, temporary: str, seed: int) -> None:
    """Segment scans of all sizes and formats for ever, and say after each what is held."""
    place, chance = Path(folder), random.Random(seed)
    tempfile.tempdir = temporary
    segmenter = Segmenter(load_model(tiny.write_model(place / "model")), "cpu", 1.0)
    while True:
        image = tiny.scan(chance.randrange(100), chance.choice(SIZES))
        file = place / chance.choice(_FORMATS)
        sitk.WriteImage(image, str(file))
        found = segmenter.segment(read_scan(file))
        write_label_map(found.label_map, place / "out.seg.nrrd", found.label_set)
        if np.any(np.array(found.label_map.GetSize()) != image.GetSize()):
            raise AssertionError("the label map has another size than its scan")
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        print(
            f"scan {pages * os.sysconf('SC_PAGE_SIZE')} {descriptors} {len(list(Path(temporary).iterdir()))}",
            flush=True,
        )
