"""Test whether files 2k - 1 and 2k of the hippocampus collection show one person, by the similarity of intensities.

    python3 Testing/run.py benchmark hippocampus_pairs --data DATA

DATA holds ``hippocampus_mr/images`` and ``labels``. Printed is the median difference between the mean intensities
within the labels of two files: for files 2k - 1 and 2k, for 2k and 2k + 1, and for pairs drawn at random.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from Testing.research.common.measuring import command_line


def mean_intensities(folder: Path) -> dict[int, float]:
    """Return the mean intensity within the label by the number of a file."""
    found = {}
    for image in sorted((folder / "images").iterdir()):
        number = re.search(r"(\d+)\.nii\.gz$", image.name)
        if number is not None:
            voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(image))).astype(np.float64)
            labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labels" / image.name)))
            found[int(number[1])] = float(voxels[labels > 0].mean())
    return found


def median_ratio(means: dict[int, float], pairs: Sequence[tuple[int, int]]) -> float:
    """Return by what factor the larger mean of a pair exceeds the smaller one, the median over pairs."""
    return float(np.exp(np.median([abs(np.log(means[one] / means[other])) for one, other in pairs])))


def main() -> None:
    """Print the three comparisons."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    means = mean_intensities(parser.parse_args().data / "hippocampus_mr")
    numbers = sorted(means)
    random = np.random.default_rng(0)
    drawn = [tuple(random.choice(numbers, 2, replace=False)) for _ in range(2000)]
    following = [(number, number + 1) for number in numbers if number + 1 in means]
    for words, pairs in (
        ("2k - 1 and 2k", [pair for pair in following if pair[0] % 2]),
        ("2k and 2k + 1", [pair for pair in following if not pair[0] % 2]),
        ("drawn at random", drawn),
    ):
        print(f"files {words}: {len(pairs)} pairs, median difference {100 * (median_ratio(means, pairs) - 1):.0f} %")


if __name__ == "__main__":
    main()
