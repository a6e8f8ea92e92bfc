"""What a fine-tuning needs of disk and memory is counted for all of its workers, before anything takes long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from Testing.finetuning import projects
from Testing.finetuning.test_folds_in_workers import Here
from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning import needs
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.finetuning.needs import bytes_of_process, check_needs_of_worker, check_outputs
from TransferSegLib.finetuning.plan import FineTuningPlan, plan_fine_tuning
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.run_folder import RUNS_NAME, runs_of

KNOBS = replace(projects.KNOBS, tail_steps=2, steps=2, patches_per_case=2, report_cases=0)
Spaces = dict[Path, float]


@pytest.fixture(scope="module")
def request_of_three(world: Any, tmp_path_factory: pytest.TempPathFactory) -> FineTuneRequest:
    folder = tmp_path_factory.mktemp("needs")
    project = projects.add_cases(folder / "project", [1, 2, 3], ["bright"])
    library = projects.put_parent(folder / "library", world.make_parent(world.label_set("dark"), width=1))
    return projects.request(project, library, configuration=KNOBS)


@pytest.fixture(scope="module")
def plan(request_of_three: FineTuneRequest) -> FineTuningPlan:
    return plan_fine_tuning(request_of_three)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Spaces:
    """Return the bytes that were asked for by folder; all of them are there."""
    spaces: Spaces = {}
    monkeypatch.setattr(needs, "check_space", lambda folder, size, error: spaces.update({folder: size}))
    return spaces


def has_free(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr(needs, "available_memory_bytes", lambda: int(size))


def test_the_folder_of_the_run_has_room_for_what_each_worker_keeps(plan: FineTuningPlan, asked: Spaces) -> None:
    weights, runs = needs._bytes_of_weights(plan), runs_of(plan.request)
    sizes = {}
    for workers, here in ((0, True), (1, True), (3, True), (3, False)):
        check_outputs(plan, workers, here)
        sizes[workers, here] = asked[runs]
    assert sizes[0, True] == sizes[1, True] == 13 * weights + 1e6, "the parent, nine copies, three candidates"
    assert sizes[3, True] == sizes[3, False] == 31 * weights + 1e6, "also where workers are elsewhere: they share it"


def test_temporary_files_of_all_workers_here_are_counted(
    plan: FineTuningPlan, asked: Spaces, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(needs.tempfile, "gettempdir", lambda: str(tmp_path))
    on_disk = replace(plan, configuration=replace(plan.configuration, memory_bytes=1.0))
    check_outputs(on_disk)
    alone = asked.pop(tmp_path)
    check_outputs(on_disk, 3)
    # Each of three folds learns from two of three patients: together they compute the features twice.
    assert alone > 0 and asked.pop(tmp_path) == pytest.approx(2 * alone)
    check_outputs(on_disk, 3, here=False)
    assert asked.pop(tmp_path) == alone, "the final candidate is trained here"
    check_needs_of_worker(on_disk)
    assert asked.pop(tmp_path) == pytest.approx(2 / 3 * alone)
    check_outputs(plan, 3)
    assert tmp_path not in asked, "they are in memory"


def test_memory_is_counted_for_all_workers_here(plan: FineTuningPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    each = bytes_of_process(plan)
    has_free(monkeypatch, 2.5 * each)
    check_outputs(plan, 2)
    with pytest.raises(
        TrainingError, match=r"^3 workers of the fine-tuning need at least .* free: give --workers 2, or"
    ):
        check_outputs(plan, 3)
    check_outputs(plan, 3, here=False)
    check_needs_of_worker(plan)
    has_free(monkeypatch, 0.5 * each)
    with pytest.raises(
        TrainingError, match=r"^1 worker of the fine-tuning needs .* give no --workers, a smaller patch"
    ):
        check_needs_of_worker(plan)
    check_outputs(plan)
    monkeypatch.setattr(needs, "available_memory_bytes", lambda: None)
    check_outputs(plan, 3)


def test_memory_grows_with_what_takes_memory(plan: FineTuningPlan) -> None:
    def of(**settings: Any) -> float:
        return bytes_of_process(replace(plan, configuration=replace(plan.configuration, **settings)))

    usual = of()
    # Three scans of 32768 voxels: 3 bytes a voxel, at the model's 1 mm.
    assert of(steps=0, memory_bytes=1.0) == pytest.approx(3 * 3 * 32**3 + 5 * needs._bytes_of_weights(plan))
    bare, features = of(steps=0, memory_bytes=1.0), of(steps=0) - of(steps=0, memory_bytes=1.0)
    step = of(memory_bytes=1.0) - bare
    assert features > 0 and step > 0, "features in memory, the maps of a step of all layers"
    assert of(batch=2, memory_bytes=1.0) - bare == pytest.approx(2 * step, rel=0.01)
    assert usual == pytest.approx(bare + max(features, step)), "the features are given up before"
    on_gpu = replace(plan, request=replace(plan.request, device="cuda"))
    assert bytes_of_process(on_gpu) < usual, "the maps are in the GPU's memory"


def test_what_a_plan_may_save_is_not_asked_for(plan: FineTuningPlan) -> None:
    """With minutes there may be time for one patch a case, of two, and for the last layers alone."""

    def of(minutes: float, **settings: Any) -> float:
        timed = replace(plan, request=replace(plan.request, minutes=minutes))
        return bytes_of_process(replace(timed, configuration=replace(plan.configuration, **settings)))

    bare = of(0, steps=0, memory_bytes=1.0)
    assert of(5) - bare == pytest.approx((of(0, steps=0) - bare) / 2)


def test_a_run_is_refused_before_it_begins(
    request_of_three: FineTuneRequest, plan: FineTuningPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_free(monkeypatch, 1.5 * bytes_of_process(plan))
    wanted, workers = replace(request_of_three, workers=2), Here()
    with pytest.raises(TrainingError, match="give --workers 1"):
        finetune(wanted, workers=workers)
    assert workers.closed and not workers.trained and not (wanted.project / RUNS_NAME).exists()


def test_a_worker_of_a_cluster_looks_at_its_own_computer(
    request_of_three: FineTuneRequest, plan: FineTuningPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_free(monkeypatch, 0.5 * bytes_of_process(plan))

    class Elsewhere(Here):
        are_here = False

    with pytest.raises(TrainingError, match="1 worker of the fine-tuning needs"):
        finetune(replace(request_of_three, workers=2), workers=Elsewhere())
