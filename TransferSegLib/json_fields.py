"""Values of JSON files with their kinds: a missing or wrong one is an error that names it.

>>> json_field(entry, "width", int, error=ModelError)
ModelError: The entry 'width' must be a whole number, not '16'.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from TransferSegLib import safe_json
from TransferSegLib.errors import TransferSegError

_WORDS: dict[Any, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "a set of named entries",
    list: "a list",
    None: "null",
}
#: What reading a value of an unexpected kind raises.
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def json_field(entry: Any, name: str, *kinds: type | None, error: type[TransferSegError]) -> Any:
    """Return an entry of a JSON object, which is of one of these kinds, as ``checked`` takes them."""
    if not isinstance(entry, Mapping) or name not in entry:
        raise error(f"The entry '{name}' is missing.")
    return checked(entry[name], f"The entry '{name}'", *kinds, error=error)


def checked(value: Any, what: str, *kinds: type | None, error: type[TransferSegError]) -> Any:
    """Return a value; raises an error unless it is of one of these kinds.

    They are str, bool, int, float (whole numbers, too), dict, list, or None for null.
    """
    if not any(_is(value, kind) for kind in kinds):
        raise error(f"{what} must be {' or '.join(_WORDS[kind] for kind in kinds)}, not {short(value)}.")
    return value


def whole(value: Any, what: str, smallest: int, largest: int | None = None, *, error: type[TransferSegError]) -> int:
    """Return a whole number; raises an error unless it is one in this range (``largest`` None: no upper end)."""
    number = int(checked(value, what, int, error=error))
    if number < smallest or (largest is not None and number > largest):
        upper = f"{smallest} or more" if largest is None else f"from {smallest} to {largest}"
        raise error(f"{what} is {number}; it must be {upper}.")
    return number


def names(value: Any, what: str, *, error: type[TransferSegError]) -> tuple[str, ...]:
    """Return a list of texts as a tuple; raises an error for anything else."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise error(f"{what} must be a list of names, not {short(value)}.")
    return tuple(value)


def short(value: Any, most: int = 60) -> str:
    """Return a value, or an error, as it is shown in a message."""
    shown = str(value) if isinstance(value, Exception) else repr(value)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def read_json(path: Path, error: type[TransferSegError], missing: str = "") -> Any:
    """Return the content of a JSON file; raises an error that names the file, or says what is ``missing``."""
    try:
        return safe_json.read(path)
    except OSError as problem:
        if missing and isinstance(problem, FileNotFoundError):
            raise error(missing) from problem
        raise error(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path} is not a text file in UTF-8.") from problem
    except ValueError as problem:
        raise error(f"{path} is not valid JSON: {problem}.") from problem


@contextmanager
def damage_as(error: type[TransferSegError], what: str) -> Iterator[None]:
    """Raise an error for whatever reading values of unexpected kinds raises; ``what``: 'The parameters are'."""
    try:
        yield
    except _DAMAGE as problem:
        raise error(f"{what} damaged ({type(problem).__name__}: {problem}).") from problem


def json_bytes(content: Any) -> bytes:
    """Return the content of a JSON file; raises TypeError and ValueError for what JSON does not know."""
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def _is(value: Any, kind: type | None) -> bool:
    """Tell whether a value is of a kind; to Python true is a whole number, and a whole number no float."""
    if kind is None or isinstance(value, bool):
        return value is None if kind is None else kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)
