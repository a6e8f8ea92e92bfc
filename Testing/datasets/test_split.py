"""Splits: no patient on both sides, every case once, the same from the same seed, sparse structures on both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.datasets.split import folds, split_groups
from TransferSegLib.errors import DatasetError
from TransferSegLib.structures import LabelSet, Structure

LABEL_SET = LabelSet(tuple(Structure(name, label, (1, 1, 1)) for label, name in enumerate("abcdefg", start=1)))


def dataset_of(cases: list[tuple[str, tuple[str, ...]]]) -> Dataset:
    """Return a dataset of (group, annotated) cases."""
    return Dataset(
        Path("x"),
        "",
        "",
        "",
        "",
        LABEL_SET,
        tuple(
            Case(f"case {number}", Path(f"{number}.nii"), Path("l.nii"), annotated, group=group)
            for number, (group, annotated) in enumerate(cases)
        ),
    )


annotations = st.lists(st.sampled_from("abcdefg"), unique=True).map(tuple)
datasets = st.lists(st.tuples(st.integers(0, 30).map("patient {}".format), annotations), min_size=2, max_size=60).map(
    dataset_of
)
#: Every case its own patient.
single_datasets = st.lists(annotations, min_size=2, max_size=60).map(
    lambda cases: dataset_of([(f"patient {number}", names) for number, names in enumerate(cases)])
)


def groups_of(dataset: Dataset, ids: tuple[str, ...]) -> set[str]:
    return {dataset.case(id).group for id in ids}


@settings(max_examples=40, deadline=None)
@given(dataset=datasets, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**32))
def test_a_split_divides_patients(dataset: Dataset, fraction: float, seed: int):
    assume(len(groups_of(dataset, dataset.ids)) >= 2)
    training, validation = split_groups(dataset, fraction, seed)
    assert training and validation
    assert sorted(training + validation) == sorted(dataset.ids)
    assert not groups_of(dataset, training) & groups_of(dataset, validation)
    assert split_groups(dataset, fraction, seed) == (training, validation)
    turned = replace(dataset, cases=dataset.cases[::-1])
    assert set(split_groups(turned, fraction, seed).validation) == set(validation), "the order of cases does not matter"


@settings(max_examples=40, deadline=None)
@given(dataset=single_datasets, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_the_share_of_validation_is_kept(dataset: Dataset, fraction: float, seed: int):
    wanted = min(max(round(fraction * len(dataset)), 1), len(dataset) - 1)
    assert len(split_groups(dataset, fraction, seed).validation) == wanted


@settings(max_examples=40, deadline=None)
@given(dataset=datasets, count=st.integers(2, 6), seed=st.integers(0, 99))
def test_folds_validate_every_case_once(dataset: Dataset, count: int, seed: int):
    assume(len(groups_of(dataset, dataset.ids)) >= count)
    splits = folds(dataset, count, seed)
    assert len(splits) == count
    assert sorted(id for split in splits for id in split.validation) == sorted(dataset.ids)
    for training, validation in splits:
        assert training and validation
        assert sorted(training + validation) == sorted(dataset.ids)
        assert not groups_of(dataset, training) & groups_of(dataset, validation)
    assert folds(dataset, count, seed) == splits


@settings(max_examples=40, deadline=None)
@given(dataset=single_datasets, count=st.integers(2, 6), seed=st.integers(0, 99))
def test_folds_of_single_cases_are_even(dataset: Dataset, count: int, seed: int):
    assume(len(dataset) >= count)
    sizes = [len(split.validation) for split in folds(dataset, count, seed)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("seed", range(10))
def test_rare_structures_are_in_validation_and_in_training(seed: int):
    # 60 cases; 'b' in 6 of them, 'c' in 2, 'd' in 1: a random tenth would often have none.
    cases = [
        (f"p{n}", ("a", *("b",) * (n % 10 == 0), *("c",) * (n in (7, 31)), *("d",) * (n == 44))) for n in range(60)
    ]
    dataset = dataset_of(cases)
    training, validation = split_groups(dataset, 0.1, seed)
    counts = dataset.select(validation).annotated_counts()
    assert len(validation) == 6
    assert counts["b"] == 3, "a few: three of its six"
    assert counts["c"] == 1, "half of its two"
    assert counts["d"] == 0 and dataset.select(training).annotated_counts()["d"] == 1, "what is there once is learned"


@pytest.mark.parametrize("seed", range(5))
def test_folds_share_a_rare_structure(seed: int):
    dataset = dataset_of([(f"p{n}", ("a", "b") if n % 8 == 0 else ("a",)) for n in range(40)])
    assert [dataset.select(split.validation).annotated_counts()["b"] for split in folds(dataset, 5, seed)] == [1] * 5


def test_different_seeds_give_different_splits():
    dataset = dataset_of([(f"p{n}", ("a",)) for n in range(40)])
    assert len({split_groups(dataset, 0.25, seed).validation for seed in range(8)}) > 1


def test_the_six_head_and_neck_cases_have_an_oesophagus_on_both_sides():
    from TransferSegLib.datasets.dataset import read_dataset

    dataset = read_dataset(Path(__file__).parents[1] / "Data" / "head_neck_ct")
    for seed in range(5):
        training, validation = split_groups(dataset, 1 / 3, seed)
        assert dataset.select(training).annotated_counts()["oesophagus"] == 1
        assert dataset.select(validation).annotated_counts()["oesophagus"] == 1


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_an_impossible_fraction_is_refused(fraction: float):
    with pytest.raises(DatasetError, match="between 0 and 1"):
        split_groups(dataset_of([("p", ()), ("q", ())]), fraction, 0)


def test_one_patient_cannot_be_divided():
    dataset = dataset_of([("same", ("a",)), ("same", ("a",))])
    with pytest.raises(DatasetError, match=r"1 patient;"):
        split_groups(dataset, 0.5, 0)
    with pytest.raises(DatasetError, match="3 are needed"):
        folds(dataset, 3, 0)
    with pytest.raises(DatasetError, match="at least 2 folds"):
        folds(dataset, 1, 0)
