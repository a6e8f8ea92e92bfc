"""Time of every stage, and peak memory, of segmenting a scan; in a process of its own.

    python3 Testing/run.py benchmark segment_scan [--width 32] [--memory 4] [--threads 2] [--device auto]
    python3 Testing/run.py benchmark segment_scan --synthetic --model-spacing 1 --width 32 --classes 23

By default the scan is the bundled sample CT, interpolated to 512 x 512 x 300 voxels of 0.98 x 0.98 x 1 mm (a 500 x 500
x 300 mm field of view, the neck's usual share of it; the rest is air), and the model the bundled one. ``--scan`` and
``--model`` take others. ``--width`` takes a network with random weights instead: it draws structures everywhere, so
that resampling the labels costs its most. ``--synthetic`` takes a body with organs instead of the sample.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from Testing.research.common.measuring import command_line, peak_memory_bytes
from Testing.research.common.models import random_model
from Testing.research.common.scans import resampled_around, sample_scan, synthetic_scan
from TransferSegLib.images.label_resampling import LabelResampler
from TransferSegLib.images.read import read_scan
from TransferSegLib.images.write import write_label_map
from TransferSegLib.inference import segmenter as segmenting
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.networks.unet_valid.inference_network import InferenceNetwork


def main() -> None:
    """Write the scan, and segment it in a child process."""
    parser = command_line(__doc__, threads=2, device=True)
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--synthetic", action="store_true")
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 300])
    parser.add_argument("--spacing", type=float, nargs=3, default=[0.98, 0.98, 1.0], help="mm")
    parser.add_argument("--turn", type=float, default=0, help="degrees by which the scan is turned about z")
    parser.add_argument("--model", help="name or folder (default: the bundled model)")
    parser.add_argument("--width", type=int, help="a network of this width with random weights")
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--model-spacing", type=float, default=3.0, help="mm, of the random network")
    parser.add_argument("--memory", type=float, default=4.0, help="GB")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_this_process:
        measure(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "scan.nii.gz"
        sitk.WriteImage(wanted_scan(options), str(scan), useCompression=True)
        # What making the scan took does not count.
        subprocess.run([sys.executable, *sys.argv, "--scan", str(scan), "--in-this-process"], check=True)


def wanted_scan(options: argparse.Namespace) -> sitk.Image:
    """Return the scan that the options describe."""
    if options.scan is not None:
        image = read_scan(options.scan)
    elif options.synthetic:
        image = synthetic_scan(tuple(options.size), tuple(options.spacing))
    else:
        image = resampled_around(sample_scan(), options.size, options.spacing)
    if options.turn:
        cosine, sine = np.cos(np.radians(options.turn)), np.sin(np.radians(options.turn))
        image.SetDirection((cosine, -sine, 0, sine, cosine, 0, 0, 0, 1))
    return image


def wanted_model(options: argparse.Namespace) -> Model:
    """Return the model that the options describe."""
    if options.width is not None:
        return random_model(options.classes, options.width, options.model_spacing)
    return load_model(find_model(options.model))


def measure(options: argparse.Namespace) -> None:
    """Read, segment and write, and print a line per stage."""
    torch.set_num_threads(options.threads)
    model = wanted_model(options)
    seconds: dict[str, float] = defaultdict(float)
    segmenting.preprocess = timed(seconds, "  preprocessing", segmenting.preprocess)
    LabelResampler.write = timed(seconds, "  resampling labels", LabelResampler.write)  # type: ignore[method-assign]
    InferenceNetwork.__call__ = timed(seconds, "  network", InferenceNetwork.__call__)  # type: ignore[method-assign]
    image = timed(seconds, "reading", read_scan)(options.scan)
    segmenter = timed(seconds, "choosing the device", Segmenter)(model, options.device, options.memory)
    processor_started = time.process_time()
    segmentation = timed(seconds, "segmenting", segmenter.segment)(image)
    processor = time.process_time() - processor_started
    output = options.scan.with_name("out.seg.nrrd")
    timed(seconds, "writing", write_label_map)(segmentation.label_map, output, segmentation.label_set)
    print(f"{image.GetSize()} voxels of {image.GetSpacing()} mm on {segmentation.device}, {options.threads} threads")
    whole = sum(value for stage, value in seconds.items() if not stage.startswith(" "))
    print(f"whole: {whole:.1f} s (segmenting: {processor:.1f} processor s), peak {peak_memory_bytes() / 1e9:.2f} GB")
    for stage, value in seconds.items():
        print(f"{stage}: {value:.2f} s")


def timed(seconds: dict[str, float], stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with its seconds added up under the name of a stage."""

    def run(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        seconds[stage] += 0.0  # so that an outer stage is listed before those within it
        try:
            return function(*arguments, **named)
        finally:
            seconds[stage] += time.perf_counter() - started

    return run


if __name__ == "__main__":
    main()
