"""How much memory segmenting may take by default."""

from __future__ import annotations

from TransferSegLib.computer_memory import physical_memory_bytes

#: More than this makes tiles hardly larger.
_MOST_GB = 6.0
#: The share of the computer's memory that is taken at most, and what is assumed where its size is not known.
_SHARE = 0.5
_UNKNOWN_GB = 8.0


def default_memory_gb() -> float:
    """Return 6 GB, or half of the computer's memory where that is less."""
    physical = physical_memory_bytes()
    return min(_MOST_GB, _SHARE * (_UNKNOWN_GB if physical is None else physical / 1e9))
