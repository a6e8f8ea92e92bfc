"""Time and peak memory of segmenting a 512 x 512 x 300 scan with the bundled model, in a process of its own.

    python3 Testing/run.py benchmark segment_large_scan [--threads 2] [--memory 4] [--width 32] [--device auto]

The scan is the bundled sample CT, interpolated to 512 x 512 x 300 voxels of 0.98 x 0.98 x 1 mm (a 500 x 500 x 300 mm
field of view, the neck's usual share of it; the rest is air). ``--width`` takes a network of that width with random
weights instead of the bundled model: they claim structures everywhere, so that decoding costs its most.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE = (512, 512, 300)
SPACING_MM = (0.98, 0.98, 1.0)


def main() -> None:
    """Write the scan, segment it in a child process, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", type=float, default=4.0)
    parser.add_argument("--width", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scan", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.scan is not None:
        segment(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "large.nii.gz"
        write_scan(scan)
        words = [*sys.argv, "--scan", str(scan)]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    print(done.stdout.strip())


def write_scan(path: Path) -> None:
    """Interpolate the bundled sample to the large grid."""
    import SimpleITK as sitk

    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.images.read import read_scan
    from TransferSegLib.models.locate import bundled_sample

    sample = read_scan(read_dataset(bundled_sample()).cases[0].image)
    middle = sample.TransformContinuousIndexToPhysicalPoint([n / 2 for n in sample.GetSize()])
    origin = [m - n * s / 2 for m, n, s in zip(middle, SIZE, SPACING_MM, strict=True)]
    identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    large = sitk.Resample(
        sample, SIZE, sitk.Transform(), sitk.sitkLinear, origin, SPACING_MM, identity, -1024, sitk.sitkInt16
    )
    sitk.WriteImage(large, str(path), useCompression=True)


def segment(arguments: argparse.Namespace) -> None:
    """Segment and print a line of JSON: seconds by part, and the peak memory of this process."""
    import resource

    import torch

    from TransferSegLib.images.read import read_scan
    from TransferSegLib.images.write import write_label_map
    from TransferSegLib.inference.segment import Segmenter
    from TransferSegLib.models.locate import find_model
    from TransferSegLib.models.store import Model, load_model
    from TransferSegLib.networks.unet_valid.unet import UNet3D, initialise

    torch.set_num_threads(arguments.threads)
    model = load_model(find_model())
    if arguments.width is not None:
        from dataclasses import replace

        network = UNet3D(model.description.network.classes, arguments.width)
        initialise(network, 0)
        described = replace(model.description.network, width=arguments.width)
        model = Model(replace(model.description, network=described), network.state_dict(), model.path)
    begun = time.perf_counter()
    image = read_scan(arguments.scan)
    read = time.perf_counter()
    segmentation = Segmenter(model, arguments.device, arguments.memory).segment(image)
    segmented = time.perf_counter()
    write_label_map(segmentation.label_map, arguments.scan.with_name("out.seg.nrrd"), segmentation.label_set)
    written = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(
        json.dumps(
            {
                "scan": "x".join(map(str, SIZE)),
                "device": segmentation.device,
                "threads": arguments.threads,
                "width": model.description.network.arguments["width"],
                "read_s": round(read - begun, 1),
                "segment_s": round(segmented - read, 1),
                "write_s": round(written - segmented, 1),
                "total_s": round(written - begun, 1),
                "peak_gb": round(peak / 1e9, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
