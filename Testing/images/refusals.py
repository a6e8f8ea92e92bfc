"""How a file is refused: one line that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from TransferSegLib.errors import ScanError


def refusal(read: Callable[..., object], path: Path, *args: object) -> str:
    """Return the message of the ScanError that reading a file raises."""
    with pytest.raises(ScanError) as caught:
        read(path, *args)
    message = str(caught.value)
    assert path.name.split(".")[0] in message and "\n" not in message
    return message
