"""Renaming, dropping and merging: what cases mean afterwards, and that no file that was there is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from TransferSegLib.corrections.adding import join_structures
from TransferSegLib.corrections.checking import check_project
from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.revisions import RetiredStructure
from TransferSegLib.corrections.structure_changes import drop_structure, merge_structures, rename_structure
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.datasets.prepared import prepare_case
from TransferSegLib.datasets.validate import has_errors
from TransferSegLib.errors import DatasetError
from TransferSegLib.images.intensity import CT_WINDOW
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet, Structure, default_color


def images(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (folder / "cases").rglob("*") if path.is_file()}


def structures(project: Project) -> dict[str, int]:
    return {structure.name: structure.label for structure in project.dataset().label_set}


def test_renaming(make, project: Project) -> None:
    make.add(0, 1, 2, 5, reviewed=["tumour", "liver"])
    make.add(0, 1, 2, 5, reviewed=["tumour"])
    make.add(1, 5, reviewed=["tumour"])
    project.remove_case("case-0002")
    before, hashes = images(project.folder), [one.content_hash for one in project.state().every_revision]
    color = project.dataset().label_set.find("tumour").color
    rename_structure(project, "Tumour", "gallbladder")
    assert structures(project) == {"liver": 1, "spleen": 2, "gallbladder": 5}
    renamed = project.dataset().label_set.find("gallbladder")
    assert renamed.terminology == ("28231008", "Gallbladder") and renamed.color == color
    assert [one.case.annotated for one in project.revisions("case-0001")] == [
        ("liver", "gallbladder"), ("gallbladder",)
    ]  # fmt: skip
    assert project.restore_case("case-0002").case.annotated == ("gallbladder",)
    assert images(project.folder) == before
    assert sorted(one.content_hash for one in project.state().every_revision) == sorted(hashes)
    rename_structure(project, "liver", "LIVER")
    assert structures(project) == {"LIVER": 1, "spleen": 2, "gallbladder": 5}
    with pytest.raises(DatasetError, match="is or was another structure"):
        rename_structure(project, "liver", "spleen")
    with pytest.raises(DatasetError, match=r"no structure 'lung'\. Known are: LIVER"):
        rename_structure(project, "lung", "spleen")
    with pytest.raises(DatasetError, match="must have letters"):
        rename_structure(project, "liver", " ")
    assert not has_errors(check_project(project))


def test_dropping(make, project: Project) -> None:
    make.add(0, 1, 2, 5, reviewed=["spleen", "tumour"])
    make.add(1, 1, 2, reviewed=["liver"])
    before = images(project.folder)
    (revision,) = drop_structure(project, "spleen")
    assert (revision.case.id, revision.number, revision.case.annotated) == ("case-0001", 2, ("tumour",))
    assert images(project.folder) == before
    assert structures(project) == {"liver": 1, "tumour": 5}
    assert read_dataset(project.folder).retired_labels == {2}
    problems = check_project(project)
    assert not has_errors(problems) and not any("label value 2" in problem.what for problem in problems)
    first, second = project.revisions("case-0001")
    assert set(first.case.annotated) == {"spleen", "tumour"} and first.content_hash != second.content_hash
    # Its value is nobody else's, and comes back with it.
    added = project.add_case(make.scan(2), make.labels(2), "all", structures={2: "kidney"})
    assert make.values(added.revision.case.labels) == [6, 0, 0, 0, 0, 0]
    project.restore_revision("case-0001", 1)
    assert structures(project) == {"liver": 1, "tumour": 5, "kidney": 6, "spleen": 2}
    assert read_dataset(project.folder).case("case-0001").annotated == ("tumour", "spleen")
    assert read_dataset(project.folder).retired_labels == frozenset()
    drop_structure(project, "spleen")
    again = project.add_case(make.scan(3), make.labels(1, 3), ["spleen"], structures={1: "liver", 3: "spleen"})
    assert make.values(again.revision.case.labels) == [1, 2, 0, 0, 0, 0]
    assert "'spleen' is a structure of the project again: its label value is 2." in again.notes
    for name in ("liver", "spleen", "kidney"):
        drop_structure(project, name)
    with pytest.raises(DatasetError, match="only structure"):
        drop_structure(project, "tumour")
    assert not has_errors(check_project(project))


def test_merging_into_a_new_structure(make, project: Project) -> None:
    make.add(0, 1, 2, 5, reviewed=["liver", "spleen", "tumour"], prediction=make.labels(2, 5))
    make.add(1, 1, 2, reviewed=["liver", "tumour"])
    make.add(2, 5, reviewed=["tumour"])
    make.add(3, 0, 5, reviewed=["liver", "spleen"])
    make.add(4, 1, reviewed=["liver", "spleen"])
    project.remove_case("case-0005")
    before = images(project.folder)
    revisions = merge_structures(project, ["liver", "spleen"], "organs")
    assert [(one.case.id, one.number, one.case.annotated) for one in revisions] == [
        ("case-0001", 2, ("tumour", "organs")),
        ("case-0002", 2, ("tumour",)),
        ("case-0004", 2, ("organs",)),
    ]
    assert structures(project) == {"tumour": 5, "organs": 6}
    assert make.values(revisions[0].case.labels) == [6, 6, 5, 0, 0, 0]
    assert make.values(revisions[0].prediction) == [6, 5, 0, 0, 0, 0]
    assert make.values(revisions[1].case.labels) == [6, 6, 0, 0, 0, 0]
    assert revisions[2].case.labels.parent.name == "revision-1", "its files are as before"
    assert images(project.folder).items() >= before.items()
    assert not has_errors(check_project(project))
    rename_structure(project, "organs", "viscera")
    assert {one.merged_into for one in project.state().retired} == {"viscera"}
    # An earlier revision, or a case from the bin, brings its structures along.
    project.restore_case("case-0005")
    assert structures(project) == {"tumour": 5, "viscera": 6, "liver": 1, "spleen": 2}
    project.restore_revision("case-0001", 1)
    assert make.values(read_dataset(project.folder).case("case-0001").labels) == [1, 2, 5, 0, 0, 0]
    assert not has_errors(check_project(project))
    merge_structures(project, ["liver", "spleen"], "viscera")
    assert structures(project) == {"tumour": 5, "viscera": 6}
    assert read_dataset(project.folder).case("case-0001").annotated == ("tumour",), "the whole was not reviewed in it"


def test_merging_into_one_of_them(make, project: Project) -> None:
    make.add(0, 1, 2, 5, reviewed=["liver", "tumour"])
    make.add(1, 1, reviewed=["liver"])
    merge_structures(project, ["tumour"], "liver")
    assert structures(project) == {"liver": 1, "spleen": 2}
    assert make.values(project.dataset().cases[0].labels) == [1, 2, 1, 0, 0, 0]
    assert [case.annotated for case in project.dataset().cases] == [("liver",), ()]
    for names, into in ((["liver"], "liver"), (["liver"], "organs"), ([], "x")):
        with pytest.raises(DatasetError, match="at least two"):
            merge_structures(project, names, into)
    with pytest.raises(DatasetError, match="was another structure"):
        merge_structures(project, ["liver", "spleen"], "tumour")


def test_a_project_changed_meanwhile_is_not_merged(make, project: Project) -> None:
    make.add(0, 1, 2)
    make.add(1, 1, 2)
    with pytest.raises(DatasetError, match=r"changed meanwhile\. Merge again"):
        merge_structures(
            project,
            ["liver", "spleen"],
            "organs",
            task=Task("", lambda report: rename_structure(project, "liver", "Liver")),
        )
    assert structures(project) == {"Liver": 1, "spleen": 2}
    assert not list((project.folder / ".incoming").iterdir())


def test_training_sees_what_was_reviewed(make, project: Project) -> None:
    """A dropped structure, and one that was not reviewed, are unknown: no label, and not annotated."""
    make.add(0, 1, 2, 5, reviewed=["liver", "spleen"])
    drop_structure(project, "spleen")
    dataset = read_dataset(project.folder)
    prepared = prepare_case(dataset.cases[0], dataset.label_set, make.organs, Preparation.isotropic(0.9, CT_WINDOW))
    assert prepared.annotated.tolist() == [True, True, False, False]
    assert set(np.unique(prepared.labels)) == {0, 1}


names = st.sampled_from(["liver", "Spleen", "left_kidney", "tumour", "vessel", "cyst"])


@st.composite
def label_sets(draw: st.DrawFn) -> list[Structure]:
    chosen = draw(st.lists(names, unique_by=lambda name: name.lower(), min_size=1))
    values = draw(st.lists(st.integers(1, 9), unique=True, min_size=len(chosen), max_size=len(chosen)))
    return [Structure(name, value, default_color(value)) for name, value in zip(chosen, values, strict=True)]


@given(st.lists(st.tuples(label_sets(), st.integers(0, 5)), min_size=1, max_size=8))
def test_a_value_never_changes_its_structure(steps: list[tuple[list[Structure], int]]) -> None:
    """Whatever is added and dropped in whatever order, a label value belongs to one name for ever."""
    current, retired = None, ()
    owner: dict[int, str] = {}
    for needed, drop in steps:
        current, retired = join_structures(current, retired, needed)
        assert all(current.find(structure.name) is not None for structure in needed)
        for structure in (*current, *(one.structure for one in retired)):
            assert owner.setdefault(structure.label, structure.key) == structure.key
        assert len(owner) == len(current) + len(retired) == len(set(owner.values()))
        if drop and len(current) > 1:
            gone = current.structures[drop % len(current)]
            current = LabelSet(tuple(structure for structure in current if structure != gone))
            retired = (*retired, RetiredStructure(gone))
