"""Cases that a model did not learn from, as corrected cases of a project; and finished runs kept as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_description
from TransferSegLib.structures import LabelSet


def validation_ids(dataset: Dataset, least: int, model: str | None = None) -> list[str]:
    """Return the ids of the dataset's cases that a model was validated on; ends the program when they are fewer."""
    known = load_description(find_model(model)).metrics["validation"]["ids"]
    found = [id for id in known if id in dataset.ids]
    if len(found) < least:
        sys.exit(f"The dataset has fewer than {least} of the cases that the model was validated on.")
    return found


def corrected_project(
    folder: Path,
    cases: Iterable[Case],
    label_set: LabelSet,
    labels_of: Callable[[Case], sitk.Image | Path] = lambda case: case.labels,
) -> Path:
    """Make a project of cases with their reference labels, or other ones, as the corrections; return its folder."""
    project = Project(folder, create=True)
    for case in cases:
        project.add_case(
            case.image, labels_of(case), case.annotated, structures=label_set, group=case.group, case_id=case.id
        )
    return folder


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return what was measured; a line that was cut short by a kill is left out."""
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def add_line(file: Path, line: dict[str, Any]) -> None:
    """Add what was measured."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def mean_dice(line: dict[str, Any], key: str = "dice") -> float:
    """Return the mean Dice of a line of results over its test cases, and in each over its structures."""
    return float(np.mean([np.mean(list(scores.values())) for scores in line[key].values()]))
