"""The column "Effort" of the table of cases: what a correction took, with details in its tooltip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from correcting_world import STRAIGHT, add_volume, empty_segmentation, predicted, rows, save, tick

from TransferSegLib.corrections.effort_curve import metres
from TransferSegLib.corrections.project import Project
from TransferSegLib.evaluation.effort import drawing_effort


def column(ui) -> int:
    (found,) = [n for n in range(ui.caseTable.columnCount) if ui.caseTable.horizontalHeaderItem(n).text() == "Effort"]
    return found


def test_a_correction_has_its_effort_in_the_table(host, ui, folder: Path, tmp_path: Path) -> None:
    import slicer

    volume = add_volume("CT", 1, STRAIGHT)
    node, labels_zyx = predicted(ui, volume, tmp_path)
    segmentation = node.GetSegmentation()
    name = segmentation.GetNthSegment(0).GetName()
    mask_zyx = labels_zyx == 1
    corrected_zyx = mask_zyx.copy()
    corrected_zyx[3:5, 3:8, 12:15] = True
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        corrected_zyx.astype(np.uint8), node, segmentation.GetNthSegmentID(0), volume
    )
    tick(ui, name)
    assert "is saved." in save(host)
    expected = drawing_effort(mask_zyx, corrected_zyx, (3.0, 2.0, 2.0))
    assert expected.added_path_mm > 0 and expected.slices_touched == 2
    (texts,) = rows(ui.caseTable)
    assert texts[column(ui)] == metres(expected.added_path_mm)
    details = ui.caseTable.item(0, column(ui)).toolTip()
    assert f"{metres(expected.added_path_mm)} of {metres(expected.path_mm)}; slices touched: 2" in details
    assert f"{name}: {metres(expected.added_path_mm)}" in details and "at 3 mm" in details
    (revision,) = Project(folder).state().current
    assert revision.effort is not None
    assert revision.effort.added_path_mm == pytest.approx(expected.added_path_mm, abs=0.01)


def test_what_was_drawn_from_nothing_has_none(host, ui, folder: Path) -> None:
    import slicer

    volume = add_volume("CT", 2, STRAIGHT)
    node = empty_segmentation(ui, volume, "larynx")
    mask_zyx = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    mask_zyx[3:5, 3:8, 12:15] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask_zyx, node, node.GetSegmentation().GetNthSegmentID(0), volume)
    tick(ui, "larynx")
    assert "is saved." in save(host)
    assert rows(ui.caseTable)[0][column(ui)] == ""
    assert "Not measured" in ui.caseTable.item(0, column(ui)).toolTip()
