"""Processor seconds of one click on Learn here in a CT of 512 x 512 x 300 voxels, whose features were kept.

    python3 Testing/run.py benchmark learn_here_cost [--threads 1] [--repeats 3]

The models are the bundled one, and the paper's network at full width (32) with 23 classes at 1 mm, with random weights.
The scan is the bundled sample CT, interpolated to 0.98 x 0.98 x 1 mm. One structure is an ellipsoid, of which four
slices are judged. The features around it are kept by the same code that keeps them when a scan is segmented, within the
same budget, but their values are random: no scan is segmented, which at full width would take long. A click reads
them, fits the layer and redraws the other slices.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from Testing.research.common.measuring import command_line, processor_seconds
from Testing.research.common.models import random_model
from Testing.research.common.scans import resampled_around, sample_scan
from TransferSegLib.corrections.inputs import JudgedSlices
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.images.preprocess import preprocess
from TransferSegLib.inference.box_logits import BoxFeatures, BoxLogits
from TransferSegLib.inference.kept_features import FeatureKeeper, KeptFeatures, save_features
from TransferSegLib.learn_here.learn import learn_here
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.wording import table

SIZE, SPACING_MM = (512, 512, 300), (0.98, 0.98, 1.0)
#: Half axes (x, y, z in mm): a larynx, a liver.
STRUCTURES_MM = {"60 ml": (24.0, 24.0, 25.0), "1500 ml": (90.0, 60.0, 66.0)}
JUDGED = 4
#: Side of the boxes of the model's grid that are handed to the keeper, in voxels.
SIDE = 96


def ellipsoid(image: sitk.Image, half_axes_mm: Sequence[float]) -> sitk.Image:
    """Return a label map of an ellipsoid (1) in the middle of a scan."""
    x, y, z = (
        (np.arange(size) - size / 2) * step / half
        for size, step, half in zip(image.GetSize(), image.GetSpacing(), half_axes_mm, strict=True)
    )
    inside = z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2 < 1
    labels = sitk.GetImageFromArray(inside.astype(np.uint8))
    labels.CopyInformation(image)
    return labels


def judged_slices(labels: sitk.Image, count: int) -> str:
    """Return the first and the last slice of a structure and some between them, as the command line takes them."""
    held = np.flatnonzero(sitk.GetArrayViewFromImage(labels).any(axis=(1, 2)))
    return "z:" + ",".join(str(held[round(part * (len(held) - 1))]) for part in np.linspace(0, 1, count))


def random_features(image: sitk.Image, labels: sitk.Image, model: Model, grid: ModelGrid) -> KeptFeatures:
    """Return features of random values for the voxels of which a segmentation would keep them."""
    channels = model.state_dict[f"{model.description.backbone.heads[-1]}.weight"].shape[1]
    values = torch.rand((channels, SIDE, SIDE, SIDE), generator=torch.Generator().manual_seed(1)).half()
    background = torch.zeros((1, 1, 1, 1)).expand(2, SIDE, SIDE, SIDE)
    keeper = FeatureKeeper(also=labels)
    keeper.begin(grid)
    for box in np.ndindex(*(-(-size // SIDE) for size in grid.size_zyx)):
        (z, _), (y, _), (x, _) = within = [
            (SIDE * place, min(SIDE, size - SIDE * place)) for place, size in zip(box, grid.size_zyx, strict=True)
        ]
        part = (slice(None), *(slice(length) for _, length in within))
        stop = tuple(first + length for first, length in within)
        features = BoxFeatures((z, y, x), values[part])
        keeper.add(BoxLogits((z, y, x), (stop[0], stop[1], stop[2]), background[part], features=features))
    keeper.finish(image, model)
    assert keeper.kept is not None
    return keeper.kept


def measured(image: sitk.Image, model: Model, half_axes_mm: Sequence[float], repeats: int) -> list[str]:
    """Return megabytes that were kept, the voxels of the structure and the smallest processor seconds of a click."""
    labels = ellipsoid(image, half_axes_mm)
    kept = random_features(image, labels, model, preprocess(image, model.description.preparation).grid)
    best = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features"
        save_features(kept, file)
        for _ in range(repeats):
            before = processor_seconds()
            names = {1: model.description.label_set.names[0]}
            judged = JudgedSlices.parse(judged_slices(labels, JUDGED))
            learned = learn_here(image, labels, judged, model, names=names, features=file, device="cpu")
            assert learned.features_kept
            best = min(best, processor_seconds() - before)
    return [f"{kept.features.nbytes / 1e6:.0f}", str(kept.features.shape[1]), f"{best:.1f}"]


def main() -> None:
    """Measure, and print a table."""
    parser = command_line(__doc__, threads=1)
    parser.add_argument("--repeats", type=int, default=3, help="clicks of which the fastest counts (default: 3)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    image = resampled_around(sample_scan(), SIZE, SPACING_MM)
    models = {"bundled": load_model(find_model()), "full width, 1 mm": random_model(23, 32, 1.0)}
    header = ("model", "structure", "features kept, MB", "channels", "processor seconds of a click")
    rows = []
    for name, model in models.items():
        for structure, half_axes_mm in STRUCTURES_MM.items():
            rows.append([name, structure, *measured(image, model, half_axes_mm, options.repeats)])
            print(*rows[-1], sep=", ", file=sys.stderr, flush=True)
    print(table(header, rows))


if __name__ == "__main__":
    main()
