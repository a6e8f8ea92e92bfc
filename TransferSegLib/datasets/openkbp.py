"""The dataset of ``head_neck_ct``: head and neck planning CT with sparse clinical contours (Open-KBP, MIT licence).

Source: Babier et al., "OpenKBP: the open-access knowledge-based planning grand challenge and dataset", Med Phys 2021.
Its ``cases.csv`` counts the voxels of each structure per case; 0 means that the structure is not annotated, though it
may well be visible.
"""

from __future__ import annotations

from pathlib import Path

from TransferSegLib.datasets.make import DatasetFacts, FolderSource, Made, dataset_from_folders
from TransferSegLib.errors import DatasetError
from TransferSegLib.progress import Task

FACTS = DatasetFacts(
    name="Head and neck CT",
    description="Planning CT of the head and neck with clinical contours, sparsely annotated (Open-KBP).",
    license="MIT (Open-KBP, Babier et al., Med Phys 2021)",
    modality="CT",
)


def dataset_from_head_neck_ct(
    source: Path,
    output: Path,
    *,
    copy: bool = False,
    replace: bool = False,
    task: Task | None = None,
) -> Made:
    """Write and return the dataset of the files of ``head_neck_ct`` in ``source``, reading no image.

    Raises DatasetError when ``source`` is not such a folder, Cancelled.
    """
    missing = [name for name in ("cases", "cases.csv", "labels.json") if not (source / name).exists()]
    if missing:
        raise DatasetError(f"{source} is not the folder head_neck_ct: {', '.join(missing)} is missing.")
    folders = FolderSource(
        images=source / "cases",
        labels=source / "cases",
        structures=source / "labels.json",
        annotated=source / "cases.csv",
        image_pattern="{case}_ct",
        label_pattern="{case}_label",
    )
    return dataset_from_folders(folders, output, FACTS, copy=copy, replace=replace, task=task)
