"""The next scan of a folder, segmented in the background while the present one is corrected: one scan ahead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import slicer

from TransferSegGui.next_scan import loadScan
from TransferSegGui.segment_process import SegmentProcess


class ScanAhead:
    """Loads a scan without showing it, and segments it.

    ``makeRun`` makes the run for a volume, None when nothing can be segmented now; ``arrived`` gets the volume and its
    segmentation, which is hidden, when the run has ended well.
    """

    def __init__(self, makeRun: Callable[[object], SegmentProcess | None], arrived: Callable) -> None:
        """Begin with no scan."""
        self._makeRun, self._arrived = makeRun, arrived
        self._run: SegmentProcess | None = None
        self._volume = None
        self._made: SegmentProcess | None = None
        #: Gets a run that has failed, and its volume.
        self.failed: Callable[[SegmentProcess, object], None] = lambda run, volume: None

    @property
    def isRunning(self) -> bool:
        """Whether a scan is being segmented."""
        return self._run is not None

    def begin(self, file: Path) -> None:
        """Load and segment a scan; raises RuntimeError when that cannot be begun. Of one that is there nothing is done.

        A run for another scan is given up.
        """
        volume = loadScan(file, show=False)
        if volume is self._volume and (self.isRunning or self._isThere()):
            return
        self.stop()
        run = self._makeRun(volume)
        if run is None:
            return
        run.onEnd = self._onEnd
        run.start()
        self._run, self._volume = run, volume

    def isFor(self, volume) -> bool:
        """Return whether a volume is being segmented ahead."""
        return self.isRunning and volume is self._volume

    def follow(self, onProgress: Callable[[float | None, float | None, str], None]) -> None:
        """Report how far the run is: the user is waiting for it."""
        if self._run is not None:
            self._run.onProgress = onProgress

    def take(self, volume):
        """Return the run that has segmented a volume, None when there is none (yet); it is handed out once."""
        if volume is not self._volume or not self._isThere():
            return None
        made, self._made, self._volume = self._made, None, None
        return made

    def stop(self) -> None:
        """Give up what is being segmented."""
        if self._run is not None:
            run, self._run = self._run, None
            run.onEnd = lambda run: None
            run.stop()
        self._volume = self._made = None

    def _onEnd(self, run: SegmentProcess) -> None:
        self._run, node = None, run.segmentationNode
        if node is None:
            volume, self._volume = self._volume, None
            self.failed(run, volume)
            return
        if node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility(False)  # it is not of the scan that is shown
        self._made = run
        self._arrived(self._volume)

    def _isThere(self) -> bool:
        return self._made is not None and slicer.mrmlScene.IsNodePresent(self._made.segmentationNode)
