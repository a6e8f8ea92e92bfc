"""Compare our softmax with that of the published Keras code at full width, for files that Keras wrote.

There are two steps in two environments, because TransferSeg does not need TensorFlow:

    python Testing/research/benchmarks/keras_full_width.py write --code CODE/src --output FOLDER
    python3 Testing/run.py benchmark keras_full_width compare FOLDER

``write`` needs TensorFlow (``pip install tensorflow-cpu==2.15.1``; later versions with Keras 3 work too); ``CODE`` is a
checkout of github.com/DIAGNijmegen/MedicalTransferLearning3D-UNet. It builds the network with the published code, gives
it random weights, saves it with ``save_weights`` and ``save``, and runs it on one tile. ``compare`` prints how far our
softmax differs from Keras's.

The weights are scaled so that the logits have the standard deviation ``--logits``, as those of a trained network do.
Unscaled random weights give logits of thousands on Hounsfield units, and the comparison would measure the rounding of
float32.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

REFERENCE = "reference.npz"


def main() -> None:
    """Run one of the two steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    writing = steps.add_parser("write", help="write Keras files and Keras's softmax (needs TensorFlow)")
    writing.add_argument("--code", type=Path, required=True, help="the folder with model_unet3d.py")
    writing.add_argument("--output", type=Path, required=True)
    writing.add_argument("--width", type=int, default=32)
    writing.add_argument("--classes", type=int, default=23)
    writing.add_argument("--side", type=int, default=108, help="voxels: 108, 132, 156 or 180")
    writing.add_argument("--seed", type=int, default=0)
    writing.add_argument("--train", action="store_true", help="train for a step, so that an optimiser is saved, too")
    writing.add_argument("--logits", type=float, default=5.0, help="standard deviation of the logits")
    comparing = steps.add_parser("compare", help="compare our softmax (needs TransferSeg)")
    comparing.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.step == "write":
        write(arguments)
    else:
        compare(arguments.folder)


def write(arguments: argparse.Namespace) -> None:
    """Build the published network, give it weights, save it in every way and run it on one tile."""
    sys.path.insert(0, str(arguments.code))
    import model_unet3d
    import tensorflow

    network = model_unet3d.UNet3DModel().convnet_settings(
        arguments.side, arguments.classes, num_filters=arguments.width
    )
    random = np.random.default_rng(arguments.seed)
    scan = tile(arguments.side)
    set_weights(network, scan, arguments.logits, random)
    if arguments.train:
        network.fit(scan, network.predict(scan), verbose=0)
    softmax = network.predict(scan)
    arguments.output.mkdir(parents=True, exist_ok=True)
    version = str(getattr(tensorflow.keras, "__version__", tensorflow.__version__))
    np.savez_compressed(arguments.output / REFERENCE, y=softmax, side=arguments.side, keras=version)
    network.save(str(arguments.output / "full_model.h5"))
    if version.startswith("2."):
        network.save_weights(str(arguments.output / "weights_only.h5"))
    else:  # Keras 3 writes only weights in a newer format, which is refused with the advice to use save
        network.save_weights(str(arguments.output / "newer.weights.h5"))
    print(f"Keras {version}: {network.count_params():,} weights, written to {arguments.output}")


def tile(side: int) -> np.ndarray:
    """Return a tile (1, 1, side, side, side) of whole Hounsfield units that is the same on every machine."""
    z, y, x = np.indices((side, side, side))
    return ((z * 7 + y * 13 + x * 29 + (z // 9) * (y // 7) * (x // 5) * 11) % 901 - 500)[None, None].astype(np.float32)


def set_weights(network: Any, scan: np.ndarray, logits: float, random: np.random.Generator) -> None:
    """Draw He-normal kernels and small biases; the first is scaled for Hounsfield units, the head for the logits.

    The head's biases take away each channel's mean on this tile, so that many classes occur.
    """
    import tensorflow

    weights: list[np.ndarray] = []
    for values in network.get_weights():
        if values.ndim == 5:
            deviation = float(np.sqrt(2.0 / np.prod(values.shape[:4])))
            weights.append(random.normal(0.0, deviation / (1 if weights else 300), values.shape).astype(np.float32))
        else:
            weights.append(random.normal(0.0, 0.1, values.shape).astype(np.float32))
    network.set_weights(weights)
    head = network.get_layer("output_segm")
    found = tensorflow.keras.Model(network.input, head.output).predict(scan)
    kernel, bias = head.get_weights()
    means = found.mean(axis=(0, 2, 3, 4))
    scale = np.float32(logits / (found - means[None, :, None, None, None]).std())
    head.set_weights([kernel * scale, (bias - means) * scale])


def compare(folder: Path) -> None:
    """Print, for every file, the differences from Keras's softmax in float32 and in float64."""
    import torch

    from TransferSegLib.errors import ModelError
    from TransferSegLib.models.importers.keras.convert import KerasImport, model_from_keras
    from TransferSegLib.networks.unet_valid.unet import UNet3D

    with np.load(folder / REFERENCE) as reference:
        scan, keras = torch.from_numpy(tile(int(reference["side"]))), str(reference["keras"])
        expected = np.roll(reference["y"], 1, axis=1).astype(np.float64)
    print(f"Keras {keras}, softmax {expected.shape}, tile {tuple(scan.shape)}")
    print(f"{'file':>18} {'our precision':>14} {'largest':>9} {'mean':>9} {'within 1e-5':>12} {'same label':>11}")
    for path in sorted(folder.glob("*.h5")):
        try:
            description, state_dict = model_from_keras(path, KerasImport(name="full width"))
        except ModelError as error:
            print(f"{path.name:>18} refused: {str(error).replace(str(path), path.name)}")
            continue
        network = UNet3D(description.network.classes, description.network.arguments["width"]).eval()
        network.load_state_dict(state_dict)
        for dtype in (torch.float32, torch.float64):
            with torch.inference_mode():
                logits = network.to(dtype)(scan.to(dtype)).double()
            softmax = torch.softmax(logits, dim=1).numpy()
            difference = np.abs(softmax - expected)
            same = (softmax.argmax(1) == expected.argmax(1)).mean()
            print(
                f"{path.name:>18} {str(dtype).removeprefix('torch.'):>14} {difference.max():9.1e} "
                f"{difference.mean():9.1e} {(difference <= 1e-5).mean():12.5%} {same:11.5%}"
            )
        labels = softmax.argmax(1)
        print(
            f"{'':>18} logits: standard deviation {float(logits.std()):.1f}, largest {float(logits.abs().max()):.0f}; "
            f"{len(np.unique(labels))} of {description.network.classes} classes occur"
        )


if __name__ == "__main__":
    main()
