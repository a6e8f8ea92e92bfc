"""Small pieces of text for people: numbers with their nouns, and plain text tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from difflib import get_close_matches


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: '1 case', '3 cases'."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def enumerated(words: Sequence[str]) -> str:
    """Return words as a sentence lists them: 'a', 'a and b', 'a, b and c'."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def first_of(words: Sequence[str], most: int) -> str:
    """Return words with commas, of more than ``most`` the first ones and how many more there are."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return f"{', '.join(words[:most])}{more}"


def before_and_after(before: float, after: float, decimals: int | None = None) -> tuple[str, str, str]:
    """Return two scores and their change as texts that agree: the change is that of the numbers that are shown.

    ``decimals`` None: two, and three where with two the change would be another one than it is.

    >>> before_and_after(0.9149, 0.9151)
    ('0.915', '0.915', '0.000')
    """
    if decimals is None:
        is_true = round(round(after, 2) - round(before, 2), 2) == round(after - before, 2)
        decimals = 2 if is_true else 3
    change = round(round(after, decimals) - round(before, decimals), decimals)
    return (
        f"{before:.{decimals}f}",
        f"{after:.{decimals}f}",
        f"{change:+.{decimals}f}" if change else f"{0:.{decimals}f}",
    )


def local_time(written: str) -> str:
    """Return an ISO time of a file in this computer's time zone: '2026-01-31 13:05'; another text as it is."""
    try:
        return datetime.fromisoformat(written).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return written


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


def table(header: Sequence[str], rows: Sequence[Sequence[str]], ruled: bool = True) -> str:
    """Return a plain text table: texts to the left, numbers to the right; ``ruled``: with a line below the header.

    A column is as wide as its longest cell of up to 44 characters.
    """
    every = [header, *rows]
    columns = range(len(header))
    widths = [
        max(len(row[column]) for row in every if len(row[column]) <= _WIDEST_CELL or row is header)
        for column in columns
    ]
    numeric = [column > 0 and _are_numbers([row[column] for row in rows]) for column in columns]

    def line(row: Sequence[str]) -> str:
        cells = [
            row[column].rjust(widths[column]) if numeric[column] else row[column].ljust(widths[column])
            for column in columns
        ]
        return "  ".join(cells).rstrip()

    rule = ["  ".join("-" * width for width in widths)] if ruled else []
    return "\n".join([line(header), *rule, *(line(row) for row in rows)])


def _are_numbers(cells: Sequence[str]) -> bool:
    """Tell whether most cells of a column that say something begin as a number does."""
    said = [cell for cell in cells if cell not in ("", "-")]
    return not said or 2 * sum(cell[0].isdigit() or cell[0] in "+-<±" for cell in said) > len(said)
