"""Which device computes, in which precision and memory format.

bfloat16 is used where the processor multiplies it natively *and* a short measurement shows that this version of torch
makes use of it (some do not), float32 everywhere else. Channels last is what wins for 3D convolutions on CPUs; on GPUs
it is measured. See ``probe.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch.nn import functional

from TransferSegLib.errors import DeviceError
from TransferSegLib.inference.probe import fastest
from TransferSegLib.wording import counted

#: In torch's messages when there is not enough memory on a CPU, a CUDA device, an Apple GPU; the last four come from
#: NVIDIA's libraries.
_OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
    "unable to find an engine to execute this computation",
    "unable to find a valid cudnn algorithm",
)

#: Where Linux lists what the processor can do.
_PROCESSOR_FLAGS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Device:
    """A device as torch calls it (``cpu``, ``cuda:0``, ``mps``), its name for people, and the precision used on it."""

    torch_name: str
    name: str
    dtype: torch.dtype = torch.float32
    #: Whether maps lie in memory channels last; None: as is usual for this kind of device.
    channels_last: bool | None = None

    @property
    def kind(self) -> str:
        """``cpu``, ``cuda`` or ``mps``."""
        return self.torch_name.split(":")[0]

    @property
    def memory_format(self) -> torch.memory_format:
        """How maps lie in memory on this device."""
        channels_last = self.kind == "cpu" if self.channels_last is None else self.channels_last
        return torch.channels_last_3d if channels_last else torch.contiguous_format

    def __str__(self) -> str:
        """Return e.g. ``NVIDIA H200 (bfloat16)``."""
        return f"{self.name} ({str(self.dtype).removeprefix('torch.')})"

    def in_float32(self) -> Device:
        """Return the same device computing in float32."""
        return replace(self, dtype=torch.float32)


def choose_device(wanted: str = "auto", dtype: torch.dtype | None = None) -> Device:
    """Return the device to compute on: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` ... or ``mps``.

    ``auto`` takes a CUDA GPU, then an Apple GPU, if it runs the network, else the CPU. ``dtype`` None: bfloat16 (or
    float16 on older NVIDIA GPUs) where it is faster, else float32. Raises DeviceError when the device asked for is not
    there or does not run the network.
    """
    kind, _, number = wanted.partition(":")
    if wanted == "auto":
        for candidate in ("cuda", "mps"):
            if _is_there(candidate) and not _failure(candidate):
                return _described(candidate, dtype)
        return _described("cpu", dtype)
    if kind not in ("cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdigit())):
        raise DeviceError(f"Unknown device '{wanted}': choose auto, cpu, cuda, cuda:1 (the second GPU) or mps (Apple).")
    if kind == "cpu":
        return _described("cpu", dtype)
    if not _is_there(wanted):
        raise DeviceError(_missing(wanted))
    failure = _failure(wanted)
    if failure:
        raise DeviceError(f"The device '{wanted}' does not run the network ({failure}): choose cpu.")
    return _described(wanted, dtype)


def found_devices() -> tuple[tuple[str, str], ...]:
    """Return (name as ``choose_device`` takes it, name for people) of what runs the network; ``auto`` takes the first.

    Precisions are not measured, so this takes a moment only.
    """
    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        name = f"cuda:{number}"
        if not _failure(name):
            found.append((name, torch.cuda.get_device_name(number)))
    if torch.backends.mps.is_available() and not _failure("mps"):
        found.append(("mps", "Apple GPU"))
    found.append(("cpu", "CPU"))
    first = next(name for name in ("cuda:0", "mps", "cpu") if name in dict(found))
    return tuple(sorted(found, key=lambda device: device[0] != first))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that a device has not enough memory."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in text for part in _OUT_OF_MEMORY_TEXTS)


def free_memory_bytes(device: Device) -> float | None:
    """Return the bytes free on a CUDA GPU; None for devices that share the computer's memory.

    What torch keeps for later is free, too. It is not given back for that: the next tile would have to get it again,
    and if it lies in too small pieces, torch gives it back by itself.
    """
    if device.kind != "cuda":
        return None
    place = torch.device(device.torch_name)
    kept = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
    return float(torch.cuda.mem_get_info(place)[0] + kept)


def _is_there(name: str) -> bool:
    """Tell whether torch sees a device."""
    kind, _, number = name.partition(":")
    if kind == "cuda":
        return torch.cuda.is_available() and int(number or 0) < torch.cuda.device_count()
    return bool(torch.backends.mps.is_available())


def _missing(name: str) -> str:
    """Return the message for a device that is not there."""
    version = torch.__version__
    if not name.startswith("cuda"):
        return f"There is no Apple GPU that PyTorch {version} can use: choose auto or cpu."
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return f"There is no '{name}': PyTorch sees {counted(count, 'CUDA GPU')}, cuda:0 to cuda:{count - 1}."
    return (
        f"There is no CUDA GPU that PyTorch {version} can use: choose auto or cpu. If the computer has an NVIDIA GPU, "
        "its driver or a PyTorch build with CUDA is missing."
    )


@lru_cache(maxsize=8)
def _failure(name: str) -> str | None:
    """Run what 3D networks are made of on a device; return the first line of what went wrong, None when all is well."""
    try:
        with torch.inference_mode():
            maps = functional.conv3d(torch.zeros(1, 1, 16, 16, 16).to(name), torch.ones(2, 1, 3, 3, 3).to(name))
            maps = functional.max_pool3d(functional.instance_norm(functional.relu(maps)), 2)
            maps = functional.conv_transpose3d(maps, torch.ones(2, 1, 4, 4, 4).to(name), stride=2, padding=2)
        return None if bool(torch.isfinite(maps).all()) else "it computes values that are not finite"
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]


def _described(name: str, dtype: torch.dtype | None) -> Device:
    """Return a device with its name for people and the precision to use on it."""
    if name.startswith("cuda"):
        torch_name = name if ":" in name else "cuda:0"
        label = torch.cuda.get_device_name(torch.device(torch_name))
        native: torch.dtype | None = _native_half_of_cuda(torch_name)
    elif name == "mps":
        torch_name, label, native = "mps", "Apple GPU", None
    else:
        torch_name, label = "cpu", "CPU"
        native = torch.bfloat16 if cpu_has_bfloat16() else None
    best = fastest(torch_name, label, native)
    if dtype is None:
        dtype = native if native is not None and best.half else torch.float32
    return Device(torch_name, label, dtype, None if torch_name == "cpu" else best.channels_last)


def _native_half_of_cuda(name: str) -> torch.dtype | None:
    """Return the half precision that a CUDA GPU computes natively: bfloat16 from 8.0 (2020) on, float16 from 7.0 on."""
    major, _ = torch.cuda.get_device_capability(torch.device(name))
    if major >= 8:
        return torch.bfloat16
    return torch.float16 if major == 7 else None


def cpu_has_bfloat16() -> bool:
    """Tell whether the CPU multiplies bfloat16 natively (AVX512-BF16 or AMX), as far as torch or Linux can tell."""
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        supported = getattr(torch.cpu, probe, None)  # private, and not in every version of torch
        if supported is not None and supported():
            return True
    if not _PROCESSOR_FLAGS.is_file():
        return False
    flags = _PROCESSOR_FLAGS.read_text(errors="replace")
    return "avx512_bf16" in flags or "amx_bf16" in flags
