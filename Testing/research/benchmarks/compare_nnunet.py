"""Time, memory and labels of one scan with one model of nnU-Net: nnU-Net's own predictor, and TransferSeg.

    python3 Testing/run.py benchmark compare_nnunet [--size 300 300 300] [--structures 117] [--threads 2] [--rounds 1]

The network is TotalSegmentator's at 1.5 mm (PlainConvUNet, 32 to 320 features, 31 M weights, windows of 128 x 128 x
128 voxels) with random weights, the scan a synthetic body on the model's grid. Each arm runs in a process of its own;
times are those of predicting, without start-up and reading, peak memory is that of the process. nnU-Net's arm is its
``predict_single_npy_array`` with the settings that TotalSegmentator uses: no mirroring, sums and labels on the CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from Testing.research.common.measuring import command_line, peak_memory_bytes, processor_seconds
from Testing.research.common.scans import synthetic_scan
from TransferSegLib.images.intensity import IntensityRule
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.description import ModelDescription, Provenance
from TransferSegLib.models.exporters.nnunet.export import export_nnunet
from TransferSegLib.models.store import load_model, save_model
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.nnunet.backbone import nnunet_spec
from TransferSegLib.networks.nnunet.plan import UNetPlan
from TransferSegLib.structures import LabelSet, Structure

SPACING_MM = 1.5
ARMS = ("nnU-Net", "TransferSeg, float32", "TransferSeg")


def main() -> None:
    """Make model and scan, run every arm, print the table."""
    parser = command_line(__doc__, threads=2)
    parser.add_argument("--size", type=int, nargs=3, default=[300, 300, 300], help="of the scan, x y z")
    parser.add_argument("--structures", type=int, default=117)
    parser.add_argument("--features", type=int, nargs="+", default=[32, 64, 128, 256, 320, 320])
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--step", type=float, default=0.5, help="nnU-Net's tile_step_size")
    parser.add_argument("--rounds", type=int, default=1, help="the fastest round counts")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--memory", type=float, default=6.0, help="GB that TransferSeg may take")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(options, Path(folder))
        found: dict[str, dict[str, float]] = {}
        for _ in range(options.rounds):
            for arm in options.arms:
                program = [sys.executable, "-P", "-m", __spec__.name, *sys.argv[1:], "--arm", arm, "--folder", folder]
                run = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True)
                result = json.loads(run.stdout.splitlines()[-1])
                if arm not in found or result["seconds"] < found[arm]["seconds"]:
                    found[arm] = result
        print(table(found, Path(folder)))


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """Write the scan, the model and the same model for nnU-Net."""
    x, y, z = options.size
    sitk.WriteImage(synthetic_scan((x, y, z), (SPACING_MM,) * 3), str(folder / "scan.nrrd"))
    levels = len(options.features)
    plan = UNetPlan(
        is_residual=False,
        features=tuple(options.features),
        kernels_zyx=((3, 3, 3),) * levels,
        strides_zyx=((1, 1, 1),) + ((2, 2, 2),) * (levels - 1),
        encoder_blocks=(2,) * levels,
        decoder_convolutions=(2,) * (levels - 1),
        patch_zyx=(options.patch,) * 3,
        overlap=1 - options.step,
    )
    spec = nnunet_spec(plan, 1, options.structures + 1)
    network = backbone_of(spec).build()
    backbone_of(spec).initialise(network, 1)
    rule = IntensityRule("fixed-zscore", -1000.0, 1000.0, None, 50.0, 300.0)
    structures = tuple(Structure(f"structure {n}", n, (n, 255 - n, 99)) for n in range(1, options.structures + 1))
    description = ModelDescription(
        name="random",
        version="1",
        label_set=LabelSet(structures),
        preparation=Preparation((SPACING_MM,) * 3, (rule,), "kji", "nnunet"),
        network=spec,
        modality="CT",
        summary="random weights",
        license="none needed",
        training_data="none",
        citation="none",
        metrics={},
        provenance=Provenance("compare_nnunet", 1, "0", "2026-01-01"),
    )
    save_model(folder / "model", description, network.state_dict())
    exported = export_nnunet(folder / "model", folder / "results")
    (folder / "exported.txt").write_text(str(exported.folder), encoding="utf-8")


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Run one arm in this process; returns seconds, processor seconds and gigabytes."""
    import torch

    torch.set_num_threads(options.threads)
    image = sitk.ReadImage(str(options.folder / "scan.nrrd"))
    predict = by_nnunet(options, image) if options.arm == "nnU-Net" else by_transferseg(options, image)
    started, used = time.perf_counter(), processor_seconds()
    labels = predict()
    seconds, used = time.perf_counter() - started, processor_seconds() - used
    np.save(options.folder / f"{options.arm}.npy", labels.astype(np.uint8))
    return {"seconds": seconds, "processor_seconds": used, "gigabytes": peak_memory_bytes() / 1e9}


def by_nnunet(options: argparse.Namespace, image: sitk.Image):  # type: ignore[no-untyped-def]
    """Return a function that predicts with the real package."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=options.step,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    exported = (options.folder / "exported.txt").read_text(encoding="utf-8")
    predictor.initialize_from_trained_model_folder(exported, use_folds=(0,))
    array = sitk.GetArrayFromImage(image)[None].astype(np.float32)
    properties = {"spacing": list(image.GetSpacing())[::-1]}
    return lambda: predictor.predict_single_npy_array(array, properties)


def by_transferseg(options: argparse.Namespace, image: sitk.Image):  # type: ignore[no-untyped-def]
    """Return a function that predicts with this library."""
    import torch

    dtype = torch.float32 if "float32" in options.arm else None
    segmenter = Segmenter(load_model(options.folder / "model"), choose_device("cpu", dtype), options.memory)
    return lambda: sitk.GetArrayFromImage(segmenter.segment(image).label_map)


def table(found: dict[str, dict[str, float]], folder: Path) -> str:
    """Return a Markdown table; labels are compared with the first arm's."""
    first = next(iter(found))
    expected = np.load(folder / f"{first}.npy")
    rows = [
        "| | s | of the first | processor s | of the first | peak memory GB | of the first | same labels |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, result in found.items():
        same = np.mean(np.load(folder / f"{arm}.npy") == expected)
        cells = []
        for key, form in (("seconds", ".1f"), ("processor_seconds", ".1f"), ("gigabytes", ".2f")):
            cells += [format(result[key], form), f"{result[key] / found[first][key]:.2f}"]
        rows.append(f"| {arm} | {' | '.join(cells)} | {100 * same:.3f} % |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
