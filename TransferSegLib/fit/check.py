"""The one check of whether a scan fits a model; every front end shows what it finds.

It warns only where it has evidence; no warning is no guarantee. See ``docs/fit.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import SimpleITK as sitk

from TransferSegLib.fit.feature_profile import ScanFeatures
from TransferSegLib.fit.intensities import MODALITY_KEY, modality_problem
from TransferSegLib.fit.positions import missing_reasons, parts_reasons, position_reasons, size_reasons
from TransferSegLib.fit.profile import FitProfile
from TransferSegLib.fit.reasons import FEATURES, INTENSITIES, MODALITY, NOTHING_FOUND, Fit, Reason
from TransferSegLib.fit.shapes import ScanShapes
from TransferSegLib.images.modality import modality_word
from TransferSegLib.wording import enumerated

#: Scans farther from the training ones than this are unlike them (about 1 is usual); small scans may be farther.
_FARTHEST = 2.5
_SMALL_SCAN_CELLS = 45
#: Less than this share of a scan's tissue excites the network as in training: most of the scan is another region.
_LEAST_FAMILIAR = 0.5
#: Fewer structures than this share of those expected confirm nothing, where so many are expected.
_ENOUGH_SHARE, _OF = 0.4, 4
NO_PROFILE = "sizes and positions of structures, and how the scan looks to the network: the model has no profile"
NO_FEATURES = "how the scan looks to the network: the model's profile does not hold it"


def scan_reasons(image: sitk.Image, modality: str, known: str = "") -> list[Reason]:
    """Return the reasons that need no segmentation: modality and Hounsfield units.

    ``modality`` is the model's, ``known`` the scan's DICOM modality where the image does not store it.
    """
    known = known or (image.GetMetaData(MODALITY_KEY) if image.HasMetaDataKey(MODALITY_KEY) else "")
    problem = modality_problem(known, modality, sitk.GetArrayViewFromImage(image))
    if not problem:
        return []
    is_named = bool(modality_word(known)) and modality_word(known) != modality_word(modality)
    return [Reason(MODALITY if is_named else INTENSITIES, problem)]


def check_fit(
    reasons: Sequence[Reason],
    shapes: ScanShapes,
    profile: FitProfile | None,
    names: Sequence[str],
    features: ScanFeatures | None = None,
    wanted: Sequence[str] | None = None,
) -> Fit:
    """Return the fit of a segmented scan; ``reasons`` are those of ``scan_reasons``, ``names`` the model's structures.

    ``profile`` None: the model has none, and only what needs none is checked. Only reasons about the structures
    ``wanted`` (None: all) are kept.
    """
    found = list(reasons)
    unchecked = []
    if not shapes.found:
        found.append(Reason(NOTHING_FOUND, "None of the model's structures was found in the scan."))
    elif wanted is not None and not set(wanted) & set(shapes.found):
        found.append(Reason(NOTHING_FOUND, "None of the structures asked for was found in the scan."))
    if profile is None:
        unchecked.append(NO_PROFILE)
    else:
        found += structure_reasons(shapes, profile)
        if profile.features is None:
            unchecked.append(NO_FEATURES)
        elif features is not None:
            found += feature_reasons(features, profile)
    fit = Fit.of(found, names, unchecked)
    return fit if wanted is None else fit.for_structures(wanted)


def structure_reasons(shapes: ScanShapes, profile: FitProfile) -> Iterator[Reason]:
    """Yield reasons to doubt the structures found."""
    known = [name for name in shapes.found if name in profile.structures]
    expected = [one for one in profile.structures.values() if one.cases >= 0.9 * profile.cases]
    if known and len(expected) >= _OF and len(known) < _ENOUGH_SHARE * len(expected):
        was, it = ("was", "it") if len(known) == 1 else ("were", "them")
        text = (
            f"Only the {enumerated(known)} {was} found, of {len(profile.structures)} structures: nothing confirms {it}."
        )
        yield Reason(NOTHING_FOUND, text)
    yield from position_reasons(shapes, profile)
    yield from size_reasons(shapes, profile)
    yield from parts_reasons(shapes, profile)
    yield from missing_reasons(shapes, profile)


def feature_reasons(features: ScanFeatures, profile: FitProfile) -> Iterator[Reason]:
    """Yield a reason if the scan, or most of it, looks unlike the training scans to the network."""
    known = profile.features
    if known is None or known.channels != len(features.mean):
        return
    farthest = _FARTHEST * (1 + (_SMALL_SCAN_CELLS / features.cells) ** 2)
    distance = known.distance(features)
    if distance > farthest:
        times = f"{distance:.1f} times as far from the model's training scans as they are from one another"
        yield Reason(FEATURES, f"The scan is of another kind or region than the model was trained on ({times}).")
    elif features.familiar_share < _LEAST_FAMILIAR and features.cells > _SMALL_SCAN_CELLS:
        share = f"{100 * features.familiar_share:.0f} %"
        yield Reason(FEATURES, f"Only {share} of the scan looks like the region that the model was trained on.")
