"""What a kind of trial is, and the table of how many were tried and failed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: How many trials were made, and what was wrong in those that failed, a line each.
Outcome = tuple[int, list[str]]


@dataclass(frozen=True)
class Kind:
    """Trials of one kind without an end; ``share`` is the part of its group's time."""

    name: str
    group: str
    share: float
    trials: Callable[[Path, random.Random], Iterator[Outcome]]


@dataclass
class Tally:
    """What came of the trials of a kind."""

    tried: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    facts: str = ""


def table(tallies: dict[str, Tally]) -> str:
    """Return the tallies as a table with a line per kind and a sum."""
    rows = [("kind", "tried", "failed", "s", "")]
    rows += [
        (name, f"{one.tried:,}", str(len(one.failures)), f"{one.seconds:.0f}", one.facts)
        for name, one in tallies.items()
    ]
    total = (sum(one.tried for one in tallies.values()), sum(len(one.failures) for one in tallies.values()))
    rows.append(("all", f"{total[0]:,}", str(total[1]), f"{sum(one.seconds for one in tallies.values()):.0f}", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(row[n].rjust(widths[n]) for n in (1, 2, 3)), row[4]]).rstrip()
        for row in rows
    )
