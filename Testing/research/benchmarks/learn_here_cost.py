"""Processor seconds of one click on Learn here in a CT of 512 x 512 x 300 voxels, whose features were kept.

    python3 Testing/run.py benchmark learn_here_cost [--threads 1] [--repeats 3]

The models are the bundled one, and the paper's network at full width (32) with 23 classes at 1 mm, with random weights.
The scan is the bundled sample CT, interpolated to 0.98 x 0.98 x 1 mm. One structure is an ellipsoid, of which four
slices are judged. A first click, which is not measured, keeps the features that it needs within the usual budget; their
values are random, as computing them at full width would take long. A click reads them, fits the layer and redraws the
other slices.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
import SimpleITK as sitk
import torch

from Testing.research.common.measuring import command_line, processor_seconds
from Testing.research.common.models import random_model
from Testing.research.common.scans import resampled_around, sample_scan
from TransferSegLib.corrections.inputs import JudgedSlices
from TransferSegLib.inference.kept_features import KeptFeatures, load_features, model_key, scan_key
from TransferSegLib.learn_here.learn import learn_here
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.wording import table

SIZE, SPACING_MM = (512, 512, 300), (0.98, 0.98, 1.0)
#: Half axes (x, y, z in mm): a larynx, a liver.
STRUCTURES_MM = {"60 ml": (24.0, 24.0, 25.0), "1500 ml": (90.0, 60.0, 66.0)}
JUDGED = 4


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


def random_features(model: Model, image: sitk.Image, wanted_zyx: np.ndarray) -> KeptFeatures:
    """Return features of random values for the voxels of a mask on the model's grid."""
    channels = model.state_dict[f"{model.description.backbone.heads[-1]}.weight"].shape[1]
    voxels = np.flatnonzero(wanted_zyx)
    values = np.random.default_rng(1).random((len(voxels), channels), np.float32).astype(np.float16)
    z, y, x = wanted_zyx.shape
    return KeptFeatures(scan_key(image), model_key(model), (z, y, x), voxels, values)


def measured(image: sitk.Image, model: Model, half_axes_mm: Sequence[float], repeats: int) -> list[str]:
    """Return megabytes that were kept, the voxels of the structure and the smallest processor seconds of a click."""
    labels = ellipsoid(image, half_axes_mm)
    names = {1: model.description.label_set.names[0]}
    judged = JudgedSlices.parse(judged_slices(labels, JUDGED))
    best = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features"
        made = lambda model, image, wanted_zyx, *_: random_features(model, image, wanted_zyx)  # noqa: E731
        with patch("TransferSegLib.learn_here.learn._computed", made):
            learn_here(image, labels, judged, model, names=names, features=file, device="cpu")
        for _ in range(repeats):
            before = processor_seconds()
            learned = learn_here(image, labels, judged, model, names=names, features=file, device="cpu")
            assert learned.features_kept
            best = min(best, processor_seconds() - before)
        kept = load_features(file, scan_key(image), model_key(model))
    assert kept is not None
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
