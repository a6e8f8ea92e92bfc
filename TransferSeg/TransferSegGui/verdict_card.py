"""The verdict of a fine-tuning for a person: its sentences, and before and after as a table node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from TransferSegLib.models.versions.card import unseen_patients
from TransferSegLib.models.versions.record import BETTER, WORSE

#: How the parameter node refers to the table.
VERDICT_TABLE = "FineTuneVerdict"
_COLORS = {BETTER: "#2e7d32", WORSE: "#c62828"}
_WARNED_COLOR, _OTHER_COLOR = "#ef6c00", "#757575"


def verdictText(result: Mapping[str, Any]) -> str:
    """Return the verdict with its reasons, what to look at, and the notes, each on a line.

    ``result`` is that of a ``finetune`` job (docs/job-format.md).
    """
    evidence = result["evidence"]
    lines = [_("Verdict: {answer}.").format(answer=evidence["verdict"]), *_wordsOfStructures(evidence)]
    lines += evidence["reasons"]
    lines += [_("Please check: {warning}").format(warning=warning) for warning in evidence["warnings"]]
    lines += [_("Please check: {warning}").format(warning=sentence) for sentence in result.get("not_corrected", ())]
    return "\n".join([*lines, *result["notes"]])


def _wordsOfStructures(evidence: Mapping[str, Any]) -> list[str]:
    """Return a line for each structure: its word, and the mean Dice to expect in unseen patients."""
    lines = []
    for row in [*evidence["structures"], *evidence["new"]]:
        if row.get("word"):
            lines.append(
                _("{name}: {word} (mean Dice {dice:.2f}; in other patients {interval}).").format(
                    name=row["structure"],
                    word=row["word"],
                    dice=row["mean"] if "mean" in row else row["candidate"],
                    interval=unseen_patients(row),
                )
            )
    return lines


def verdictStyle(result: Mapping[str, Any] | None) -> str:
    """Return the style sheet of the label with the verdict: a frame, green, red, orange (warned of) or grey."""
    if result is None:
        return ""
    other = _WARNED_COLOR if isWarnedOf(result) else _OTHER_COLOR
    color = _COLORS.get(result["evidence"]["verdict"], other)
    return f"border: 2px solid {color}; padding: 4px;"


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
    rows = [*_ofStructures(result), *_ofCases(result)]
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


def _ofStructures(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the rows of the mean and of each structure over all held-out cases."""
    evidence = result["evidence"]
    overall = evidence["overall"]
    if overall is not None:
        everyone = _("all, {count} patient(s)").format(count=overall["patients"])
        dice = [overall["parent"], overall["candidate"]]
        yield [_("mean"), everyone, *map(_number, dice), _change(*dice), "", "", unseen_patients(overall), ""]
    entries = {row["structure"]: row for row in [*evidence["structures"], *evidence["new"]]}
    for row in evidence["method"]["rows"]:
        if row["cases"]:
            entry = entries.get(row["structure"], {})
            name = row["structure"]
            name = _("{name} (new)").format(name=name) if name in result["new_structures"] else name
            dice = [row["parent"], row["candidate"]]
            distances = [_number(value, 1) for value in row["hd95_mm"]]
            everyone = _("all {count}").format(count=row["cases"])
            expected = [unseen_patients(entry), entry.get("word", "")]
            yield [name, everyone, *map(_number, dice), _change(*dice), *distances, *expected]


def _ofCases(result: Mapping[str, Any]) -> Iterator[list[str]]:
    for case in sorted(result["evidence"]["held_out_cases"], key=lambda case: case["case"]):
        for name, after in case["candidate"].items():
            before = case["parent"].get(name) or {}
            dice = [before.get("dice"), after["dice"]]
            distances = [_number(score.get("hd95_mm"), 1) for score in (before, after)]
            yield [name, case["case"], *map(_number, dice), _change(*dice), *distances, "", ""]


def _number(value: float | None, decimals: int = 3) -> str:
    """Return a number as a text; '-' is 'none': unknown to the parent, or an infinite distance."""
    return "-" if value is None else f"{value:.{decimals}f}"


def _change(before: float | None, after: float | None) -> str:
    return "-" if before is None or after is None else f"{after - before:+.3f}"
