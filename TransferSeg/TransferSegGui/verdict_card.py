"""The verdict of a fine-tuning for a person: its sentences, and before and after as a table node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from TransferSegGui.colors import BAD, GOOD, NEUTRAL, WARNED
from TransferSegGui.verdict_rows import (
    VerdictRow,
    caseRows,
    changeText,
    numberText,
    structureText,
    summaryRows,
    worstRow,
)
from TransferSegLib.evaluation.verdict_advice import DICE_MEANS, INTERVAL_MEANS, without_keeping
from TransferSegLib.models.versions.record import BETTER, WORSE

#: How the parameter node refers to the table.
VERDICT_TABLE = "FineTuneVerdict"
_TONES = {BETTER: GOOD, WORSE: BAD}


def verdictText(result: Mapping[str, Any], isUsed: bool = False, isDecided: bool = False) -> str:
    """Return what the verdict means and what to do, then what to look at, each on a line.

    ``result`` is that of a ``finetune`` job (docs/job-format.md). ``isUsed``: the new version is in use; ``isDecided``:
    the user has decided to keep the old one.
    """
    evidence = result["evidence"]
    advice = evidence["reasons"][:1]
    if isUsed:
        first = [evidence["first_in_use"]] if evidence.get("first_in_use") else map(without_keeping, advice)
        advice = [*first, _("The new version is in use now.")]
    elif isDecided:
        advice.append(_("You keep the old version."))
    elif evidence["verdict"] == BETTER:
        advice.append(_("Promote uses the new version from now on."))
    word = evidence["verdict"]
    lines = [" ".join([f"{word[:1].upper()}{word[1:]}.", *advice])]
    lines += [_("Please check: {warning}").format(warning=warning) for warning in evidence["warnings"]]
    lines += [_("Please check: {warning}").format(warning=sentence) for sentence in result.get("not_corrected", ())]
    return "\n".join(lines)


def verdictDetails(result: Mapping[str, Any]) -> str:
    """Return the numbers behind the verdict, the notes of the run, and what the words mean, each on a line."""
    numbers = result["evidence"]["reasons"][1:]
    return "\n".join([*numbers, *result["notes"], DICE_MEANS, *([INTERVAL_MEANS] if numbers else [])])


def verdictTone(result: Mapping[str, Any]) -> str:
    """Return the verdict's colour: green, red, orange (warned of) or grey."""
    return _TONES.get(result["evidence"]["verdict"], WARNED if isWarnedOf(result) else NEUTRAL)


def worstCaseText(result: Mapping[str, Any]) -> str:
    """Return a line on the held-out case with the lowest Dice after fine-tuning, empty when none was compared."""
    row = worstRow(result)
    if row is None:
        return ""
    text = _("Worst case: {structure} in {case}, Dice {before} before, {after} after.")
    if row.before is None:
        text = _("Worst case: {structure} in {case}, Dice {after}.")
    return text.format(
        structure=row.structure, case=row.case, before=numberText(row.before), after=numberText(row.after)
    )


def isWarnedOf(result: Mapping[str, Any]) -> bool:
    """Return whether something speaks against using the new version."""
    evidence = result["evidence"]
    return bool(evidence.get("promotion", {}).get("warned", evidence["verdict"] == WORSE))


def obstacles(result: Mapping[str, Any]) -> str:
    """Return why the new version is not used by itself, for a person."""
    return " ".join(result["evidence"].get("promotion", {}).get("obstacles", []))


def verdictTableNode(parameterNode, result: Mapping[str, Any]):
    """Return the table node with before and after by structure and case, refilled; created when missing."""
    node = parameterNode.GetNodeReference(VERDICT_TABLE)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", _("Fine-tuning verdict"))
        parameterNode.SetNodeReferenceID(VERDICT_TABLE, node.GetID())
    header = [
        _("Structure"),
        _("Case"),
        _("Dice before"),
        _("Dice after"),
        _("Change"),
        _("HD95 before (mm)"),
        _("HD95 after (mm)"),
        _("In other patients"),
        _("Verdict"),
    ]
    rows = [_cells(row) for row in (*summaryRows(result), *caseRows(result))]
    table = vtk.vtkTable()
    for column, name in enumerate(header):
        values = vtk.vtkStringArray()
        values.SetName(name)
        for row in rows:
            values.InsertNextValue(row[column])
        table.AddColumn(values)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetAndObserveTable(table)
    return node


def _cells(row: VerdictRow) -> list[str]:
    """Return the texts of a row of the table node."""
    patients = _("all, 1 patient") if row.count == 1 else _("all, {count} patients")
    where = row.case or (_("all {count}") if row.structure else patients).format(count=row.count)
    distances = ["", ""]
    if row.structure:
        distances = [numberText(row.hd95_before_mm, 1), numberText(row.hd95_after_mm, 1)]
    dice = [numberText(row.before), numberText(row.after), changeText(row)]
    return [structureText(row), where, *dice, *distances, row.expected, row.word if row.structure else ""]
