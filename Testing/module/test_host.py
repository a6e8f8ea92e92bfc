"""The test host itself: what it must refuse, and what it does for real."""

from __future__ import annotations

import numpy as np
import pytest


def test_what_slicer_would_refuse_or_print_raises_here(host, ui):
    with pytest.raises(AttributeError, match="lets nobody create it"):
        ui.segmentButton.txt = "Segment"
    with pytest.raises(AttributeError, match="has no signal"):
        ui.segmentButton.connect("pressedTwice()", print)
    with pytest.raises(AttributeError, match="has no signal"):
        ui.inputVolumeSelector.connect("currentNodeChanged(vtkMRMLVolumeNode*)", print)
    with pytest.raises(AttributeError):
        ui.segmentEditorWidget.paintEverything  # noqa: B018 - looking it up is the test
    with pytest.raises(TypeError):
        ui.segmentStatusLabel.text()


def test_exceptions_in_slots_are_collected(host):
    import qt
    from slicerhost import pythonqt

    button = qt.QPushButton()
    button.connect("clicked(bool)", lambda: 1 / 0)
    button.click()
    assert [type(error) for error in pythonqt.slotErrors] == [ZeroDivisionError]
    pythonqt.slotErrors.clear()


def test_a_closed_section_remembers_what_is_hidden_in_it(host, ui):
    section, inside = ui.correctCollapsibleButton, ui.saveProgressBar
    section.collapsed = True
    assert not inside.visible
    inside.setVisible(True)
    assert not inside.visible, "the section is closed"
    section.click()
    assert not section.collapsed and inside.visible
    inside.setVisible(False)
    section.collapsed = True
    section.collapsed = False
    assert not inside.visible
    section.collapsed = True


def test_what_comes_into_a_closed_section_is_hidden_in_it_too(host, ui):
    import qt

    section, inside = ui.correctCollapsibleButton, ui.saveProgressBar
    section.collapsed = True
    later = qt.QLabel("later", section)
    later.show()
    inside.setVisible(True)
    assert not later.visible and not inside.visible
    section.collapsed = False
    assert later.visible and inside.visible
    inside.setVisible(False)
    section.collapsed = True
    later.setParent(None)


def test_painting_undoing_and_drawing_are_real(host, ui):
    import slicer

    volume = slicer.util.addVolumeFromArray(np.zeros((20, 20, 20), np.int16), name="CT")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    ui.inputVolumeSelector.setCurrentNode(volume)
    ui.outputSegmentationSelector.setCurrentNode(node)
    red = ui.segmentEditorWidget.userAddsSegment("red")
    node.GetSegmentation().GetSegment(red).SetColor(1, 0, 0)
    green = ui.segmentEditorWidget.userAddsSegment("green")

    def voxels(segment: str) -> int:
        return int((slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume) > 0).sum())

    ui.segmentEditorWidget.setCurrentSegmentID(red)
    assert ui.segmentEditorWidget.userPaints([(10, 10, 10)], 4.0) == voxels(red) == 257
    ui.segmentEditorWidget.setCurrentSegmentID(green)
    ui.segmentEditorWidget.userPaints([(10, 10, 10)], 2.0)
    assert voxels(green) == 33 and voxels(red) == 257 - 33, "Slicer's masking: segments do not overlap"
    ui.segmentEditorWidget.undo()
    assert voxels(green) == 0 and voxels(red) == 257
    ui.segmentEditorWidget.setCurrentSegmentID(red)
    ui.segmentEditorWidget.userPaints([(10, 10, 10)], 2.0, erase=True)
    assert voxels(red) == 257 - 33
    host.widget.exit()
    assert ui.segmentEditorWidget.mrmlSegmentEditorNode().GetActiveEffectName() in ("", None)
    with pytest.raises(RuntimeError, match="does not follow the mouse"):
        ui.segmentEditorWidget.userPaints([(10, 10, 10)], 2.0)
    host.widget.enter()

    def redness() -> int:
        pixels = host.slices["Red"].view.pixels().astype(int)
        return int((pixels[..., 0] > pixels[..., 1] + 60).sum())

    host.slices["Red"].view.show(volume, (10, 10, 10))
    shown = redness()
    node.GetDisplayNode().SetVisibility(False)
    assert shown > 100 and redness() == 0


def test_a_chart_is_shown_where_slicers_plots_logic_puts_it(host):
    import slicer
    from slicerhost.plot_painter import seriesPoints

    before = host.layoutManager.layout
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
    slicer.util.updateTableFromArray(table, [np.array([0.0, 1.0, 2.0]), np.array([3.0, 1.0, 0.5])], ["step", "loss"])
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "loss")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("step")
    series.SetYColumnName("loss")
    series.SetColor(0, 0, 1)
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    assert seriesPoints(series) == [(0.0, 3.0), (1.0, 1.0), (2.0, 0.5)]
    assert host.layoutManager.plotViewCount == 0
    slicer.modules.plots.logic().ShowChartInLayout(chart)
    assert host.layoutManager.plotViewCount == 1
    widget = host.layoutManager.plotWidget(0)
    assert widget.mrmlPlotViewNode().GetPlotChartNodeID() == chart.GetID()
    widget.draw()
    picture = widget.pixmap.toImage()
    colors = {picture.pixelColor(x, y).name() for x in range(picture.width()) for y in range(0, picture.height(), 3)}
    assert "#0000ff" in colors
    host.layoutManager.setLayout(before)
    assert host.layoutManager.plotViewCount == 0
