"""Stopping a fine-tuning at looks it takes at the token, wherever they are: it goes on to the same result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from Testing.finetuning import projects
from Testing.impatient import Impatient
from TransferSegLib.corrections.content_hash import hash_case
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.errors import Cancelled
from TransferSegLib.finetuning.cases import survey_cases
from TransferSegLib.finetuning.feature_cache import cache_features
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.finetuning.forgetting import measure_forgetting
from TransferSegLib.finetuning.held_out import OWN_GRID, HeldOutScorer
from TransferSegLib.finetuning.label_change import plan_label_change
from TransferSegLib.jobs.finetune_job import FINETUNE
from TransferSegLib.jobs.segment_job import SEGMENT
from TransferSegLib.models.versions.history import history
from TransferSegLib.progress import CancelToken, Task


def stopped() -> CancelToken:
    token = CancelToken()
    token.cancel()
    return token


def test_stopped_at_any_look_it_goes_on_to_the_same(world: Any, tmp_path: Path) -> None:
    knobs = replace(projects.KNOBS, tail_steps=3, steps=2, patches_per_case=1, report_cases=1)
    project = projects.add_cases(tmp_path / "project", [1, 2])
    parent = world.make_parent(world.label_set("dark"), width=1)  # "bright" is new: its channel starts from the data
    token = Impatient()
    wanted = projects.request(project, projects.put_parent(tmp_path / "whole", parent), configuration=knobs)
    whole = finetune(wanted, cancel=token)
    library = projects.put_parent(tmp_path / "library", parent)
    wanted = projects.request(project, library, configuration=knobs)
    stops = 0
    # Each goes on from where the one before it was stopped, and begins with what every run does first.
    for at in (token.looks // 50, token.looks // 4, token.looks // 3, token.looks // 2):
        try:
            finetune(wanted, cancel=Impatient(at))
            break
        except Cancelled:
            stops += 1
            assert len(history("tiny", library).versions) == 1
    else:
        finetune(wanted)
    assert stops >= 3
    assert history("tiny", library).find(1).sha256 == whole.version.sha256
    assert not (project / ".fine-tuning").exists()


def test_the_parts_look_within_themselves(world: Any, tmp_path: Path) -> None:
    structures = world.label_set("bright", "dark")
    parent = world.make_parent(structures, width=1)
    network = parent.network(), parent.description.backbone
    case, change = world.ball_case(), plan_label_change(structures, structures)
    token = Impatient()
    cache_features(
        parent, [case], change, world.quick, world.float32, patches_per_case=1, task=Task("", None, token)
    ).close()
    assert token.looks > 5, "one patch, between the layers"
    token = Impatient()
    measure_forgetting(network, network, [case], change, world.float32, Task("", None, token))
    with pytest.raises(Cancelled):
        measure_forgetting(network, network, [case], change, world.float32, Task("", None, Impatient(token.looks // 2)))
    assert token.looks > 10, "two predictions"


def test_reading_and_comparing_look(world: Any, tmp_path: Path) -> None:
    dataset = read_dataset(projects.add_cases(tmp_path / "project", [1]))
    case = dataset.cases[0]
    with pytest.raises(Cancelled):
        survey_cases(dataset, Task("", None, stopped()))
    token = Impatient()
    hash_case(case, dataset.label_set, Task("", None, token))
    assert token.looks > 2 * 32, "every plane of scan and label map"
    structures = world.label_set("bright", "dark")
    parent, prepared = world.make_parent(structures, width=1), world.ball_case()
    change = plan_label_change(structures, structures)
    scorer = HeldOutScorer(parent, change, dataset, world.float32, OWN_GRID, 3.0)
    found = np.zeros((32, 32, 32), np.uint8)
    token = Impatient()
    scorer.compare_predictions(found, prepared, case.id, found.copy(), Task("", None, token))
    # The last two looks are before and after the outlines are compared.
    for at in (1, token.looks - 1, token.looks):
        with pytest.raises(Cancelled):
            scorer.compare_predictions(found, prepared, case.id, found.copy(), Task("", None, Impatient(at)))


def test_a_fine_tuning_has_the_time_to_write_its_state() -> None:
    assert FINETUNE.grace_s == SEGMENT.grace_s == 4.0
