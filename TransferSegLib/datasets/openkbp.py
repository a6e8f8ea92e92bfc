"""The dataset of ``head_neck_ct``: head and neck planning CT with sparse clinical contours (Open-KBP, MIT licence).

Source: Babier et al., "OpenKBP: the open-access knowledge-based planning grand challenge and dataset", Med Phys 2021.
Its ``cases.csv`` counts the voxels of each structure per case; 0 means that the structure is not annotated, though it
may well be visible.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

from TransferSegLib.anatomy import describe_structure, readable_name
from TransferSegLib.datasets.dataset import Case, Dataset, write_dataset
from TransferSegLib.errors import DatasetError
from TransferSegLib.structures import LabelSet


def dataset_from_head_neck_ct(source: Path, output: Path) -> Dataset:
    """Write and return the dataset that points at the files of ``head_neck_ct`` in ``source``.

    No image is read. Raises DatasetError when ``source`` is not such a folder.
    """
    source, output = source.resolve(), output.resolve()
    try:
        labels = json.loads((source / "labels.json").read_text(encoding="utf-8"))
        with (source / "cases.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{source} is not the folder head_neck_ct: {error}.") from error
    columns = {readable_name(name): name for value, name in labels.items() if int(value) > 0}
    label_set = LabelSet(
        tuple(describe_structure(readable_name(name), int(value)) for value, name in labels.items() if int(value) > 0)
    )
    cases = tuple(
        Case(
            id=row["case"],
            image=source / "cases" / f"{row['case']}_ct.nii.gz",
            labels=source / "cases" / f"{row['case']}_label.nii.gz",
            annotated=tuple(name for name in label_set.names if int(row[columns[name]]) > 0),
        )
        for row in rows
    )
    dataset = Dataset(
        folder=output,
        name="Head and neck CT",
        description="Planning CT of the head and neck with clinical contours, sparsely annotated (Open-KBP).",
        license="MIT (Open-KBP, Babier et al., Med Phys 2021)",
        modality="CT",
        label_set=label_set,
        cases=cases,
    )
    write_dataset(dataset, output)
    return dataset
