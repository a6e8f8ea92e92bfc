"""The card of a version: a page for people that lies beside its weights and goes along when it is exported.

It is written from the record as it leaves this computer, so it names no case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.versions.record import VersionRecord, number
from TransferSegLib.wording import before_and_after, counted

_EVIDENCE_TEXT = (
    "Mean Dice (overlap with the corrections, 0 to 1) of parent and this version on patients that the compared "
    "networks were trained without, the difference with its 90 % interval, and the 90 % interval of this version's "
    "mean Dice in patients nobody has seen."
)


def card(description: ModelDescription, record: VersionRecord) -> str:
    """Return the card of a version in Markdown."""
    provenance = description.provenance
    lines = [
        f"# {description.name}, version {description.version}",
        "",
        f"{description.summary}",
        "",
        f"- **Made from:** {record.parent} (weights SHA-256 `{record.parent.sha256}`)",
        f"- **Learned from:** {counted(len(record.cases), 'corrected case')}",
        f"- **Structures:** {', '.join(description.label_set.names)} ({description.modality}, at "
        f"{description.preparation.spacing_text})",
        f"- **Verdict:** {verdict_text(record)}",
        f"- **Training data:** {description.training_data}",
        f"- **Licence:** {description.license}",
        f"- **Cite:** {description.citation}",
        f"- **Made by:** `{provenance.command}` (code {provenance.code_version}, {record.created})",
        "",
        *_section("Evidence", _EVIDENCE_TEXT, _evidence(record)),
        *_section("What the parent knew", "Mean Dice before and after.", _forgetting(record)),
        "## Limits",
        "",
        "The evidence speaks of the scanners and patients that the corrected cases come from, and of no other. Not a "
        "medical device.",
    ]
    return "\n".join(lines) + "\n"


def verdict_text(record: VersionRecord) -> str:
    """Return the verdict with its reasons for a person."""
    if not record.verdict:
        return "none: nothing was measured"
    return f"**{record.verdict}**. {record.reasons}".strip()


def evidence_rows(evidence: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (structure, its entry) of every structure that the evidence compares, then of new ones, then ``mean``."""
    for part in ("structures", "new"):
        rows = evidence.get(part) if isinstance(evidence, dict) else None
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict) and isinstance(row.get("structure"), str):
                yield row["structure"], row
    if isinstance(evidence, dict) and isinstance(evidence.get("overall"), dict):
        yield "mean", evidence["overall"]


def reached(entry: Mapping[str, Any]) -> float | None:
    """Return the mean Dice that the version itself reached, in an entry of the evidence."""
    found = number(entry, "candidate")
    return number(entry, "mean") if found is None else found


def signed(value: float | None) -> str:
    """Return a difference of Dice as it is printed."""
    return "-" if value is None else f"{value:+.3f}"


def plain(value: float | None) -> str:
    """Return a Dice as it is printed."""
    return "-" if value is None else f"{value:.3f}"


def _evidence(record: VersionRecord) -> list[Sequence[str]]:
    """Return the evidence as rows of a table, the header first; nothing where there is none."""
    rows: list[Sequence[str]] = []
    for structure, entry in evidence_rows(record.evidence):
        patients = entry.get("patients")
        before, after = number(entry, "parent"), reached(entry)
        interval = f"{signed(number(entry, 'low'))} to {signed(number(entry, 'high'))}" if before is not None else "-"
        difference = "-" if before is None or after is None else before_and_after(before, after, 3)[2]
        unseen, word = unseen_patients(entry), str(entry.get("word") or entry.get("answer") or "-")
        rows.append((structure, str(patients or "-"), plain(before), plain(after), difference, interval, unseen, word))
    names = ("structure", "patients", "parent", "this version", "difference", "interval")
    header = (*names, "in unseen patients", "verdict")
    return [header, *rows] if rows else []


def unseen_patients(entry: Mapping[str, Any], which: str = "candidate_interval") -> str:
    """Return the interval of a mean Dice over unseen patients as a text; '-' where none is recorded.

    ``entry`` is that of a structure in the evidence, ``which`` the interval of one it has before and after.
    """
    interval = entry.get("interval") if "interval" in entry else entry.get(which)
    ends = interval if isinstance(interval, list) and len(interval) == 2 else [None, None]
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        return "-"
    return f"{ends[0]:.2f} to {ends[1]:.2f}"


def _forgetting(record: VersionRecord) -> list[Sequence[str]]:
    """Return what became of the parent's structures as rows of a table, the header first."""
    rows: list[Sequence[str]] = []
    for entry in record.forgetting:
        names = [" + ".join(map(str, entry.get(key) or ["-"])) for key in ("parent", "new")]
        scores = [plain(number(entry, key)) for key in ("dice_before", "dice_after", "agreement")]
        rows.append((*names, str(entry.get("fate", "-")), *scores))
    header = ("of the parent", "here", "fate", "before", "after", "agreement where nobody drew it")
    return [header, *rows] if rows else []


def _section(title: str, text: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a section with a table as lines of Markdown, none for an empty one."""
    if not rows:
        return []
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    table = [f"| {' | '.join(row)} |" for row in escaped]
    return [f"## {title}", "", text, "", table[0], "|---" * len(rows[0]) + "|", *table[1:], ""]
