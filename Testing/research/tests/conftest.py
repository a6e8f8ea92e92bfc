"""A world of balls and cubes in noise, as files, and a study of them that a processor makes in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.research.study.configuration import Study
from Testing.research.study.configuration_file import read_study
from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.structures import LabelSet, Structure

_SIDE = 24


def write_scan(folder: Path, name: str, number: int, labels_kept: tuple[int, ...] = (1, 2, 3)) -> None:
    """Write a scan with a bright ball (1), a dark ball (2) and a bright slab (3), and its label map."""
    z, y, x = np.indices((_SIDE, _SIDE, _SIDE))
    shift = number % 3
    bright = (z - 8) ** 2 + (y - 8) ** 2 + (x - 8 - shift) ** 2 < 20
    dark = (z - 16) ** 2 + (y - 16) ** 2 + (x - 15) ** 2 < 16
    slab = (abs(z - 17) < 3) & (abs(y - 6 - shift) < 3) & (abs(x - 16) < 4)
    noise = np.random.default_rng(number).normal(0, 10, bright.shape)
    image = np.select([bright, dark, slab], [300.0, -450.0, 150.0], -100.0) + noise
    labels = np.select([bright, dark, slab], [1, 2, 3], 0)
    labels[~np.isin(labels, labels_kept)] = 0
    for array, kind in ((image.astype(np.int16), "ct"), (labels.astype(np.uint8), "label")):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing((1.0, 1.0, 1.5))
        sitk.WriteImage(volume, str(folder / f"{name}_{kind}.nii.gz"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder: 3 ``plain`` cases for a base and 6 with the slab; 4 patients scanned ``twice``."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "plain").mkdir()
    (folder / "twice").mkdir()
    for number in range(9):
        write_scan(folder / "plain", f"case_{number}", number, (1, 2) if number < 3 else (1, 2, 3))
    for number in range(8):
        write_scan(folder / "twice", f"p{number // 2}_scan{number % 2}", number)
    return folder


def study_entry() -> dict[str, Any]:
    """Return a tiny study's configuration: two tasks, one new to the base, one of another collection."""
    structures = {"1": "bright ball", "2": "dark ball", "3": "slab"}
    patterns = {"image_pattern": "{case}_ct", "label_pattern": "{case}_label"}
    still = {"rotation_degrees": 0, "scaling": 0, "intensity": 0}
    return {
        "title": "Balls",
        "tolerance_mm": 1.5,
        "collections": {
            "plain": {"images": "plain", "labels": "plain", "structures": structures, "modality": "CT"} | patterns,
            "twice": {
                "images": "twice",
                "labels": "twice",
                "structures": structures,
                "annotated": "all",
                "group_pattern": "^(.+)_scan",
                "modality": "CT",
            }
            | patterns,
        },
        "bases": {
            "sparse": {
                "collection": "plain",
                "without_structures": ["slab"],
                "without_cases_of": ["slab"],
                "knobs": {"width": 2, "spacing_mm": 1.5, "steps": 3, "patch": 32, "frame": 2, "validate_every": 3}
                | {"validation_share": 0.34, "augmentation": still},
            }
        },
        "tasks": {
            "slab": {"collection": "plain", "structures": ["slab"], "selection": {"test": 2, "reserved": 5}},
            "again": {
                "collection": "twice",
                "structures": ["bright ball", "dark ball"],
                "selection": {"test": 4},
                "knobs": {"spacing_mm": 2.0},
            },
        },
        "sizes": [1],
        "seeds": [1],
        "knobs": {
            "patch": 32,
            "frame": 2,
            "tail_patch": 20,
            "patches_per_case": 1,
            "warm_up": 1,
            "augmentation": still,
        },
        "strategies": {
            "scratch": {"strategy": "scratch", "steps": 3},
            "ours": {"strategy": "finetune", "tail_steps": 3, "steps": 2},
        },
    }


WriteStudy = Callable[[dict[str, Any]], Study]


@pytest.fixture
def write_study(tmp_path: Path) -> WriteStudy:
    """Return a function that writes a configuration and reads it."""

    def write(entry: dict[str, Any]) -> Study:
        path = tmp_path / "study.json"
        path.write_text(json.dumps(entry), encoding="utf-8")
        return read_study(path)

    return write


def made_up_dataset(annotated: dict[str, tuple[str, ...]], groups: dict[str, str] | None = None) -> Dataset:
    """Return a dataset without files: cases by id with the structures annotated in them."""
    names = sorted({name for structures in annotated.values() for name in structures})
    label_set = LabelSet(tuple(Structure(name, label, (label, 0, 0)) for label, name in enumerate(names, start=1)))
    cases = tuple(
        Case(id, Path(f"/{id}.nii"), Path(f"/{id}_label.nii"), structures, group=(groups or {}).get(id, id))
        for id, structures in annotated.items()
    )
    return Dataset(Path("/"), "made up", "", "", "CT", label_set, cases)
