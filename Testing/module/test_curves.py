"""Curves as MRML nodes: stages one after another, thinned out when there are very many points, saved with the scene."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def curves(host):
    from TransferSegGui.curves import TrainingCurves

    return TrainingCurves(host.widget._parameterNode)


def column(host, role: str, name: str):
    import slicer

    return slicer.util.arrayFromTableColumn(host.widget._parameterNode.GetNodeReference(role), name)


def test_stages_follow_one_another_and_dice_stands_where_it_was_measured(host, curves):
    node = host.widget._parameterNode
    host.widget.fineTunePanel.stop()  # a job that was found again draws curves of its own
    for role in ("FineTuneLossChart", "FineTuneDiceChart", "FineTuneLoss", "FineTuneDice"):
        node.SetNodeReferenceID(role, None)
    curves.draw()
    assert curves.isEmpty and node.GetNodeReference("FineTuneLossChart") is None, "no empty chart"
    for stage, step, loss, dice in (
        ("fold 1", 10, 1.0, None),
        ("fold 1", 20, 0.5, None),
        ("fold 1: case 1 of 1", None, None, 0.7),
        ("fold 2", 5, 2.0, None),
        ("fold 2: case 1 of 1", None, None, 0.8),
    ):
        curves.add(stage, step, loss, dice)
    curves.draw()
    assert list(column(host, "FineTuneLoss", "Step")) == [10, 20, 25]
    assert column(host, "FineTuneLoss", "Loss") == pytest.approx([1.0, 0.9, 2.0]), "each stage has its own average"
    assert list(column(host, "FineTuneDice", "Step")) == [20, 25]
    assert list(column(host, "FineTuneDice", "Dice")) == [0.7, 0.8]
    loss, dice = (node.GetNodeReference(f"FineTune{curve}Chart") for curve in ("Loss", "Dice"))
    for chart, name in ((loss, "Loss"), (dice, "Dice")):
        assert chart.GetNumberOfPlotSeriesNodes() == 1, "each has its own axis"
        series = chart.GetNthPlotSeriesNode(0)
        assert (series.GetXColumnName(), series.GetYColumnName()) == ("Step", name)
    lines = {chart.GetName(): chart.GetNthPlotSeriesNode(0).GetLineStyle() for chart in (loss, dice)}
    assert list(lines.values()) == [series.LineStyleSolid, series.LineStyleNone], "each point is of another network"
    assert loss.GetYAxisRangeAuto() and not dice.GetYAxisRangeAuto() and list(dice.GetYAxisRange()) == [0.0, 1.0]


def test_very_many_points_are_thinned_out_and_keep_their_place(host, curves):
    for step in range(1, 50_001):
        curves.add("training", step, 1.0, None)
    curves.draw()
    steps = column(host, "FineTuneLoss", "Step")
    assert 500 < len(steps) <= 2000 and (steps[1:] > steps[:-1]).all() and steps[-1] > 49_000


def test_further_curves_use_the_nodes_again_also_those_of_a_saved_scene(host, curves, tmp_path: Path):
    import slicer
    from slicerhost.scene import openScene, saveScene
    from TransferSegGui.curves import TrainingCurves

    curves.add("a", 1, 1.0, 0.5)
    curves.draw()
    before = slicer.mrmlScene.GetNumberOfNodes()
    again = TrainingCurves(host.widget._parameterNode)
    again.add("b", 2, 3.0, 0.6)
    again.draw()
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    assert list(column(host, "FineTuneLoss", "Loss")) == [3.0]
    saveScene(tmp_path / "scene.mrml")
    slicer.mrmlScene.Clear(False)
    again.draw()  # its parameter node is gone: nothing happens
    openScene(tmp_path / "scene.mrml")
    host.process()
    restored = TrainingCurves(host.widget._parameterNode)
    restored.add("c", 7, 4.0, 0.9)
    restored.draw()
    assert list(column(host, "FineTuneLoss", "Step")) == [7]
    for curve in ("loss", "dice"):
        restored.show(curve)
        chart = host.widget._parameterNode.GetNodeReference(f"FineTune{curve.capitalize()}Chart")
        assert chart.GetNumberOfPlotSeriesNodes() == 1
        assert slicer.app.layoutManager().plotWidget(0).mrmlPlotViewNode().GetPlotChartNodeID() == chart.GetID()
