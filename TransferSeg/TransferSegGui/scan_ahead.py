"""The next scan of a folder, segmented in the background while the present one is corrected: one scan ahead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import slicer

from TransferSegGui.next_scan import loadedScan, loadScan
from TransferSegGui.nodes import isUsed, removeNode
from TransferSegGui.segment_process import SegmentProcess
from TransferSegGui.untouched import UntouchedSegmentations


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
        #: Runs that were cancelled and still end.
        self._ending: list[SegmentProcess] = []
        #: What may be removed again: a volume that was loaded here and not shown yet, and a result as it was made.
        self._unseen = None
        self._untouched = UntouchedSegmentations()
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
        isLoaded = loadedScan(file) is not None
        volume = loadScan(file, show=False)
        if volume is self._volume and (self.isRunning or self._isThere()):
            return
        if volume is self._unseen:
            isLoaded, self._unseen = False, None  # loaded here before: it is not to be removed with the rest
        self.giveUp()
        self._unseen = None if isLoaded else volume
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
        self.seen(volume)
        return made

    def seen(self, volume) -> None:
        """Keep a volume whatever happens: the user sees it."""
        if volume is self._unseen:
            self._unseen = None

    def giveUp(self) -> None:
        """Cancel what is being segmented, and remove what nobody has seen yet; the run ends by itself."""
        run, made, volume = self._run, self._made, self._unseen
        self._run = self._made = self._volume = self._unseen = None
        if run is not None:
            run.onProgress = lambda fraction, secondsLeft, message: None
            run.onEnd = self._ending.remove
            self._ending.append(run)
            run.cancel()
        if made is not None:
            self._removeResult(made)
        if volume is not None and slicer.mrmlScene.IsNodePresent(volume) and not isUsed(volume):
            removeNode(volume)

    def _removeResult(self, made: SegmentProcess) -> None:
        """Remove a result that is still hidden and as it was made."""
        node, doubt = made.segmentationNode, made.doubtNode
        if node is None or not slicer.mrmlScene.IsNodePresent(node):
            return
        display = node.GetDisplayNode()
        isHidden = display is None or not display.GetVisibility()
        if not isHidden or isUsed(node) or not self._untouched.mayBeReplaced(node):
            return
        removeNode(node)
        if doubt is not None and slicer.mrmlScene.IsNodePresent(doubt) and not isUsed(doubt):
            removeNode(doubt)

    def stop(self) -> None:
        """End what is being segmented, and wait until it is gone: the scene is closing."""
        for run in [*self._ending, self._run]:
            if run is not None:
                run.onEnd = lambda run: None
                run.stop()
        self._ending.clear()
        self._run = self._made = self._volume = self._unseen = None

    def _onEnd(self, run: SegmentProcess) -> None:
        self._run, node = None, run.segmentationNode
        if node is None:
            volume, self._volume = self._volume, None
            self.failed(run, volume)
            return
        if node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility(False)  # it is not of the scan that is shown
        self._untouched.add(node)
        self._made = run
        self._arrived(self._volume)

    def _isThere(self) -> bool:
        return self._made is not None and slicer.mrmlScene.IsNodePresent(self._made.segmentationNode)
