"""In which order the scans of a folder are corrected: that of a ranking, else that of the names of the files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from slicer.i18n import tr as _

from TransferSegGui.model_choices import MODEL, ModelChoice
from TransferSegGui.next_scan import SCAN_ATTRIBUTE, SCAN_FOLDER, nextFile, remainingFiles
from TransferSegGui.project_choice import projectFolder
from TransferSegLib.corrections.kept_order import KeptOrder, kept_order, mark, model_checksum
from TransferSegLib.errors import ModelError
from TransferSegLib.models.locate import find_model


class ScanOrder:
    """Finds the next scan of the folder that the parameter node names.

    A ranking counts while it is of the chosen model and all scans that are to be corrected are in it. ``chosenModel``
    returns the model that is chosen; ``changed`` is called when another order may be in use.
    """

    def __init__(self, chosenModel: Callable[[], ModelChoice | None]) -> None:
        """Begin without a folder."""
        self.chosenModel = chosenModel
        self.changed: Callable[[], None] = lambda: None
        self._parameterNode = None
        self._followed: tuple | None = None
        self._kept: KeptOrder | None = None
        self._ranking: KeptOrder | None = None
        self._problem = ""
        #: The scans that were shown in the order of the ranking, since it is in use.
        self._shown: set[str] = set()
        #: Marks of the files that cannot be read.
        self._unreadable: set[str] = set()

    @property
    def folder(self) -> Path | None:
        """The folder with the scans, None for none."""
        text = "" if self._parameterNode is None else self._parameterNode.GetParameter(SCAN_FOLDER)
        try:
            return Path(text).expanduser() if text else None
        except RuntimeError:  # "~name" of an unknown user is no folder
            return Path(text)

    @property
    def project(self) -> Path | None:
        """The project that the scans are corrected for, None for none."""
        return projectFolder(self._parameterNode)

    def follow(self, parameterNode) -> None:
        """Follow a parameter node (None for none): look again when it names something else."""
        self._parameterNode = parameterNode
        model = "" if parameterNode is None else parameterNode.GetParameter(MODEL)
        followed = (self.folder, self.project, model)
        if followed != self._followed:
            self._followed = followed
            self.look()

    def look(self) -> None:
        """See whether there is a ranking that can be used: of the folder, or of the models, something may be new."""
        before, self._ranking, self._problem = self._kept, None, ""
        folder = self.folder
        self._kept = None if folder is None else kept_order(folder, self.project)
        if self._kept != before:
            self._shown = set()
        if self._kept is not None:
            self._problem = self._outOfDate(folder)
            self._ranking = None if self._problem else self._kept
        self.changed()

    def _outOfDate(self, folder: Path) -> str:
        """Return why the ranking that was kept does not count any more, empty when it does."""
        choice = self.chosenModel()
        try:
            if choice is None or model_checksum(find_model(str(choice.path))) != self._kept.model:
                return _("the ranking is of another model")
            count = self._kept.unranked(remainingFiles(folder, self.project))
        except (ModelError, OSError) as error:
            return str(error)
        if count == 0:
            return ""
        return (
            _("1 scan is not ranked yet") if count == 1 else _("{count} scans are not ranked yet").format(count=count)
        )

    def text(self) -> str:
        """Return a line on the order that is in use, empty without a folder."""
        if self.folder is None:
            return ""
        if self._ranking is not None:
            return _("Most doubtful and unusual first, by {model}.").format(model=self.chosenModel().text)
        if self._problem:
            return _("In the order of the file names: {reason}.").format(reason=self._problem.rstrip("."))
        return _("In the order of the file names.")

    def remaining(self) -> list[Path]:
        """Return the scans of the folder that are still to be corrected, in their order; raises OSError."""
        files = [each for each in remainingFiles(self.folder, self.project) if not self._isUnreadable(each)]
        return files if self._ranking is None else self._ranking.sorted(files)

    def next(self, currentVolume) -> Path | None:
        """Return the scan after the current volume, None when there is no other; raises OSError.

        By a ranking it is the first that was not shown yet; after the last one it is the first again.
        """
        if self._ranking is None:
            return nextFile(self.folder, self.remaining(), currentVolume)
        current = None if currentVolume is None else currentVolume.GetAttribute(SCAN_ATTRIBUTE)
        others = [each for each in self.remaining() if os.fspath(each) != current]
        return next((each for each in others if os.fspath(each) not in self._shown), next(iter(others), None))

    def leaveOut(self, file: Path) -> None:
        """Go past a file that cannot be read, until it is another one."""
        self._unreadable.add(mark(file))

    def _isUnreadable(self, file: Path) -> bool:
        return bool(self._unreadable) and mark(file) in self._unreadable

    def shown(self, volume) -> None:
        """Note that a volume was shown as the next scan."""
        file = volume.GetAttribute(SCAN_ATTRIBUTE)
        self._shown = {file} if file in self._shown else {*self._shown, file}
