"""Lines of text that take no room while they are empty."""

from __future__ import annotations


def say(label, text: str) -> None:
    """Show a text in a label; an empty one hides the label, which would leave a gap."""
    label.text = text
    label.setVisible(bool(text))
