"""A job of Windows with limits of memory and computing time for a child process and those it starts.

Sources: the Windows API, CreateJobObject and JOBOBJECT_EXTENDED_LIMIT_INFORMATION.
"""

from __future__ import annotations

import ctypes
import subprocess

_EXTENDED_LIMIT_INFORMATION = 9
_LIMIT_JOB_TIME, _LIMIT_JOB_MEMORY = 0x4, 0x200
#: Windows counts time in units of 100 ns.
_UNITS_PER_S = 10_000_000


class _ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION, its basic limits and I/O counters spelled out."""

    _fields_ = (
        ("process_time", ctypes.c_int64),
        ("job_time", ctypes.c_int64),
        ("flags", ctypes.c_uint32),
        ("smallest_working_set", ctypes.c_size_t),
        ("largest_working_set", ctypes.c_size_t),
        ("processes", ctypes.c_uint32),
        ("affinity", ctypes.c_size_t),
        ("priority", ctypes.c_uint32),
        ("scheduling", ctypes.c_uint32),
        ("counters", ctypes.c_uint64 * 6),
        ("process_memory", ctypes.c_size_t),
        ("job_memory", ctypes.c_size_t),
        ("peaks", ctypes.c_size_t * 2),
    )


def limited_job(process: subprocess.Popen[bytes], memory_bytes: int, processor_s: int) -> object | None:
    """Put a process into a job with these limits and return what keeps the job; None where Windows refuses."""
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined]
    kernel.CreateJobObjectW.restype = ctypes.c_void_p
    kernel.SetInformationJobObject.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32)
    kernel.AssignProcessToJobObject.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    job = kernel.CreateJobObjectW(None, None)
    limits = _ExtendedLimits(
        job_time=processor_s * _UNITS_PER_S,
        flags=_LIMIT_JOB_TIME | _LIMIT_JOB_MEMORY,
        job_memory=memory_bytes,
    )
    set_limits = job and kernel.SetInformationJobObject(
        job, _EXTENDED_LIMIT_INFORMATION, ctypes.byref(limits), ctypes.sizeof(limits)
    )
    if not set_limits or not kernel.AssignProcessToJobObject(job, int(process._handle)):  # type: ignore[attr-defined]
        return None
    return _OwnedHandle(kernel, job)


class _OwnedHandle:
    """Closes a handle when it is no longer needed; the processes in the job keep their limits."""

    def __init__(self, kernel: object, handle: int) -> None:
        """Own a handle."""
        self._kernel, self._handle = kernel, handle

    def __del__(self) -> None:
        """Close it."""
        self._kernel.CloseHandle(ctypes.c_void_p(self._handle))  # type: ignore[attr-defined]
