"""Make a model's profile from its training cases: segment them, and keep statistics of what is found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import SimpleITK as sitk

from TransferSegLib.fit.feature_profile import FeatureProfile, ScanFeatures, usual_maps
from TransferSegLib.fit.features import excitement
from TransferSegLib.fit.profile import FitProfile
from TransferSegLib.fit.shapes import ScanShapes
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.progress import CancelToken, Task

#: More cases than this tell little more.
MOST_CASES = 150


class ProfileMaker:
    """Collects, scan by scan, what a profile is made of; keeps some maps of each in memory."""

    def __init__(self) -> None:
        """Begin without a scan."""
        self._shapes: list[ScanShapes] = []
        self._features: list[ScanFeatures] = []
        self._rows: list[np.ndarray] = []

    def add(self, segmenter: Segmenter, image: sitk.Image, cancel: CancelToken | None = None) -> None:
        """Segment a scan and keep what its statistics need; raises as ``Segmenter.segment``."""
        shapes, collector = segmenter.look_at(image, cancel)
        self._shapes.append(shapes)
        features = collector.features() if collector is not None else None
        if collector is not None and features is not None:
            self._features.append(features)
            self._rows.append(collector.some_rows())

    def profile(self) -> FitProfile | None:
        """Return the statistics, None where there was no scan."""
        if not self._shapes:
            return None
        features = None
        if self._features:
            usual = usual_maps(self._features)
            features = FeatureProfile.of(
                self._features, [excitement(rows.astype(np.float64), usual) for rows in self._rows]
            )
        return FitProfile.of(self._shapes, features)


def profile_of_scans(
    segmenter: Segmenter,
    scans: Sequence[Callable[[], sitk.Image]],
    task: Task | None = None,
) -> FitProfile | None:
    """Return the profile of a model from functions that read its training scans; of many, evenly spread ones."""
    maker = ProfileMaker()
    task = (task or Task()).named("looking at the training cases", "profile")
    for read, part in task.each(spread_out(scans, MOST_CASES)):
        maker.add(segmenter, read(), part.cancel)
    return maker.profile()


def spread_out(items: Iterable[Callable[[], sitk.Image]], most: int) -> list[Callable[[], sitk.Image]]:
    """Return at most so many items, evenly spread."""
    every = list(items)
    if len(every) <= most:
        return every
    return [every[round(place)] for place in np.linspace(0, len(every) - 1, most)]
