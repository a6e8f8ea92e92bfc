"""Checking: each thing that can be wrong is found in a case that has just that, and a good dataset has nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.datasets.validate import Problem, check_dataset, has_errors, report
from TransferSegLib.errors import Cancelled
from TransferSegLib.progress import CancelToken, Task

DATA = Path(__file__).parents[1] / "Data"


def only(problems: list[Problem]) -> Problem:
    """Return the one problem about a case; there is no other."""
    assert len(problems) == 1, report(problems)
    return problems[0]


def checked(builder, *cases) -> list[Problem]:
    """Check cases next to a good one in which every structure is annotated."""
    good = builder.case("good", 1, 2, 5, annotated=("right kidney", "left kidney", "cyst"))
    return check_dataset(builder.dataset(good, *cases))


def test_good_datasets_have_no_problems(builder):
    assert checked(builder) == []
    assert check_dataset(read_dataset(DATA / "dataset_format_1")) == []
    assert check_dataset(read_dataset(DATA / "head_neck_ct")) == []
    assert report([]) == "No problems found."


@pytest.mark.parametrize("what", ["image", "labels", "judged"])
def test_missing_and_damaged_files(builder, what: str):
    damaged = builder.folder / "damaged.nii.gz"
    damaged.write_bytes(b"this is no image")
    for path, said in ((builder.folder / "nowhere.nii", "does not exist"), (damaged, "damaged.nii.gz")):
        problem = only(checked(builder, replace(builder.case("x", 1, 2), **{what: path})))
        assert (problem.case, problem.severity) == ("x", "error")
        assert said in problem.what


def test_label_map_on_another_grid(builder, volume):
    case = builder.case("x", 1, 2)
    volume(case.labels, np.ones((4, 5, 7), np.uint8))
    problems = checked(builder, case)
    assert problems[0].severity == "error"
    assert "image and label map do not fit: the label map does not fit the image: 20 of its" in problems[0].what
    volume(
        case.labels, np.stack([np.full((4, 5), label, np.uint8) for label in (1, 2, 0, 0, 0, 0)], -1), (1.0, 1.5, 3.2)
    )
    problem = only(checked(builder, case))
    assert problem.severity == "error" and "voxel sizes differ" in problem.what


def test_mask_of_judged_voxels(builder, volume):
    case = replace(builder.case("x", 1, 2), judged=builder.folder / "judged.nii")
    volume(case.judged, np.ones((4, 5, 6), np.uint8))
    assert checked(builder, case) == []
    volume(case.judged, np.zeros((4, 5, 6), np.uint8))
    problem = only(checked(builder, case))
    assert problem.severity == "error" and "annotated region is empty" in problem.what
    volume(case.judged, np.ones((3, 5, 6), np.uint8))
    assert checked(builder, case) == [], "a mask of a part of the scan's own voxels"
    volume(case.judged, np.ones((4, 5, 6), np.uint8), (1.0, 1.5, 3.2))
    problem = only(checked(builder, case))
    assert problem.severity == "error" and "mask of the annotated region do not fit" in problem.what


def test_label_values_that_are_no_structures(builder):
    problems = checked(builder, builder.case("x", 1, 2, 3, 77))
    assert [(problem.severity, problem.what) for problem in problems] == [
        ("error", "label value 3 (20 voxels) is no structure's"),
        ("error", "label value 77 (20 voxels) is no structure's"),
    ]


def test_label_values_of_dropped_structures_are_no_error(builder):
    good = builder.case("good", 1, 2, 5, annotated=("right kidney", "left kidney", "cyst"))
    dataset = builder.dataset(good, builder.case("x", 1, 2, 3))
    assert has_errors(check_dataset(dataset))
    retired = replace(dataset, extra={"retired_structures": [{"name": "lesion", "label": 3}]})
    assert check_dataset(retired) == []


def test_annotated_but_absent_and_present_but_not_annotated(builder):
    problem = only(checked(builder, builder.case("x", 1)))
    assert problem == Problem("x", "'left kidney' is annotated but absent: no voxel has its label", "warning")
    problem = only(checked(builder, builder.case("x", 1, 2, 5)))
    assert problem == Problem("x", "'cyst' has 20 voxels but is not listed as annotated", "warning")


def test_nothing_annotated(builder):
    problem = only(checked(builder, builder.case("x", annotated=())))
    assert problem.severity == "warning" and "nothing is annotated" in problem.what


def test_a_structure_nobody_knows(builder):
    problem = only(checked(builder, builder.case("x", 1, annotated=("right kidney", "liver"))))
    assert problem == Problem("x", "'liver' is annotated but is not a structure of the dataset", "error")


def test_names_are_compared_without_case(builder):
    assert checked(builder, builder.case("x", 1, 2, annotated=("Right_Kidney", "LEFT kidney"))) == []


def test_sides_that_are_exchanged(builder):
    # x grows to the patient's left, so plane 0 is the rightmost.
    problem = only(checked(builder, builder.case("x", 2, 1)))
    assert problem.severity == "warning"
    assert problem.what.startswith("'left kidney' lies to the right of 'right kidney'")


def test_constant_image(builder, volume):
    case = builder.case("x", 1, 2)
    volume(case.image, np.full((4, 5, 6), 7, np.int16))
    problem = only(checked(builder, case))
    assert problem.severity == "error" and "same intensity" in problem.what


def test_scan_given_as_label_map(builder, volume):
    case = builder.case("x", 1, 2)
    volume(case.labels, np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32))
    problem = only(checked(builder, case))
    assert problem.severity == "error" and "no label map" in problem.what


def test_image_and_label_map_the_same_file(builder):
    case = builder.case("x", 1, 2)
    problem = only(checked(builder, replace(case, image=case.labels)))
    assert problem.severity == "error" and "same file" in problem.what


def test_one_image_of_two_patients(builder, volume):
    first = builder.case("x", 1, 2)
    second = replace(builder.case("y", 1, 2), image=first.image)
    problem = only(checked(builder, first, second))
    assert problem.severity == "warning" and "also that of y, of another group" in problem.what
    assert checked(builder, first, replace(second, group=first.group)) == [], "two readings of one patient's scan"
    third = builder.case("z", 1, 2)
    third.image.write_bytes(first.image.read_bytes())
    problem = only(checked(builder, first, third))
    assert problem.case == "z" and "voxel for voxel that of case x" in problem.what


def test_one_label_map_of_two_images(builder):
    first, second = builder.case("x", 1, 2), builder.case("y", 1, 2)
    problem = only(checked(builder, first, replace(second, labels=first.labels)))
    assert problem.severity == "warning" and "label map is also that of y" in problem.what


def test_ids_that_repeat_or_cannot_be_file_names(builder):
    case = builder.case("x", 1, 2)
    problem = only(checked(builder, case, case))
    assert problem == Problem("x", "2 cases have this id", "error")
    problem = only(checked(builder, replace(case, id="../x", group="x")))
    assert problem.severity == "error" and "file name" in problem.what


def test_what_is_wrong_with_the_whole(builder):
    problem = only(check_dataset(builder.dataset()))
    assert problem == Problem("", "it has no cases", "error")
    problem = only(check_dataset(builder.dataset(builder.case("x", 1, 2))))
    assert problem == Problem("", "'cyst' is annotated in no case, so it cannot be learned", "warning")


def test_every_problem_of_every_case_is_in_one_report(builder):
    one = replace(builder.case("one", 1), image=builder.folder / "nowhere.nii")
    two = builder.case("two", 1, 2, 9)
    problems = checked(builder, one, two)
    assert has_errors(problems) and not has_errors([problem for problem in problems if problem.severity == "warning"])
    lines = report(problems).splitlines()
    assert lines[0] == "2 errors, 1 warning"
    assert lines[1] == "case one" and lines[2].startswith("  error: image: ") and lines[3].startswith("  warning: ")
    assert lines[4:] == ["case two", "  error: label value 9 (20 voxels) is no structure's"]


def test_the_report_begins_with_the_dataset():
    text = report([Problem("a", "w", "warning"), Problem("", "d", "warning"), Problem("a", "e", "error")])
    assert text.splitlines()[1:] == ["the dataset", "  warning: d", "case a", "  error: e", "  warning: w"]


def test_progress_and_stop(builder):
    seen = []
    check_dataset(builder.dataset(builder.case("x", 1, 2), builder.case("y", 1, 2)), Task("", seen.append))
    assert [(progress.fraction, progress.message) for progress in seen][-2:] == [(0.5, "x"), (1.0, "y")]
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        check_dataset(builder.dataset(builder.case("x", 1, 2)), Task("", None, cancel))
