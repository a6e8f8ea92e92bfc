"""Learn here on a real scan: the rest gets better, what was judged and the model stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.impatient import Impatient
from Testing.learn_here.conftest import Sample
from Testing.nnunet_fixtures import REGIONS, TRAINED, NnUNetFixture, imported
from TransferSegLib.errors import Cancelled, DatasetError, ModelError, TransferSegError
from TransferSegLib.evaluation.surface_distance import surface_dice
from TransferSegLib.inference.kept_features import load_features, save_features
from TransferSegLib.learn_here import learn as learning
from TransferSegLib.learn_here.learn import LearnedHere, learn_here
from TransferSegLib.learn_here.refit import Recipe
from TransferSegLib.models.store import Model
from TransferSegLib.structures import LabelSet, Structure

LARYNX = "larynx"
Learn = Callable[..., LearnedHere]


@pytest.fixture
def features(sample: Sample, tmp_path: Path) -> Path:
    """Return a file with the sample's features."""
    path = tmp_path / "scan.features"
    save_features(sample.kept, path)
    return path


@pytest.fixture
def learn(sample: Sample, features: Path) -> Learn:
    """Return Learn here on the sample: from a label map and judged voxels (arrays)."""

    def run(labels: np.ndarray, judged: np.ndarray, structures: list[str] | None = None, **others) -> LearnedHere:
        others = {"features": features, "device": "cpu", "model": sample.model} | others
        return learn_here(sample.scan, sample.image(labels), sample.image(judged), structures=structures, **others)

    return run


def array(learned: LearnedHere) -> np.ndarray:
    return sitk.GetArrayFromImage(learned.label_map)


def agreement(sample: Sample, labels: np.ndarray, name: str, judged: np.ndarray) -> float:
    """Return the surface Dice of a structure at 3 mm where nothing was judged."""
    structure = sample.model.description.label_set.find(name)
    assert structure is not None
    masks = (each == structure.label for each in (labels, sample.truth_zyx))
    return surface_dice(*masks, sample.spacing_zyx_mm, 3.0, ~judged)


