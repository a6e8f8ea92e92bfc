"""A tiny study on the cluster: the same results as on one computer."""

from __future__ import annotations

from pathlib import Path

import pytest

from Testing.executors.conftest import Nodes
from Testing.research.study.command import main
from Testing.research.study.results import ResultsFile
from Testing.research.tests.conftest import WriteStudy, study_entry, world, write_study

__all__ = ["world", "write_study"]  # fixtures


def test_a_study_on_the_cluster(
    nodes: Nodes, world: Path, tmp_path: Path, write_study: WriteStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = study_entry() | {"data": str(world)}
    words = ["--device", "cpu", "--only", "slab/1/ours"]
    study = write_study(entry)
    given = ["--config", str(study.path), "--work", str(tmp_path / "work"), *words]
    assert main([*given, "--ray", nodes.address, "--workers", "2"]) == 0, capsys.readouterr().err
    assert "1 runs: 0 were there, 1 made, 0 failed." in capsys.readouterr().out
    on_cluster = ResultsFile(study.results).read()
    assert not list((tmp_path / "work" / "jobs").glob("*-study-*"))
    study.results.unlink()
    assert main(given) == 0, "with the base that the cluster has trained"
    here = ResultsFile(study.results).read()
    assert {key: (one.scores, one.base_weights) for key, one in on_cluster.items()} == {
        key: (one.scores, one.base_weights) for key, one in here.items()
    }
