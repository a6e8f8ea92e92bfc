"""The simulated person of the measurements who uses Learn here, on the sample scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from Testing.learn_here.conftest import Sample
from Testing.research.common.annotator import Drawn, Person, draw_structure
from Testing.research.common.learning_person import Segmented, draw_and_learn
from TransferSegLib.evaluation.surface_distance import surface_dice
from TransferSegLib.inference.segment import Segmentation

LARYNX = "larynx"
#: The model's surface Dice of the sample's larynx is below this at one voxel.
PERSON = Person(tolerance_voxels=1.0, worth_correcting=0.2)


@pytest.fixture
def segmented(sample: Sample, tmp_path: Path) -> Segmented:
    found = Segmentation(sample.image(sample.predicted_zyx), sample.model.description.label_set, "CPU", 0.0)
    return Segmented.keeping(sample.scan, found, sample.model, sample.kept, tmp_path / "scan.features")


def drawn(sample: Sample, segmented: Segmented, person: Person, slices: int = 4) -> tuple[Drawn, Drawn]:
    """Return what the person makes of the larynx with Learn here, and without."""
    label = sample.model.description.label_set.find(LARYNX).label
    start, truth = sample.predicted_zyx == label, sample.truth_zyx == label
    learned = draw_and_learn(segmented, LARYNX, truth, sample.spacing_zyx_mm, person, slices)
    return learned, draw_structure(start, truth, sample.spacing_zyx_mm, person)


def test_learn_here_redraws_what_the_person_does_not_draw(sample: Sample, segmented: Segmented) -> None:
    learned, without = drawn(sample, segmented, PERSON)
    assert learned.before == pytest.approx(without.before) and PERSON.worth_correcting < learned.before < PERSON.target
    assert learned.after >= PERSON.target and learned.path_mm > 0
    assert learned.slices >= 4, "the first four slices count"
    label = sample.model.description.label_set.find(LARYNX).label
    truth = sample.truth_zyx == label
    tolerance_mm = min(sample.spacing_zyx_mm)
    assert surface_dice(learned.mask_zyx, truth, sample.spacing_zyx_mm, tolerance_mm) == pytest.approx(learned.after)
    # Slices that were not drawn differ from the prediction all the same.
    assert learned.slices < np.count_nonzero((learned.mask_zyx ^ (sample.predicted_zyx == label)).any(axis=(1, 2)))


@pytest.mark.parametrize(("change", "slices"), [({"target": 0.1}, 4), ({"worth_correcting": 0.99}, 4), ({}, 100)])
def test_without_need_or_slices_the_person_works_as_always(
    sample: Sample, segmented: Segmented, change: dict[str, float], slices: int
) -> None:
    """The prediction is good enough, or thrown away, or the structure has too few slices."""
    learned, without = drawn(
        sample, segmented, Person(**{"tolerance_voxels": 1.0, "worth_correcting": 0.2} | change), slices
    )
    assert np.array_equal(learned.mask_zyx, without.mask_zyx)
    assert (learned.path_mm, learned.slices) == (without.path_mm, without.slices)
