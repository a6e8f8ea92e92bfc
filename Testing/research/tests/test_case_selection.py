"""Which cases test and which teach: by rule and seed, never one patient on both sides."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.research.study.case_selection import Selection, SelectionRule, only_structures, select_cases, training_set
from Testing.research.study.study_data import prepare_data
from Testing.research.tests.conftest import WriteStudy, made_up_dataset, study_entry
from TransferSegLib.datasets.dataset import Dataset, read_dataset
from TransferSegLib.errors import DatasetError, StudyError


@pytest.fixture
def patients() -> Dataset:
    """Return 12 patients with two scans each."""
    ids = [f"p{number}_{scan}" for number in range(12) for scan in "ab"]
    return made_up_dataset(dict.fromkeys(ids, ("liver",)), {id: id.split("_")[0] for id in ids})


def test_no_patient_tests_and_teaches(patients: Dataset) -> None:
    for seed in range(20):
        chosen = select_cases(patients, SelectionRule(("liver",), test=7, seed=seed))
        test, pool = ({id.split("_")[0] for id in side} for side in (chosen.test, chosen.pool))
        assert len(chosen.test) == 8, "whole patients: 7 cases are 4 patients with two each"
        assert not test & pool
        assert len(chosen.test) + len(chosen.pool) == 24


def test_the_same_rule_makes_the_same_choice_whatever_the_order_of_the_cases(patients: Dataset) -> None:
    rule = SelectionRule(("liver",), test=6, seed=3)
    turned = replace(patients, cases=patients.cases[::-1])
    assert select_cases(patients, rule) == select_cases(turned, rule)
    assert select_cases(patients, rule) != select_cases(patients, replace(rule, seed=4))


def test_cases_with_few_structures_are_reserved_first() -> None:
    rich = {f"rich{number}": ("cord", "larynx", "mandible") for number in range(10)}
    poor = {f"poor{number}": ("larynx", "mandible") for number in range(6)}
    without = {f"none{number}": ("larynx",) for number in range(5)}
    dataset = made_up_dataset({**rich, **poor, **without})
    chosen = select_cases(dataset, SelectionRule(("mandible", "Larynx"), test=2, reserved=8))
    ids = {*chosen.test, *chosen.pool}
    assert len(ids) == 8
    assert set(poor) <= ids, "the base learns least from these"
    assert not ids & set(without)


def test_structures_cut_off_do_not_count(tmp_path: Path) -> None:
    dataset = made_up_dataset({f"c{number}": ("liver",) for number in range(5)})
    cases = []
    for number, case in enumerate(dataset.cases):
        labels = np.zeros((4, 10, 10), np.uint8)
        labels[: 1 if number == 2 else 4] = 1  # case 2 has a quarter of the others'
        path = tmp_path / f"{case.id}.nii.gz"
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(path))
        cases.append(replace(case, labels=path))
    dataset = replace(dataset, cases=tuple(cases))
    all_of_them = select_cases(dataset, SelectionRule(("liver",), test=2, smallest_share=0.2))
    large = select_cases(dataset, SelectionRule(("liver",), test=2, smallest_share=0.3))
    assert len(all_of_them.test + all_of_them.pool) == 5
    assert set(large.test + large.pool) == {"c0", "c1", "c3", "c4"}


def test_too_few_cases_are_said(patients: Dataset) -> None:
    with pytest.raises(StudyError, match="24 cases with liver: too few for 24 test cases and one to learn from"):
        select_cases(patients, SelectionRule(("liver",), test=24))


def test_training_sets_grow_and_begin_with_different_patients(patients: Dataset) -> None:
    chosen = select_cases(patients, SelectionRule(("liver",), test=8, seed=1))
    largest = training_set(patients, chosen, 0, seed=5)
    assert sorted(largest) == sorted(chosen.pool)
    for size in range(1, len(largest) + 1):
        assert training_set(patients, chosen, size, seed=5) == largest[:size]
    assert len({id.split("_")[0] for id in largest[:8]}) == 8, "a second scan only when every patient has one"
    assert training_set(patients, chosen, 3, seed=6) != largest[:3]
    with pytest.raises(StudyError, match="training set of 17 cases"):
        training_set(patients, chosen, 17, seed=5)


def test_only_structures_leaves_out_cases_without_any_and_retires_the_others() -> None:
    dataset = made_up_dataset({"a": ("cord", "liver"), "b": ("cord",), "c": ("liver",)})
    only = only_structures(dataset, ["Liver"])
    assert only.ids == ("a", "c")
    assert only.case("a").annotated == ("liver",)
    assert only.label_set.names == ("liver",)
    assert only.label_set.find("liver") == dataset.label_set.find("liver"), "label values stay those of the files"
    assert only.retired_labels == {1}
    with pytest.raises(DatasetError, match="has no heart"):
        only_structures(dataset, ["heart"])


def test_the_first_selection_of_the_study_is_the_one_its_base_was_made_for(shared_data: Path, tmp_path: Path) -> None:
    """A change of the rule's arithmetic would let test cases into a base that is trained already."""
    from TransferSegLib.datasets.openkbp import dataset_from_head_neck_ct

    dataset = dataset_from_head_neck_ct(shared_data / "head_neck_ct", tmp_path).dataset
    rule = SelectionRule(("mandible", "larynx"), test=20, reserved=50, smallest_share=0.3, seed=1)
    chosen = select_cases(dataset, rule)
    assert isinstance(chosen, Selection)
    assert chosen.test[:5] == ("pt_60", "pt_17", "pt_120", "pt_141", "pt_66")
    assert chosen.test[-2:] == ("pt_160", "pt_61")
    assert training_set(dataset, chosen, 3, 1) == ("pt_24", "pt_200", "pt_72")


def test_numbers_can_say_who_is_one_patient(world: Path, tmp_path: Path, write_study: WriteStudy) -> None:
    entry = study_entry()
    for number in range(8):
        for kind in ("ct", "label"):
            name = f"p{number // 2}_scan{number % 2}_{kind}.nii.gz"
            target = tmp_path / "sides" / f"side_{number + 1:03d}_{kind}.nii.gz"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(world / "twice" / name, target)
    del entry["collections"]["twice"]["group_pattern"]
    entry["collections"]["twice"] |= {"images": "sides", "labels": "sides", "cases_per_patient": 2}
    shutil.copytree(world / "plain", tmp_path / "plain")
    data = prepare_data(write_study(entry), tmp_path, tmp_path / "collections")
    for dataset in (data.datasets["twice"], read_dataset(tmp_path / "collections" / "twice")):
        assert [case.group for case in sorted(dataset.cases, key=lambda case: case.id)] == [
            f"patient-{number // 2 + 1:03d}" for number in range(8)
        ]
    selection = data.selections["again"]
    sides = [{(int(id[-3:]) - 1) // 2 for id in ids} for ids in (selection.test, selection.pool)]
    assert not sides[0] & sides[1]
    entry["collections"]["plain"]["cases_per_patient"] = 2  # its names begin with 0
    with pytest.raises(StudyError, match="'plain' has 2 cases of each patient, numbered from 1, but the case 'case_0'"):
        prepare_data(write_study(entry), tmp_path, tmp_path / "collections")
