"""How the C library gives memory to training steps.

A step needs the same large blocks as the step before: with 117 structures, one map of logits of 64 x 64 x 64 voxels
has 124 MB. By default glibc returns such blocks to the system and gets them back page by page, which takes longer than
computing with them.
"""

from __future__ import annotations

import ctypes
import sys

#: glibc's names of the settings, and the values: blocks of up to 256 MB are kept for later, 2 GB in all.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK_BYTES, _MOST_KEPT_BYTES = 1 << 28, (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next blocks; return whether its C library does so (glibc)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, e.g. musl
        return False
    values = ((_M_MMAP_THRESHOLD, _LARGEST_BLOCK_BYTES), (_M_TRIM_THRESHOLD, _MOST_KEPT_BYTES))
    return all(set_option(option, value) == 1 for option, value in values)
