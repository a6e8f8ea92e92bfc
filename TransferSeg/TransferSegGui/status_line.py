"""Lines of text that take no room while they are empty, and several activities in one label, a line for each."""

from __future__ import annotations

from dataclasses import dataclass


def say(label, text: str) -> None:
    """Show a text in a label; an empty one hides the label, which would leave a gap."""
    label.text = text
    label.setVisible(bool(text))


@dataclass(frozen=True)
class _Line:
    """What an activity says; ``lasts``: until it says something else, whatever the user does meanwhile."""

    text: str
    lasts: bool


class StatusLines:
    """Lets activities that go on side by side share a label: none overwrites what another one says.

    Work under way and errors last until the same activity says something else. All other lines make room when the user
    does the next thing.

    >>> lines.say("save", "Saving ...", lasts=True)    # the user clicked
    >>> lines.say("scans", "'scan 2' is next.")        # the user clicked again: both lines are shown
    >>> lines.report("save", "scan 1 is saved.")       # something ended: no other line goes away
    """

    def __init__(self, label) -> None:
        """Begin with no line."""
        self._label = label
        self._lines: dict[str, _Line] = {}
        self._show()

    def say(self, activity: str, text: str, lasts: bool = False) -> None:
        """Show what came of something that the user did; lines that have served go."""
        self._lines = {name: line for name, line in self._lines.items() if line.lasts}
        self.report(activity, text, lasts)

    def report(self, activity: str, text: str, lasts: bool = False) -> None:
        """Show what an activity in the background says, below the lines that are there; empty: nothing any more."""
        self._lines.pop(activity, None)
        if text:
            self._lines[activity] = _Line(text, lasts)
        self._show()

    def has(self, activity: str) -> bool:
        """Return whether an activity has a line."""
        return activity in self._lines

    def clear(self) -> None:
        """Take all lines away: they are about something else."""
        self._lines.clear()
        self._show()

    def _show(self) -> None:
        say(self._label, "\n".join(line.text for line in self._lines.values()))


def reveal(widget) -> None:
    """Scroll the panel, in which sections may just have been opened, to a widget."""
    area = widget.parentWidget()
    while area is not None and not area.inherits("QScrollArea"):
        area = area.parentWidget()
    if area is not None:
        area.widget().layout().activate()
        area.ensureWidgetVisible(widget)
