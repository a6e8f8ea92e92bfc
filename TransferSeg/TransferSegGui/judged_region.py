"""How much of a scan was looked at: all of it, some slices, or a box. Nothing is learned from the rest."""

from __future__ import annotations

from slicer.i18n import tr as _

from TransferSegGui.judged_mask import (
    BOX_ROLE,
    FILE_ATTRIBUTE,
    JUDGED_ALL,
    JUDGED_BOX,
    JUDGED_SAVED,
    JUDGED_SLICES,
    SLICES_ATTRIBUTE,
    boxAround,
    judgedKind,
    setJudged,
    shownSlice,
    slicesText,
    withSlice,
)
from TransferSegLib.corrections.inputs import JudgedSlices
from TransferSegLib.errors import DatasetError


class JudgedRegion:
    """Wires the widgets of "Looked at" to a segmentation node; ``changed`` is called when the region changes."""

    def __init__(self, ui) -> None:
        """Connect the widgets of the .ui file."""
        self.changed = lambda: None
        self.ui = ui
        self.problem = ""
        self._segmentation, self._volume = None, None
        self._updating = False
        self._kinds = [JUDGED_ALL, JUDGED_SLICES, JUDGED_BOX, JUDGED_SAVED]
        for text in (_("The whole scan"), _("Marked slices"), _("A box"), _("The region saved with the case")):
            self.ui.judgedComboBox.addItem(text)
        self._views = ["Red", "Yellow", "Green"]
        for text in (_("Red view"), _("Yellow view"), _("Green view")):
            self.ui.judgedViewComboBox.addItem(text)
        self.ui.judgedComboBox.connect("currentIndexChanged(int)", self._onKind)
        self.ui.judgedSlicesLineEdit.connect("editingFinished()", self._onSlicesTyped)
        self.ui.judgedRoiSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onBox)
        self.ui.markJudgedButton.connect("clicked(bool)", self._onMark)
        self.ui.clearJudgedButton.connect("clicked(bool)", self._onClear)

    def show(self, segmentationNode, volumeNode) -> None:
        """Show the region of a segmentation (None: none) of a volume."""
        if segmentationNode is not self._segmentation or volumeNode is not self._volume:
            self.problem = ""
        self._segmentation, self._volume = segmentationNode, volumeNode
        self._update()

    def obstacle(self) -> str:
        """Return why the region cannot be saved, empty when it can."""
        if self._segmentation is None or self._volume is None:
            return ""
        kind = judgedKind(self._segmentation)
        if self.problem:
            return self.problem
        if kind == JUDGED_SLICES and not self._segmentation.GetAttribute(SLICES_ATTRIBUTE):
            return _("Mark the slices that you looked at, or choose the whole scan.")
        if kind == JUDGED_BOX and self._segmentation.GetNodeReference(BOX_ROLE) is None:
            return _("Choose the box that you looked at, or the whole scan.")
        return ""

    def _update(self) -> None:
        """Show what the node says."""
        node, kind = self._segmentation, judgedKind(self._segmentation)
        slices, box = kind == JUDGED_SLICES, kind == JUDGED_BOX
        self._updating = True
        self.ui.judgedComboBox.enabled = node is not None
        self.ui.judgedComboBox.setCurrentIndex(self._kinds.index(kind))
        for widget in (self.ui.judgedViewComboBox, self.ui.judgedSlicesLineEdit):
            widget.setVisible(slices)
        self.ui.judgedRoiSelector.setVisible(box)
        for button in (self.ui.markJudgedButton, self.ui.clearJudgedButton):
            button.setVisible(slices or box)
            button.enabled = slices or box
        self.ui.markJudgedButton.text = _("Mark the slice shown") if slices else _("Box around what is segmented")
        self.ui.judgedSlicesLineEdit.text = (node.GetAttribute(SLICES_ATTRIBUTE) or "") if node is not None else ""
        self.ui.judgedRoiSelector.setCurrentNode(node.GetNodeReference(BOX_ROLE) if node is not None else None)
        self._updating = False

    def _set(self, kind: str, value: str = "") -> None:
        """Keep another region and say so."""
        self.problem = ""
        setJudged(self._segmentation, kind, value)
        self._update()
        self.changed()

    def _onKind(self, index: int) -> None:
        if self._updating or self._segmentation is None or index < 0:
            return
        kind = self._kinds[index]
        if kind == JUDGED_SAVED and not self._segmentation.GetAttribute(FILE_ATTRIBUTE):
            self._update()  # only a case that was opened again has one
            return
        known = SLICES_ATTRIBUTE if kind == JUDGED_SLICES else FILE_ATTRIBUTE
        self._set(kind, self._segmentation.GetAttribute(known) or "")

    def _onSlicesTyped(self) -> None:
        text = self.ui.judgedSlicesLineEdit.text.strip()
        if self._updating or self._segmentation is None or text == self._segmentation.GetAttribute(SLICES_ATTRIBUTE):
            return
        try:
            text = slicesText(JudgedSlices.parse(text)) if text else ""
        except DatasetError as error:
            self.problem = str(error)
            self.changed()
            return
        self._set(JUDGED_SLICES, text)

    def _onBox(self) -> None:
        if not self._updating and self._segmentation is not None:
            self._segmentation.SetNodeReferenceID(BOX_ROLE, self.ui.judgedRoiSelector.currentNodeID or None)
            self.problem = ""
            self.changed()

    def _onClear(self) -> None:
        if judgedKind(self._segmentation) == JUDGED_BOX:
            self._segmentation.SetNodeReferenceID(BOX_ROLE, None)
            self._set(JUDGED_BOX)
        else:
            self._set(JUDGED_SLICES, "")

    def _onMark(self) -> None:
        """Mark the slice that a view shows, or put a box around the segments."""
        if self._volume is None:
            return
        if judgedKind(self._segmentation) == JUDGED_BOX:
            box = boxAround(self._segmentation)
            if box is None:
                self.problem = _("Nothing is segmented yet: add a box in the list above.")
            else:
                self._segmentation.SetNodeReferenceID(BOX_ROLE, box.GetID())
                self.problem = ""
            self._update()
            self.changed()
            return
        view = self._views[self.ui.judgedViewComboBox.currentIndex]
        try:
            marked = withSlice(self._segmentation.GetAttribute(SLICES_ATTRIBUTE) or "", shownSlice(view, self._volume))
        except ValueError as error:
            self.problem = str(error)
            self.changed()
            return
        self._set(JUDGED_SLICES, marked)
