"""Small pieces of text for people: numbers with their nouns, and plain text tables."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: '1 case', '3 cases'."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def listed(headline: str, problems: Sequence[str], most: int) -> str:
    """Return a headline with a line for each problem, and a last one for those beyond ``most``."""
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "\n".join([headline, *(f"  - {problem}" for problem in [*problems[:most], *more])])


def table(header: Sequence[str], rows: Sequence[Sequence[str]], ruled: bool = True) -> str:
    """Return a plain text table, the first column to the left, the others to the right; ``ruled``: with a line."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    rule = ["  ".join("-" * width for width in widths)] if ruled else []
    return "\n".join([line(header), *rule, *(line(row) for row in rows)])
