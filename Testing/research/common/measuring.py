"""Command lines of the benchmarks, and what they read of the process: its peak memory, its processor time."""

from __future__ import annotations

import argparse
import sys


def command_line(text: str | None, *, threads: int | None = None, device: bool = False) -> argparse.ArgumentParser:
    """Return a parser that prints a benchmark's own text as help; with the options that many of them share."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    if threads is not None:
        parser.add_argument("--threads", type=int, default=threads, help=f"threads of torch (default: {threads})")
    if device:
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: auto)")
    return parser


def peak_memory_bytes() -> float:
    """Return the largest resident set of this process so far (Linux, macOS)."""
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def processor_seconds() -> float:
    """Return the processor seconds of this process and of the children that have ended (Linux, macOS)."""
    import resource

    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
