"""Workers that no node of a Ray cluster has room for are refused at once; Ray itself would wait for ever."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from Testing.executors.test_segment_spread import words, write_scan
from Testing.finetuning import projects
from Testing.finetuning.conftest import label_set, make_parent
from Testing.research.study.on_cluster import cluster_workers
from TransferSegLib.cli.main import main
from TransferSegLib.errors import JobError
from TransferSegLib.executors import ray_cluster
from TransferSegLib.executors.fold_jobs import fold_jobs
from TransferSegLib.executors.interface import workers_text
from TransferSegLib.executors.ray_cluster import RayExecutor
from TransferSegLib.executors.ray_room import Node, nodes_to_come, notice_of, room_for
from TransferSegLib.finetuning.run_folder import RUNS_NAME

SMALL, LARGE, WITH_GPU = Node("small", 4, 0), Node("large", 16, 0), Node("gpu", 8, 2)


class FakeRay:
    """As much of Ray as an executor asks before it submits a job."""

    def __init__(self, *nodes: Node, to_come: tuple[SimpleNamespace, ...] = ()) -> None:
        self.is_connected = False
        self._nodes = nodes
        config = SimpleNamespace(node_group_configs=to_come)
        self._private = SimpleNamespace(state=SimpleNamespace(state=SimpleNamespace(get_cluster_config=lambda: config)))

    def is_initialized(self) -> bool:
        return self.is_connected

    def init(self, **options: Any) -> None:
        self.is_connected = True

    def shutdown(self) -> None:
        self.is_connected = False

    def nodes(self) -> list[dict[str, Any]]:
        lost = {"Alive": False, "NodeManagerHostname": "lost", "Resources": {"CPU": 1000.0}}
        return [lost] + [
            {"Alive": True, "NodeManagerHostname": node.name, "Resources": _resources(node)} for node in self._nodes
        ]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": sum(node.cpus for node in self._nodes), "GPU": sum(node.gpus for node in self._nodes)}

    def remote(self, function: Any) -> FakeRay:
        return self

    def options(self, **options: Any) -> FakeRay:
        return self


def _resources(node: Node) -> dict[str, float]:
    return {"CPU": node.cpus} | ({"GPU": node.gpus} if node.gpus else {})


UseCluster = Callable[..., FakeRay]


@pytest.fixture
def use_cluster(monkeypatch: pytest.MonkeyPatch) -> UseCluster:
    """Return a function that puts a cluster of some nodes in the place of Ray."""

    def use(*nodes: Node, to_come: tuple[SimpleNamespace, ...] = ()) -> FakeRay:
        fake = FakeRay(*nodes, to_come=to_come)
        monkeypatch.setattr(ray_cluster, "_import_ray", lambda: fake)
        return fake

    return use


def test_room_is_counted_node_by_node() -> None:
    """Not all CPUs of the cluster together: two nodes of 3 CPUs have room for two workers of 2 CPUs, not three."""
    assert room_for([Node("a", 3, 0), Node("b", 3, 0)], [], 2, 0) == 2
    assert room_for([SMALL, LARGE, WITH_GPU], [], 4, 0) == 1 + 4 + 2
    assert room_for([SMALL, LARGE, WITH_GPU], [], 1, 1) == 2, "a GPU each"
    assert room_for([SMALL, LARGE, WITH_GPU], [], 5, 1) == 1, "and CPUs on the same node"


@pytest.mark.parametrize(
    ("nodes", "threads", "gpus", "line"),
    [
        (
            [SMALL, LARGE],
            17,
            0,
            "--threads 17: the node with the most CPUs, large, has 16. Give --threads 16 or fewer.",
        ),
        ([LARGE, WITH_GPU], 9, 1, "one with the most CPUs, gpu, has 8. Give --threads 8 or fewer, or --device cpu."),
        ([LARGE, Node("bare", 0, 2)], 1, 1, "with a GPU has a CPU to give: add nodes .* or give --device cpu."),
        ([SMALL], 1, 1, "has a GPU: give --device cpu"),
        ([Node("head", 0, 0)], 1, 0, "has a CPU to give: add nodes with ray start"),
        ([], 1, 0, "has a CPU to give: add nodes with ray start"),
    ],
)
def test_what_no_node_has_room_for_is_refused(nodes: list[Node], threads: int, gpus: int, line: str) -> None:
    with pytest.raises(JobError, match=f"^No node of the Ray cluster .*{line}"):
        room_for(nodes, [], threads, gpus)


def kind_of_nodes(cpus: int, most: int, fewest: int = 0) -> SimpleNamespace:
    return SimpleNamespace(name="large", resources={"CPU": cpus}, min_count=fewest, max_count=most)


def test_a_cluster_that_may_add_a_large_node_is_waited_for(use_cluster: UseCluster, tmp_path: Path) -> None:
    assert nodes_to_come(FakeRay(to_come=(kind_of_nodes(64, 1, 1),))) == [], "that many are there already"
    assert nodes_to_come(SimpleNamespace()) == [], "a Ray that does not say"
    for most in (4, -1):
        fake = use_cluster(SMALL, to_come=(kind_of_nodes(64, most),))
        with RayExecutor("auto", tmp_path / "jobs", threads=64) as executor:
            assert executor.at_once == 1 and "the jobs wait until the cluster adds one" in executor.notice
    assert not fake.is_connected


def test_too_little_room_for_the_workers_asked_for_is_told() -> None:
    assert notice_of(2, 4) == "The Ray cluster is large enough for 2 of 4 workers: the other jobs wait."
    assert notice_of(4, 4) == notice_of(4, None) == ""


def test_a_refused_executor_lets_go_of_cluster_and_folder(use_cluster: UseCluster, tmp_path: Path) -> None:
    fake = use_cluster(SMALL, LARGE)
    for _ in range(2):  # the folder is free again
        with pytest.raises(JobError, match="--threads 64"):
            RayExecutor("auto", tmp_path / "jobs", threads=64)
        assert not fake.is_connected


def assert_one_line(error: str) -> None:
    assert "large, has 16. Give --threads 16 or fewer." in error and error.count("\n") == 1


def test_segment_refuses_with_one_line(
    use_cluster: UseCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use_cluster(SMALL, LARGE)
    write_scan(tmp_path / "scans" / "a.nii.gz", 1)
    assert main(words(tmp_path / "scans", tmp_path / "out", "--ray", "auto", "--threads", "17")) == 2
    assert_one_line(capsys.readouterr().err)


@pytest.fixture
def finetune_words(tmp_path: Path) -> list[str]:
    """Return a command that fine-tunes on a cluster."""
    project = projects.add_cases(tmp_path / "project", [1, 2, 3], ["bright"])
    library = projects.put_parent(tmp_path / "library", make_parent(label_set("dark"), width=1))
    given = ["--project", str(project), "--library", str(library), "--model", projects.request(project, library).model]
    return ["finetune", *map(str, given), "--device", "cpu", "--ray", "auto", "--minutes", "0"]


@pytest.mark.parametrize("more", [[], ["--plan"]])
def test_finetune_refuses_with_one_line_and_leaves_nothing(
    use_cluster: UseCluster,
    finetune_words: list[str],
    tmp_path: Path,
    more: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_cluster(SMALL, LARGE)
    assert main([*finetune_words, "--threads", "17", *more]) == 2
    assert_one_line(capsys.readouterr().err)
    assert not (tmp_path / "project" / RUNS_NAME).exists()


@pytest.mark.parametrize(("cpus", "said"), [(64, "3 workers train"), (2, "2 workers train"), (1, "1 worker trains")])
def test_a_plan_counts_the_workers_that_there_will_be(
    use_cluster: UseCluster, finetune_words: list[str], cpus: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many as fit, but not more than there are candidates."""
    fake = use_cluster(Node("only", cpus, 0))
    assert main([*finetune_words, "--plan"]) == 0
    assert f" {said} the compared ones" in capsys.readouterr().out and not fake.is_connected