def from_the_middle(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each voxel of the sample is from its middle (mm, zyx), and how far along x (mm, x)."""
    z_mm, y_mm, x_mm = (
        step * (np.arange(side) - side // 2)
        for step, side in zip(sample.spacing_zyx_mm, sample.truth_zyx.shape, strict=True)
    )
    return np.sqrt(z_mm[:, None, None] ** 2 + y_mm[:, None] ** 2 + x_mm**2), x_mm


@pytest.mark.parametrize("name", [LARYNX, "oesophagus"])
def test_the_rest_gets_better_and_nothing_else_changes(sample: Sample, learn: Learn, name: str) -> None:
    labels, judged = sample.corrected(name)
    weights = {key: value.clone() for key, value in sample.model.state_dict.items()}
    learned = learn(labels, judged, [name])
    result = array(learned)
    assert learned.features_kept
    assert agreement(sample, result, name, judged) > agreement(sample, labels, name, judged) + 0.02
    assert np.array_equal(result[judged], labels[judged])
    label = sample.model.description.label_set.find(name).label
    others = ~np.isin(labels, [0, label])
    assert np.array_equal(result[others], labels[others])
    assert set(np.unique(result[result != labels])) <= {0, label}
    (told,) = learned.structures
    assert (told.name, told.slices) == (name, 4)
    assert told.changed_voxels == np.count_nonzero((result == label) ^ (labels == label)) > 0
    assert all(value.equal(sample.model.state_dict[key]) for key, value in weights.items())


def test_an_interpolation_that_differs_by_more_than_the_model_errs_counts_less(sample: Sample, learn: Learn) -> None:
    """Four slices of this oesophagus are too far apart: the model knows better where it runs between them."""
    name = "oesophagus"
    labels, judged = sample.corrected(name)
    learned, believing = (learn(labels, judged, [name], recipe=Recipe(allowance=most)) for most in (1.3, 1e9))
    assert 0 < learned.structures[0].weight < believing.structures[0].weight
    assert agreement(sample, array(learned), name, judged) > agreement(sample, array(believing), name, judged) + 0.02


def test_a_second_round_learns_from_both(sample: Sample, learn: Learn) -> None:
    """What was judged in the first round stays, and more slices make the rest better still."""
    labels, judged = sample.corrected(LARYNX)
    first = array(learn(labels, judged, [LARYNX]))
    more, judged_more = sample.corrected(LARYNX, 8)
    second_judged = judged | judged_more
    start = np.where(judged_more, more, first)
    second = array(learn(start, second_judged, [LARYNX]))
    assert np.array_equal(second[second_judged], start[second_judged])
    assert agreement(sample, second, LARYNX, second_judged) > agreement(sample, labels, LARYNX, second_judged)


@pytest.mark.parametrize("seed", range(4))
def test_no_judged_voxel_ever_changes(sample: Sample, learn: Learn, seed: int) -> None:
    """Whatever the person drew, and whatever shape the judged part has."""
    random = np.random.default_rng(seed)
    labels = sample.predicted_zyx.copy()
    judged = np.zeros(labels.shape, bool)
    for _ in range(6):  # strokes and boxes with any labels in them, around the larynx
        places = np.argwhere(sample.truth_zyx == 6)
        start = places[random.integers(len(places))] - 3
        box = tuple(slice(max(0, at), at + random.integers(1, 8)) for at in start)
        judged[box] = True
        labels[box] = random.integers(0, 8, labels[box].shape)
    result = array(learn(labels, judged))
    assert np.array_equal(result[judged], labels[judged])


def test_a_structure_that_the_model_does_not_know(sample: Sample, learn: Learn) -> None:
    """It is interpolated, with the features' help: better than what was there, nothing."""
    names = sample.model.description.label_set
    own = LabelSet((*names.structures, Structure("voice box", 20, (1, 2, 3))))
    labels, judged = sample.corrected(LARYNX, 6)
    labels[labels == 6] = 0
    truth = sample.truth_zyx == 6
    labels[judged & truth] = 20
    learned = learn(labels, judged, ["voice box"], names=own)
    result = array(learned)
    assert np.array_equal(result[judged], labels[judged])
    assert surface_dice(result == 20, truth, sample.spacing_zyx_mm, 3.0, ~judged) > 0.7
    assert learned.label_set.find("voice box") is not None


def test_features_that_were_not_kept_are_computed_and_then_kept(
    sample: Sample, learn: Learn, features: Path, tmp_path: Path
) -> None:
    labels, judged = sample.corrected(LARYNX)
    kept = learn(labels, judged, [LARYNX])
    keys = sample.kept.scan, sample.kept.model
    assert load_features(tmp_path / "not there.features", *keys) is None
    features.write_bytes(features.read_bytes()[:-100])
    assert load_features(features, *keys) is None, "a damaged file is as good as none"
    computed = learn(labels, judged, [LARYNX])
    assert not computed.features_kept and np.array_equal(array(computed), array(kept))
    assert load_features(features, *keys) is not None
    assert learn(labels, judged, [LARYNX]).features_kept


def test_features_far_from_what_was_drawn_are_no_use(
    sample: Sample, learn: Learn, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the person found the structure somewhere else, the scan is looked at again."""
    monkeypatch.setattr(learning, "_computed", lambda *_: sample.kept)
    rows = sample.kept.rows() >= 0
    rows[: rows.shape[0] // 2] = False
    half = np.isin(sample.kept.voxels, np.flatnonzero(rows))
    save_features(replace(sample.kept, voxels=sample.kept.voxels[half], features=sample.kept.features[half]), features)
    labels, judged = sample.corrected(LARYNX)
    assert not learn(labels, judged, [LARYNX]).features_kept
    assert learn(labels, judged, [LARYNX]).features_kept, "what was computed is kept instead"


def test_the_inside_of_a_large_structure_stays_where_memory_is_short(
    sample: Sample, learn: Learn, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ball with a bad surface: that is redrawn with the features near it, and the ball is not hollow."""
    monkeypatch.setattr(learning, "_SLACK_MM", ())
    features.unlink()
    radius_mm, _ = from_the_middle(sample)
    labels = np.where(radius_mm < 65, 6, 0)
    judged = np.zeros(labels.shape, bool)
    judged[len(labels) // 2 - 12 : len(labels) // 2 + 13 : 8] = True
    labels[~judged & (radius_mm > 60)] = 0
    learned = learn(labels, judged, [LARYNX], budget_mb=256)
    needed_mb = features.stat().st_size / 1e6
    features.unlink()
    less = learn(labels, judged, [LARYNX], budget_mb=0.9 * needed_mb)
    assert features.stat().st_size < 0.9e6 * needed_mb
    assert np.array_equal(array(less)[judged], labels[judged])
    deep = radius_mm < 40
    assert (array(less)[deep] == 6).all()
    (one,), (other,) = learned.structures, less.structures
    assert one.changed_voxels > 0 and other.changed_voxels > 0
    assert learn(labels, judged, [LARYNX], budget_mb=0.9 * needed_mb).features_kept
    features.unlink()
    monkeypatch.setattr(learning, "_computed", lambda *_: pytest.fail("nothing is computed that does not fit"))
    with pytest.raises(ModelError, match=r"take \d+.\d MB, more than the 0.1 MB that are allowed: fine-tune"):
        learn(labels, judged, [LARYNX], budget_mb=0.1)


def test_a_neighbour_takes_nothing_of_the_inside_that_stays(
    sample: Sample, learn: Learn, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two halves of a ball: with little memory, each keeps its own inside up to the border between them."""
    monkeypatch.setattr(learning, "_SLACK_MM", ())
    features.unlink()
    radius_mm, x_mm = from_the_middle(sample)
    labels = np.where(radius_mm < 75, np.where(x_mm < 0, 6, 7), 0)
    judged = np.zeros(labels.shape, bool)
    judged[len(labels) // 2 - 16 : len(labels) // 2 + 17 : 8] = True
    learn(labels, judged, [LARYNX, "mandible"])
    budget_mb = 0.95 * features.stat().st_size / 1e6
    features.unlink()
    result = array(learn(labels, judged, [LARYNX, "mandible"], budget_mb=budget_mb))
    deep = (radius_mm < 50) & (np.abs(x_mm) > 20)
    assert deep.any() and np.array_equal(result[deep], labels[deep])


def test_only_what_is_missing_is_computed(sample: Sample, learn: Learn, features: Path, monkeypatch) -> None:
    """Where half of the features were kept, the others are computed, and both are kept then."""
    asked, compute = [], learning._computed
    monkeypatch.setattr(learning, "_computed", lambda *values: (asked.append(values[2]), compute(*values))[1])
    labels, judged = sample.corrected(LARYNX)
    whole = learn(labels, judged, [LARYNX], features=None)
    half = sample.kept.voxels < np.median(np.flatnonzero(asked[0]))
    save_features(replace(sample.kept, voxels=sample.kept.voxels[half], features=sample.kept.features[half]), features)
    learned = learn(labels, judged, [LARYNX])
    every, missing = asked
    assert 0 < np.count_nonzero(missing) < np.count_nonzero(every)
    assert not missing.reshape(-1)[sample.kept.voxels[half]].any()
    assert np.array_equal(array(learned), array(whole))
    kept = load_features(features, sample.kept.scan, sample.kept.model)
    assert kept is not None and len(kept.voxels) == np.count_nonzero(half) + np.count_nonzero(missing)


def test_stopping_leaves_nothing(sample: Sample, learn: Learn, tmp_path: Path) -> None:
    labels, judged = sample.corrected(LARYNX)
    with pytest.raises(Cancelled):
        learn(labels, judged, [LARYNX], cancel=Impatient(1))
    path = tmp_path / "later.features"
    with pytest.raises(Cancelled):
        learn(labels, judged, [LARYNX], cancel=Impatient(20), features=path)
    assert not path.exists()
    counter, shares = Impatient(), []
    learn(labels, judged, [LARYNX], cancel=counter, progress=lambda progress: shares.append(progress.fraction))
    assert counter.looks > 5 and shares == sorted(shares) and shares[-1] > 0.9


def test_nnunets_networks_learn_too() -> None:
    """A trained model of nnU-Net on its scan: three corrected slices, and the rest is closer to the truth."""
    fixture = NnUNetFixture(TRAINED)
    model = Model(*imported(TRAINED), fixture.model)
    scan = sitk.ReadImage(str(fixture.images[0]))
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(fixture.path / "truth.nii.gz")))
    there = np.flatnonzero(truth.any(axis=(1, 2)))
    judged = np.zeros(truth.shape, bool)
    judged[np.rint(np.linspace(there[0], there[-1], 4)).astype(int)] = True
    labels = np.where(judged, truth, fixture.labels).astype(np.uint8)

    def image(array_zyx: np.ndarray) -> sitk.Image:
        result = sitk.GetImageFromArray(array_zyx.astype(np.uint8))
        result.CopyInformation(scan)
        return result

    learned = learn_here(scan, image(labels), image(judged), model, device="cpu")
    result = array(learned)
    assert np.array_equal(result[judged], labels[judged])
    rest = ~judged
    before, after = (np.mean((each == truth)[rest & ((truth > 0) | (each > 0))]) for each in (labels, result))
    assert after > before


def test_what_cannot_be_learned_is_refused(sample: Sample, learn: Learn, features: Path) -> None:
    labels, judged = sample.corrected(LARYNX)
    with pytest.raises(DatasetError, match="All of the scan was judged"):
        learn(labels, np.ones_like(judged))
    with pytest.raises(DatasetError, match="is empty"):
        learn(labels, np.zeros_like(judged))
    with pytest.raises(TransferSegError, match="no structure 'spleen'"):
        learn(labels, judged, ["spleen"])
    with pytest.raises(DatasetError, match="holds no structure"):
        learn(np.zeros_like(labels), judged)
    far = np.zeros_like(judged)
    far[0, 0, 0] = True
    with pytest.raises(DatasetError, match="nothing to learn"):
        learn(labels, far, [LARYNX])
    description, state = imported(REGIONS)
    with pytest.raises(ModelError, match="regions"):
        learn(labels, judged, model=Model(description, state, Path("regions")))
    features.write_text("notes of a person", encoding="utf-8")
    with pytest.raises(TransferSegError, match="holds no features"):
        learn(labels, judged, [LARYNX])
    assert features.read_text(encoding="utf-8") == "notes of a person"


def test_how_the_scan_is_stored_does_not_matter(sample: Sample, learn: Learn) -> None:
    """With reversed and exchanged axes the result is the same."""
    labels, judged = sample.corrected(LARYNX)
    reference = array(learn(labels, judged, [LARYNX]))

    def turned(image: sitk.Image) -> sitk.Image:
        return sitk.Flip(sitk.PermuteAxes(image, (2, 0, 1)), (False, True, False))

    images = (turned(image) for image in (sample.scan, sample.image(labels), sample.image(judged)))
    scan, corrected, mask = images
    other = learn_here(scan, corrected, mask, sample.model, [LARYNX], device="cpu")
    back = sitk.PermuteAxes(sitk.Flip(other.label_map, (False, True, False)), (1, 2, 0))
    assert np.mean(sitk.GetArrayFromImage(back) != reference) < 1e-5
