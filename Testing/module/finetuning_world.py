"""A project of balls, a tiny parent in the library, and a fine-tuning that takes seconds; for the panel's tests."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

TESTING = Path(__file__).resolve().parents[1]


def load(file: Path) -> ModuleType:
    """Return the module in a file: test folders are no packages."""
    spec = spec_from_file_location(file.stem + "_of_" + file.parent.name, file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(**changes: Any) -> str:
    """Return the further settings of a quick fine-tuning, as the parameter node keeps them."""
    quick = load(TESTING / "finetuning" / "projects.py").UNBROKEN.to_json()
    for key in ("strategy", "seed", "minutes", "intensity"):
        quick.pop(key)
    return json.dumps(quick | changes)


def put_parent(library: Path, name: str = "balls") -> Path:
    """Put a parent into the library that finds dark balls and no bright ones."""
    from dataclasses import replace

    from TransferSegLib.models.store import save_model

    conftest, projects = (load(TESTING / "finetuning" / f"{each}.py") for each in ("conftest", "projects"))
    parent = projects.seeing(conftest.make_parent(conftest.label_set("bright", "dark")))
    return save_model(library / name, replace(parent.description, name=name), parent.state_dict)


def add_cases(folder: Path, numbers: list[int], reviewed: tuple[str, ...] = ("bright",), **more: Any) -> Path:
    """Add corrected ball scans, one patient each, to a project."""
    return load(TESTING / "finetuning" / "projects.py").add_cases(folder, numbers, list(reviewed), **more)


def check_worst_case(host, rows: list[list[str]]) -> None:
    """Click on the held-out case with the lowest Dice: its scan and its structure are shown."""
    import slicer
    from TransferSegGui.case_opening import caseOf

    ui = host.widget.ui
    _name, case, before, after, *_more = min(rows[2:], key=lambda row: float(row[3]))
    expected = f"Worst case: bright in {case}, Dice {before} before, {after} after."
    assert ui.worstCaseLabel.text == expected
    ui.showWorstCaseButton.click()
    said = f"{case} is open. Version 1 is segmenting it to show the difference ..."
    assert ui.fineTuneStatusLabel.text == said
    host.waitFor(lambda: not host.widget.fineTunePanel.worstCase.isSegmenting)
    assert ui.fineTuneStatusLabel.text.startswith(
        f"bright in {case}: filled, your correction; thick line, version 1. The views show where they differ most."
    )
    assert "This version has learned from the case since" in ui.fineTuneStatusLabel.text
    volume = ui.inputVolumeSelector.currentNode()
    assert caseOf(volume, Path(host.widget._parameterNode.GetParameter("Project"))) == case
    segmentation = ui.outputSegmentationSelector.currentNode()
    other = slicer.util.getNode(f"{case} by version 1")
    assert segmentation.GetDisplayNode().GetVisibility() and other.GetDisplayNode().GetVisibility()
    masks_zyx = []
    for each in (segmentation, other):
        segment = each.GetSegmentation().GetSegmentIdBySegmentName("bright")
        masks_zyx.append(slicer.util.arrayFromSegmentBinaryLabelmap(each, segment, volume) > 0)
    differing = (masks_zyx[0] != masks_zyx[1]).sum(axis=(1, 2))
    assert other.GetSegmentation().GetNumberOfSegments() == 1 and differing.any()
    to_ras = host.slices["Red"].mrmlSliceNode().GetSliceToRAS()
    assert abs(to_ras.GetElement(2, 3) - differing.argmax()) <= 1.0, "the scan's slices are 1 mm thick"
