"""From nnU-Net and back: import a model, segment, correct, fine-tune, export, predict with the real nnU-Net.

    python3 Testing/run.py nnunet [--keep FOLDER]

compares our labels with those of the real package, nnunetv2, voxel by voxel: for its own models, which we imported, and
for a model that we fine-tuned and exported. The exit code is 1 where any differs with ``--exact``, or many by default.
``chain`` returns the very commands that a user gives; ``Testing/models/test_nnunet_chain.py`` runs them without
nnunetv2.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from Testing.nnunet_fixtures import OLD, REGIONS, RESIDUAL, TRAINED, NnUNetFixture
from TransferSegLib.inference.postprocessing import keep_largest_part
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_description

#: The labels of the corrected cases: the model's two structures, one of which is divided.
STRUCTURES = {"1": "anterior", "2": "posterior", "3": "tail"}
#: Of the voxels, so many may differ by default, where sums are more precise than nnU-Net's and a processor may compute
#: in bfloat16. Random weights are at odds in many places, trained ones at the surface of structures.
_MOST_DIFFERENT, _MOST_DIFFERENT_RANDOM = 0.001, 0.03
#: A command takes less than a minute on two cores; in CI, one that hangs is to fail while somebody can still read why.
_PATIENCE_S = 900


@dataclass(frozen=True)
class Comparison:
    """Labels of nnU-Net and ours: voxels, those that differ with --exact (none should) and by default, how many may."""

    what: str
    voxels: int
    exact: int
    usual: int
    allowed: float

    @property
    def is_good(self) -> bool:
        return self.exact == 0 and self.usual <= self.allowed * self.voxels

    def row(self) -> str:
        cells = self.what, f"{self.voxels:,}", f"{self.exact:,}", f"{self.usual:,}"
        return f"| {' | '.join(cells)} |{'' if self.is_good else ' too many'}"


def make_cases(folder: Path) -> list[tuple[Path, Path]]:
    """Write two corrected cases, images and labels, and what the labels mean (``structures.json``).

    One is the case that the trained model comes with, stored with RAS axes, the other one its mirror image with other
    intensities, stored with LPS axes.
    """
    fixture = NnUNetFixture(TRAINED)
    image, truth = sitk.ReadImage(str(fixture.images[0])), sitk.ReadImage(str(fixture.path / "truth.nii.gz"))
    intensities, labels = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(truth).astype(np.uint8)
    posterior = np.argwhere(labels == 2)
    behind = np.arange(labels.shape[1])[None, :, None] < np.median(posterior[:, 1])
    labels[(labels == 2) & behind] = 3
    (folder / "structures.json").write_text(json.dumps(STRUCTURES), encoding="utf-8")
    pairs = []
    for number, (values, marks) in enumerate(
        [(intensities, labels), (1.1 * intensities[:, :, ::-1] + 3, labels[:, :, ::-1])], start=1
    ):
        paths = folder / f"scan{number}.nii.gz", folder / f"labels{number}.nii.gz"
        for path, array in zip(paths, (values.astype(np.float32), marks), strict=True):
            written = sitk.GetImageFromArray(np.ascontiguousarray(array))
            written.CopyInformation(image)
            sitk.WriteImage(sitk.Flip(written, [number == 2, number == 2, False]), str(path))
        pairs.append(paths)
    return pairs


def chain(folder: Path, settings: dict[str, int]) -> list[list[str]]:
    """Return the commands from an imported model, 'tiny', to the folder for nnU-Net, ``results``.

    Fine-tuning takes the steps of the ``settings``: what fits into minutes depends on the computer, and on a busy one
    nothing may. Version 1 is exported by its number: trained for a moment, it is not put to use by itself.
    """
    configuration = folder / "settings.json"
    configuration.write_text(json.dumps(settings), encoding="utf-8")
    model, project = NnUNetFixture(TRAINED).model, folder / "project"
    commands = [["models", "import", str(model), "--name", "tiny", "--axes", "RAS"]]
    commands += [
        ["segment", str(folder / "scan1.nii.gz"), "--model", "tiny", "--output", str(folder / "before.nii.gz")]
    ]
    for number in (1, 2):
        scan, labels = (str(folder / f"{what}{number}.nii.gz") for what in ("scan", "labels"))
        meaning = ["--structures", str(folder / "structures.json"), "--reviewed", "all", "--modality", "MR"]
        commands += [["cases", "add", scan, labels, "--project", str(project), *meaning]]
    how = ["--minutes", "0", "--configuration", str(configuration), "--device", "cpu"]
    commands += [["finetune", "--project", str(project), "--model", "tiny", *how]]
    commands += [["models", "export", "tiny@1", str(folder / "results"), "--format", "nnunet", "--dataset-id", "4"]]
    return commands


def exported(folder: Path) -> Path:
    """Return the folder that the chain writes for nnU-Net."""
    return folder / "results" / "Dataset004_tiny" / "nnUNetTrainer__nnUNetPlans__3d_fullres"


def main() -> int:
    """Run the chain and the comparisons, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep all files in this new folder")
    parser.add_argument("--steps", type=int, default=40, help="of each of both stages of fine-tuning (default: 40)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nnunet-chain-")) if arguments.keep is None else arguments.keep
    folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "TRANSFERSEG_MODELS": str(folder / "library"),
        **{name: str(folder) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
    }
    try:
        found = [*_of_originals(folder), *_of_chain(folder, arguments.steps)]
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print("\nVoxels with another label than the real nnU-Net gives them:\n")
    print(
        "| model | voxels | segment --exact | segment |\n|---|---:|---:|---:|", *(one.row() for one in found), sep="\n"
    )
    return 0 if all(one.is_good for one in found) else 1


