"""What a model sees in a scan that nobody corrected yet: how doubtful its result is, and what kind of scan it is.

Looking takes as long as segmenting. What was seen is kept in the user's cache, by the scan's content and the model: a
run that was stopped goes on, and a scan that was renamed is not looked at again. Nothing of the scan itself is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from TransferSegLib import safe_json
from TransferSegLib.corrections.content_hash import hash_volume
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.images.read import read_scan
from TransferSegLib.models.archive import MODEL_FILE, read_model_entry
from TransferSegLib.progress import Task
from TransferSegLib.user_folders import cache_folder

if TYPE_CHECKING:
    from TransferSegLib.inference.segment import Segmenter

#: Of the files in the cache; others are made anew.
_LOOKS_VERSION = 1
#: What is added to features before their logarithm, as a share of their mean: silent channels have no influence.
_FLOOR_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class ScanLook:
    """What a model saw in a scan; ``image_hash`` names the scan's content.

    ``doubt`` (0 to 1) is the doubtful volume over itself and what was found: 0 where the model is sure of everything,
    1 where it found nothing. ``features`` is the logarithm of the mean of each of the network's deepest maps over the
    scan's tissue, None for a network that shows none. ``warnings`` tell why the scan may not fit the model.
    """

    image_hash: str
    doubt: float
    features: np.ndarray | None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        features = None if self.features is None else [round(float(value), 5) for value in self.features]
        return {
            "version": _LOOKS_VERSION,
            "image_hash": self.image_hash,
            "doubt": self.doubt,
            "features": features,
            "warnings": list(self.warnings),
        }

    @staticmethod
    def from_json(entry: Any) -> ScanLook:
        """Read what ``to_json`` wrote; raises KeyError, TypeError or ValueError for something else."""
        if entry["version"] != _LOOKS_VERSION:
            raise ValueError("another version")
        features = entry["features"]
        return ScanLook(
            str(entry["image_hash"]),
            float(entry["doubt"]),
            None if features is None else np.array(features, np.float64),
            tuple(str(line) for line in entry["warnings"]),
        )


class Looker:
    """Looks at scans with one model, which is loaded for the first scan that the cache does not know."""

    def __init__(self, model: Path, structures: Sequence[str] | None, device: str, memory_gb: float | None) -> None:
        """Look for these structures of a model (None: all); raises ModelError for a file that is no model."""
        self._path, self._structures, self._device, self._memory_gb = model, structures, device, memory_gb
        # The description holds the checksum of the weights, and how a scan is prepared.
        names = json.dumps(None if structures is None else sorted(structures))
        self._model_hash = hashlib.sha256(read_model_entry(model, MODEL_FILE) + names.encode()).hexdigest()
        self._segmenter: Segmenter | None = None

    def look(self, scan: Path, task: Task) -> ScanLook:
        """Return what the model sees in a scan; raises ScanError for one that cannot be used, and Cancelled."""
        reading, hashing, looking = task.split(2, 1, 10)
        image = read_scan(scan, task=reading)
        image_hash = hash_volume(image, hashing)
        file = self._file(image_hash)
        known = _read(file)
        if known is not None and known.image_hash == image_hash:
            return known
        found = self._seen(image, image_hash, looking)
        if file is not None:
            with suppress(OSError):  # without the cache it only takes longer
                file.parent.mkdir(parents=True, exist_ok=True)
                write_text_durably(file, json.dumps(found.to_json()) + "\n")
        return found

    def _seen(self, image: Any, image_hash: str, task: Task) -> ScanLook:
        from TransferSegLib.inference.segment import Segmenter
        from TransferSegLib.models.store import load_model

        if self._segmenter is None:
            self._segmenter = Segmenter(load_model(self._path), self._device, self._memory_gb)
        segmentation = self._segmenter.segment_within(task, image, self._structures, doubt=True)
        (doubt,) = segmentation.doubts
        doubtful = float(doubt.on_grid(segmentation.label_set.names).sum(dtype=np.float64))
        channels = [doubt.label_set.channel(name) for name in segmentation.label_set.names]
        found = float(np.isin(doubt.best_zyx, channels).sum())
        share = doubtful / (doubtful + found) if found else 1.0
        features = segmentation.features
        vector = None if features is None else np.log(features.mean + _FLOOR_SHARE * max(features.mean.mean(), 1e-9))
        return ScanLook(image_hash, round(share, 6), vector, tuple(segmentation.fit.lines()))

    def _file(self, image_hash: str) -> Path | None:
        """Return the file of the cache for a scan's content, None where the user has no home folder."""
        name = hashlib.sha256(f"{self._model_hash} {image_hash}".encode()).hexdigest()[:40]
        try:
            return cache_folder() / "scan-looks" / f"{name}.json"
        except RuntimeError:
            return None


def _read(file: Path | None) -> ScanLook | None:
    """Return what the cache holds, None for nothing and for a damaged file."""
    if file is None:
        return None
    try:
        return ScanLook.from_json(safe_json.read(file))
    except (OSError, ValueError, KeyError, TypeError):
        return None
