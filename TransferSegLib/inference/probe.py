"""Which precision and memory format convolve fastest on this computer: measured once, then remembered.

The answer depends on the processor or GPU and on the version of torch; it is kept in a small file of the user's cache,
so that a machine makes the same choice every time. A file that is damaged or cannot be written only costs a second.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn import functional

from TransferSegLib import safe_json
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.user_folders import cache_folder

#: Half precision must take less than this share of float32's time to be chosen, channels last less than this share of
#: the other format's.
_WORTH_IT = 0.85
_FILE = "fastest-convolution.json"


@dataclass(frozen=True)
class Fastest:
    """Whether half precision wins over float32, and channels last over the usual memory format."""

    half: bool
    channels_last: bool


@lru_cache(maxsize=8)
def fastest(torch_name: str, label: str, half: torch.dtype | None) -> Fastest:
    """Return what is fastest on a device; ``half`` is the half precision it computes natively, None: it has none.

    ``label`` is the device's name for people, part of what is remembered.
    """
    parts = (torch.__version__, platform.node(), platform.machine(), label, str(half))
    key = " | ".join(parts)
    known = _remembered().get(key)
    if isinstance(known, dict) and all(isinstance(known.get(name), bool) for name in ("half", "channels_last")):
        return Fastest(known["half"], known["channels_last"])
    measured = _measure(torch_name, half)
    _remember(key, measured)
    return measured


def _remembered() -> dict[str, object]:
    """Return what is remembered by device; nothing when the file is missing or damaged."""
    with suppress(OSError, ValueError, RuntimeError):
        known = safe_json.read(cache_folder() / _FILE)
        if isinstance(known, dict):
            return known
    return {}


def _remember(key: str, measured: Fastest) -> None:
    """Add a measurement to the file; what another process adds at the same moment may be lost and measured again."""
    known = _remembered() | {key: {"half": measured.half, "channels_last": measured.channels_last}}
    with suppress(OSError, RuntimeError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        write_text_durably(folder / _FILE, json.dumps(known, indent=1, sort_keys=True) + "\n")


def _measure(torch_name: str, half: torch.dtype | None) -> Fastest:
    """Time one convolution in each precision and memory format."""
    usual, last = torch.contiguous_format, torch.channels_last_3d
    # On CPUs whole tiles are faster channels last, which one convolution alone does not show.
    formats = [last] if torch_name.startswith("cpu") else [usual, last]
    times = {}
    for dtype in (torch.float32, half) if half is not None else (torch.float32,):
        for memory_format in formats:
            times[dtype, memory_format] = _seconds(torch.device(torch_name), dtype, memory_format)
    single = min(times[torch.float32, memory_format] for memory_format in formats)
    chosen = torch.float32
    if half is not None and min(times[half, memory_format] for memory_format in formats) < _WORTH_IT * single:
        chosen = half
    is_last = len(formats) == 1 or times[chosen, last] < _WORTH_IT * times[chosen, usual]
    return Fastest(chosen is not torch.float32, is_last)


def _seconds(device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format) -> float:
    """Return the shortest time of a convolution after a first one; infinite when torch cannot do it here."""
    threads = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)  # so that the time counted is this thread's work, not waiting for others
        side = 26 if device.type == "cpu" else 66
        maps = torch.ones(1, 32, side, side, side, device=device, dtype=dtype).contiguous(memory_format=memory_format)
        weight = torch.ones(32, 32, 3, 3, 3, device=device, dtype=dtype).contiguous(memory_format=memory_format)
        with torch.inference_mode():
            return _shortest_time(lambda: functional.conv3d(maps, weight), device)
    except RuntimeError:
        return float("inf")
    finally:
        torch.set_num_threads(threads)


def _shortest_time(work: Callable[[], torch.Tensor], device: torch.device) -> float:
    """Return the shortest seconds of five runs after a first; on a CPU, which others share, of this thread's work."""
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    times = []
    for _ in range(6):
        started = clock()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        del result
        times.append(clock() - started)
    return min(times[1:])
