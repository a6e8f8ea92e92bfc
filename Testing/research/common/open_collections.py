"""The three open collections: their cases and patients, and a small base model of one of them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from Testing.research.common.label_changes import on_grid_of
from TransferSegLib.datasets.dataset import Case, Dataset, write_dataset
from TransferSegLib.images.read import read_label_map
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_description
from TransferSegLib.structures import LabelSet, Structure
from TransferSegLib.training.base import BaseModelPlan, train_base
from TransferSegLib.training.configuration import TrainingConfiguration

HEAD, BRAIN, HEART = "head_neck_ct", "hippocampus_mr", "left_ventricle_mr"
#: The head-and-neck structures that the base knows; larynx and mandible are new to it.
KNOWN = ("brainstem", "spinal cord", "right parotid gland", "left parotid gland", "oesophagus")
BASE_CASES, BASE_STEPS = 90, 500
TEST_PATIENTS = {HEAD: 16, BRAIN: 30, HEART: 14}


def cases_of(data: Path, collection: str, label_set: LabelSet) -> list[Case]:
    """Return all cases of a collection in a fixed order; the group is the patient."""
    if collection == HEAD:
        folder = data / HEAD / "cases"
        with (data / HEAD / "cases.csv").open(encoding="utf-8") as stream:
            rows = list(csv.reader(stream))[1:]
        return [
            Case(
                row[0],
                folder / f"{row[0]}_ct.nii.gz",
                folder / f"{row[0]}_label.nii.gz",
                tuple(name for name, voxels in zip(label_set.names, row[3:], strict=True) if int(voxels)),
            )
            for row in rows
        ]
    if collection == BRAIN:
        files = sorted((data / BRAIN / "images").glob("*.nii.gz"))
        return [
            Case(file.name.split(".")[0], file, data / BRAIN / "labels" / file.name, label_set.names) for file in files
        ]
    images = sorted((data / HEART).glob("*_mr.nii.gz"))
    return [
        Case(
            image.name.removesuffix("_mr.nii.gz"),
            image,
            image.with_name(image.name.replace("_mr.", "_label.")),
            label_set.names,
            group=image.name.split("_ph")[0],
        )
        for image in images
    ]


def label_set_of(collection: str) -> LabelSet:
    """Return the structures of a collection with their label values."""
    if collection == HEAD:
        return load_description(find_model("head-neck-ct")).label_set
    names = ("anterior hippocampus", "posterior hippocampus") if collection == BRAIN else ("left ventricle",)
    return LabelSet(tuple(Structure(name, value, (200, 40 * value, 60)) for value, name in enumerate(names, start=1)))


def divided(cases: Sequence[Case], collection: str) -> tuple[list[str], list[str], list[str]]:
    """Return the patients of the base, those to test on, and those to draw projects from; always the same."""
    order = np.random.default_rng(15).permutation(sorted({case.group for case in cases}))
    patients = [str(group) for group in order]
    base, rest = (patients[:BASE_CASES], patients[BASE_CASES:]) if collection == HEAD else ([], patients)
    if collection == HEAD:  # test on patients with many structures, so that every structure has a truth
        drawn = {case.group: len(case.annotated) for case in cases}
        rest = sorted(rest, key=lambda group: -drawn[group])
        rest = [*rest[::2], *rest[1::2]]
    count = TEST_PATIENTS[collection]
    return base, rest[:count], rest[count:]


def trained_base(data: Path, work: Path) -> Path:
    """Return the base's model folder; it is trained if it is not there, or gone on with."""
    output = work / "base-run"
    finished = work / "base-finished"
    if not finished.exists():
        label_set = label_set_of(HEAD)
        cases = cases_of(data, HEAD, label_set)
        patients = set(divided(cases, HEAD)[0])
        known = label_set.select(KNOWN)
        own = [
            replace(case, annotated=tuple(name for name in case.annotated if name in KNOWN))
            for case in cases
            if case.group in patients
        ]
        own = [case for case in own if case.annotated]
        folder = work / "base-dataset"
        for case in own:  # without the structures that the base is not to know
            labels = read_label_map(case.labels)
            values = sitk.GetArrayFromImage(labels)
            folder.mkdir(parents=True, exist_ok=True)
            kept = np.where(np.isin(values, known.label_values), values, 0).astype(np.uint8)
            sitk.WriteImage(on_grid_of(labels, kept), str(folder / f"{case.id}.nii.gz"))
        own = [replace(case, labels=folder / f"{case.id}.nii.gz") for case in own]
        dataset = Dataset(
            folder, "head and neck", "base of the verdict runs", "MIT (Open-KBP)", "CT", known, tuple(own)
        )
        write_dataset(dataset, folder)
        knobs = TrainingConfiguration(
            width=8, steps=BASE_STEPS, patch=48, validation_share=0.03, validate_every=BASE_STEPS, average=0.99
        )
        plan = BaseModelPlan(dataset, output, knobs, "verdict-base", "cpu")
        train_base(plan, resume=(output / "checkpoint.pt").exists())
        finished.touch()
    return output / "model"
