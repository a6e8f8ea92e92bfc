"""Does a scan's orientation in its file change its segmentation? Permuted and rotated copies against the original.

    python3 Testing/run.py benchmark orientation_agreement --data DATASET [--cases ID ...] [--degrees 20]

The permuted copy holds the same voxels with axes in another order and direction. The rotated copy is the same patient
in the same place, sampled on a grid turned about an oblique axis, with voxels of 2 mm so that little is lost by the
interpolation itself. Results are taken back to the original's grid by the nearest voxel, and compared by Dice.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.evaluation.scores import dice
from TransferSegLib.images.read import read_scan
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_model


def main() -> None:
    """Print the Dice between the original's segmentation and those of its copies, per structure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", nargs="+")
    parser.add_argument("--model")
    parser.add_argument("--degrees", type=float, default=20.0)
    arguments = parser.parse_args()
    dataset = read_dataset(arguments.data)
    segmenter = Segmenter(load_model(find_model(arguments.model)))
    names = segmenter.model.description.label_set.names
    print("case, copy:", ", ".join(names))
    for case in dataset.select(arguments.cases).cases if arguments.cases else dataset.cases[:3]:
        image = read_scan(case.image)
        original = segmenter.segment(image)
        for kind, copy in (("permuted", permuted(image)), ("rotated", rotated(image, arguments.degrees))):
            back = sitk.Resample(
                segmenter.segment(copy).label_map, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0
            )
            mine, other = sitk.GetArrayFromImage(original.label_map), sitk.GetArrayFromImage(back)
            scores = [dice(mine == s.label, other == s.label) for s in original.label_set]
            print(f"{case.id}, {kind}:", " ".join(f"{score:.3f}" for score in scores), f"mean {np.nanmean(scores):.3f}")


def permuted(image: sitk.Image) -> sitk.Image:
    """Return the same scan with its axes in another order, two of them reversed."""
    return sitk.Flip(sitk.PermuteAxes(image, [2, 0, 1]), [True, False, True])


def rotated(image: sitk.Image, degrees: float, spacing_mm: float = 2.0) -> sitk.Image:
    """Return the same patient in the same place on a turned grid that covers the scan."""
    transform = sitk.VersorTransform([0.3, 0.4, 0.866], np.deg2rad(degrees))
    direction = np.array(transform.GetMatrix()).reshape(3, 3) @ np.array(image.GetDirection()).reshape(3, 3)
    corners = [
        image.TransformContinuousIndexToPhysicalPoint([x * n for x, n in zip(corner, image.GetSize(), strict=True)])
        for corner in np.ndindex(2, 2, 2)
    ]
    local = np.array(corners) @ direction
    low, high = local.min(0), local.max(0)
    size = [int(n) for n in np.ceil((high - low) / spacing_mm)]
    origin = direction @ low
    return sitk.Resample(
        image,
        size,
        sitk.Transform(),
        sitk.sitkLinear,
        [float(v) for v in origin],
        [spacing_mm] * 3,
        [float(v) for v in direction.ravel()],
        float(sitk.GetArrayViewFromImage(image).min()),
        sitk.sitkFloat32,
    )


if __name__ == "__main__":
    main()
