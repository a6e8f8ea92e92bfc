"""The line that says in which order "Next scan" goes through a folder, and the button that ranks its scans."""

from __future__ import annotations

from slicer.i18n import tr as _

from TransferSegGui.button_state import enable
from TransferSegGui.device_choice import chosenDevice
from TransferSegGui.duration import durationText, percentText
from TransferSegGui.next_scan import scanFiles
from TransferSegGui.package_install import torchIsInstalled
from TransferSegGui.rank_process import RankProcess
from TransferSegGui.scan_order import ScanOrder
from TransferSegGui.status_line import say


class RankWidgets:
    """Wires the line, the button, its progress and its Cancel button; they are hidden while no folder is chosen."""

    def __init__(self, ui, order: ScanOrder) -> None:
        """Connect the widgets of the .ui file; ``order`` is what the line tells of."""
        self.ui, self._order = ui, order
        self.running: RankProcess | None = None
        #: The folder and the project that it ranks for, and rankings of others that were cancelled and still end.
        self._of: tuple | None = None
        self._ending: list[RankProcess] = []
        self._parameterNode = None
        #: Shown in place of the order, until it is looked at again: how a ranking ended.
        self._outcome = ""
        order.changed = self._onOrder
        self.ui.rankButton.connect("clicked(bool)", self._onRank)
        self.ui.cancelRankButton.connect("clicked(bool)", self._onCancel)
        self.update()

    def refresh(self) -> None:
        """Look again: models, scans or cases may be new."""
        self._order.look()

    def setParameterNode(self, parameterNode) -> None:
        """Follow another parameter node, None while there is none."""
        self._parameterNode = parameterNode
        self._order.follow(parameterNode)
        self._cancelOfAnother()
        self.update()

    def updateFromParameterNode(self) -> None:
        """Show the order of what is chosen now."""
        self._order.follow(self._parameterNode)
        self._cancelOfAnother()

    def stop(self) -> None:
        """Stop what runs: the scene is closing."""
        for run in [*self._ending, self.running]:
            if run is not None:
                run.stop()

    def _cancelOfAnother(self) -> None:
        """Cancel a ranking of a folder, or for a project, that is not chosen any more; what it saw is kept."""
        run = self.running
        if run is None or self._of == (self._order.folder, self._order.project):
            return
        self.running, run.onProgress = None, lambda fraction, secondsLeft, message: None
        run.onEnd = self._ending.remove
        self._ending.append(run)
        run.cancel()
        self.update()

    def obstacle(self) -> str:
        """Return why the scans cannot be ranked now, empty when they can."""
        choice = self._order.chosenModel()
        if self.running is not None:
            return _("The scans are being ranked.")
        if choice is None:
            return _("Choose a model in the section 'Model'.")
        if choice.problem:
            return choice.problem
        if choice.isCombination:
            return _("Scans are ranked with one model: choose one that is no combination.")
        return "" if torchIsInstalled() else _("PyTorch is not installed yet.")

    def update(self) -> None:
        """Show the order, or how far the ranking is."""
        running, folder = self.running is not None, self._order.folder
        enable(
            self.ui.rankButton,
            self.obstacle(),
            _(
                "Look at all scans of the folder with the model, in the background. It takes as long as segmenting "
                "them, and less if they were looked at before."
            ),
        )
        self.ui.rankButton.setVisible(folder is not None and not running)
        self.ui.cancelRankButton.setVisible(running)
        self.ui.rankProgressBar.setVisible(running)
        if running:
            return
        say(self.ui.orderLabel, " ".join(filter(None, [self._outcome, self._order.text()])) if folder else "")
        self.ui.orderLabel.toolTip = _(
            "Doubtful: the model is unsure of much of what it finds. Unusual: unlike the scans that were corrected, "
            "and those before it. Whether a model learns more from these scans was not measured."
        )

    def _onOrder(self) -> None:
        self._outcome = ""
        self.update()

    def _onRank(self) -> None:
        folder, choice = self._order.folder, self._order.chosenModel()
        try:
            scans = scanFiles(folder)
            if not scans:
                raise RuntimeError(_("there is no scan in {folder}").format(folder=folder))
            device = chosenDevice(self._parameterNode)
            run = RankProcess(folder, scans, self._order.project, str(choice.path), device)
            run.onProgress, run.onEnd = self._onProgress, self._onEnd
            run.start()
        except (RuntimeError, OSError) as error:
            self._end(_("Not ranked: {reason}.").format(reason=str(error).rstrip(".")))
            return
        self.running, self._of = run, (folder, self._order.project)
        self.ui.rankProgressBar.setRange(0, 0)  # busy: reading the model takes a while
        say(self.ui.orderLabel, self._countText())
        self.update()

    def _countText(self) -> str:
        count = len(self.running.scans)
        return _("Ranking 1 scan ...") if count == 1 else _("Ranking {count} scans ...").format(count=count)

    def _onCancel(self) -> None:
        if self.running is not None:
            say(self.ui.orderLabel, _("Stopping ..."))
            self.running.cancel()

    def _onProgress(self, fraction: float | None, secondsLeft: float | None, message: str) -> None:
        if fraction is None or self.running is None or self.running.cancelled:
            return
        text = _("{ranking} {percent}").format(ranking=self._countText(), percent=percentText(fraction))
        if secondsLeft is not None:
            text = _("{progress}, {time} left").format(progress=text, time=durationText(secondsLeft))
        say(self.ui.orderLabel, text)
        self.ui.rankProgressBar.setRange(0, 1000)
        self.ui.rankProgressBar.setValue(round(1000 * fraction))

    def _onEnd(self, run: RankProcess) -> None:
        self.running = None
        if run.cancelled:
            self._end(_("Not ranked. Ranking again continues."))
        elif run.error:
            self._end(_("Not ranked: {reason}.").format(reason=run.error.rstrip(".")))
        else:
            self._end("")

    def _end(self, outcome: str) -> None:
        self._order.look()
        self._outcome = outcome
        self.update()
