"""The result of a fine-tuning as a text for a person: before and after, the verdict, what was forgotten, what to do.

It is made from the result's JSON values, so that a job's result reads the same as that of a foreground run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from TransferSegLib.evaluation.verdict_advice import DICE_MEANS, INTERVAL_MEANS
from TransferSegLib.models.versions.card import unseen_patients
from TransferSegLib.wording import before_and_after, counted, table

#: Dice with the labels, or agreement, that fell by more is pointed at.
_LOST = 0.05


def report_text(result: Mapping[str, Any]) -> str:
    """Return what ``FineTuned.to_json`` says as a text of some lines."""
    parts = [_headline(result), *result["notes"], _choice(result), _compared(result), _claims(result), _verdict(result)]
    parts += [_not_corrected(result), _outcome(result), _commands(result)]
    return "\n\n".join(part for part in parts if part)


def _headline(result: Mapping[str, Any]) -> str:
    cases, patients = counted(result["cases"], "corrected case"), counted(result["patients"], "patient")
    minutes = f"{result['seconds'] / 60:.1f} min"
    return f"{result['parent']}, strategy {result['strategy']}, {cases} of {patients}, {minutes}."


def _choice(result: Mapping[str, Any]) -> str:
    """Return how the strategy was chosen, where it was."""
    choice = result.get("strategy_choice")
    return "" if choice is None else str(choice["text"])


def _compared(result: Mapping[str, Any]) -> str:
    """Return the table of structures that were annotated in held-out cases."""
    method = result["evidence"]["method"]
    rows = [row for row in method["rows"] if row["cases"]]
    if not rows:
        return "There is no case to compare the two models on: none could be left out of training."
    nsd = f"NSD {method['tolerance_mm']:g} mm"
    header = ("structure", "cases", "patients", "Dice before", "after", "change", nsd, "after", "HD95 mm", "after")
    lines = [(_row_name(row, result), str(row["cases"]), str(row.get("patients", "-")), *_cells(row)) for row in rows]
    title = f"Left out of training ({method['held_out']}; {method['grid']}):"
    return f"{title}\n{table(header, lines, ruled=False)}"


def _claims(result: Mapping[str, Any]) -> str:
    """Return the table of what is claimed of each structure: intervals for unseen patients, and its word."""
    evidence = result["evidence"]
    rows = [*evidence["structures"], *evidence["new"]]
    lines = []
    for row in rows:
        before = unseen_patients(row, "parent_interval") if "parent" in row else "-"
        word = str(row.get("word") or row.get("answer") or "-")
        lines.append((row["structure"], before, unseen_patients(row), word))
    if not lines or all(line[2] == "-" for line in lines):
        return ""
    title = "Mean Dice to expect in other patients like these (90 % intervals):"
    return f"{title}\n{table(('structure', 'before', 'after', 'verdict'), lines, ruled=False)}"


def _row_name(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    return f"{row['structure']} (new)" if row["structure"] in result["new_structures"] else str(row["structure"])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row's numbers; '-' is 'no number': unknown to the parent, or an infinite distance."""
    before, after = row["parent"], row["candidate"]
    change = "-" if before is None or after is None else before_and_after(before, after, 3)[2]
    nsd, hd95 = row["nsd"], row["hd95_mm"]
    return (_number(before), _number(after), change, *map(_number, nsd), *(_number(value, 1) for value in hd95))


def _verdict(result: Mapping[str, Any]) -> str:
    evidence = result["evidence"]
    lines = [" ".join([f"Verdict: {evidence['verdict']}.", *evidence["reasons"][:1]]), *evidence["reasons"][1:]]
    lines += [f"Look: {warning}" for warning in evidence["warnings"]]
    lines.append(f"{DICE_MEANS} {INTERVAL_MEANS}")
    return "\n".join(lines)


def _not_corrected(result: Mapping[str, Any]) -> str:
    """Return what happened to structures that were not corrected."""
    rows = [row for row in result["evidence"]["method"]["rows"] if row["agreement"] is not None]
    lines = [(row["structure"], str(row["unannotated_cases"]), _number(row["agreement"])) for row in rows]
    parts = []
    if lines:
        title = "Not corrected; do both models still say the same in cases left out of training (1 = the same)?"
        parts.append(f"{title}\n{table(('structure', 'cases', 'agreement'), lines, ruled=False)}")
    parts += [f"Look: {line}" for line in result["not_corrected"]]
    for fate in result["forgetting"]:
        before, after = fate.get("dice_before"), fate.get("dice_after")
        if before is not None and after is not None and after < before - _LOST:
            parts.append(
                f"Look: {', '.join(fate['new'])} got worse even on cases it learned from "
                f"(Dice {before:.2f} to {after:.2f})."
            )
    if result["dropped"]:
        parts.append(f"No longer found: {', '.join(result['dropped'])}.")
    return "\n".join(parts)


def _outcome(result: Mapping[str, Any]) -> str:
    """Return which version was made and whether it is in use."""
    made = f"Made version {result['version']} of '{result['model']}' ({result['path']})."
    if result["current"]:
        return f"{made}\nIt is the current one: '{result['model']}' means this version from now on."
    return f"{made}\nIt is kept, and not the current one: {_why_not_current(result)}"


def _why_not_current(result: Mapping[str, Any]) -> str:
    """Return why a new version is not in use, as a sentence without its beginning."""
    evidence, promotion = result["evidence"], result.get("promotion")
    verdict = evidence["verdict"]
    if promotion == "never":
        return f"its verdict is '{verdict}', and you decide."
    if _is_warned(result) or (verdict != "better" and promotion != "unless worse"):
        return " ".join([f"its verdict is '{verdict}'.", *evidence.get("promotion", {}).get("obstacles", [])])
    in_use = result.get("in_use")
    if in_use is None:
        return f"it was compared with {result['parent']}, and which version is in use is not known."
    found = "it is better than" if verdict == "better" else "it was compared with"
    return (
        f"{found} what it was made from ({result['parent']}), but version {in_use} of '{result['model']}' is "
        "in use, with which it was not compared."
    )


def _commands(result: Mapping[str, Any]) -> str:
    """Return the commands to use it, or not to."""
    name = _quoted(result["model"])
    lines = []
    if result["current"]:
        lines.append(f"transferseg segment SCAN --model {name} --output FILE")
        lines.append(f"transferseg models rollback {name}    # go back to what was in use before")
    else:
        lines.append(
            f"transferseg segment SCAN --model {_quoted(result['model'] + '@' + str(result['version']))} "
            "--output FILE    # to look at its results"
        )
        force = " --force" if _is_worse(result) else ""
        note = "to use it all the same, against the warnings" if _is_warned(result) else "to use it all the same"
        lines.append(f"transferseg models promote {name} {result['version']}{force}    # {note}")
    lines.append(f"transferseg models history {name}")
    return "\n".join(lines)


def _is_worse(result: Mapping[str, Any]) -> bool:
    """Tell whether the version is clearly worse than its parent, so that promoting it takes --force."""
    evidence = result["evidence"]
    return evidence["verdict"] == "worse" or (evidence.get("overall") or {}).get("answer") == "worse"


def _is_warned(result: Mapping[str, Any]) -> bool:
    """Tell whether something speaks against using the version."""
    evidence = result["evidence"]
    return bool(evidence.get("promotion", {}).get("warned", evidence["verdict"] == "worse"))


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word else word


def _number(value: float | None, decimals: int = 3) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
