"""Which tests of bfloat16 run where.

Processors that do not multiply bfloat16 emulate it, many times slower, and ``choose_device`` never chooses it there.
A small test of each kind runs everywhere; the large ones, which take minutes there, only where bfloat16 is used.
"""

from __future__ import annotations

import pytest

from TransferSegLib.inference.devices import cpu_has_bfloat16

#: Marks a test, or one of its parameters, that takes long where bfloat16 is emulated.
large_in_bfloat16 = pytest.mark.skipif(
    not cpu_has_bfloat16(), reason="this processor emulates bfloat16, and TransferSeg does not choose it here"
)
