"""The annotated region of a scan: all of it, some slices, or a box. The model learns nothing from the rest."""

from __future__ import annotations

from slicer.i18n import tr as _

from TransferSegGui.annotated_region import (
    BOX_ROLE,
    FILE_ATTRIBUTE,
    REGION_ALL,
    REGION_BOX,
    REGION_SAVED,
    REGION_SLICES,
    SLICES_ATTRIBUTE,
    boxAround,
    regionKind,
    setRegion,
    shownSlice,
    slicesText,
    withSlice,
)
from TransferSegLib.corrections.inputs import JudgedSlices
from TransferSegLib.errors import DatasetError


class RegionWidgets:
    """Wires the widgets of "Region checked" to a segmentation node; ``changed`` is called when the region changes."""

    def __init__(self, ui) -> None:
        """Connect the widgets of the .ui file."""
        self.changed = lambda: None
        self.ui = ui
        self.problem = ""
        self._segmentation, self._volume = None, None
        self._updating = False
        self._kinds = [REGION_ALL, REGION_SLICES, REGION_BOX, REGION_SAVED]
        for text in (_("The whole scan"), _("Marked slices"), _("A box"), _("The region saved with the case")):
            self.ui.regionComboBox.addItem(text)
        self._views = ["Red", "Yellow", "Green"]
        for text in (_("Red view"), _("Yellow view"), _("Green view")):
            self.ui.regionViewComboBox.addItem(text)
        self.ui.regionComboBox.connect("currentIndexChanged(int)", self._onKind)
        self.ui.regionSlicesLineEdit.connect("editingFinished()", self._onSlicesTyped)
        self.ui.regionBoxSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onBox)
        self.ui.markRegionButton.connect("clicked(bool)", self._onMark)
        self.ui.clearRegionButton.connect("clicked(bool)", self._onClear)

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
        kind = regionKind(self._segmentation)
        if self.problem:
            return self.problem
        if kind == REGION_SLICES and not self._segmentation.GetAttribute(SLICES_ATTRIBUTE):
            return _("Mark the slices that you reviewed, or choose the whole scan.")
        if kind == REGION_BOX and self._segmentation.GetNodeReference(BOX_ROLE) is None:
            return _("Choose the box that you reviewed, or the whole scan.")
        return ""

    def _update(self) -> None:
        node, kind = self._segmentation, regionKind(self._segmentation)
        slices, box = kind == REGION_SLICES, kind == REGION_BOX
        self._updating = True
        self.ui.regionComboBox.enabled = node is not None
        self.ui.regionComboBox.setCurrentIndex(self._kinds.index(kind))
        for widget in (self.ui.regionViewComboBox, self.ui.regionSlicesLineEdit):
            widget.setVisible(slices)
        self.ui.regionBoxSelector.setVisible(box)
        for button in (self.ui.markRegionButton, self.ui.clearRegionButton):
            button.setVisible(slices or box)
            button.enabled = slices or box
        self.ui.markRegionButton.text = _("Mark this slice") if slices else _("Box around segments")
        self.ui.regionSlicesLineEdit.text = (node.GetAttribute(SLICES_ATTRIBUTE) or "") if node is not None else ""
        self.ui.regionBoxSelector.setCurrentNode(node.GetNodeReference(BOX_ROLE) if node is not None else None)
        self._updating = False

    def _set(self, kind: str, value: str = "") -> None:
        """Keep another region and report the change."""
        self.problem = ""
        setRegion(self._segmentation, kind, value)
        self._update()
        self.changed()

    def _onKind(self, index: int) -> None:
        if self._updating or self._segmentation is None or index < 0:
            return
        kind = self._kinds[index]
        if kind == REGION_SAVED and not self._segmentation.GetAttribute(FILE_ATTRIBUTE):
            self._update()  # only a case that was opened again has one
            return
        known = SLICES_ATTRIBUTE if kind == REGION_SLICES else FILE_ATTRIBUTE
        self._set(kind, self._segmentation.GetAttribute(known) or "")

    def _onSlicesTyped(self) -> None:
        text = self.ui.regionSlicesLineEdit.text.strip()
        if self._updating or self._segmentation is None or text == self._segmentation.GetAttribute(SLICES_ATTRIBUTE):
            return
        try:
            text = slicesText(JudgedSlices.parse(text)) if text else ""
        except DatasetError as error:
            self.problem = str(error)
            self.changed()
            return
        self._set(REGION_SLICES, text)

    def _onBox(self) -> None:
        if not self._updating and self._segmentation is not None:
            self._segmentation.SetNodeReferenceID(BOX_ROLE, self.ui.regionBoxSelector.currentNodeID or None)
            self.problem = ""
            self.changed()

    def _onClear(self) -> None:
        if regionKind(self._segmentation) == REGION_BOX:
            self._segmentation.SetNodeReferenceID(BOX_ROLE, None)
            self._set(REGION_BOX)
        else:
            self._set(REGION_SLICES, "")

    def _onMark(self) -> None:
        if self._volume is None:
            return
        if regionKind(self._segmentation) == REGION_BOX:
            box = boxAround(self._segmentation)
            if box is None:
                self.problem = _("Nothing is segmented yet: add a box in the list above.")
            else:
                self._segmentation.SetNodeReferenceID(BOX_ROLE, box.GetID())
                self.problem = ""
            self._update()
            self.changed()
            return
        view = self._views[self.ui.regionViewComboBox.currentIndex]
        try:
            marked = withSlice(self._segmentation.GetAttribute(SLICES_ATTRIBUTE) or "", shownSlice(view, self._volume))
        except ValueError as error:
            self.problem = str(error)
            self.changed()
            return
        self._set(REGION_SLICES, marked)
