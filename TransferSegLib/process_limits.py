"""Limits of memory and computing time for the children that read files from elsewhere.

What a small damaged file can cost is bound by its size: a reader that believes a header may ask for gigabytes, or never
end. The caller gives a child its limits in the environment; the child sets them for itself when its modules are loaded.
Linux bounds the address space (RLIMIT_AS), every POSIX system the computing time (RLIMIT_CPU). macOS does not keep to
RLIMIT_AS, so the caller watches the child's memory there; Windows gets a job object with both limits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from TransferSegLib.computer_memory import available_memory_bytes

if sys.platform != "win32":
    import resource

_VARIABLE = "TRANSFERSEG_CHILD_LIMITS"
#: What reading takes at least, beside the modules, and by how much a file grows: a blank slice packed by JPEG 2000 or
#: JPEG-LS unpacks to some hundred times its size, and is held more than once while it is converted.
_LEAST_MEMORY_BYTES = 768 << 20
_GROWTH = 300
#: Decoding JPEG 2000 gives some ten megabytes a second; a slow computer gets many times as long.
_LEAST_PROCESSOR_S = 10
_PROCESSOR_BYTES_PER_S = 1 << 18
_MOST_FILES = 200_000
#: What Python and the modules of a reader take by themselves.
_MODULES_BYTES = 512 << 20


@dataclass(frozen=True)
class Limits:
    """What a child may take beyond its modules; ``scarce`` where the computer's free memory sets the limit."""

    memory_bytes: int
    processor_s: int
    input_bytes: int = 0
    scarce: bool = False

    @classmethod
    def for_input(cls, path: Path, with_folder: bool = False) -> Limits:
        """Return the limits for reading a file (``with_folder``: and those beside it) or all that a folder holds."""
        held = held_bytes(path, with_folder)
        wanted = _LEAST_MEMORY_BYTES + _GROWTH * held
        free = available_memory_bytes()
        scarce = free is not None and free < wanted
        memory = wanted if free is None or not scarce else max(free, 1 << 28)
        return cls(memory, _LEAST_PROCESSOR_S + held // _PROCESSOR_BYTES_PER_S, held, scarce)

    def environment(self) -> dict[str, str]:
        """Return what to add to the environment of a child that is to set these limits."""
        return {
            _VARIABLE: f"{self.memory_bytes} {self.processor_s} {self.input_bytes} {int(self.scarce)}",
            # Every thread reserves address space, which counts: 64 MB by glibc's allocator alone.
            "MALLOC_ARENA_MAX": "2",
            "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(min(4, os.cpu_count() or 1)),
        }

    def memory_text(self, path: Path) -> str:
        """Return the line for a file that takes more memory than allowed."""
        if self.scarce:
            return (
                f"{path} cannot be read: that takes more than the {self.memory_bytes / 1e9:.1f} GB of memory that are "
                "free. Close other programs, or use a computer with more memory."
            )
        return (
            f"{path} cannot be read: that takes more than {self.memory_bytes / 1e9:.1f} GB of memory, far more than a "
            f"file of {self.input_bytes:,} bytes can need. It is damaged: copy or export it again."
        )

    def time_text(self, path: Path) -> str:
        """Return the line for a file that takes longer than allowed."""
        return (
            f"{path} cannot be read: that takes more than {self.processor_s} s of computing, far more than a file of "
            f"{self.input_bytes:,} bytes can need. It is damaged: copy or export it again."
        )


def held_bytes(path: Path, with_folder: bool = False) -> int:
    """Return the bytes of a file (``with_folder``: and of those beside it), or of all files in a folder and below.

    The files that a DICOMDIR lists lie in folders beside it.
    """
    if with_folder and path.stem.upper() == "DICOMDIR":
        return held_bytes(path.parent)
    if path.is_file() and not with_folder:
        return path.stat().st_size
    files = path.rglob("*") if path.is_dir() else path.parent.iterdir()
    total = 0
    for number, file in enumerate(files):
        if number >= _MOST_FILES:
            break
        with suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def own_limits(environment: Mapping[str, str] | None = None) -> Limits | None:
    """Return the limits that the caller gave this process, None when it gave none (the child's side)."""
    words = (os.environ if environment is None else environment).get(_VARIABLE, "").split()
    if len(words) != 4 or not all(word.isdecimal() for word in words):
        return None
    memory, processor, held, scarce = (int(word) for word in words)
    return Limits(memory, processor, held, bool(scarce))


def limit_this_process(limits: Limits | None) -> None:
    """Set the limits for this process, counted from what it has taken already (the child's side)."""
    if limits is None or sys.platform == "win32":
        return
    with suppress(ValueError, OSError):  # an inherited limit may be lower
        used = int(time.process_time()) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (used + limits.processor_s, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    allow_memory(limits.memory_bytes)


def allow_memory(memory_bytes: int) -> None:
    """Let this process take so much more address space than it has now (the child's side; Linux)."""
    if sys.platform != "linux":
        return
    with suppress(ValueError, OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory_bytes, hard))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python, ITK or GDCM is about memory."""
    words = ("bad_alloc", "bad alloc", "allocate memory", "memory allocation", "out of memory", "length_error")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


@contextmanager
def one_open_file() -> Iterator[None]:
    """Let only one more file be open at a time, so that a file cannot take its content from another one (POSIX)."""
    if sys.platform == "win32":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class LimitedChild:
    """A child that the caller watches where the child cannot limit its own memory: macOS, and by a job on Windows."""

    _EVERY_S = 0.5

    def __init__(self, limits: Limits, process: subprocess.Popen[bytes], watch: bool | None = None) -> None:
        """Begin to watch a process; ``watch`` None: where it is needed."""
        self._limits, self._process = limits, process
        self._watch = sys.platform not in ("linux", "win32") if watch is None else watch
        self._next = time.monotonic() + self._EVERY_S
        #: Closing the job would end its limits: it is kept as long as the child is watched.
        self._job = None
        if sys.platform == "win32":
            from TransferSegLib.windows_job import limited_job

            self._job = limited_job(process, limits.memory_bytes + _MODULES_BYTES, limits.processor_s)

    def takes_too_much(self) -> bool:
        """Return whether the child takes more memory than it may; asks the system twice a second at most."""
        if not self._watch or time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._EVERY_S
        return resident_bytes(self._process.pid) > self._limits.memory_bytes + _MODULES_BYTES


def resident_bytes(process_id: int) -> int:
    """Return the memory that a session leader and its children take, by ``ps``; 0 where that fails."""
    try:
        listing = subprocess.run(  # noqa: S603 - fixed arguments
            ["ps", "-o", "rss=", "-g", str(process_id)],  # noqa: S607 - its place differs between systems
            capture_output=True,
            check=False,
            timeout=10,
        )
        return 1024 * sum(int(line) for line in listing.stdout.split())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0
