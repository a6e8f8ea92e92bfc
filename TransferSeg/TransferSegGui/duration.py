"""Durations and shares for a person."""

from __future__ import annotations

from slicer.i18n import tr as _


def percentText(share: float) -> str:
    """Return a share of 0 to 1 in whole percents, rounded down as by the progress bar beside it."""
    return _("{percent} %").format(percent=round(1000 * share) // 10)


def durationText(seconds: float) -> str:
    """Return a duration, e.g. '8 s', '3 min 5 s' or '2 h 10 min'."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return _("{hours} h {minutes} min").format(hours=minutes // 60, minutes=minutes % 60)
    return (
        _("{minutes} min {seconds} s").format(minutes=minutes, seconds=rest)
        if minutes
        else _("{seconds} s").format(seconds=rest)
    )


def roundText(seconds: float) -> str:
    """Return an estimated duration, without a precision that it does not have: '40 s', '9 min', '2 h 10 min'."""
    if seconds < 90:
        return _("{seconds} s").format(seconds=10 * max(1, round(seconds / 10)))
    minutes = round(seconds / 60)
    if minutes < 60:
        return _("{minutes} min").format(minutes=minutes)
    return durationText(600 * round(seconds / 600))
