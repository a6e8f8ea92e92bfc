"""Reading JSON that anybody may have written: bounded in size, depth and numbers, and text that can be written again.

``json.loads`` alone accepts Infinity, halves of surrogate pairs and numbers that no float holds, which fail much later,
and fails in three different ways for others. Here everything that is not plain JSON is one ValueError.
"""

from __future__ import annotations

import json
import math
import re
import stat
from pathlib import Path
from typing import Any

#: Larger than any file of ours: a project of a thousand cases has about one megabyte.
LARGEST_BYTES = 64 * 2**20
#: More nesting than any file of ours has.
DEEPEST = 100
#: More than any whole number of ours has, and few enough that a float holds it.
_MOST_DIGITS = 300
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse(text: bytes | str, surrogates: bool = False) -> Any:
    """Return the value of a JSON text (bytes: UTF-8, with or without a mark); raises ValueError with the reason.

    With ``surrogates`` texts may hold lone surrogates, which is how Python keeps file names that are no valid text.
    """
    if len(text) > LARGEST_BYTES:
        raise ValueError(f"it is larger than {LARGEST_BYTES // 2**20} MB")
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    _check_depth(text)
    try:
        value = json.loads(text, parse_constant=_refuse, parse_int=_whole_number, parse_float=_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not surrogates and _SURROGATE.search(text) and _has_surrogate(value):
        raise ValueError("it holds half of a surrogate pair, which is no text")
    return value


def read(path: Path, surrogates: bool = False, largest_bytes: int = LARGEST_BYTES) -> Any:
    """Return the value in a JSON file; raises OSError, and ValueError with the reason, as ``parse`` does."""
    return parse(read_bounded(path, largest_bytes), surrogates)


def read_bounded(path: Path, largest_bytes: int = LARGEST_BYTES) -> bytes:
    """Return a file's content; raises OSError, and ValueError for one that is too large, or no file (a pipe waits)."""
    if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
        raise ValueError("it is no file but a pipe or a device")
    with path.open("rb") as stream:
        content = stream.read(largest_bytes + 1)
    if len(content) > largest_bytes:
        raise ValueError(f"it is larger than {largest_bytes:,} bytes")
    return content


def _check_depth(text: str) -> None:
    """Raise ValueError for brackets nested more deeply than any file of ours has them."""
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")


def _has_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not a number")


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)


def _number(text: str) -> float:
    value = float(text) if len(text) <= 400 else math.inf
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a number that can be used")
    return value
