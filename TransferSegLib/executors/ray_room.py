"""How many workers the nodes of a Ray cluster have room for, and whether any node will ever have room for one.

Ray keeps a task that no node is large enough for waiting, for ever and silently. Nothing here needs Ray to be
installed: the module is handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from TransferSegLib.errors import JobError


@dataclass(frozen=True)
class Node:
    """What a node has in all, whether it is in use or not."""

    name: str
    cpus: float
    gpus: float

    def room(self, threads: int, gpus: int) -> int:
        """Return how many workers it has room for, each with so many CPUs and GPUs."""
        rooms = [self.cpus // threads, *([self.gpus // gpus] if gpus else [])]
        return int(min(rooms))


def nodes_of(ray: Any) -> list[Node]:
    """Return the nodes of the cluster that this process is connected to."""
    return [_node(one.get("NodeManagerHostname", ""), one["Resources"]) for one in ray.nodes() if one["Alive"]]


def nodes_to_come(ray: Any) -> list[Node]:
    """Return a node of each kind that the cluster may add by itself, as its autoscaler has told Ray; mostly none.

    Ray has no public function for this; where the private one is gone, a cluster counts as one that does not grow.
    """
    with suppress(Exception):
        config = ray._private.state.state.get_cluster_config()
        kinds = () if config is None else config.node_group_configs
        growing = [one for one in kinds if one.max_count == -1 or one.max_count > one.min_count]
        return [_node(one.name, dict(one.resources)) for one in growing]
    return []


def room_for(nodes: Sequence[Node], to_come: Sequence[Node], threads: int, gpus: int) -> int:
    """Return how many workers of so many CPUs and GPUs the nodes have room for; 0: only one that is to come has.

    Raises JobError where no node is large enough, and none that may come.
    """
    room = sum(node.room(threads, gpus) for node in nodes)
    if room or any(node.room(threads, gpus) for node in to_come):
        return room
    suitable = [node for node in nodes if node.gpus >= gpus and node.cpus >= 1]
    if gpus and not any(node.gpus >= gpus for node in nodes):
        raise JobError("No node of the Ray cluster has a GPU: give --device cpu, or add a node that has one.")
    if not suitable:
        which = "No node of the Ray cluster with a GPU" if gpus else "No node of the Ray cluster"
        instead = ", or give --device cpu" if gpus else ""
        raise JobError(f"{which} has a CPU to give: add nodes with ray start --address HEAD:PORT{instead}.")
    largest = max(suitable, key=lambda node: node.cpus)
    whose = "the node with the most CPUs" if not gpus else "of the nodes with a GPU, the one with the most CPUs"
    instead = ", or --device cpu" if gpus else ""
    raise JobError(
        f"No node of the Ray cluster has room for --threads {threads}: {whose}, {largest.name}, has "
        f"{int(largest.cpus)}. Give --threads {int(largest.cpus)} or fewer{instead}."
    )


def notice_of(room: int, at_once: int | None) -> str:
    """Return what is to be said before jobs that the cluster has too little room for now; empty where it has enough."""
    if not room:
        return "No node of the Ray cluster is large enough for a worker now: the jobs wait until the cluster adds one."
    if at_once is not None and at_once > room:
        return f"The Ray cluster is large enough for {room} of {at_once} workers: the other jobs wait."
    return ""


def _node(name: str, resources: dict[str, float]) -> Node:
    return Node(name, float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))
