"""The numbers of a verdict: before and after by structure and held-out case, and the case that came out worst."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

from TransferSegLib.models.versions.card import unseen_patients
from TransferSegLib.wording import before_and_after


@dataclass(frozen=True)
class VerdictRow:
    """Dice and 95 % Hausdorff distance before and after, of a structure over all held-out cases or in one ``case``.

    ``structure`` empty: the mean of all structures. None among the numbers: the old version does not know the
    structure, or a distance is infinite. ``expected`` is the interval for other patients, ``word`` the verdict.
    ``isOnParts``: measured on parts of scans, with networks that were trained on the others.
    """

    structure: str
    case: str
    before: float | None
    after: float | None
    hd95_before_mm: float | None = None
    hd95_after_mm: float | None = None
    count: int = 0
    isNew: bool = False
    expected: str = ""
    word: str = ""
    isOnParts: bool = False

    @property
    def change(self) -> float | None:
        """How much the Dice score rose."""
        return None if self.before is None or self.after is None else self.after - self.before


def summaryRows(result: Mapping[str, Any]) -> Iterator[VerdictRow]:
    """Yield the mean of all structures, then each structure over all held-out cases.

    ``result`` is that of a ``finetune`` job (docs/job-format.md).
    """
    evidence = result["evidence"]
    overall, isOnParts = evidence["overall"], bool(evidence["method"].get("weak"))
    if overall is not None:
        yield VerdictRow(
            "",
            "",
            overall["parent"],
            overall["candidate"],
            count=overall["patients"],
            expected=unseen_patients(overall),
            word=evidence["verdict"],
            isOnParts=isOnParts,
        )
    entries = {row["structure"]: row for row in [*evidence["structures"], *evidence["new"]]}
    for row in evidence["method"]["rows"]:
        if row["cases"]:
            entry = entries.get(row["structure"], {})
            yield VerdictRow(
                row["structure"],
                "",
                row["parent"],
                row["candidate"],
                *row["hd95_mm"],
                count=row["cases"],
                isNew=row["structure"] in result["new_structures"],
                expected=unseen_patients(entry),
                word=entry.get("word", ""),
                isOnParts=isOnParts,
            )


def caseRows(result: Mapping[str, Any]) -> Iterator[VerdictRow]:
    """Yield every structure in every held-out case in which it was reviewed, by case."""
    for case in sorted(result["evidence"]["held_out_cases"], key=lambda case: case["case"]):
        for name, after in case["candidate"].items():
            before = case["parent"].get(name) or {}
            yield VerdictRow(
                name, case["case"], before.get("dice"), after["dice"], before.get("hd95_mm"), after.get("hd95_mm")
            )


def worstRow(result: Mapping[str, Any]) -> VerdictRow | None:
    """Return the structure and case with the lowest Dice after fine-tuning, None when nothing was compared."""
    rows = [row for row in caseRows(result) if row.after is not None]
    return min(rows, key=lambda row: row.after, default=None)


def numberText(value: float | None, decimals: int = 3) -> str:
    """Return a number as a text; '-' is 'none'."""
    return "-" if value is None else f"{value:.{decimals}f}"


def changeText(row: VerdictRow, decimals: int = 3) -> str:
    """Return the change of the numbers that are shown, with its sign; '-' is 'none'."""
    if row.change is None:
        return "-"
    return before_and_after(row.before, row.after, decimals)[2]


def structureText(row: VerdictRow) -> str:
    """Return what a row is about, without the case."""
    if not row.structure:
        return _("mean")
    return _("{name} (new)").format(name=row.structure) if row.isNew else row.structure


def _measuredText(row: VerdictRow) -> str:
    """Return that no network was measured on what it had learned from."""
    if row.isOnParts:
        return _("Measured on parts of the scans, with networks that were trained on other parts of them")
    if row.count == 1:
        return _("Measured with networks that were trained without this patient")
    return _("Measured with networks that were trained without these cases")


def detailsText(row: VerdictRow) -> str:
    """Return what a row has no room for, a line each: for its tooltip."""
    lines = [structureText(row) if not row.case else f"{structureText(row)}, {row.case}"]
    if row.word:
        lines.append(_("Verdict: {word}").format(word=row.word))
    if row.count:
        patients = _("Mean over 1 patient") if row.count == 1 else _("Mean over {count} patients")
        cases = _("Mean over 1 case") if row.count == 1 else _("Mean over {count} cases")
        lines.append((cases if row.structure else patients).format(count=row.count))
        lines.append(_measuredText(row))
    lines.append(
        _("Dice: {before} before, {after} after, change {change}").format(
            before=numberText(row.before), after=numberText(row.after), change=changeText(row)
        )
    )
    if row.structure:
        lines.append(
            _("95 % of the surface is within {before} mm of your correction before, within {after} mm after").format(
                before=numberText(row.hd95_before_mm, 1), after=numberText(row.hd95_after_mm, 1)
            )
        )
    if row.expected:
        lines.append(_("Dice to expect in other patients: {interval}").format(interval=row.expected))
    return "\n".join(lines)
