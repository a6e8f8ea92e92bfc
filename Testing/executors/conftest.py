"""A Ray cluster of three nodes on this computer, and both executors with the tiny kinds of jobs."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from TransferSegLib.errors import JobError
from TransferSegLib.executors.interface import Executor
from TransferSegLib.executors.local import LocalExecutor
from TransferSegLib.executors.ray_cluster import RayExecutor

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "Testing" / "jobs" / "tiny_worker.py"
#: Memory for Ray's objects on each node, of which there are none of any size: little, so that it need not be there.
_OBJECTS = 80 * 2**20


#: In the path of the workers: notes each result that gets its name, and each attempt at a job, in the log beside it;
#: reading a scan called slow... takes a while, and one called crash... ends the process.
HOOK = """
import os, signal, sys, time
LOG = os.path.join(os.path.dirname(os.path.abspath(__file__)), "log.txt")
def note(*words):
    descriptor = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, (" ".join(words) + "\\n").encode())
    os.close(descriptor)
def hook(event, arguments):
    if event == "os.rename" and os.fspath(arguments[1]).endswith("_segmentation.nii.gz"):
        note("written", os.path.basename(os.fspath(arguments[1])))
    elif event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        name = os.path.basename(os.fspath(arguments[0]))
        if name == "attempts.jsonl" and arguments[1] is None:
            note("attempt", os.path.dirname(os.fspath(arguments[0])))
        elif name.startswith("slow"):
            time.sleep(0.3)
        elif name.startswith("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
sys.addaudithook(hook)
"""


@dataclass(frozen=True)
class Noted:
    """What the hook has noted: the folder that it lies in."""

    folder: Path

    def clear(self) -> None:
        (self.folder / "log.txt").unlink(missing_ok=True)

    def counts(self, what: str) -> Counter[str]:
        """Return how often each name was noted, of ``written`` or ``attempt``."""
        try:
            lines = (self.folder / "log.txt").read_text().splitlines()
        except FileNotFoundError:
            return Counter()
        return Counter(line.split(maxsplit=1)[1] for line in lines if line.startswith(what))


@pytest.fixture(scope="session")
def noted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Noted]:
    """Yield what workers note, which all processes that are started from now on do."""
    folder = tmp_path_factory.mktemp("hooks")
    (folder / "sitecustomize.py").write_text(HOOK)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT), *filter(None, [before])])
    yield Noted(folder)
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


class Nodes:
    """The cluster: a head without CPUs, on which nothing runs, and two nodes of one CPU each."""

    def __init__(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        # By itself Ray gives tasks a low priority: beside other work on this computer they would hardly run.
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - so it is spelled
        self._options = {"object_store_memory": _OBJECTS, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **self._options})
        self.address: str = self._cluster.address
        self.nodes = [self.add(), self.add()]
        # One connection for all tests: each new one would start the processes of its tasks anew.
        ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")

    def add(self) -> Any:
        return self._cluster.add_node(num_cpus=1, **self._options)

    def kill_one(self) -> None:
        """Kill a node's processes as a power cut does; ``mend`` puts another one in its place."""
        self._cluster.remove_node(self.nodes.pop(0), allow_graceful=False)

    def mend(self) -> None:
        """Put nodes in the place of those that were killed; only in the main thread."""
        while len(self.nodes) < 2:
            self.nodes.append(self.add())

    def close(self) -> None:
        import ray

        ray.shutdown()
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def cluster(noted: Noted) -> Iterator[Nodes]:
    """Yield the cluster of all tests; they are skipped, and say so, without Ray."""
    if not os.environ.get("TRANSFERSEG_RAY_TESTS"):  # set by Testing/run.py ray, where a missing Ray is a failure
        pytest.importorskip("ray", reason="NOT TESTED without Ray: see python3 Testing/run.py ray")
    started = Nodes()
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """Yield the cluster with both of its nodes, also after a test that kills one."""
    yield cluster
    cluster.mend()


@pytest.fixture(params=["local", "ray"])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Executor]:
    """Yield each executor with workers that know the tiny kinds; two jobs run at a time."""
    jobs = tmp_path / "Aufträge für Jobs"
    if request.param == "local":
        opened: Executor = LocalExecutor(jobs, 2, device="cpu", command=[sys.executable, str(TINY)])
    else:
        address = request.getfixturevalue("nodes").address
        opened = RayExecutor(address, jobs, device="cpu", worker=[str(TINY)])
    with opened:
        yield opened


@pytest.fixture
def wait_until() -> Callable[[Callable[[], Any]], Any]:
    """Return a function that waits until something is true, and returns it; the test fails when it never is."""

    def wait(what: Callable[[], Any], longest_s: float = 120.0) -> Any:
        deadline = time.monotonic() + longest_s
        while True:
            with suppress(OSError, ValueError, JobError):
                if found := what():
                    return found
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.02)

    return wait
