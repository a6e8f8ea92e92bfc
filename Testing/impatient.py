"""A request to stop that comes at a given look: what the tests of stopping share."""

from __future__ import annotations

from TransferSegLib.progress import CancelToken


class Impatient(CancelToken):
    """Is set at the n-th look, and counts the looks."""

    def __init__(self, at: int = 10**9) -> None:
        super().__init__()
        self.at, self.looks = at, 0

    def check(self) -> None:
        self.looks += 1
        if self.looks >= self.at:
            self.cancel()
        super().check()
