"""Durations for a person."""

from __future__ import annotations

from slicer.i18n import tr as _


def durationText(seconds: float) -> str:
    """Return a duration, e.g. '8 s', '3 min 5 s' or '2 h 10 min'."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return _("{hours} h {minutes} min").format(hours=minutes // 60, minutes=minutes % 60)
    return _("{minutes} min {seconds} s").format(minutes=minutes, seconds=rest) if minutes else f"{rest} s"
