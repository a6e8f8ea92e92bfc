"""The processes of one training, started by ``torchrun``: on several GPUs, several processors or several computers.

Every process holds the whole network and computes the gradients of its share of a step's patches. The gradients are
added up, and every process takes the same step. The first process alone decides, validates, writes and reports.

>>> with joined("auto") as processes:
...     settings = processes.first_does(read_settings)  # what the first one returns, in all of them
...     if processes.is_first:
...         print(f"{processes.count} processes")

Without torchrun there is one process, ``ALONE``, and torch.distributed is never loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from TransferSegLib.errors import Cancelled, DeviceError, TrainingError

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
#: Maps what a process counted in its patches to its shares of what all processes counted.
Shares = Callable[[Sequence[float]], list[float]]

#: How long the others wait for the first process, e.g. while it validates. A process that ends is noticed at once.
_PATIENCE = timedelta(hours=12)
#: Counts of one step that are added up at once: voxels and structures at up to so many resolutions, and one more.
_MOST_COUNTS = 2 * 16 + 1
#: In the store that all processes share: the one that was the first to fail.
_FAILED = "transferseg/failed"


class Processes:
    """One process that trains alone; ``Group`` is one of several."""

    #: The number of this process, from 0, and how many there are.
    number, count = 0, 1
    #: Whether ``leave`` was called.
    are_leaving = False

    @property
    def is_first(self) -> bool:
        """Whether this process decides, validates, writes and reports."""
        return self.number == 0

    def first_does(self, call: Callable[[], Result]) -> Result:
        """Return what the first process gets from a call; the others wait for it, and raise what it raises."""
        return call()

    def leave(self) -> None:
        """Note that a training is stopped, in all processes: they do not hear each other from then on."""

    def check_batch(self, batch: int, setting: str = "batch") -> None:
        """Raise TrainingError unless every process has a patch in each step."""
        if batch < self.count:
            raise TrainingError(
                f"{self.count} processes cannot share a step of {batch} patch{'es' if batch > 1 else ''}: "
                f"set {setting} to {self.count} or more (and consider another learning rate), or start fewer processes."
            )

    def check_network(self, network: torch.nn.Module) -> None:
        """Raise TrainingError for a network that several processes would train to other weights than one."""

    def check_same(self, value: Any, what: str) -> None:
        """Raise TrainingError where this process was started with another value than the first one."""

    def device(self, wanted: str) -> str:
        """Return the name of this process's own device."""
        return wanted

    def begin_step(self, parameters: Sequence[torch.nn.Parameter]) -> SharedStep | None:
        """Return what one step shares with the other processes; None without others."""
        return None


class Group(Processes):
    """One of several processes that train together."""

    def __init__(self, number: int, count: int, local: int, store: Any) -> None:
        """``local`` is the number of the process on its computer; ``store`` is shared by all."""
        self.number, self.count = number, count
        self._local, self.store = local, store

    def leave(self) -> None:
        """Note that a training is stopped, in all processes: they do not hear each other from then on."""
        self.are_leaving = True

    def first_does(self, call: Callable[[], Result]) -> Result:
        """Return what the first process gets from a call; the others wait for it, and raise what it raises."""
        if not self.is_first:
            kind, value = self._told(None)
            if kind == "stopped":
                raise Cancelled(value)
            if kind == "failed":
                raise TrainingError(value)
            return value  # type: ignore[no-any-return]
        try:
            result = call()
        except BaseException as error:
            stopped = isinstance(error, Cancelled | KeyboardInterrupt)
            try:
                self._told(("stopped" if stopped else "failed", str(error) or type(error).__name__))
            except TrainingError:
                if stopped:  # torchrun stops those that are left when one has ended
                    raise
            raise
        self._told(("done", result))
        return result

    def check_network(self, network: torch.nn.Module) -> None:
        """Raise TrainingError for a network that several processes would train to other weights than one."""
        if any(getattr(module, "track_running_stats", False) for module in network.modules()):
            raise TrainingError(
                "This network has batch normalisation, whose statistics depend on the number of processes: train it "
                "without torchrun."
            )

    def check_same(self, value: Any, what: str) -> None:
        """Raise TrainingError where this process was started with another value than the first one."""
        if self.first_does(lambda: value) != value:
            raise TrainingError(
                f"Process {self.number + 1} of {self.count} has {what} other than the first one. All processes of a "
                "training get the same command and the same data; start different trainings without torchrun."
            )

    def device(self, wanted: str) -> str:
        """Return the name of this process's own device; raises DeviceError where there are too few GPUs."""
        import torch

        return _own_device(wanted, self._local, torch.cuda.device_count() if torch.cuda.is_available() else 0)

    def begin_step(self, parameters: Sequence[torch.nn.Parameter]) -> SharedStep:
        """Return what one step shares with the other processes."""
        return SharedStep(self, parameters)

    def summed(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes of as many numbers from each."""
        import torch

        numbers = torch.tensor(values, dtype=torch.float64)
        self.add_up(numbers)
        return list(numbers.tolist())

    def add_up(self, values: torch.Tensor) -> None:
        """Replace values, on any device, by their sums over all processes."""
        import torch.distributed

        with self._others_needed():
            torch.distributed.all_reduce(values)

    def _told(self, value: Any) -> Any:
        """Return the first process's value in all of them."""
        import torch.distributed

        told = [value]
        with self._others_needed():
            torch.distributed.broadcast_object_list(told, device=torch.device("cpu"))
        return told[0]

    @contextmanager
    def _others_needed(self) -> Iterator[None]:
        """Raise TrainingError when another process is gone."""
        try:
            yield
        except RuntimeError as error:
            raise TrainingError(
                f"One of the {self.count} processes of this training has ended, so the others stopped, too. What was "
                "trained up to the last checkpoint is kept: resume the training, with as many processes as you like."
            ) from error


class SharedStep:
    """What the processes tell each other in one step of the optimiser.

    First ``shares`` of the losses, then ``add_gradients``. A process that is asked to stop in between calls
    ``withdraw``, and then all of them raise Cancelled in the same step, before the weights are changed.
    """

    def __init__(self, group: Group, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._group, self._parameters = group, parameters
        self._shared = self._stopped = False

    def shares(self, counts: Sequence[float]) -> list[float]:
        """Return this process's shares of what all counted, 0 where there is nothing; raises Cancelled together."""
        padded = [*counts, *([0.0] * (_MOST_COUNTS - len(counts)))]
        totals = self._together([0.0, *padded])
        self._shared = True
        return [count / total if total > 0 else 0.0 for count, total in zip(counts, totals, strict=False)]

    def add_gradients(self, losses: torch.Tensor) -> torch.Tensor:
        """Replace the gradients by their sums over all processes, and return the sums of some losses."""
        import torch

        own = [float(parameter.grad is not None) for parameter in self._parameters]
        anywhere = self._together([0.0, *own])
        moved = [parameter for parameter, number in zip(self._parameters, anywhere, strict=True) if number > 0]
        for parameter in moved:
            if parameter.grad is None:  # only other processes' patches have to do with it
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
        # All in one tensor: a message for each would take longer than its content.
        flat = torch.cat([losses, *(gradient.reshape(-1) for gradient in gradients)])
        self._group.add_up(flat)
        sums, *parts = flat.split([len(losses), *(gradient.numel() for gradient in gradients)])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))
        return sums

    def withdraw(self) -> None:
        """Tell the others, wherever they wait for this process, that it stops; they raise Cancelled, this one not."""
        if self._stopped:
            return
        values = len(self._parameters) if self._shared else _MOST_COUNTS
        self._group.summed([1.0, *([0.0] * values)])

    def _together(self, values: Sequence[float]) -> list[float]:
        """Return sums over all processes, but for the first: how many of them stop."""
        stopping, *totals = self._group.summed(values)
        if stopping:
            self._stopped = True
            raise Cancelled("Stopped on request.")
        return totals


