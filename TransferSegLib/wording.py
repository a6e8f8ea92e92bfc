"""Small pieces of text for people: numbers with their nouns, and plain text tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: '1 case', '3 cases'."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" with the known word that is most like one that is not known, or ''."""
    by_key = {one.casefold(): one for one in known}
    near = get_close_matches(word.casefold()[:200], list(by_key), 1, 0.7)
    return f" Did you mean '{by_key[near[0]]}'?" if near else ""


def listed(headline: str, problems: Sequence[str], most: int) -> str:
    """Return a headline with a line for each problem, and a last one for those beyond ``most``."""
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "\n".join([headline, *(f"  - {problem}" for problem in [*problems[:most], *more])])


#: A cell that is longer moves the rest of its own row instead of widening its column for all rows.
_WIDEST_CELL = 44


def table(header: Sequence[str], rows: Sequence[Sequence[str]], ruled: bool = True, notes: bool = False) -> str:
    """Return a plain text table, the first column to the left, the others to the right; ``ruled``: with a line.

    ``notes``: the last column is a text, to the left. A column is as wide as its longest cell of up to 44 characters.
    """
    every = [header, *rows]
    widths = [
        max(len(row[column]) for row in every if len(row[column]) <= _WIDEST_CELL or row is header)
        for column in range(len(header))
    ]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        if notes:
            cells[-1] = row[-1]
        return "  ".join(cells).rstrip()

    rule = ["  ".join("-" * width for width in widths)] if ruled else []
    return "\n".join([line(header), *rule, *(line(row) for row in rows)])
