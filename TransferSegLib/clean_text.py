"""Output in which nothing from outside can steer a terminal: escapes and other control characters are shown as text.

Server answers, names of files, texts of headers and of JSON files end up in messages. They are cleaned in one place,
where the command line and the workers of jobs write, and not at every message.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

#: Control characters but for tab and line feed, and those that turn the direction of a line.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    r"""Return a text with its control characters as escapes that JSON knows, too.

    >>> clean("a\x1b[2J")
    'a\\u001b[2J'
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class CleanStream:
    """A text stream that writes cleaned text to another one, and is that one in everything else.

    A carriage return at the beginning or end of what is written stays: with it a progress bar is drawn over itself.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to a stream."""
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text and return its length."""
        inner = text.strip("\r")
        if not inner:
            self.stream.write(text)
        else:
            begin = text[: len(text) - len(text.lstrip("\r"))]
            end = text[len(text.rstrip("\r")) :]
            self.stream.write(begin + clean(inner.replace("\r\n", "\n")) + end)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Return what the other stream has under that name."""
        return getattr(self.stream, name)


@contextmanager
def clean_output() -> Iterator[None]:
    """Clean what is printed to standard output and standard error in a ``with`` block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_cleaned(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _cleaned(stream: TextIO) -> TextIO:
    """Return a stream that cleans; None (no output at all) and one that cleans already stay."""
    return stream if stream is None or isinstance(stream, CleanStream) else cast(TextIO, CleanStream(stream))