ALONE = Processes()
_joined: Group | None = None


def are_several() -> bool:
    """Tell whether torchrun, or what sets the same variables, started this process as one of several."""
    wanted = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    size = os.environ.get("WORLD_SIZE", "1")
    return all(os.environ.get(name) for name in wanted) and size.isdigit() and int(size) > 1


def is_first() -> bool:
    """Tell whether this process is the first of the training, or the only one; joined or not."""
    return not are_several() or os.environ["RANK"] == "0"


def speaks_for_all(is_stopped: bool = False) -> bool:
    """Tell whether this process is to print what went wrong: of several, the first one that failed.

    ``is_stopped``: they were asked to stop, of which the first one knows most.
    """
    if not are_several():
        return True
    if is_stopped:
        return is_first()
    group = _joined
    if group is None:  # what all of them got wrong
        return is_first()
    name = str(group.number)
    try:
        return bool(group.store.compare_set(_FAILED, "", name).decode() == name)
    except RuntimeError:  # the process that held the store has ended
        return group.is_first


@contextmanager
def joined(wanted_device: str = "auto") -> Iterator[Processes]:
    """Join the other processes of this training, if there are any, and leave them afterwards.

    A function that is called in such a block gets the same processes from its own. Raises TrainingError, DeviceError.
    """
    global _joined
    if not are_several():
        yield ALONE
        return
    if _joined is not None:
        yield _joined
        return
    _joined = _join(wanted_device)
    yield _joined
    # After an error the others are not waited for: the process ends, and with it the connections.
    import torch.distributed

    torch.distributed.destroy_process_group()
    _joined = None


def _join(wanted_device: str) -> Group:
    """Connect with the other processes."""
    import torch
    import torch.distributed as distributed

    if not distributed.is_available():
        raise TrainingError("This PyTorch cannot train with several processes: it was built without torch.distributed.")
    if distributed.is_initialized():
        raise TrainingError("torch.distributed is in use already: let the training initialise it.")
    local = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    device = _own_device(wanted_device, local, torch.cuda.device_count() if torch.cuda.is_available() else 0)
    backend = "gloo"
    if device.startswith("cuda"):
        # What the processes agree on goes between processors, so that no GPU is waited for; gradients between GPUs.
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(torch.device(device))
    try:
        store, number, count = next(iter(distributed.rendezvous("env://")))
        distributed.init_process_group(backend, store=store, rank=number, world_size=count, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"The processes of this training do not find each other ({str(error).splitlines()[0]}). They are started "
            "with torchrun; on several computers check the address of --rdzv-endpoint and the firewall."
        ) from error
    return Group(number, count, local, store)


def _own_device(wanted: str, local: int, gpus: int) -> str:
    """Return the device of a process: a GPU for each one on a computer, or the CPU for all."""
    kind, _, number = wanted.partition(":")
    if kind == "cpu" or (kind == "auto" and not gpus):
        return "cpu"
    if kind not in ("auto", "cuda") or number:
        raise DeviceError(f"Several processes cannot train on '{wanted}': choose auto, cuda (a GPU for each) or cpu.")
    if local >= gpus:
        raise DeviceError(
            f"This computer has {gpus} CUDA GPU{'' if gpus == 1 else 's'} that PyTorch can use, and more processes: "
            f"start {max(1, gpus)} (--nproc-per-node), or choose cpu."
        )
    return f"cuda:{local}"
