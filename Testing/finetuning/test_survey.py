"""What cannot be learned is known before any work: nothing drawn anywhere, in one patient only, or too little of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from Testing.finetuning import projects
from Testing.nnunet_fixtures import TRAINED, imported
from TransferSegLib.corrections.project import Project
from TransferSegLib.errors import DatasetError, ModelError
from TransferSegLib.finetuning import finetune as module
from TransferSegLib.finetuning.cases import axes_notes, read_corrected_cases, survey_cases
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.finetuning.plan import plan_fine_tuning
from TransferSegLib.finetuning.run_folder import RunFolder, runs_of
from TransferSegLib.finetuning.strategies import STRATEGIES, Strategy
from TransferSegLib.finetuning.time_budget import amount_of, foresee
from TransferSegLib.fit.profile import FitProfile
from TransferSegLib.inference.first_scan import remember_axes
from TransferSegLib.models.store import load_description
from TransferSegLib.progress import Progress

QUICK = replace(projects.KNOBS, tail_steps=2, patches_per_case=1, report_cases=0)


def project_of(folder: Path, drawn: list[tuple[int, ...]], patients: list[str] | None = None) -> Path:
    """Add cases in which both balls were reviewed; of each only those with these label values have voxels."""
    project = Project(folder, create=True)
    for number, kept in enumerate(drawn):
        image, truth = projects.ball_scan(number)
        for value in (1, 2):
            if value not in kept:
                truth[truth == value] = 0
        labels = sitk.GetImageFromArray(truth)
        labels.CopyInformation(image)
        group = f"patient {number}" if patients is None else patients[number]
        project.add_case(image, labels, ["bright", "dark"], structures=projects.BOTH, group=group)
    return folder


@pytest.fixture
def library(world: Any, tmp_path: Path) -> Path:
    return projects.put_parent(tmp_path / "library", projects.seeing(world.make_parent(world.label_set("bright"))))


def test_what_has_voxels_is_seen(tmp_path: Path) -> None:
    found = survey_cases(read_corrected_cases(project_of(tmp_path / "p", [(1, 2), (2,), ()])))
    assert [one.drawn for one in found.values()] == [("bright", "dark"), ("dark",), ()]
    first = next(iter(found.values()))
    assert first.volume_mm3 == 32**3 and set(first.shapes.found) == {"bright", "dark"}


def test_only_the_annotated_region_is_seen(tmp_path: Path) -> None:
    """A label map holds the prediction beyond the slices that were checked."""
    project = Project(project_of(tmp_path / "p", [(1, 2)]))
    dataset = read_corrected_cases(project.folder)
    (case,) = dataset.cases
    labels = sitk.ReadImage(str(case.labels))
    mask = sitk.Cast(labels == 2, sitk.sitkUInt8)
    sitk.WriteImage(mask, str(tmp_path / "judged.nrrd"))
    dataset = replace(dataset, cases=(replace(case, judged=tmp_path / "judged.nrrd"),))
    (found,) = survey_cases(dataset).values()
    assert found.drawn == ("dark",)


def test_cases_stored_in_several_ways_are_told_where_the_parent_does_not_turn_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFERSEG_CACHE", str(tmp_path / "cache"))
    survey = survey_cases(read_corrected_cases(project_of(tmp_path / "p", [(1,), (2,)])))
    assert [one.stored_axes for one in survey.values()] == ["LPS", "LPS"]
    parent, _ = imported(TRAINED)
    assert axes_notes(survey, parent) == ()
    first, second = survey
    mixed = survey | {second: replace(survey[second], stored_axes="RAS")}
    (note,) = axes_notes(mixed, parent)
    assert f"LPS: {first}; RAS: {second}" in note and "--axes" in note
    assert axes_notes(mixed, replace(parent, preparation=replace(parent.preparation, axes="RAS"))) == ()
    remember_axes(parent, sitk.Flip(sitk.Image((4, 4, 4), sitk.sitkInt16), (True, False, False)))
    (note,) = axes_notes(survey, parent)
    assert f"LPS: {first}, {second}; RPS: the first scan" in note


def test_a_project_in_which_everything_is_empty(library: Path, tmp_path: Path) -> None:
    reports: list[Progress] = []
    for count, words in ((1, "The only case has no voxel"), (3, "None of the 3 cases has a voxel")):
        project = project_of(tmp_path / f"empty {count}", [()] * count)
        with pytest.raises(
            DatasetError, match=rf"{words} of what was reviewed \(bright, dark\).*: draw it in at least"
        ):
            finetune(projects.request(project, library), reports.append)
        assert not (project / ".fine-tuning").exists() and not reports, "before any work"


def test_a_new_structure_in_two_of_four_cases_is_learned_and_judged(library: Path, tmp_path: Path) -> None:
    """Both could be held out at once: then nothing is said of it, or the run ends after the first fold."""
    project = project_of(tmp_path / "project", [(1, 2), (1, 2), (1,), (1,)])
    result = finetune(projects.request(project, library, most_folds=2, configuration=QUICK))
    row = next(row for row in result.evidence.rows if row.structure == "dark")
    assert row.cases >= 2 and row.candidate is not None, "both who have it"
    assert "Nothing can be said of" not in result.evidence.verdict.text
    fit = load_description(result.version.path).fit
    assert fit is not None and {name: one.cases for name, one in fit.structures.items()} == {"bright": 4, "dark": 2}


def test_two_empty_cases_do_not_end_a_run_with_two_folds(library: Path, tmp_path: Path) -> None:
    project = project_of(tmp_path / "project", [(1,), (1,), (), ()])
    result = finetune(projects.request(project, library, most_folds=2, configuration=QUICK))
    assert result.time_plan.folds == 2 and len(result.evidence.cases) == 4
    assert any(note.startswith("dark was reviewed, but no voxel is drawn") for note in result.plan.notes)
    assert result.plan.change.label_set.names == ("bright",)


def test_voxels_of_one_patient_only_are_judged_in_slabs(library: Path, tmp_path: Path) -> None:
    project = project_of(tmp_path / "project", [(1, 2), (), (1,)], ["a", "b", "a"])
    work = plan_fine_tuning(projects.request(project, library))
    assert work.dataset.ids == ("case-0001", "case-0003") and work.patients == 1
    assert any("Only one patient has anything drawn, so 1 case of others is not used" in note for note in work.notes)
    result = finetune(projects.request(project, library, configuration=QUICK))
    assert result.evidence.is_weak


def test_the_largest_part_of_a_renamed_structure_is_kept(world: Any, tmp_path: Path) -> None:
    """Its rule was looked for by the new name, and was lost: the new version found islands."""
    parent = projects.seeing(world.make_parent(world.label_set("bright", "shadow")))
    parent = replace(parent, description=replace(parent.description, single_part=("shadow",)))
    library = projects.put_parent(tmp_path / "library", parent)
    project = project_of(tmp_path / "project", [(1, 2), (1, 2)])
    plan = plan_fine_tuning(projects.request(project, library, renamed={"dark": "shadow"}))
    assert plan.change.fates == ("kept", "renamed") and plan.describe().single_part == ("dark",)
    split = plan_fine_tuning(projects.request(project, library, dropped=("shadow",)))
    assert split.change.fates == ("kept", "new") and split.describe().single_part == ()


def test_the_fit_profile_of_a_structure_that_is_written_otherwise_stays(world: Any, tmp_path: Path) -> None:
    parent = projects.seeing(world.make_parent(world.label_set("Bright", "DARK")))
    project = project_of(tmp_path / "project", [(1, 2), (1, 2)])
    profile = FitProfile.of([one.shapes for one in survey_cases(read_corrected_cases(project)).values()])
    written = {"bright": "Bright", "dark": "DARK"}
    profile = FitProfile(
        40,
        {written[name]: replace(one, cases=40) for name, one in profile.structures.items()},
        {(written[a], written[b]): spread for (a, b), spread in profile.pairs.items()},
    )
    parent = replace(parent, description=replace(parent.description, fit=profile))
    library = projects.put_parent(tmp_path / "library", parent)
    plan = plan_fine_tuning(projects.request(project, library))
    found = module.profile_of_version(plan, parent.state_dict)
    assert found is not None and found.cases == 42
    names = plan.change.label_set.names
    assert {name: one.cases for name, one in found.structures.items()} == dict.fromkeys(names, 42)
    assert all(set(pair) <= set(names) for pair in found.pairs)


def test_an_unwritable_library_is_told_before_any_work(library: Path, tmp_path: Path) -> None:
    project = project_of(tmp_path / "project", [(1,), (1,)])
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    reports: list[Progress] = []
    wanted = projects.request(project, blocked / "library", model=str(library / "tiny"), name="mine")
    with pytest.raises(ModelError, match=r"file is a file, not a folder"):
        finetune(wanted, reports.append)
    assert not reports and not (project / ".fine-tuning").exists()


def test_what_was_trained_is_kept_when_saving_fails(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up in the end: the same command again only saves."""
    wanted = projects.request(project_of(tmp_path / "project", [(1,), (1,)]), library, configuration=QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(module, "add_version", _full)
        with pytest.raises(ModelError, match=r"disk is full\. The new version is trained, and kept in .* same command"):
            finetune(wanted)
    reports: list[Progress] = []
    result = finetune(wanted, reports.append)
    assert result.version.number == 1
    assert not any(report.key.startswith("train") for report in reports), "nothing is trained again"


def _full(*others: Any, **more: Any) -> None:
    raise ModelError("The disk is full.")


def test_a_plan_is_refused_only_where_the_run_would_be(library: Path, tmp_path: Path) -> None:
    """Too little time is told before a run begins; one that was begun is ended as well as the time allows."""
    project = project_of(tmp_path / "project", [(1,), (1,)])
    wanted = projects.request(project, library, configuration=QUICK, minutes=0.005)
    forecast = foresee(wanted)
    assert forecast.time_plan is None and forecast.minutes_needed is not None and forecast.minutes_needed > 0.005
    assert "too little to learn anything" in forecast.text and not (project / ".fine-tuning").exists()
    with RunFolder(runs_of(wanted), plan_fine_tuning(wanted).identity()) as folder:
        folder.write_spent(30.0)
    again = foresee(wanted)
    assert again.time_plan is not None and again.time_plan.folds == 2 and again.minutes_needed is None
    assert again.text.startswith("This fine-tuning was interrupted after 0.5 min.")


def test_a_strategy_without_all_layers_plans_no_steps_of_them(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last layers have all of the time, and the plan says what is done."""
    monkeypatch.setitem(STRATEGIES, "probe", Strategy("probe", "", last_layers_first=True, all_layers=False))
    settings = replace(QUICK, strategy="probe", tail_steps=5, steps=7)
    wanted = projects.request(project_of(tmp_path / "project", [(1,), (1,)]), library, configuration=settings)
    amount = amount_of(plan_fine_tuning(wanted), ("probe",))
    assert (amount.tail_steps, amount.steps, amount.tail_share) == (5, 0, 1.0)
    text = foresee(wanted).text
    assert "(each about 5 steps of the last layers)" in text and "all layers" not in text
