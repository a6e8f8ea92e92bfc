"""The result of a fit check: reasons to doubt a segmentation, and the structures that each makes doubtful."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from TransferSegLib.wording import enumerated

#: The kinds of reasons.
MODALITY, INTENSITIES, NOTHING_FOUND = "modality", "intensities", "nothing found"
MISSING, SIZE, POSITION, PARTS, FEATURES = "missing", "size", "position", "parts", "features"


@dataclass(frozen=True)
class Reason:
    """One reason to doubt a result: its kind, a sentence, and the structures it makes doubtful (none: all of them)."""

    kind: str
    text: str
    structures: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"kind": self.kind, "text": self.text, "structures": list(self.structures)}


@dataclass(frozen=True)
class Fit:
    """Whether a scan fits the model: reasons to doubt, structures not to trust, and what could not be checked."""

    reasons: tuple[Reason, ...] = ()
    doubtful: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether there is no reason to doubt the result."""
        return not self.reasons

    @staticmethod
    def of(reasons: Sequence[Reason], names: Sequence[str], unchecked: Sequence[str] = ()) -> Fit:
        """Return the fit for reasons; ``names`` are the structures of the result."""
        whole = any(not reason.structures for reason in reasons)
        named = {name for reason in reasons for name in reason.structures}
        return Fit(tuple(reasons), tuple(name for name in names if whole or name in named), tuple(unchecked))

    def for_structures(self, names: Sequence[str]) -> Fit:
        """Return what of it concerns these structures."""
        kept = tuple(r for r in self.reasons if not r.structures or set(r.structures) & set(names))
        return Fit(kept, tuple(name for name in self.doubtful if name in names), self.unchecked)

    def lines(self) -> list[str]:
        """Return the reasons for a person, one sentence a line; empty when the scan fits."""
        if self.fits:
            return []
        whole = any(not reason.structures for reason in self.reasons)
        advice = "Do not trust this result." if whole else f"Do not trust: {enumerated(self.doubtful)}."
        return [*(reason.text for reason in self.reasons), advice]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "fits": self.fits,
            "reasons": [reason.to_json() for reason in self.reasons],
            "doubtful": list(self.doubtful),
            "unchecked": list(self.unchecked),
        }

    @staticmethod
    def from_json(entry: Any) -> Fit:
        """Read what ``to_json`` wrote; what is missing or damaged is left out."""
        if not isinstance(entry, Mapping):
            return Fit()
        rows = [row for row in entry.get("reasons") or () if isinstance(row, Mapping)]
        reasons = tuple(
            Reason(str(row.get("kind", "")), str(row.get("text", "")), tuple(map(str, row.get("structures") or ())))
            for row in rows
        )
        names = [tuple(map(str, entry.get(key) or ())) for key in ("doubtful", "unchecked")]
        return Fit(reasons, *names)
