"""Make the table of MONAI's surface distances that ``Testing/evaluation/test_surface_distance.py`` compares with.

    python3 Testing/run.py benchmark surface_reference Testing/evaluation/surface_reference.json

Needs MONAI (``pip install monai==1.6.1``). The tests do not, because the table is committed together with the arrays it
was made from (bits, zlib, base64). Each entry holds MONAI's ``compute_surface_dice`` with its default
``use_subvoxels=False`` and its ``compute_hausdorff_distance`` at 95 %; null means nan. (Where one array is empty,
MONAI's plain Hausdorff distance is infinite and its percentile nan, interpolated between infinities.)
"""

from __future__ import annotations

import base64
import json
import math
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

Spacing = tuple[float, float, float]
ISOTROPIC: Spacing = (1.0, 1.0, 1.0)
THICK: Spacing = (8.0, 1.37, 1.37)
CLINICAL: Spacing = (2.5, 3.9, 3.9)
UNEVEN: Spacing = (3.0, 0.7, 0.9765625)


def pairs() -> dict[str, tuple[np.ndarray, np.ndarray, Spacing, float]]:
    """Return name -> found, reference (booleans, zyx), spacing (zyx, mm), tolerance (mm)."""
    shape = (20, 24, 28)
    cube = box(shape, (5, 6, 7), (13, 16, 17))
    ball = ellipsoid(shape, (10, 12, 14), (6, 8, 9))
    voxel = box(shape, (9, 9, 9), (10, 10, 10))
    empty = np.zeros(shape, bool)
    entries = {
        "cube moved by two voxels": (np.roll(cube, 2, 2), cube, ISOTROPIC, 1.0),
        "cube moved, thick slices": (np.roll(cube, 1, 0), cube, THICK, 3.0),
        "cube moved by the tolerance": (np.roll(cube, 3, 1), cube, UNEVEN, 2.1),
        "small ball in a large one": (ellipsoid(shape, (10, 12, 14), (4, 5, 6)), ball, CLINICAL, 6.0),
        "same ball": (ball, ball, CLINICAL, 0.0),
        "ball with a speck far away": (ball | box(shape, (0, 0, 0), (1, 1, 2)), ball, UNEVEN, 3.0),
        "single voxels": (voxel, np.roll(voxel, (2, 3), (0, 2)), UNEVEN, 6.6),
        "at the image's edge": (box(shape, (0, 0, 0), (8, 24, 10)), box(shape, (0, 2, 0), (9, 24, 12)), CLINICAL, 3.0),
        "the whole image and a part": (np.ones(shape, bool), cube, CLINICAL, 5.0),
        "one slice": (box(shape, (4, 3, 3), (5, 15, 15)), box(shape, (4, 4, 5), (5, 17, 15)), THICK, 2.0),
        "nothing found": (empty, cube, UNEVEN, 3.0),
        "nothing there": (cube, empty, UNEVEN, 3.0),
        "neither": (empty, empty, UNEVEN, 3.0),
    }
    random = np.random.default_rng(20)
    for number, spacing in enumerate([ISOTROPIC, THICK, CLINICAL, UNEVEN]):
        common = gaussian_filter(random.normal(size=shape), 2.5)
        first, second = (common + 0.5 * gaussian_filter(random.normal(size=shape), 2.0) for _ in range(2))
        entries[f"blobs {number + 1}"] = (first > first.std(), second > second.std(), spacing, 2.0 + number)
    return entries


def box(shape: tuple[int, int, int], low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    """Return a box from ``low`` up to and without ``high`` (zyx)."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))] = True
    return mask


def ellipsoid(shape: tuple[int, int, int], centre: tuple[int, int, int], radii: tuple[int, int, int]) -> np.ndarray:
    """Return the voxels within an ellipsoid."""
    axes = np.ogrid[tuple(slice(size) for size in shape)]
    distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True))
    return np.asarray(distance <= 1.0)


def packed(mask: np.ndarray) -> str:
    """Return an array's bits as text."""
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode("ascii")


def measured(found: np.ndarray, reference: np.ndarray, spacing: Spacing, tolerance: float) -> dict[str, Any]:
    """Return MONAI's numbers as an entry of the table."""
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    first, second = (torch.from_numpy(mask)[None, None].float() for mask in (found, reference))
    options = {"include_background": True, "spacing": list(spacing)}
    nsd = float(compute_surface_dice(first, second, class_thresholds=[tolerance], **options))
    hd95 = float(compute_hausdorff_distance(first, second, percentile=95, **options))
    return {
        "nsd": nsd if math.isfinite(nsd) else None,
        "hd95_mm": hd95 if math.isfinite(hd95) else None,
    }


def main() -> None:
    """Write the table."""
    import monai

    table: dict[str, Any] = {"made_with": f"monai {monai.__version__}", "pairs": {}}
    for name, (found, reference, spacing, tolerance) in pairs().items():
        entry = {"shape": found.shape, "spacing_zyx_mm": spacing, "tolerance_mm": tolerance}
        entry |= {"found": packed(found), "reference": packed(reference)}
        table["pairs"][name] = entry | measured(found, reference, spacing, tolerance)
        print(f"{name:30s} {table['pairs'][name]['nsd']} {table['pairs'][name]['hd95_mm']}")
    Path(sys.argv[1]).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
