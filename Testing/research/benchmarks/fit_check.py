"""Measure how often the check of fit warns, rightly on unsuitable scans and wrongly on suitable ones.

    python3 Testing/run.py benchmark fit_check --on-target DATASET --off-target PATH ... [--changed N] [--realistic N]

Off-target scans are those the model is not meant for: files, DICOM folders, or folders of these. Label maps
(``*seg*``, ``*label*``, ``*mask*``) are skipped, and of a folder with more than ``--most`` scans evenly spaced ones are
taken. ``--changed N`` adds changed versions of the first N validation cases that no model can segment correctly: upside
down, front to back, 0 to 4095, 8-bit windows, a clipped window, thousandths, 1024 subtracted twice. Mirror images are
reported but not counted, because anatomy hardly reveals them. On-target scans are the model's validation cases
(``metrics.validation.ids``); ``--realistic N`` adds changed versions of the first N that are still valid: finer voxels
with noise, a larger box of air, part of the field of view cut off. A missing path is skipped with a message.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from Testing.research.common.measuring import command_line
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.errors import TransferSegError
from TransferSegLib.fit.reasons import Fit
from TransferSegLib.images.read import read_scan
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_model

_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
#: Files that make no DICOM folder of the folder they lie in.
_NO_DICOM = ("readme", "readme.md", "license", "license.md", "labels.json")
_Change = Callable[[np.ndarray], np.ndarray]

#: Changes of a CT (zyx, Hounsfield units) after which no result can be right.
CHANGES: dict[str, _Change] = {
    "upside down": lambda hu: hu[::-1],
    "front to back": lambda hu: hu[:, ::-1],
    "0 to 4095": lambda hu: hu.clip(-1024, 3071) + 1024,
    "8-bit window": lambda hu: np.round((hu.clip(-160, 240) + 160) / 400 * 255),
    "8-bit wide window": lambda hu: np.round((hu.clip(-1000, 1000) + 1000) / 2000 * 255),
    "clipped to a window": lambda hu: hu.clip(-160, 240),
    "thousandths": lambda hu: hu / 1000,
    "1024 twice": lambda hu: hu - 1024,
}
#: Reported, not counted.
LEFT_RIGHT = "mirror image (not counted)"


def main() -> int:
    """Print the table and return 1 when an off-target scan is not warned of, or more than 2 % of the others are."""
    parser = command_line(__doc__)
    parser.add_argument("--model", help="name, folder or zip (default: the bundled model)")
    parser.add_argument("--on-target", type=Path, required=True, help="folder with a dataset.json")
    parser.add_argument("--off-target", type=Path, nargs="*", default=[], metavar="PATH")
    parser.add_argument("--most", type=int, default=100, help="scans of one folder (%(default)s)")
    parser.add_argument("--changed", type=int, default=0, metavar="N")
    parser.add_argument("--realistic", type=int, default=0, metavar="N")
    parser.add_argument("--without-validation", action="store_true", help="leave the validation cases themselves out")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    segmenter = Segmenter(load_model(find_model(arguments.model)), arguments.device)
    known = set(segmenter.model.description.metrics.get("validation", {}).get("ids", []))
    validation = [case for case in read_dataset(arguments.on_target).cases if case.id in known]
    off = _judge_all(segmenter, _off_target(arguments.off_target, arguments.most))
    for case in validation[: arguments.changed]:
        off += _judge_all(segmenter, _changed(case.id, read_scan(case.image)))
    on = []
    if not arguments.without_validation:
        on += _judge_all(segmenter, ((case.id, read_scan(case.image)) for case in validation))
    for case in validation[: arguments.realistic]:
        on += _judge_all(segmenter, realistic(case.id, read_scan(case.image)))
    counted = [warned for name, warned in off if LEFT_RIGHT not in name]
    missed, alarms = counted.count(False), sum(warned for _, warned in on)
    print(f"off-target: {len(counted) - missed} of {len(counted)} warned of, {missed} missed")
    print(f"on-target: {alarms} of {len(on)} warned of")
    return 1 if missed or alarms > 0.02 * len(on) else 0


def _judge_all(segmenter: Segmenter, scans: Iterator[tuple[str, sitk.Image]]) -> list[tuple[str, bool]]:
    """Print a line for each scan, and return its name and whether it was warned of; a refused one is."""
    judged = []
    for name, image in scans:
        try:
            fit = segmenter.segment(image).fit
            warned, words = not fit.fits, _kinds(fit)
        except TransferSegError as error:
            warned, words = True, f"refused: {str(error)[:60]}"
        judged.append((name, warned))
        print(f"{name:46} {'warned' if warned else '-':7} {words}", flush=True)
    return judged


def _kinds(fit: Fit) -> str:
    """Return the kinds of reasons, and which structures are doubtful where not all are."""
    kinds = ", ".join(dict.fromkeys(reason.kind for reason in fit.reasons))
    whole = any(not reason.structures for reason in fit.reasons)
    return kinds if whole or fit.fits else f"{kinds}: {', '.join(fit.doubtful)}"


def _off_target(paths: list[Path], most: int) -> Iterator[tuple[str, sitk.Image]]:
    """Yield the scans in some paths."""
    for path in paths:
        if not path.exists():
            print(f"SKIPPED: there is no {path}", file=sys.stderr)
            continue
        found = _scans_in(path)
        if len(found) > most:
            found = [found[round(place)] for place in np.linspace(0, len(found) - 1, most)]
        for scan in found:
            name = scan.name if scan == path else f"{path.name}/{scan.relative_to(path)}"
            try:
                yield name, read_scan(scan)
            except TransferSegError as error:
                print(f"SKIPPED: {error}", file=sys.stderr)


def _scans_in(path: Path) -> list[Path]:
    """Return the scan that a path is, or those that lie in it: files by their ending, and DICOM folders."""
    if path.is_file():
        return [path]
    found = []
    for one in sorted(path.iterdir()):
        is_label = any(word in one.name.lower() for word in ("seg", "label", "mask"))
        if one.is_dir() or (one.name.lower().endswith(_SUFFIXES) and not is_label):
            found += _scans_in(one) if one.is_dir() else [one]
    if not found and any(one.is_file() and one.name.lower() not in _NO_DICOM for one in path.iterdir()):
        return [path]
    return found


def _changed(name: str, image: sitk.Image) -> Iterator[tuple[str, sitk.Image]]:
    """Yield changes of a CT after which no result can be right, and its mirror image."""
    hu = sitk.GetArrayFromImage(image).astype(np.float32)
    for change, apply in (CHANGES | {LEFT_RIGHT: lambda values: values[:, :, ::-1]}).items():
        changed = sitk.GetImageFromArray(np.ascontiguousarray(apply(hu)))
        changed.CopyInformation(image)
        yield f"{name}, {change}", changed


def realistic(name: str, image: sitk.Image) -> Iterator[tuple[str, sitk.Image]]:
    """Yield changes of a CT that must still fit: as a scanner writes it, with more air, with less of the body."""
    size, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
    fine = np.array([512, 512, max(1, round(size[2] * spacing[2] / 2.0))])
    yield f"{name}, 512 x 512 with noise", _with_noise(_resampled(image, fine), seed=1)
    air = int(sitk.GetArrayViewFromImage(image).min())
    yield f"{name}, in a larger box of air", sitk.ConstantPad(image, [12, 12, 0], [12, 12, 0], air)
    cut = np.maximum(1, size // 10)
    for side, low, high in (("below", cut[2], 0), ("above", 0, cut[2])):
        index, length = [0, 0, int(low)], [int(size[0]), int(size[1]), int(size[2] - low - high)]
        yield f"{name}, a tenth cut off {side}", sitk.RegionOfInterest(image, length, index)
    middle = sitk.RegionOfInterest(image, [int(v) for v in size - [2 * cut[0], 0, 0]], [int(cut[0]), 0, 0])
    yield f"{name}, a tenth cut off left and right", middle


def _resampled(image: sitk.Image, size_xyz: np.ndarray) -> sitk.Image:
    """Return an image of the same box with another number of voxels."""
    old, spacing = np.array(image.GetSize()), np.array(image.GetSpacing())
    new = spacing * old / size_xyz
    first = image.TransformContinuousIndexToPhysicalPoint([float(v) for v in (new / spacing - 1) / 2])
    return sitk.Resample(
        image,
        [int(v) for v in size_xyz],
        sitk.Transform(),
        sitk.sitkLinear,
        first,
        [float(v) for v in new],
        image.GetDirection(),
        float(sitk.GetArrayViewFromImage(image).min()),
        sitk.sitkInt16,
    )


def _with_noise(image: sitk.Image, seed: int) -> sitk.Image:
    """Return a CT with noise of 20 HU where it is not padding."""
    hu = sitk.GetArrayFromImage(image)
    noise = np.random.default_rng(seed).normal(0.0, 20.0, hu.shape).astype(np.float32)
    noisy = np.where(hu > hu.min(), np.maximum(hu + np.round(noise), -1024), hu).astype(np.int16)
    changed = sitk.GetImageFromArray(noisy)
    changed.CopyInformation(image)
    return changed


if __name__ == "__main__":
    raise SystemExit(main())
