"""The grid of a new task: what voxels cost a structure, which grid is chosen, and when the parent's stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.finetuning import projects
from Testing.nnunet_fixtures import TRAINED, imported
from TransferSegLib.cli.finetune import add_parser
from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.cases import CaseSurvey, survey_cases
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.finetuning.label_change import plan_label_change, unchanged
from TransferSegLib.finetuning.own_grid import candidate_spacings, choose_grid, patch_side, with_own_grid
from TransferSegLib.finetuning.plan import plan_fine_tuning
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.resolution_cap import StructureMask, masks_of, resolution_cap
from TransferSegLib.finetuning.run_folder import RUNS_NAME
from TransferSegLib.finetuning.time_budget import foresee
from TransferSegLib.models.store import load_description
from TransferSegLib.structures import LabelSet, Structure

ISOTROPIC = (1.0, 1.0, 1.0)
MODEL = Path(__file__).parents[1] / "Data" / "model_format_1" / "model"
TURNED = tuple(sitk.Euler3DTransform((0, 0, 0), 0.2, 0.1, 0.3).GetMatrix())


def mask_of(
    voxels_zyx: np.ndarray, spacing_xyz_mm: tuple[float, ...] = ISOTROPIC, direction: tuple[float, ...] | None = None
) -> StructureMask:
    image = sitk.GetImageFromArray(voxels_zyx.astype(np.uint8))
    image.SetSpacing(spacing_xyz_mm)
    if direction is not None:
        image.SetDirection(direction)
    return masks_of(image, [Structure("it", 1, (0, 0, 0))])["it"]


def box(shape_zyx: tuple[int, ...], *ranges: tuple[int, int]) -> np.ndarray:
    voxels = np.zeros(shape_zyx, np.uint8)
    voxels[tuple(slice(first, stop) for first, stop in ranges)] = 1
    return voxels


CUBE = box((16, 16, 16), (4, 12), (4, 12), (4, 12))


def test_a_cube_loses_its_corners() -> None:
    """On 2 mm its 8 mm are 4 voxels, exactly; back on 1 mm, the corners are 0.75 cubed, less than half."""
    assert resolution_cap(mask_of(CUBE), (2.0, 2.0, 2.0), "LPS") == pytest.approx(2 * 504 / (512 + 504))


def test_the_scans_own_grid_costs_nothing() -> None:
    assert resolution_cap(mask_of(CUBE), ISOTROPIC, "LPS") == 1.0
    assert resolution_cap(mask_of(CUBE, (1.0, 2.0, 3.0)), (3.0, 2.0, 1.0), "LPS") == 1.0
    for axes, spacing_zyx_mm in (("SPL", (1.0, 2.0, 3.0)), ("ijk", (3.0, 2.0, 1.0)), ("jik", (3.0, 1.0, 2.0))):
        assert resolution_cap(mask_of(CUBE, (1.0, 2.0, 3.0)), spacing_zyx_mm, axes) == 1.0


def test_a_thin_sheet_vanishes() -> None:
    """A third of a voxel is less than half of it, whichever way the sheet lies; along it nothing is lost."""
    for axis in range(3):
        ranges = [(3, 12)] * 3
        ranges[axis] = (7, 8)
        sheet = mask_of(box((15, 15, 15), *ranges))
        assert resolution_cap(sheet, (3.0, 3.0, 3.0), "LPS") == 0.0
        spacing = [3.0, 3.0, 3.0]
        spacing[axis] = 1.0
        assert resolution_cap(sheet, (spacing[0], spacing[1], spacing[2]), "LPS") > 0.9


def test_turned_scans_and_structures_at_their_edges() -> None:
    turned = resolution_cap(mask_of(CUBE, direction=TURNED), (2.0, 2.0, 2.0), "LPS")
    assert 0.75 < turned < 1.0
    whole = mask_of(np.ones((8, 8, 8)))
    assert resolution_cap(whole, (2.0, 2.0, 2.0), "LPS") == 1.0, "the scan ends, not the structure"


def test_of_a_large_structure_a_part_is_looked_at() -> None:
    large = mask_of(box((200, 180, 20), (10, 190), (10, 170), (6, 16)))
    assert large.shape_zyx == (112, 112, 10) and large.size_xyz_mm == (10, 160, 180)
    assert large.bits.nbytes < 20_000
    assert 0.9 < resolution_cap(large, (2.0, 2.0, 2.0), "LPS") < 1.0


@pytest.mark.parametrize(
    ("parent", "native", "first", "last"),
    [
        ((3.0, 3.0, 3.0), (1.0, 1.0, 1.0), (2.5, 2.5, 2.5), (1.0, 1.0, 1.0)),
        ((3.0, 3.0, 3.0), (8.0, 1.37, 1.37), (3.0, 2.5, 2.5), (3.0, 1.37, 1.37)),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), (2.5, 1.0, 1.0), (1.0, 1.0, 1.0)),
    ],
)
def test_candidates_lie_between_the_parents_grid_and_the_scans(parent: Any, native: Any, first: Any, last: Any) -> None:
    found = list(candidate_spacings(parent, native))
    assert (found[0], found[-1]) == (first, last)
    assert len(set(found)) == len(found) and parent not in found
    voxels = [np.prod(one) for one in found]
    assert voxels == sorted(voxels, reverse=True)


def test_coarse_scans_ask_for_nothing() -> None:
    assert not list(candidate_spacings((3.0, 3.0, 3.0), (5.0, 4.0, 4.0)))
    assert not list(candidate_spacings((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)))


def surveys_of(
    folder: Path, voxels: Sequence[np.ndarray], names: Sequence[str], spacing_mm: float = 1.0
) -> list[CaseSurvey]:
    """Write label maps and return their surveys."""
    label_set = LabelSet(tuple(Structure(name, label, (0, 0, 0)) for label, name in enumerate(names, start=1)))
    cases = []
    for number, one in enumerate(voxels):
        image = sitk.GetImageFromArray(one.astype(np.uint8))
        image.SetSpacing((spacing_mm,) * 3)
        path = folder / f"{number}.nii.gz"
        sitk.WriteImage(image, str(path))
        cases.append(Case(str(number), path, path, tuple(names)))
    return list(survey_cases(Dataset(folder, "test", "", "", "", label_set, tuple(cases))).values())


def two_sizes(size: int = 48) -> np.ndarray:
    """Return a large cube (1) and a small one (2)."""
    voxels = box((size, size, size), (4, 28), (4, 28), (4, 28))
    voxels[34:39, 34:39, 34:39] = 2
    return voxels


def on_3_mm() -> Any:
    """Return the description of a model that works at 3 mm."""
    description = load_description(MODEL)
    return replace(description, preparation=description.preparation.with_spacing(3.0))


def test_the_smallest_structure_decides(tmp_path: Path) -> None:
    surveys = surveys_of(tmp_path, [two_sizes()], ["large", "small"])
    preparation = on_3_mm().preparation
    assert not choose_grid(surveys, ["large"], preparation).is_own
    choice = choose_grid(surveys, ["large", "small"], preparation)
    assert choice.is_own and choice.of_parent.worst == "small" and choice.chosen.cap >= 0.95
    assert choice.chosen.spacing_zyx_mm[0] < 3 and choice.native_zyx_mm == (1, 1, 1)
    assert f"Voxels of {choice.chosen.spacing_text}: at the parent's 3 mm even a perfect network" in choice.text
    assert f"{choice.of_parent.cap:.2f} for small" in choice.text


def test_scans_that_would_get_too_large_bound_the_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    surveys = surveys_of(tmp_path, [two_sizes()], ["large", "small"])
    free = choose_grid(surveys, ["small"], on_3_mm().preparation)
    monkeypatch.setattr("TransferSegLib.finetuning.own_grid.MOST_VOXELS", 48**3 / 2.2**3)
    bounded = choose_grid(surveys, ["small"], on_3_mm().preparation)
    assert bounded.bounded and free.chosen.voxels > bounded.chosen.voxels
    assert bounded.chosen.voxels <= 48**3 / 2.2**3 and "take minutes each" in bounded.text
    monkeypatch.setattr("TransferSegLib.finetuning.own_grid.MOST_VOXELS", 1.0)
    none = choose_grid(surveys, ["small"], on_3_mm().preparation)
    assert none.bounded and not none.is_own and none.text.startswith("Voxels of 3 mm: at the parent's 3 mm even")


def test_masks_are_kept_of_few_cases(tmp_path: Path) -> None:
    only_large = np.minimum(two_sizes(), 1)
    only_large[34:39, 34:39, 34:39] = 0
    surveys = surveys_of(tmp_path, [only_large] * 6 + [two_sizes()], ["large", "small"])
    assert [set(one.masks) for one in surveys] == [{"large"}] * 5 + [set(), {"small"}]


def test_patches_hold_the_largest_structure_and_no_more_than_a_scan(tmp_path: Path) -> None:
    surveys = surveys_of(tmp_path, [two_sizes()], ["large", "small"])
    preparation = on_3_mm().preparation.with_spacing(1.0)
    assert patch_side(surveys, ["small"], preparation, 4, 8) == 24  # 5 + 2 * 4 + 2 * 4
    assert patch_side(surveys, ["large"], preparation, 4, 8) == 40  # 24 + 2 * 4 + 2 * 4
    assert patch_side(surveys, ["large"], preparation.with_spacing(0.5), 4, 8) == 64
    close = surveys_of(tmp_path, [two_sizes()[:30, :30, :30]], ["large"])
    assert patch_side(close, ["large"], preparation, 4, 8) == 40  # 30 + 2 * 4


def test_settings_of_a_new_task(tmp_path: Path) -> None:
    parent, settings = on_3_mm(), FineTuningConfiguration()
    surveys, names = surveys_of(tmp_path, [two_sizes()], ["large", "small"]), ["large", "small"]
    known = parent.label_set
    wanted = LabelSet(tuple(Structure(name, label, (0, 0, 0)) for label, name in enumerate(names, start=1)))
    fresh = plan_label_change(known, wanted, dropped=known.names)
    own, (note,) = with_own_grid(settings, surveys, names, fresh, parent)
    assert own.preparation(parent).spacing_mm == own.spacing_mm and note.startswith(f"Voxels of {own.spacing_mm:g} mm")
    assert own.for_change(parent, True).patch == own.patch < 64 and f"patches have {own.patch} voxels" in note
    for said in ({"spacing_mm": 2.0}, {"spacing_mm": "parent"}):
        asked = replace(settings, **said)
        assert with_own_grid(asked, surveys, names, fresh, parent) == (asked, ())
    assert with_own_grid(replace(settings, patch=56), surveys, names, fresh, parent)[0].patch == 56
    held, (advice,) = with_own_grid(settings, surveys, names, plan_label_change(known, wanted), parent)
    assert held == settings and "for small" in advice and "--drop" in advice and "--spacing-mm" in advice
    assert with_own_grid(settings, surveys, ["large"], plan_label_change(known, wanted), parent) == (settings, ())


def test_windows_of_nnunet_keep_their_patch(tmp_path: Path) -> None:
    parent, _ = imported(TRAINED)
    parent = replace(parent, preparation=parent.preparation.with_spacing(3.0))
    surveys, known = surveys_of(tmp_path, [two_sizes()], ["large", "small"]), parent.label_set
    wanted = LabelSet((Structure("large", 1, (0, 0, 0)), Structure("small", 2, (0, 0, 0))))
    change = plan_label_change(known, wanted, dropped=known.names)
    found, (note,) = with_own_grid(FineTuningConfiguration(), surveys, ["large", "small"], change, parent)
    assert found.spacing_mm is not None and found.patch == 64 and "patches" not in note
    assert found.preparation(parent).axes == parent.preparation.axes


def test_a_model_that_knows_the_structure_keeps_its_grid(tmp_path: Path) -> None:
    """A version on a grid of its own is a parent later."""
    parent = on_3_mm()
    surveys = surveys_of(tmp_path, [two_sizes()], ["mandible", "brainstem"])
    found, notes = with_own_grid(FineTuningConfiguration(), surveys, ["brainstem"], unchanged(parent.label_set), parent)
    assert found == FineTuningConfiguration() and "for brainstem" in notes[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5", 1.5),
        ("[1, 1, 2.5]", (1, 1, 2.5)),
        ("[1.5]", 1.5),
        ('"parent"', "parent"),
        ("null", None),
        ('"child"', TrainingError),
        ("0", TrainingError),
        ("[1, 2]", TrainingError),
        ("[1, 2, -3]", TrainingError),
        ("true", TrainingError),
        ('[1, 2, "x"]', TrainingError),
    ],
)
def test_the_spacing_setting(text: str, value: Any) -> None:
    entry = {"spacing_mm": json.loads(text)}
    if value is TrainingError:
        with pytest.raises(TrainingError, match="spacing_mm"):
            FineTuningConfiguration.from_json(entry)
        return
    settings = FineTuningConfiguration.from_json(entry)
    assert settings.spacing_mm == value
    assert FineTuningConfiguration.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    if isinstance(value, tuple):
        assert settings.preparation(on_3_mm()).spacing_zyx_mm == (2.5, 1, 1)


# Whole plans and runs: a parent that sees bright balls at 2 mm, and scans of 1 mm.


def library_of(world: Any, folder: Path, spacing_mm: float = 2.0, modality: str = "CT") -> Path:
    parent = world.make_parent(world.label_set("bright"), width=1)
    preparation = parent.description.preparation.with_spacing(spacing_mm)
    described = replace(parent.description, preparation=preparation, modality=modality)
    return projects.put_parent(folder, replace(parent, description=described))


def small_project(folder: Path, count: int, name: str = "tiny ball") -> Path:
    """Add MR scans in which a ball of 4 mm was reviewed that no model knows."""
    project, z, y, x = Project(folder, create=True), *np.indices((32, 32, 32))
    structures = LabelSet((Structure(name, 1, (0, 0, 0)),))
    for number in range(count):
        truth = ((z - 12 - number) ** 2 + (y - 14) ** 2 + (x - 18) ** 2 < 5).astype(np.uint8)
        noise = np.random.default_rng(number).normal(0, 15, truth.shape)
        image = sitk.GetImageFromArray((500 + 400.0 * truth + noise).astype(np.int16))
        labels = sitk.GetImageFromArray(truth)
        project.add_case(image, labels, [name], structures=structures, group=f"patient {number}", any_modality=True)
    return folder


def asked_of(project: Path, library: Path, **more: Any) -> FineTuneRequest:
    return projects.request(project, library, **({"name": "small", "modality": "MR"} | more))


def test_another_modality_lets_go_and_gets_its_own_grid(world: Any, tmp_path: Path) -> None:
    library, project = library_of(world, tmp_path / "library"), small_project(tmp_path / "project", 2)
    plan = plan_fine_tuning(asked_of(project, library))
    assert plan.change.label_set.names == ("tiny ball",) and plan.change.dropped == ("bright",)
    assert plan.configuration.preparation(plan.parent.description).spacing_mm == 1.0
    notes = " ".join(plan.notes)
    assert "the new version lets them go. To keep them: --keep-all" in notes and "Voxels of 1 mm: at" in notes
    assert not any(one.masks for one in plan.survey.values()), "they are needed no more"
    kept = plan_fine_tuning(asked_of(project, library, dropped=()))
    assert kept.change.label_set.names == ("bright", "tiny ball")
    assert kept.configuration.spacing_mm is None and "lets them go" not in " ".join(kept.notes)
    assert "At the parent's 2 mm even a perfect network" in " ".join(kept.notes)
    assert kept.identity() != plan.identity()


def test_what_is_reviewed_or_versioned_or_the_same_modality_is_kept(world: Any, tmp_path: Path) -> None:
    library, project = library_of(world, tmp_path / "library"), small_project(tmp_path / "project", 2)
    for more in ({"name": None}, {"name": "tiny"}, {"modality": "CT"}):
        assert not plan_fine_tuning(asked_of(project, library, **more)).change.dropped, more
    known = small_project(tmp_path / "known", 2, "bright")
    plan = plan_fine_tuning(asked_of(known, library))
    assert plan.change.fates == ("kept",) and plan.configuration.spacing_mm is None
    nameless = library_of(world, tmp_path / "nameless", modality="")
    assert not plan_fine_tuning(asked_of(project, nameless)).change.dropped


def test_dropping_everything_frees_the_grid_in_the_same_modality(world: Any, tmp_path: Path) -> None:
    library, project = library_of(world, tmp_path / "library"), small_project(tmp_path / "project", 2)
    plan = plan_fine_tuning(asked_of(project, library, modality="CT", dropped=("bright",)))
    assert plan.configuration.spacing_mm == 1.0
    asked = replace(projects.KNOBS, spacing_mm="parent")
    plan = plan_fine_tuning(asked_of(project, library, modality="CT", dropped=("bright",), configuration=asked))
    assert plan.configuration.preparation(plan.parent.description).spacing_mm == 2.0
    assert not any(note.startswith("Voxels of") for note in plan.notes)


def test_the_plan_tells_why(world: Any, tmp_path: Path) -> None:
    library, project = library_of(world, tmp_path / "library"), small_project(tmp_path / "project", 2)
    forecast = foresee(asked_of(project, library))
    assert any(line.startswith("Voxels of 1 mm: at the parent's 2 mm") for line in forecast.warnings)
    assert any("Voxels of 1 mm" in line for line in forecast.to_json()["warnings"])
    assert forecast.amount.reported == 0, "nothing of the parent can be forgotten"


@pytest.mark.skipif(os.name == "nt", reason="kills with SIGKILL")
def test_a_killed_run_keeps_its_grid_and_the_version_is_a_parent_with_it(world: Any, tmp_path: Path) -> None:
    library, project = library_of(world, tmp_path / "library"), small_project(tmp_path / "project", 2)
    knobs = replace(projects.KNOBS, strategy="vanilla", steps=3, report_cases=1)
    wanted = asked_of(project, library, configuration=knobs)
    file = tmp_path / "request.json"
    file.write_text(json.dumps(wanted.to_json()), encoding="utf-8")
    words = [sys.executable, projects.__file__, str(file), "train-vanilla:2/all-layers", "3"]
    assert subprocess.run(words, check=False).returncode == -9
    (folder,) = (project / RUNS_NAME).glob("run-*")
    reports: list[Any] = []
    result = finetune(wanted, reports.append)
    assert not any(one.key.startswith("train-vanilla:1") for one in reports), "what was done is not done again"
    assert not folder.exists()
    made = load_description(result.version.path)
    assert made.preparation.spacing_mm == 1.0 and made.modality == "MR" and made.label_set.names == ("tiny ball",)
    assert made.provenance is not None and made.provenance.configuration["spacing_mm"] == 1.0
    assert any("Voxels of 1 mm" in note for note in result.to_json()["notes"])
    later = plan_fine_tuning(projects.request(project, library, model="small@1"))
    assert later.change.fates == ("kept",) and later.configuration.spacing_mm is None
    assert later.configuration.preparation(later.parent.description).spacing_mm == 1.0


def parsed(*args: str) -> FineTuneRequest:
    import argparse

    from TransferSegLib.cli.finetune import _request

    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return _request(parser.parse_args(["finetune", "--project", "p", *args]))


def test_the_command_line_and_jobs_ask_for_it() -> None:
    assert parsed().configuration.spacing_mm is None and parsed().dropped is None
    assert parsed("--spacing-mm", "1.5").configuration.spacing_mm == 1.5
    asked = parsed("--spacing-mm", "1", "1", "3", "--keep-all")
    assert asked.configuration.spacing_mm == (1, 1, 3) and asked.dropped == ()
    assert parsed("--spacing-mm", "parent").configuration.spacing_mm == "parent"
    with pytest.raises(TrainingError, match="spacing_mm"):
        parsed("--spacing-mm", "fine")
    for one in (parsed(), asked, parsed("--drop", "a", "b")):
        entry = json.loads(json.dumps(one.to_json()))
        assert FineTuneRequest.from_json(entry).dropped == one.dropped
        assert FineTuneRequest.from_json(entry).configuration == one.configuration
    old = parsed().to_json() | {"dropped": []}
    assert FineTuneRequest.from_json(old).dropped == (), "jobs of earlier versions keep what they kept"


# Real data, with a parent that works at 3 mm.


@pytest.mark.parametrize(
    ("pattern", "names", "spacing_mm", "cap"),
    [
        ("hippocampus_mr/labels/*.nii.gz", {1: "anterior", 2: "posterior"}, (1.0, 1.5), (0.70, 0.87)),
        ("left_ventricle_mr/*_label.nii.gz", {1: "left ventricle"}, (3.0, 3.0), (0.95, 1.0)),
        ("head_neck_ct/cases/*_label.nii.gz", {6: "voice box", 7: "jaw"}, (3.0, 3.0), (0.97, 1.0)),
    ],
)
def test_on_real_cases(shared_data: Path, pattern: str, names: Any, spacing_mm: Any, cap: Any) -> None:
    label_set = LabelSet(tuple(Structure(name, label, (0, 0, 0)) for label, name in names.items()))
    files = sorted(shared_data.glob(pattern))[:16:4]
    cases = tuple(Case(one.name, one, one, label_set.names) for one in files)
    surveys = list(survey_cases(Dataset(shared_data, "test", "", "", "", label_set, cases)).values())
    choice = choose_grid(surveys, label_set.names, on_3_mm().preparation)
    assert cap[0] <= choice.of_parent.cap <= cap[1]
    assert all(spacing_mm[0] <= one <= spacing_mm[1] for one in choice.chosen.spacing_zyx_mm), choice.text
    assert choice.chosen.cap >= 0.95