def _of_originals(folder: Path) -> list[Comparison]:
    """Compare predictions with nnU-Net's own models, as they are and as we import them."""
    found = []
    for name, folds in ((TRAINED, "0"), (RESIDUAL, "0 1"), (REGIONS, "0"), (OLD, "all")):
        fixture = NnUNetFixture(name)
        place = folder / name
        how = Prediction(folds, fixture.mirror and name != RESIDUAL, fixture.step)  # it would take minutes
        theirs = predict(fixture.unpacked(place / "model"), fixture.images, place, how)
        _transferseg(["models", "import", str(fixture.model), "--name", name])
        allowed = _MOST_DIFFERENT if name == TRAINED else _MOST_DIFFERENT_RANDOM
        found.append(_compare(f"{name}, {how}", theirs, name, fixture.images, place, how, allowed))
    return found


def _of_chain(folder: Path, steps: int) -> list[Comparison]:
    """Fine-tune and export a model, and compare nnU-Net's predictions with it to ours."""
    scans = [scan for scan, _ in make_cases(folder)]
    for command in chain(folder, {"tail_steps": steps, "steps": steps}):
        _transferseg(command)
    found = []
    for number, scan in enumerate(scans, start=1):
        place, how = folder / f"predicted{number}", Prediction("0", mirror=number == 2)
        theirs = predict(exported(folder), [scan], place, how)
        what = f"fine-tuned here and exported, scan {number}, {how}"
        found.append(_compare(what, theirs, "tiny@1", [scan], place, how, _MOST_DIFFERENT))
    return found


@dataclass(frozen=True)
class Prediction:
    """How a scan is predicted: nnU-Net's folds, whether mirrored scans are averaged, its step."""

    folds: str
    mirror: bool
    step: float = 0.5

    def __str__(self) -> str:
        return f"folds {self.folds}, {'mirrored' if self.mirror else 'not mirrored'}, step {self.step:g}"


def predict(model: Path, images: Sequence[Path], place: Path, how: Prediction) -> Path:
    """Predict a scan with nnU-Net's own command and return the label map's file."""
    scans, labels = place / "images", place / "labels"
    scans.mkdir(parents=True)
    for channel, image in enumerate(images):
        shutil.copyfile(image, scans / f"case_{channel:04d}.nii.gz")
    program = Path(sys.executable).parent / "nnUNetv2_predict_from_modelfolder"
    options = ["-f", *how.folds.split(), "-step_size", f"{how.step:g}", *([] if how.mirror else ["--disable_tta"])]
    few = ["-device", "cpu", "-npp", "1", "-nps", "1"]
    _run([str(program), "-m", str(model), "-i", str(scans), "-o", str(labels), *options, *few], quiet=True)
    return labels / "case.nii.gz"


def _compare(
    what: str, theirs: Path, model: str, images: Sequence[Path], place: Path, how: Prediction, allowed: float
) -> Comparison:
    """Segment a scan as nnU-Net did, exactly and by default, and count the voxels with other labels."""
    first, description = sitk.GetArrayFromImage(sitk.ReadImage(str(theirs))), load_description(find_model(model))
    # A version may keep the largest part of a structure only. nnU-Net does not do so, and the export says it.
    single = [structure.label for structure in description.label_set if structure.name in description.single_part]
    keep_largest_part(first, single)
    if len(np.unique(first)) < 2:
        raise SystemExit(f"{what}: nnU-Net found nothing, so there is nothing to compare.")
    scan = [str(images[0])]
    if len(images) > 1:
        names = description.preparation.image_names
        scan = [f"--channel={name}={image}" for name, image in zip(names, images, strict=True)]
    options = ["--model", model, "--device", "cpu", "--step", f"{how.step:g}", *(["--mirror"] if how.mirror else [])]
    counts = []
    for exact in (["--exact"], []):
        ours = place / f"ours{''.join(exact)}.nii.gz"
        _transferseg(["segment", *scan, "--output", str(ours), *options, *exact])
        second = sitk.GetArrayFromImage(sitk.ReadImage(str(ours)))
        if first.shape != second.shape:
            raise SystemExit(f"{what}: the label maps have the shapes {first.shape} and {second.shape}.")
        counts.append(int(np.count_nonzero(first != second)))
    return Comparison(what, first.size, counts[0], counts[1], allowed)


def _transferseg(args: Sequence[str]) -> None:
    _run([sys.executable, "-m", "TransferSegLib", *args])


def _run(command: list[str], quiet: bool = False) -> None:
    """Run a command; what nnU-Net prints is shown only when it fails, or hangs when one of its processes has died."""
    shown = " ".join([Path(command[0]).name, *command[1:]])
    print("$", shown, flush=True)
    started = time.monotonic()
    # Not a pipe: processes that a killed nnU-Net leaves behind would keep it open.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as printed:
        hidden = {"stdout": printed, "stderr": subprocess.STDOUT} if quiet else {}
        try:
            code: int | None = subprocess.run(command, check=False, timeout=_PATIENCE_S, **hidden).returncode
        except subprocess.TimeoutExpired:
            code = None
        if code != 0:
            printed.seek(0)
            print(printed.read())
            why = f"was still running after {_PATIENCE_S} s" if code is None else f"failed with exit code {code}"
            raise SystemExit(f"This command {why}: {shown}")
    print(f"  ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
