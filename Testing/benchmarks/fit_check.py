"""How often the check of fit warns: on scans a model is not for, and on scans like those it was trained on.

    python Testing/benchmarks/fit_check.py --on-target DATASET --off-target FOLDER [FOLDER ...] [--changed N]

Off-target scans are the files (or DICOM folders) in the folders given, wherever they came from; labels (``*seg*``,
``*label*``) are left out. ``--changed N`` adds changes of the first N validation cases that no model can be right on:
upside down, front to back, 0 to 4095, an 8-bit window, a clipped window, thousandths, 1024 subtracted twice. Of a
left-right flip it says how often it is noticed, and does not count it: anatomy hardly tells it. On-target are the
validation cases of the model (``metrics.validation.ids``). A folder that is not there is skipped, loudly.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.cli.reporting import table
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.errors import TransferSegError
from TransferSegLib.fit.reasons import Fit
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_model
from TransferSegLib.scans.read import read_scan
from TransferSegLib.segmenting.segment import Segmenter

_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
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
#: Told, not counted.
LEFT_RIGHT = "left-right flip (not counted)"


def main() -> int:
    """Print the table and return 1 when an off-target scan is not warned of, or more than 2 % of the others are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="name, folder or zip (default: the bundled model)")
    parser.add_argument("--on-target", type=Path, required=True, help="folder with a dataset.json")
    parser.add_argument("--off-target", type=Path, nargs="*", default=[])
    parser.add_argument("--changed", type=int, default=0, metavar="N")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    segmenter = Segmenter(load_model(find_model(arguments.model)), arguments.device)
    dataset = read_dataset(arguments.on_target)
    known = set(segmenter.model.description.metrics.get("validation", {}).get("ids", []))
    validation = [case for case in dataset.cases if case.id in known]
    rows: list[tuple[str, str, str]] = []
    missed = _judge_all(segmenter, _off_target(arguments.off_target), rows)
    count = len(rows)
    for case in validation[: arguments.changed]:
        missed += _judge_all(segmenter, _changed(case.id, read_scan(case.image)), rows)
    flips = sum(1 for row in rows if LEFT_RIGHT in row[0])
    alarms = len(validation) - _judge_all(segmenter, ((case.id, read_scan(case.image)) for case in validation), rows)
    print(table(("scan", "warned", "reasons"), rows))
    print(f"off-target: {count} files and {len(rows) - count - flips - len(validation)} changed scans, {missed} missed")
    print(f"on-target: {alarms} of {len(validation)} validation cases warned of")
    return 1 if missed or alarms > 0.02 * len(validation) else 0


def _judge_all(segmenter: Segmenter, scans: Iterator[tuple[str, sitk.Image]], rows: list[tuple[str, str, str]]) -> int:
    """Add a row for each scan and return how many of those that count were not warned of."""
    missed = 0
    for name, image in scans:
        try:
            fit = segmenter.segment(image).fit
        except TransferSegError as error:
            rows.append((name, "refused", str(error)[:60]))
            continue
        rows.append((name, "no" if fit.fits else "yes", _kinds(fit)))
        missed += fit.fits and LEFT_RIGHT not in name
    return missed


def _kinds(fit: Fit) -> str:
    """Return the kinds of reasons, and which structures are doubtful where not all are."""
    kinds = ", ".join(dict.fromkeys(reason.kind for reason in fit.reasons))
    whole = any(not reason.structures for reason in fit.reasons)
    return kinds if whole or fit.fits else f"{kinds}: {', '.join(fit.doubtful)}"


def _off_target(folders: list[Path]) -> Iterator[tuple[str, sitk.Image]]:
    """Yield the scans of some folders."""
    for folder in folders:
        if not folder.is_dir():
            print(f"SKIPPED: there is no folder {folder}", file=sys.stderr)
            continue
        for path in sorted(folder.iterdir()):
            is_label = any(word in path.name.lower() for word in ("seg", "label"))
            if is_label or not (path.is_dir() or path.name.lower().endswith(_SUFFIXES)):
                continue
            try:
                yield path.name, read_scan(path)
            except TransferSegError as error:
                print(f"SKIPPED: {error}", file=sys.stderr)


def _changed(name: str, image: sitk.Image) -> Iterator[tuple[str, sitk.Image]]:
    """Yield changes of a CT."""
    hu = sitk.GetArrayFromImage(image).astype(np.float32)
    for change, apply in (CHANGES | {LEFT_RIGHT: lambda values: values[:, :, ::-1]}).items():
        changed = sitk.GetImageFromArray(np.ascontiguousarray(apply(hu)))
        changed.CopyInformation(image)
        yield f"{name}, {change}", changed


if __name__ == "__main__":
    raise SystemExit(main())