def test_a_run_counts_no_more_workers_than_candidates(use_cluster: UseCluster, tmp_path: Path) -> None:
    """It used to say that 64 workers train three candidates."""
    use_cluster(Node("only", 64, 0))
    request = projects.request(tmp_path, tmp_path, workers=3)
    jobs = fold_jobs(request, "auto")(tmp_path / "jobs")
    assert jobs.at_once == 3
    jobs.close()
    told: list[str] = []
    use_cluster(SMALL)
    jobs = fold_jobs(projects.request(tmp_path, tmp_path, workers=3, threads=2), "auto", 3, told.append)(
        tmp_path / "jobs"
    )
    assert jobs.at_once == 3 and told == ["The Ray cluster is large enough for 2 of 3 workers: the other jobs wait."]
    jobs.close()


def test_a_study_refuses_too(use_cluster: UseCluster, tmp_path: Path) -> None:
    use_cluster(SMALL, LARGE)
    with ExitStack() as stack, pytest.raises(JobError, match=r"large, has 16\. Give --threads 16 or fewer"):
        stack.enter_context(cluster_workers("auto", tmp_path, 1, 17, "cpu"))


def test_jobs_that_wait_for_room_are_not_counted_as_workers() -> None:
    begun, waiting = (SimpleNamespace(is_begun=value) for value in (True, False))
    assert workers_text([begun]) == "1 worker"  # type: ignore[list-item]
    assert workers_text([begun, begun, waiting]) == "2 workers, 1 job waiting"  # type: ignore[list-item]
