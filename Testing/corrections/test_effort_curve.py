"""Effort of corrected cases: what is kept with a case, when it is measured anew, and the order of the curve."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from TransferSegLib.corrections.effort_curve import effort_curve, in_words, metres
from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.revisions import ModelReference
from TransferSegLib.corrections.structure_changes import drop_structure, merge_structures, rename_structure
from TransferSegLib.errors import Cancelled, ScanError
from TransferSegLib.evaluation.case_effort import measure_case_effort
from TransferSegLib.evaluation.effort import drawing_effort
from TransferSegLib.progress import CancelToken, Progress, Task
from TransferSegLib.structures import LabelSet, Structure

MODEL, NEXT_MODEL = ModelReference("abdomen", "0"), ModelReference("abdomen", "1")
#: The grid of ``make`` has 6 columns (x) 0.9765625 mm apart, 5 rows (y) of 1.1 mm, 4 slices (z) of 2.5 mm.
X_MM, Y_MM = 0.9765625, 1.1
CORNER_MM = (X_MM + Y_MM) / 2


def rewrite(project: Project, change: Any) -> None:
    """Change dataset.json by hand, as another program does."""
    file = project.folder / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def test_a_case_keeps_what_it_took(make, project: Project) -> None:
    # The prediction has liver in the plane x = 0, the person adds x = 1 and leaves the spleen (x = 3) as it is. A plane
    # is a column of 5 pixels in each of 4 slices. The new column's contour: 3 pixels along it and 2 corners.
    added = make.add(0, 1, 1, 0, 2, prediction=make.labels(1, 0, 0, 2), model=MODEL)
    effort = added.revision.effort
    assert effort is not None and (effort.slice_axis, effort.slices_touched, effort.tolerance_mm) == ("z", 4, 3.0)
    liver, spleen = effort.structures["liver"], effort.structures["spleen"]
    assert liver.added_path_mm == pytest.approx(4 * (3 * Y_MM + 2 * CORNER_MM), abs=0.01)
    assert liver.added_path_beyond_mm == 0.0 and (liver.slices_touched, liver.slices) == (4, 4)
    assert (spleen.added_path_mm, spleen.slices_touched, spleen.surface_dice) == (0.0, 0, 1.0)
    assert spleen.path_mm > 0 and effort.added_path_mm == liver.added_path_mm
    assert project.revisions("case-0001")[0] == added.revision, "read back from dataset.json"
    assert added.to_json()["effort"]["structures"]["liver"]["slices_touched"] == 4


def test_no_prediction_no_effort(make, project: Project) -> None:
    assert make.add(0, 1, 2).revision.effort is None
    (case,) = effort_curve(project.state())
    assert case.effort is None and in_words([case]) == ""
    assert "effort" not in json.loads((project.folder / "dataset.json").read_text(encoding="utf-8"))["cases"][0]


def test_only_reviewed_structures_in_the_annotated_region_count(make) -> None:
    judged = np.zeros((4, 5, 6), np.uint8)
    judged[1:3] = 1
    prediction = make.labels(0, 2, 5)
    effort = make.add(
        0, 1, 1, 5, reviewed=["liver", "tumour"], judged=make.on_grid(judged), prediction=prediction, model=MODEL
    ).revision.effort
    assert effort is not None and list(effort.structures) == ["liver", "tumour"]
    # The liver is new: its whole contour in two slices.
    liver = effort.structures["liver"]
    assert liver.added_path_mm == liver.path_mm > 0 and (liver.slices, effort.slices_touched) == (2, 2)
    assert effort.structures["tumour"].slices_touched == 0


def test_structures_are_matched_by_name(make, project: Project) -> None:
    make.add(0, 1, 2)
    # Another program's numbers, and a name in capitals: the project's are kept.
    added = project.add_case(
        make.scan(1),
        make.labels(7, 7, 0, 4),
        ["LIVER", "kidney"],
        structures={7: "Liver", 4: "kidney"},
        prediction=make.labels(3),
        prediction_structures={3: "liver"},
    )
    effort = added.revision.effort
    assert effort is not None and list(effort.structures) == ["liver", "kidney"]
    assert effort.structures["liver"].slices_touched == 4
    assert effort.structures["kidney"].added_path_mm == effort.structures["kidney"].path_mm > 0
    assert project.revisions("case-0002")[0] == added.revision


def test_an_old_project_is_measured_on_demand(make, project: Project) -> None:
    judged = np.zeros((4, 5, 6), np.uint8)
    judged[0] = 1
    make.add(0, 1, 1, 2, prediction=make.labels(1, 0, 2), model=MODEL, judged=make.on_grid(judged))
    make.add(1, 1, 2, prediction=make.labels(0, 0, 2), model=MODEL)
    kept = [revision.effort for revision in project.state().current]

    def forget(content: dict[str, Any]) -> None:
        for case in content["cases"]:
            del case["effort"]

    rewrite(project, forget)
    text = (project.folder / "dataset.json").read_bytes()
    assert [revision.effort for revision in project.state().current] == [None, None]
    assert [case.effort for case in effort_curve(project.state())] == kept
    assert (project.folder / "dataset.json").read_bytes() == text


@pytest.mark.parametrize(
    "damage",
    [
        lambda effort: effort.update(content_hash="of another revision"),
        lambda effort: effort.update(structures={"liver": effort["structures"]["liver"]}),
        lambda effort: effort.update(structures=[1]),
        lambda effort: effort.update(slice_axis="w"),
        lambda effort: effort["structures"]["liver"].pop("path_mm"),
        lambda effort: effort.clear(),
    ],
)
def test_what_does_not_fit_the_case_is_measured_anew(make, project: Project, damage: Any) -> None:
    kept = make.add(0, 1, 1, 2, prediction=make.labels(1, 0, 2), model=MODEL).revision.effort
    rewrite(project, lambda content: damage(content["cases"][0]["effort"]))
    assert project.state().current[0].effort is None
    assert effort_curve(project.state())[0].effort == kept


def test_changed_structures(make, project: Project) -> None:
    kept = make.add(0, 1, 1, 2, prediction=make.labels(1, 0, 2), model=MODEL).revision.effort
    rename_structure(project, "spleen", "milt")
    renamed = project.state().current[0].effort
    assert kept is not None and renamed is not None
    assert renamed.structures == {"liver": kept.structures["liver"], "milt": kept.structures["spleen"]}
    assert effort_curve(project.state())[0].effort == renamed
    drop_structure(project, "milt")
    assert project.state().current[0].effort is None
    (dropped,) = effort_curve(project.state())
    assert dropped.effort is not None and dropped.effort.structures == {"liver": kept.structures["liver"]}


def test_merged_structures(make, project: Project) -> None:
    make.add(0, 1, 2, 2, prediction=make.labels(1, 2), model=MODEL)
    merge_structures(project, ["liver", "spleen"], "organ")
    (case,) = effort_curve(project.state())
    before, after = np.zeros((4, 5, 6), bool), np.zeros((4, 5, 6), bool)
    before[:, :, :2], after[:, :, :3] = True, True
    expected = drawing_effort(before, after, (2.5, Y_MM, X_MM))
    assert case.effort is not None
    assert case.effort.structures["organ"].added_path_mm == pytest.approx(expected.added_path_mm, abs=0.01)


def test_the_order_and_which_revision_counts(make, project: Project) -> None:
    make.add(0, 1, prediction=make.labels(), model=MODEL)
    make.add(1, 1, 2, prediction=make.labels(1, 2), model=NEXT_MODEL)
    # More is corrected on the first scan from the same prediction; then it is predicted by a model that has seen it.
    second = make.add(0, 1, 1, prediction=make.labels(), model=MODEL).revision
    make.add(0, 1, 1, 1, prediction=make.labels(1, 1, 1), model=NEXT_MODEL)
    rewrite(project, lambda content: content["cases"].reverse())
    state = project.state()
    # Saved in the same second or not, the first revision's time decides.
    early = [replace(one, created="2026-01-01T00:00:00Z") if one.case.id == "case-0001" and one.number == 1 else one
             for one in state.earlier]  # fmt: skip
    curve = effort_curve(replace(state, earlier=tuple(early)))
    assert [(case.id, case.revision) for case in curve] == [("case-0001", 2), ("case-0002", 1)]
    assert (curve[0].done, curve[0].model, curve[0].effort) == ("2026-01-01T00:00:00Z", MODEL, second.effort)
    assert curve[1].effort is not None and curve[1].effort.added_path_mm == 0.0
    assert in_words(curve) == f"Scan 1 needed {metres(second.effort.added_path_mm)} of contour, scan 2 needed 0 m."
    project.remove_case("case-0001")
    assert [case.id for case in effort_curve(project.state())] == ["case-0002"]


def test_progress_and_cancel() -> None:
    labels = LabelSet((Structure("liver", 1, (1, 1, 1)), Structure("spleen", 2, (1, 1, 1))))
    corrected = np.zeros((6, 20, 20), np.uint8)
    corrected[2:4, 4:9, 4:9], corrected[2:5, 12:18, 4:9] = 1, 2
    arguments = (np.zeros_like(corrected), labels, corrected, labels, labels.names, (2.0, 1.0, 1.0))
    reports: list[Progress] = []
    effort = measure_case_effort(*arguments, task=Task("Measuring", reports.append))
    assert effort.slices_touched == 3 and reports[-1].fraction == 1.0
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        measure_case_effort(*arguments, task=Task("Measuring", None, token))


def test_a_prediction_that_was_exchanged_is_an_error_with_its_file(make, project: Project) -> None:
    revision = make.add(0, 1, prediction=make.labels(1), model=MODEL).revision
    revision.prediction.unlink()
    rewrite(project, lambda content: content["cases"][0].pop("effort"))
    with pytest.raises(ScanError, match=r"prediction\.seg\.nrrd"):
        effort_curve(project.state())


def test_lengths_in_words() -> None:
    lengths = (0.0, 3.0, 40.0, 94.0, 96.0, 412.0, 3149.0, 9940.0, 9951.0, 23400.0)
    assert [metres(length) for length in lengths] == [
        "0 m", "< 0.01 m", "0.04 m", "0.09 m", "0.1 m", "0.4 m", "3.1 m", "9.9 m", "10 m", "23 m"
    ]  # fmt: skip
