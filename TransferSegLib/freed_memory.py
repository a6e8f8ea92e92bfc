"""Keeping freed memory for the next step of a training, or the next window of a scan.

Each needs the same large blocks as the one before: with 117 structures, one map of logits of 64 x 64 x 64 voxels has
124 MB. By default glibc returns such blocks to the system and gets them back page by page, which takes longer than
computing with them.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import cast

#: glibc's names of the settings, and the values: blocks of up to 256 MB are kept for later, 2 GB in all.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK_BYTES, _MOST_KEPT_BYTES = 1 << 28, (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next blocks; return whether its C library does so (glibc)."""
    set_option = _of_glibc("mallopt")
    values = ((_M_MMAP_THRESHOLD, _LARGEST_BLOCK_BYTES), (_M_TRIM_THRESHOLD, _MOST_KEPT_BYTES))
    return set_option is not None and all(set_option(option, value) == 1 for option, value in values)


def return_freed_memory() -> None:
    """Give what this process keeps back to the system, where it can (glibc)."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _of_glibc(name: str) -> Callable[..., int] | None:
    """Return a function of glibc, None with another C library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return cast("Callable[..., int]", getattr(ctypes.CDLL(None), name))
    except (OSError, AttributeError):  # e.g. musl
        return None
