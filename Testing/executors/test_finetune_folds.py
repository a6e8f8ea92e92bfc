"""A fine-tuning whose folds are trained on a Ray cluster, of which a node is killed: the version of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from Testing.executors.conftest import Nodes, Noted
from Testing.finetuning import projects
from Testing.finetuning.conftest import label_set, make_parent
from TransferSegLib.executors.fold_jobs import fold_jobs
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.finetuning.run_folder import RUNS_NAME
from TransferSegLib.models.store import load_model
from TransferSegLib.progress import Progress

Wait = Callable[[Callable[[], Any]], Any]
KNOBS = replace(projects.KNOBS, tail_steps=6, steps=24, patches_per_case=2, report_cases=0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads here as a worker has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_same_version_when_a_node_is_killed(
    nodes: Nodes, noted: Noted, one_thread: None, tmp_path: Path, wait_until: Wait
) -> None:
    noted.clear()
    project, parent = projects.add_cases(tmp_path / "project", [1, 2, 3]), make_parent(label_set("dark"), width=1)
    alone = finetune(projects.request(project, projects.put_parent(tmp_path / "alone", parent), configuration=KNOBS))
    library = projects.put_parent(tmp_path / "spread", parent)

    def kill() -> None:
        checkpoints = "run-*/fold-[123]-finetune.pt"
        wait_until(lambda: noted.counts("attempt").total() >= 2 and any((project / RUNS_NAME).glob(checkpoints)))
        nodes.kill_one()

    killer, seen = threading.Thread(target=kill), list[Progress]()
    killer.start()
    wanted = projects.request(project, library, configuration=KNOBS, workers=3)
    spread = finetune(wanted, seen.append, workers=fold_jobs(wanted, nodes.address))
    killer.join(120)
    found, expected = (load_model(one.version.path).state_dict for one in (spread, alone))
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert spread.evidence.to_json() == alone.evidence.to_json()
    assert sorted(noted.counts("attempt").values()) == [1, 1, 2], "one job lost its node, and was begun again"
    assert not any(one.key.startswith("train-") for one in seen) and not (project / RUNS_NAME).exists()
