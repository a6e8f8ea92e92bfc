"""The options of ``transferseg segment`` for models such as nnU-Net's: how windows are computed, images by name."""

from __future__ import annotations

import argparse
from pathlib import Path

from TransferSegLib.cli.patterns import expanded
from TransferSegLib.errors import TransferSegError
from TransferSegLib.images.several_images import in_order
from TransferSegLib.inference.options import PredictionOptions
from TransferSegLib.models.description import ModelDescription


def add_window_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("nnU-Net", "for models that are computed in overlapping windows")
    group.add_argument(
        "--channel",
        action="append",
        metavar="NAME=FILE",
        help="one image of the scan, for a model that takes several; give the option once for each, instead of SCAN",
    )
    group.add_argument("--mirror", action="store_true", help="average over mirrored images (slightly better, but slow)")
    group.add_argument(
        "--step", type=float, metavar="SHARE", help="distance of windows, as a share of a window (default: the model's)"
    )
    group.add_argument(
        "--exact", action="store_true", help="compute with nnU-Net's precision: every voxel gets nnU-Net's label"
    )


def window_options(arguments: argparse.Namespace, description: ModelDescription) -> PredictionOptions:
    """Return how windows are computed; raises TransferSegError for options that are not for the model."""
    options = PredictionOptions(arguments.exact, arguments.mirror, arguments.step)
    options.check(description.backbone.tiling)
    return options


def named_images(channels: list[str] | None) -> dict[str, Path]:
    """Return the files given with --channel by name; raises TransferSegError for one that is not NAME=FILE."""
    images: dict[str, Path] = {}
    for text in channels or ():
        name, equals, file = text.partition("=")
        if not (equals and name.strip() and file):
            raise TransferSegError(f"--channel {text}: give the name of an image and its file, such as T1=t1.nii.gz.")
        if name.strip().casefold() in {known.casefold() for known in images}:
            raise TransferSegError(f"--channel {text}: the image {name.strip()} is given twice.")
        images[name.strip()] = Path(file)
    return images


def files_given(arguments: argparse.Namespace) -> tuple[list[Path], dict[str, Path]]:
    """Return the scans, and the images by name where there is one scan of several, which its first stands for.

    Raises TransferSegError where there is neither or both.
    """
    scans = [path for word in arguments.scans for path in expanded(word)]
    images = named_images(arguments.channel)
    if images and scans:
        raise TransferSegError("Give scans, or the images of one scan with --channel, not both.")
    if not images and not scans:
        raise TransferSegError("There is no scan to segment: give its file.")
    if images and arguments.background:
        raise TransferSegError("Scans of several images cannot be segmented in the background yet.")
    return scans or list(images.values())[:1], images


def check_images(images: dict[str, Path], description: ModelDescription) -> None:
    """Raise TransferSegError unless a model gets the images of each scan that it takes."""
    names = description.preparation.image_names
    if images:
        in_order(images, description.preparation)
    elif description.preparation.image_count > 1:
        wanted = " ".join(f"--channel '{name}=FILE'" if " " in name else f"--channel {name}=FILE" for name in names)
        raise TransferSegError(f"'{description.name}' takes {len(names)} images of each scan: give them with {wanted}")
