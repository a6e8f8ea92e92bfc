"""The section "More models": fetching from the catalogue, importing a file, writing one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ctk
import qt
from slicer.i18n import tr as _

from TransferSegGui.button_state import enable
from TransferSegGui.command_process import CommandProcess, runCommand
from TransferSegGui.duration import durationText
from TransferSegGui.job_process import JobProcess, runningJobs
from TransferSegGui.model_choices import ModelChoice, libraryKey
from TransferSegGui.model_words import entryDetails, entryToolTip
from TransferSegGui.package_install import h5pyIsInstalled, installH5py
from TransferSegGui.status_line import say
from TransferSegLib.errors import JobError, ModelError
from TransferSegLib.jobs.fetch_job import FetchParameters
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.models.catalogue import CatalogueEntry
from TransferSegLib.models.locate import catalogue, library_models, library_names

#: Files that h5py reads.
_KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")


class ModelFiles:
    """Wires the widgets that bring models here and take them away.

    ``onAdded`` is called with the key of a model that has come into the library, ``onStatus`` with lines for the user.
    Fetching is a job, which keeps running when Slicer is closed; import and export are processes in the background.
    """

    def __init__(self, ui) -> None:
        """Connect the widgets."""
        self.ui = ui
        self.onAdded: Callable[[str], None] = lambda key: None
        self.onStatus: Callable[[str], None] = lambda text: None
        self._entries: list[CatalogueEntry] = []
        self._sizesKnown: set[str] = set()
        self._choice: ModelChoice | None = None
        self._job: JobProcess | None = None
        self._command: CommandProcess | None = None
        self._h5pyInstalled = h5pyIsInstalled()
        say(ui.fetchDetailsLabel, "")
        ui.fetchModelComboBox.connect("currentIndexChanged(int)", self._onEntryChosen)
        ui.fetchModelButton.connect("clicked(bool)", self._onFetch)
        ui.cancelFetchButton.connect("clicked(bool)", self._onCancelFetch)
        ui.importFolderPathLineEdit.filters = ctk.ctkPathLineEdit.Dirs  # or its button would ask for a file
        ui.importModelPathLineEdit.connect("currentPathChanged(QString)", self._updateButtons)
        ui.importModelButton.connect("clicked(bool)", lambda: self._import(ui.importModelPathLineEdit))
        ui.importFolderPathLineEdit.connect("currentPathChanged(QString)", self._updateButtons)
        ui.importFolderButton.connect("clicked(bool)", lambda: self._import(ui.importFolderPathLineEdit))
        ui.exportModelPathLineEdit.connect("currentPathChanged(QString)", self._updateButtons)
        ui.exportModelButton.connect("clicked(bool)", self._onExport)
        ui.installH5pyButton.connect("clicked(bool)", self._onInstallH5py)

    def refresh(self) -> None:
        """Look again for what can be fetched, for h5py, and for a download that is still running."""
        try:
            known, here = catalogue(), library_names()
            entries = [entry for entry in known.offered if entry.name.casefold() not in here]
            self._sizesKnown = {entry.name for entry in entries if known.has_known_size(entry)}
        except ModelError as error:
            entries = []
            self.onStatus(str(error))
        if entries != self._entries:
            self._entries = entries
            self.ui.fetchModelComboBox.clear()
            for entry in entries:
                self.ui.fetchModelComboBox.addItem(entry.name)
        self._h5pyInstalled = h5pyIsInstalled()
        if self._job is None:
            running = runningJobs("fetch-model")
            if running:
                self._attach(running[0])
                self._job.follow()
        self._updateButtons()

    def show(self, choice: ModelChoice | None) -> None:
        """Know which model is chosen: it is the one that is written to a file."""
        self._choice = choice
        self._updateButtons()

    def stop(self) -> None:
        """Stop following: a download keeps running; import and export are short."""
        if self._job is not None:
            self._job.leave()
            self._job = None

    # What can be done now

    def _onEntryChosen(self) -> None:
        entry = self._entry()
        say(self.ui.fetchDetailsLabel, "" if entry is None else entryDetails(entry, entry.name in self._sizesKnown))
        self.ui.fetchDetailsLabel.toolTip = "" if entry is None else entryToolTip(entry)
        self._updateButtons()

    def _entry(self) -> CatalogueEntry | None:
        index = self.ui.fetchModelComboBox.currentIndex
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def _fetchObstacle(self) -> str:
        entry = self._entry()
        if self._job is not None:
            return _("A model is being fetched.")
        if entry is None:
            return _("All models of the catalogue are in your library.")
        return self._kerasObstacle(entry.download is not None and entry.download.kind == "keras")

    def _importObstacle(self, path: str, missing: str) -> str:
        if not path:
            return missing
        return self._commandObstacle() or self._kerasObstacle(Path(path).suffix.lower() in _KERAS_SUFFIXES)

    def _exportObstacle(self) -> str:
        path = self.ui.exportModelPathLineEdit.currentPath
        if self._choice is not None and self._choice.isCombination:
            return _("This is a combination of models: choose one of them.")
        if self._choice is None or not self._choice.isWhole:
            return _("Choose a model that is not damaged.")
        if not path:
            return _("Choose the file to write.")
        if Path(path).exists():
            return _("The file {path} exists already: choose another name.").format(path=path)
        return self._commandObstacle()

    def _kerasObstacle(self, isKeras: bool) -> str:
        if isKeras and not self._h5pyInstalled:
            return _("These are Keras weights, which need the Python package h5py: install it with the button below.")
        return ""

    def _commandObstacle(self) -> str:
        return _("A model is being imported or written.") if self._command is not None else ""

    def _updateButtons(self) -> None:
        for button, obstacle, text in (
            (self.ui.fetchModelButton, self._fetchObstacle(), _("Download the model into your library and verify it")),
            (
                self.ui.importModelButton,
                self._importObstacle(self.ui.importModelPathLineEdit.currentPath, _("Choose a file first.")),
                _("Copy the model into your library and verify it"),
            ),
            (
                self.ui.importFolderButton,
                self._importObstacle(self.ui.importFolderPathLineEdit.currentPath, _("Choose a folder first.")),
                _("Copy the model into your library and verify it"),
            ),
            (
                self.ui.exportModelButton,
                self._exportObstacle(),
                _("Write the selected model to the file, for example to use it on another computer"),
            ),
        ):
            enable(button, obstacle, text)
        isFetching = self._job is not None
        self.ui.fetchModelComboBox.enabled = not isFetching
        stop = _("Stop the download. The part that was already downloaded is kept for the next attempt.")
        enable(self.ui.cancelFetchButton, "" if isFetching else _("Nothing is being fetched."), stop)
        self.ui.fetchProgressBar.setVisible(isFetching or self._command is not None)
        self.ui.h5pyLabel.setVisible(not self._h5pyInstalled)
        self.ui.installH5pyButton.setVisible(not self._h5pyInstalled)

    # Fetching

    def _onFetch(self) -> None:
        entry = self._entry()
        title = _("fetch {name}").format(name=entry.name)
        try:
            job = JobProcess.create(JobRequest("fetch-model", FetchParameters(entry.name).to_json(), "cpu", title))
        except JobError as error:
            self.onStatus(str(error))
            return
        self._attach(job)
        self.onStatus(_("Starting ..."))
        self._updateButtons()
        job.start()

    def _attach(self, job: JobProcess) -> None:
        self._job = job
        job.onProgress, job.onEnd = self._onProgress, self._onFetched
        self.ui.fetchProgressBar.setRange(0, 0)

    def _onCancelFetch(self) -> None:
        self.onStatus(_("Stopping ..."))
        self._job.cancel()

    def _onProgress(self, fraction: float | None, secondsLeft: float | None, message: str) -> None:
        name = self._job.request.parameters.get("name", "")
        text = _("Fetching {name}").format(name=name)
        if fraction is not None:
            self.ui.fetchProgressBar.setRange(0, 1000)
            self.ui.fetchProgressBar.setValue(round(1000 * fraction))
            text += f": {100 * fraction:.0f} %"
        if secondsLeft is not None:
            text += _(", {left} left").format(left=durationText(secondsLeft))
        self.onStatus(text)

    def _onFetched(self, job: JobProcess) -> None:
        self._job = None
        if job.error:
            self.onStatus(_("Not fetched: {reason}").format(reason=job.error))
            self._updateButtons()
            return
        self.onStatus(_("'{name}' is in your library.").format(name=job.result["model"]))
        self.refresh()
        self.onAdded(libraryKey(Path(job.result["path"])))

    # Files

    def _import(self, pathLineEdit) -> None:
        """Read a file or folder in a process in the background and put what it holds into the library."""
        pathLineEdit.addCurrentPathToHistory()
        before = self._libraryNames()
        path = pathLineEdit.currentPath

        def onEnd(command: CommandProcess) -> None:
            self._finish(command, _("Not imported: {reason}"))
            if not command.error:
                new = sorted(self._libraryNames() - before)
                pathLineEdit.setCurrentPath("")
                self.refresh()
                self.onAdded(libraryKey(Path(new[0])) if new else "")

        self._run(["models", "import", path], _("Importing ..."), onEnd)

    def _onExport(self) -> None:
        path = self.ui.exportModelPathLineEdit.currentPath
        path = path if path.lower().endswith(".zip") else f"{path}.zip"
        args = ["models", "export", str(self._choice.path), path]
        self._run(args, _("Writing ..."), lambda command: self._finish(command, _("Not written: {reason}")))

    def _run(self, args: list[str], text: str, onEnd: Callable[[CommandProcess], None]) -> None:
        self.ui.fetchProgressBar.setRange(0, 0)
        self.onStatus(text)
        self._command = runCommand(args, onEnd)
        self._updateButtons()

    def _finish(self, command: CommandProcess, failed: str) -> None:
        self._command = None
        self.onStatus(failed.format(reason=command.error) if command.error else command.output.strip())
        self._updateButtons()

    def _libraryNames(self) -> set[str]:
        try:
            return {path.name for path in library_models()}
        except ModelError:
            return set()

    def _onInstallH5py(self) -> None:
        """Install h5py: pressing the button is what the user says to it."""
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            problem = installH5py()
        finally:
            qt.QApplication.restoreOverrideCursor()
        self._h5pyInstalled = h5pyIsInstalled()
        self.onStatus(problem or _("h5py is installed."))
        self._updateButtons()
