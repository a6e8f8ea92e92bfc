"""A run with little time for its steps: the patches that its plan has chosen are those that it trains on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from Testing.finetuning import projects
from Testing.finetuning.test_time_plan import BARE
from TransferSegLib.errors import Cancelled
from TransferSegLib.finetuning import time_budget
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.finetuning.plan import plan_fine_tuning
from TransferSegLib.finetuning.report import report_text
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.models.store import load_model
from TransferSegLib.progress import CancelToken, Progress

USUAL = FineTuningConfiguration.patch
KNOBS = replace(projects.KNOBS, strategy="vanilla", steps=8, patch=USUAL, report_cases=0)


@pytest.fixture
def slow(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FineTuneRequest:
    """Return a request of 1.5 min for a structure that is new beside the parent's, where a usual step takes 10 s."""
    library = projects.put_parent(tmp_path / "library", world.make_parent(world.label_set("bright")))
    project = projects.add_cases(tmp_path / "project", [1, 2], ["bright", "dark"])
    monkeypatch.setattr(time_budget, "measure_speeds", lambda *args: replace(BARE, full_step_s=10.0))
    return projects.request(project, library, minutes=1.5, configuration=KNOBS)


def ticking() -> Callable[[], float]:
    """Return a clock that goes on by itself: the run ends by its steps."""
    seconds = [0.0]

    def clock() -> float:
        seconds[0] += 0.005
        return seconds[0]

    return clock


def test_patches_are_smaller_and_the_note_says_why(slow: FineTuneRequest) -> None:
    assert plan_fine_tuning(slow).smaller_sides == (56, 48, 40, 32)
    result = finetune(slow, clock=ticking())
    assert result.time_plan.side == 32 and not result.time_plan.tail_only
    configuration = load_model(result.version.path).description.provenance.configuration
    assert (configuration["patch"], configuration["strategy"]) == (32, "vanilla")
    assert report_text(result.to_json()).count("only 32 voxels a side") == 1


def test_a_resumed_run_keeps_them(slow: FineTuneRequest) -> None:
    cancel = CancelToken()

    def stop(report: Progress) -> None:
        if "train-vanilla:2" in report.key and report.step:
            cancel.cancel()

    with pytest.raises(Cancelled):
        finetune(slow, stop, cancel, clock=ticking())
    result = finetune(slow, clock=ticking())
    assert load_model(result.version.path).description.provenance.configuration["patch"] == 32
    assert report_text(result.to_json()).count("only 32 voxels a side") == 1


def test_patches_stay_four_times_as_large_as_their_frame(slow: FineTuneRequest) -> None:
    assert plan_fine_tuning(replace(slow, configuration=replace(KNOBS, frame=10))).smaller_sides == (56, 48, 40)


def test_the_last_layers_alone_take_the_patches_of_the_plan_before(slow: FineTuneRequest) -> None:
    """A resumed run makes the same settings of the last plan as the run that made two."""
    plan = plan_fine_tuning(slow)
    both = plan.with_smaller_patch(32).with_tail_only()
    assert both.configuration.patch == 32 and both.notes == plan.with_tail_only().notes


def test_other_runs_keep_their_patches(slow: FineTuneRequest) -> None:
    asked = replace(slow, configuration=replace(KNOBS, patch=56))
    assert plan_fine_tuning(asked).smaller_sides == ()
    assert plan_fine_tuning(replace(slow, structures=("bright",))).smaller_sides == ()
    last_layers_first = replace(slow, configuration=replace(KNOBS, strategy="finetune"))
    assert plan_fine_tuning(last_layers_first).smaller_sides == ()
