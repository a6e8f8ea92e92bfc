"""Progress of a fine-tuning that was stopped: it goes on from where it was, and its time is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from Testing.finetuning.projects import KNOBS, add_cases, put_parent, request
from TransferSegLib.errors import Cancelled
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.progress import CancelToken, Progress


def test_progress_goes_on_from_where_a_run_was_stopped(world: Any, tmp_path: Path) -> None:
    library = put_parent(tmp_path / "library", world.make_parent(world.label_set("bright"), width=1))
    project = add_cases(tmp_path / "project", [1, 2, 3])
    wanted = request(project, library, configuration=replace(KNOBS, tail_steps=6, report_cases=0))
    stopped = 0.0
    # By parts, not by shares: how far a part of milliseconds is depends on what else the computer does.
    for part in ("compare-finetune:1", "compare-finetune:2"):
        token, reports = CancelToken(), []

        def watch(report: Progress, part: str = part, token: CancelToken = token, seen: list = reports) -> None:
            seen.append(report.fraction)
            if report.key.startswith(part):
                token.cancel()

        with pytest.raises(Cancelled):
            finetune(wanted, watch, token)
        assert stopped <= reports[0] < stopped + 0.25, "not from the start, and not near the end"
        assert stopped < reports[-1] < 0.95
        stopped = reports[-1]
    reports = []
    finetune(wanted, lambda report: reports.append(report.fraction))
    assert stopped <= reports[0] < stopped + 0.25
    assert reports == sorted(reports) and reports[-1] > 0.9
