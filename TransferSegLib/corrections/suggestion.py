"""Which scan to correct next: one that the model is unsure of, and that is unlike those corrected so far.

>>> found = suggest(scans, find_model("head-neck-ct"), Project("project").state())
>>> found.ranked[0].scan
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from TransferSegLib.corrections.revisions import ProjectState
from TransferSegLib.corrections.scan_looks import Looker, ScanLook
from TransferSegLib.errors import ScanError
from TransferSegLib.models.store import load_description
from TransferSegLib.progress import Task

#: Deviations of features are at least so much, in logarithms.
_LEAST_DEVIATION = 0.01
#: Fewer scans than this do not tell how scans differ.
_FEWEST = 3


@dataclass(frozen=True)
class SuggestedScan:
    """A scan in the order of usefulness.

    ``doubt`` is that of ``ScanLook``. ``novelty`` (0 to 1) tells how unlike the scans that were corrected or come
    before it is; None where that is not known, because there are none or the network shows no features.
    """

    scan: Path
    score: float
    doubt: float
    novelty: float | None
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "scan": str(self.scan),
            "score": round(self.score, 4),
            "doubt": round(self.doubt, 4),
            "novelty": None if self.novelty is None else round(self.novelty, 4),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Suggestions:
    """All scans that were looked at: ``ranked`` the most useful first, ``corrected`` those that the project has.

    ``twice`` are copies of a scan that is ranked, ``unreadable`` those that cannot be used, and why.
    """

    ranked: tuple[SuggestedScan, ...]
    corrected: tuple[Path, ...]
    twice: tuple[Path, ...]
    unreadable: tuple[tuple[Path, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "ranked": [one.to_json() for one in self.ranked],
            "corrected": [str(path) for path in self.corrected],
            "twice": [str(path) for path in self.twice],
            "unreadable": [{"scan": str(path), "error": why} for path, why in self.unreadable],
        }


def suggest(
    scans: Sequence[Path],
    model: Path,
    project: ProjectState | None = None,
    *,
    device: str = "auto",
    memory_gb: float | None = None,
    task: Task | None = None,
) -> Suggestions:
    """Rank scans by how much the model could learn from their correction.

    ``project`` holds what was corrected so far (None: nothing): these scans count as known, and its structures, as far
    as the model knows them, are those whose doubt counts. A scan that cannot be used is listed, and the others are
    ranked. Raises ModelError, DeviceError and DatasetError, and Cancelled; what was seen until then is kept.
    """
    description = load_description(model)
    description.check_one_image("Suggesting scans")
    known = [] if project is None else [name for name in project.label_set.names if description.label_set.find(name)]
    if len(known) == len(description.label_set.names):
        known = []  # all, as before the first case: what was seen then still counts
    looker = Looker(model, known or None, device, memory_gb)
    looking, looking_at_known = (
        (task or Task())
        .named("Looking at scans", "looking")
        .split(len(scans), 0 if project is None else len(project.current))
    )
    corrected_hashes = set() if project is None else {revision.image_hash for revision in project.current}
    corrected, twice, unreadable = [], [], []
    found: dict[str, tuple[Path, ScanLook]] = {}
    for scan, part in looking.each(list(scans), lambda path: path.name):
        try:
            look = looker.look(scan, part)
        except (ScanError, MemoryError) as error:
            unreadable.append((scan, str(error).removeprefix(f"{scan}: ") or "not enough memory"))
            continue
        if look.image_hash in corrected_hashes:
            corrected.append(scan)
        elif look.image_hash in found:
            twice.append(scan)
        else:
            found[look.image_hash] = (scan, look)
    done = []
    for revision, part in looking_at_known.each([] if project is None else list(project.current)):
        try:
            done.append(looker.look(revision.case.image, part))
        except (ScanError, MemoryError):
            continue  # ``cases check`` tells; the other cases still count
    return Suggestions(ranked(list(found.values()), done), tuple(corrected), tuple(twice), tuple(unreadable))


def ranked(scans: Sequence[tuple[Path, ScanLook]], done: Sequence[ScanLook]) -> tuple[SuggestedScan, ...]:
    """Return scans in the order in which to correct them: each time the one of the largest doubt times novelty.

    Novelty is 1 - exp(-d / s): d is the distance to the nearest scan that is done or was picked before, s the median
    distance of two scans. So ten doubtful scans of one kind do not come one after the
    other. The first scan, with nothing to compare it with, is the most doubtful one.
    """
    points, scale = _points([*(look for _, look in scans), *done])
    left, taken, order = list(range(len(scans))), list(range(len(scans), len(scans) + len(done))), []
    while left:
        novelties = [None if points is None or not taken else _novelty(points, one, taken, scale) for one in left]
        scores = [
            scans[one][1].doubt * (1.0 if novelty is None else novelty)
            for one, novelty in zip(left, novelties, strict=True)
        ]
        # Of equals the one whose name is first, so that the order is always the same.
        best = max(range(len(left)), key=lambda place: (scores[place], -left[place]))
        scan, look = scans[left[best]]
        order.append(SuggestedScan(scan, scores[best], look.doubt, novelties[best], look.warnings))
        taken.append(left.pop(best))
    return tuple(order)


def _points(looks: Sequence[ScanLook]) -> tuple[np.ndarray | None, float]:
    """Return the features (scans, channels) in their deviations, and the median distance of two scans.

    None where a scan has no features, or too few scans tell how scans differ.
    """
    vectors = [look.features for look in looks if look.features is not None]
    if len(vectors) < max(_FEWEST, len(looks)) or len({len(vector) for vector in vectors}) != 1:
        return None, 1.0
    points = np.stack(vectors)
    points = (points - points.mean(axis=0)) / (points.std(axis=0) + _LEAST_DEVIATION)
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).mean(axis=2))
    return points, max(float(np.median(distances[np.triu_indices(len(points), 1)])), 1e-9)


def _novelty(points: np.ndarray, one: int, taken: Sequence[int], scale: float) -> float:
    """Return how unlike the nearest of some points another one is, 0 to 1."""
    distance = float(np.sqrt(((points[list(taken)] - points[one]) ** 2).mean(axis=1)).min())
    return float(1.0 - np.exp(-distance / scale))
