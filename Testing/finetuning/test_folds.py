"""Folds that keep every new structure in what is learned from, and what is known of them before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.finetuning.folds import fewest_folds, plan_folds, unevaluated_structures
from TransferSegLib.structures import LabelSet, Structure

NAMES = ("a", "b", "c")


def dataset(groups: list[str]) -> Dataset:
    """Return cases that are all reviewed for everything; who has what drawn is told beside."""
    cases = tuple(
        Case(f"case-{n:02d}", Path("scan"), Path("labels"), NAMES, group=group) for n, group in enumerate(groups)
    )
    label_set = LabelSet(tuple(Structure(name, n, (n, 0, 0)) for n, name in enumerate(NAMES, start=1)))
    return Dataset(Path(), "d", "", "", "CT", label_set, cases)


def lacking(folds: tuple, drawn: dict[str, tuple[str, ...]], names: tuple[str, ...]) -> list[tuple[int, str]]:
    return [
        (number, name)
        for number, fold in enumerate(folds)
        for name in names
        if not any(name in drawn[id] for id in fold.training)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_a_structure_drawn_in_two_of_four_patients_is_in_both_folds(seed: int) -> None:
    """All four were reviewed for it, so a division by what was reviewed puts both into one fold now and then."""
    cases = dataset(["p1", "p2", "p3", "p4"])
    drawn = dict(zip(cases.ids, [("a",), ("a",), (), ()], strict=True))
    folds = plan_folds(cases, 2, seed, drawn, ("a",))
    assert len(folds) == 2 and not lacking(folds, drawn, ("a",))


def test_more_folds_are_made_where_two_cannot_hold_everything() -> None:
    """Three structures, each in two of three patients: in two folds, two patients are always together."""
    cases = dataset(["p1", "p2", "p3"])
    drawn = dict(zip(cases.ids, [("a", "b"), ("b", "c"), ("a", "c")], strict=True))
    assert fewest_folds(cases, 1, drawn, NAMES) == 3
    assert not lacking(plan_folds(cases, 3, 1, drawn, NAMES), drawn, NAMES)
    assert fewest_folds(cases, 1, dict.fromkeys(cases.ids, NAMES), NAMES) == 2


def test_what_one_patient_has_cannot_be_judged() -> None:
    cases = dataset(["p1", "p1", "p2", "p3"])
    drawn = dict(zip(cases.ids, [("a", "b"), ("a",), ("b",), ("c",)], strict=True))
    assert unevaluated_structures(cases, drawn, ("a", "b")) == ("a",)
    assert unevaluated_structures(cases, drawn, ()) == (), "what the parent knows is judged by the parent's own word"
    one = dataset(["p1", "p1"])
    assert unevaluated_structures(one, dict.fromkeys(one.ids, ("a",)), ("a",)) == (), "slabs judge it"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.sampled_from(NAMES)), min_size=3, max_size=8), st.integers(0, 5))
def test_no_fold_is_without_what_others_can_teach(having: list[set[str]], seed: int) -> None:
    """With as many folds as are needed: whatever two patients have is in every training part."""
    cases = dataset([f"p{n}" for n in range(len(having))])
    drawn = {id: tuple(sorted(names)) for id, names in zip(cases.ids, having, strict=True)}
    shared = tuple(name for name in NAMES if sum(name in names for names in having) > 1)
    folds = plan_folds(cases, max(2, fewest_folds(cases, seed, drawn, NAMES)), seed, drawn, NAMES)
    assert sorted(id for fold in folds for id in fold.held_out) == sorted(cases.ids)
    if sum(bool(names) for names in having) > 1:
        assert not lacking(folds, drawn, shared)
        assert all(any(drawn[id] for id in fold.training) for fold in folds)
