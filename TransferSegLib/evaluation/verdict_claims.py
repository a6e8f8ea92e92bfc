"""Known structures in cases that have none: what one version marks there, and the other does not.

A version that marks nothing where there is nothing has no Dice there, one that does has a Dice of 0: such a case is in
no pair. Two versions that both mark nothing agree. What both mark is in the pairs, as two Dice of 0. A part of a scan
is no case without a structure where another part has it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from TransferSegLib.structures import structure_key

Scores = Mapping[str, Mapping[str, float]]

#: The word for a known structure that the new version marks where there is none.
MARKED = "marked where there is none"


@dataclass(frozen=True)
class Claims:
    """Cases without a structure in which only the new version marks it (``cases``), or only the old one (``gone``)."""

    structure: str
    cases: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description, which names no case: it travels with an exported model."""
        return {"structure": self.structure, "cases": len(self.cases), "gone": len(self.gone)}


def claims_of(
    parent: Scores,
    candidate: Scores,
    known: Collection[str] | None = None,
    present: Mapping[str, Collection[str]] | None = None,
) -> tuple[Claims, ...]:
    """Return the claims of both results (case -> structure -> Dice), of structures that both models know.

    ``known`` names these; None: those that both have a score of. ``present`` names, for parts of scans, the structures
    that the whole scan has: none of them is claimed.
    """
    shared = (_names(parent).keys() & _names(candidate).keys()) | {structure_key(name) for name in known or ()}
    only_new, only_old = (
        _marked_only_in(one, other, present or {}) for one, other in ((candidate, parent), (parent, candidate))
    )
    names = _names(parent) | _names(candidate)
    return tuple(
        Claims(name, tuple(only_new.get(key, ())), tuple(only_old.get(key, ())))
        for key, name in names.items()
        if key in shared and (key in only_new or key in only_old)
    )


def unknown_to(parent: Scores, candidate: Scores, known: Collection[str] | None = None) -> tuple[str, ...]:
    """Return the structures with a score of the candidate that the parent does not know; see ``claims_of``."""
    theirs = _names(parent).keys() | {structure_key(name) for name in known or ()}
    return tuple(name for key, name in _names(candidate).items() if key not in theirs)


def _names(results: Scores) -> dict[str, str]:
    """Return the names of all structures with a score, by key."""
    return {structure_key(name): name for scores in results.values() for name in scores}


def _marked_only_in(results: Scores, others: Scores, present: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """Return, by key, the cases without a structure in which only the first has a score of it, and that is 0."""
    marked: dict[str, list[str]] = {}
    for case, scores in results.items():
        if case not in others:
            continue
        theirs = {structure_key(name) for name in (*others[case], *present.get(case, ()))}
        for name, dice in scores.items():
            if dice == 0 and structure_key(name) not in theirs:
                marked.setdefault(structure_key(name), []).append(case)
    return marked
