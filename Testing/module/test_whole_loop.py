"""Once through the whole loop: real clicks, the real library, the bundled model, and parts of real scans."""

from __future__ import annotations

from pathlib import Path

import pytest

#: How long the window's thread may compute at a stretch, in units of ``window_watch.reference_s``.
MOST_REFERENCES = 20
#: Whatever the verdict: the loop is the same after a better training, which test_finetune_panel.py has.
FEW_STEPS = {"tail_steps": 8, "steps": 4, "patches_per_case": 1, "patch": 48, "tail_patch": 20, "report_cases": 0}


@pytest.mark.timeout(3600)
def test_from_a_scan_to_a_better_model_and_back(host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import sys

    import whole_loop
    from TransferSegGui.nodes import segmentedBy

    for name in ("MODELS", "JOBS", "PROJECTS"):
        monkeypatch.setenv(f"TRANSFERSEG_{name}", str(tmp_path / name.lower()))
    hadTorch = "torch" in sys.modules
    host.widget.enter()
    host.widget._parameterNode.SetParameter("Model", whole_loop.BUNDLED)
    scans = whole_loop.parts_of_scans(tmp_path)[:2]
    loop = whole_loop.WholeLoop(host, tmp_path / "cases", settings=FEW_STEPS, scans=scans)
    ui, seen = loop.ui, []
    for step in loop.steps():
        seen.append(step)
        if step == "segmented":
            by = segmentedBy(loop.node)
            assert by.model == "head-neck-ct" and len(by.structures) == 7
            assert loop.node.GetNodeReference("referenceImageGeometryRef").GetID() == loop.volumes[0].GetID()
            assert loop.node.GetSegmentation().ContainsRepresentation("Closed surface")
        elif step == "ready to fine-tune":
            assert ui.caseTable.rowCount == 2 and ui.fineTuneCaseTable.rowCount == 2
        elif step == "cancelled":
            assert loop.job_states[-1] == "cancelled"
        elif step == "verdict":
            assert ui.verdictTable.rowCount > 0
            word = loop.result["evidence"]["verdict"]
            assert ui.verdictLabel.text.startswith(f"{word.capitalize()}. ")
            assert not host.widget.fineTunePanel.curves.isEmpty
        elif step == "promoted":
            assert ui.historyTable.rowCount == 2
        elif step == "segmented with the new version":
            assert segmentedBy(loop.node).version == str(loop.result["version"])
    assert seen[-1] == "rolled back" and "verdict" in seen
    assert loop.job_states[-1] == "done" and "cancelled" in loop.job_states
    print(f"\n{loop.watch}")
    assert loop.watch.references < MOST_REFERENCES, loop.watch
    assert ("torch" in sys.modules) == hadTorch, "torch was imported in Slicer's process"
    monkeypatch.undo()
    host.widget.enter()
