"""Measure segmenting a whole scan: seconds per stage and peak memory of the process.

    python3 Testing/run.py benchmark segment_scan --size 512 512 300 --spacing 0.75 0.75 1.25 --model-spacing 3

The scan is a synthetic body with organs; a network with random weights draws boundaries everywhere, which is the
worst case for decoding. ``--model`` takes a real model, ``--scan`` a real scan.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from TransferSegLib.images import label_resampling as decode
from TransferSegLib.images.intensity import CT_WINDOW
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.images.read import read_scan
from TransferSegLib.inference import segment
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.description import ModelDescription, Provenance
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
from TransferSegLib.networks.unet_valid.inference_network import InferenceNetwork
from TransferSegLib.networks.unet_valid.unet import UNet3D, initialise
from TransferSegLib.structures import LabelSet, Structure, default_color


def synthetic_scan(size_xyz: tuple[int, int, int], spacing_xyz: tuple[float, float, float]) -> sitk.Image:
    """Return an elliptic body in air with noise and a few thousand blobs of soft tissue (int16)."""
    width, height, depth = size_xyz
    generator = np.random.default_rng(0)
    coarse = sitk.GetImageFromArray(generator.normal(size=(depth // 8 + 2, height // 16 + 2, width // 16 + 2)))
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    body = (x / 0.85) ** 2 + (y / 0.6) ** 2 < 1
    voxels = np.full((depth, height, width), -1000, np.int16)
    for index in range(depth):
        plane = sitk.GetArrayFromImage(coarse[:, :, index // 8])
        tissue = np.kron(plane, np.full((16, 16), 80.0))[:height, :width] + generator.normal(0, 15, (height, width))
        voxels[index] = np.where(body, tissue, -1000)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing_xyz)
    return image


def random_model(width: int, classes: int, spacing_mm: float) -> Model:
    """Return a model with random weights."""
    network = UNet3D(classes, width)
    initialise(network, 0)
    structures = LabelSet(tuple(Structure(f"structure {n}", n, default_color(n)) for n in range(1, classes)))
    texts = dict.fromkeys(("summary", "license", "training_data", "citation"), "")
    description = ModelDescription(
        name="random",
        version="1",
        label_set=structures,
        preparation=Preparation.isotropic(spacing_mm, CT_WINDOW),
        network=unet_valid_spec(width=width, classes=classes),
        modality="CT",
        metrics={},
        provenance=Provenance("benchmark", 0, "0", "2024-01-01"),
        **texts,
    )
    return Model(description, network.state_dict(), Path("random"))


def timed(seconds: dict[str, float], stage: str, function: Any) -> Any:
    """Return the function with its seconds added up under the name of a stage."""

    def run(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds[stage] += time.perf_counter() - started

    return run


def main() -> None:
    """Segment one scan and print one line per stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 300])
    parser.add_argument("--spacing", type=float, nargs=3, default=[0.75, 0.75, 1.25])
    parser.add_argument("--turn", type=float, default=0, help="degrees by which the scan is turned about z")
    parser.add_argument("--model-spacing", type=float, default=3.0)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--memory", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = (
        load_model(options.model)
        if options.model
        else random_model(options.width, options.classes, options.model_spacing)
    )
    image = read_scan(options.scan) if options.scan else synthetic_scan(tuple(options.size), tuple(options.spacing))
    if options.turn:
        cosine, sine = np.cos(np.radians(options.turn)), np.sin(np.radians(options.turn))
        image.SetDirection((cosine, -sine, 0, sine, cosine, 0, 0, 0, 1))

    seconds: dict[str, float] = defaultdict(float)
    segment.preprocess = timed(seconds, "canonical grid", segment.preprocess)
    decode.LabelResampler.write = timed(seconds, "decoding", decode.LabelResampler.write)
    InferenceNetwork.__call__ = timed(seconds, "network", InferenceNetwork.__call__)  # type: ignore[method-assign]
    started = time.perf_counter()
    segmenter = Segmenter(model, options.device, options.memory)
    seconds["loading"] = time.perf_counter() - started
    processor_started = time.process_time()
    segmentation = segmenter.segment(image)
    processor = time.process_time() - processor_started
    seconds["rest"] = segmentation.seconds - sum(value for name, value in seconds.items() if name != "loading")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
    print(f"{image.GetSize()} voxels of {image.GetSpacing()} mm on {segmentation.device}")
    print(f"whole: {segmentation.seconds:.1f} s ({processor:.1f} processor s), peak resident {peak / 1e9:.2f} GB")
    for name, value in seconds.items():
        print(f"  {name}: {value:.2f} s")


if __name__ == "__main__":
    main()
