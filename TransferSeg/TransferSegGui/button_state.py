"""Enabling buttons: one that is disabled gives the reason in its tooltip."""

from __future__ import annotations


def enable(button, obstacle: str, toolTip: str) -> None:
    """Enable a button unless there is an obstacle, which is then its tooltip."""
    button.enabled = not obstacle
    button.toolTip = obstacle or toolTip
