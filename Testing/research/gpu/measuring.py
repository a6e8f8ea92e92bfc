"""What the GPU measurements share: one line of JSON, times that include what a GPU still computes, and pieces.

They need torch, numpy, SimpleITK, scipy and requests only, and run in the Python that is there.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from TransferSegLib.inference.devices import Device, choose_device
from TransferSegLib.progress import CancelToken

#: Minutes after which a piece of a long measurement stops by itself.
PIECE_MINUTES = 8.0


def device_of(name: str) -> Device:
    """Return the device of a name (``auto``, ``cuda`` ...), with its memory count at zero."""
    device = choose_device(name)
    if device.kind == "cuda":
        torch.cuda.reset_peak_memory_stats(torch.device(device.torch_name))
    return device


def seconds_of(work: Callable[[], Any], device: Device, repeats: int) -> float:
    """Return the seconds of one call, the mean of some after a first one."""
    work()
    _wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    _wait(device)
    return (time.perf_counter() - started) / repeats


def print_line(benchmark: str, device: Device, **numbers: Any) -> None:
    """Print one line of JSON: what was measured, on what, and the most memory it took."""
    line = {
        "benchmark": benchmark,
        "device": device.name,
        "precision": str(device.dtype).removeprefix("torch."),
        "channels_last": device.memory_format == torch.channels_last_3d,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **numbers,
        "memory_peak_gb": round(_peak_bytes(device) / 1e9, 3),
    }
    print(json.dumps(line), flush=True)


@contextmanager
def piece(minutes: float) -> Iterator[CancelToken]:
    """Lend a token that asks the work to stop after so many minutes; what was done is kept by whoever is asked."""
    token = CancelToken()
    timer = threading.Timer(60.0 * minutes, token.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield token
    finally:
        timer.cancel()


def _wait(device: Device) -> None:
    """Wait for what a GPU still computes."""
    if device.kind == "cuda":
        torch.cuda.synchronize(torch.device(device.torch_name))
    elif device.kind == "mps":
        torch.mps.synchronize()


def _peak_bytes(device: Device) -> float:
    """Return the most memory of a CUDA GPU, else of the process."""
    if device.kind == "cuda":
        return float(torch.cuda.max_memory_allocated(torch.device(device.torch_name)))
    from Testing.research.common.measuring import peak_memory_bytes

    return peak_memory_bytes()
