"""Which of a model's structures are segmented: ticks in a list, with a search and groups where there are many.

What is unticked is in the parameter node, for each model, and thereby in saved scenes. A structure that a new version
of a model adds is therefore ticked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import qt
from slicer.i18n import tr as _

from TransferSegLib.structure_groups import groups_of_set, matches
from TransferSegLib.structures import LabelSet

#: The name in the parameter node of the unticked structures: JSON, lists of names by the models' keys.
LEFT_OUT = "LeftOutStructures"
#: Below so many structures the list is enough.
_MANY = 12


class StructureChoice:
    """Wires the list of structures, its search and its buttons to the parameter node.

    ``onChanged`` is called with the names that were ticked or unticked by the user.
    """

    def __init__(self, ui) -> None:
        """Connect the widgets of the .ui file."""
        self.ui = ui
        self.onChanged: Callable[[list[str]], None] = lambda names: None
        self._parameterNode = None
        self._labelSet: LabelSet | None = None
        self._key = ""
        self._groups: dict[str, tuple[str, ...]] = {}
        self._updating = False
        ui.structureList.connect("itemChanged(QListWidgetItem*)", self._onToggled)
        ui.structureSearchLineEdit.connect("textChanged(QString)", self._filter)
        ui.structureGroupComboBox.connect("currentIndexChanged(int)", self._filter)
        ui.allStructuresButton.connect("clicked(bool)", lambda: self._choose(added=self._listed()))
        ui.noStructuresButton.connect("clicked(bool)", lambda: self._choose(removed=self._listed()))
        ui.onlyTheseStructuresButton.connect("clicked(bool)", self._onOnlyThese)

    def show(self, parameterNode, key: str, labelSet: LabelSet | None) -> None:
        """Show the structures of the model with this key (None: there is no model that can be used)."""
        self._parameterNode, self._key = parameterNode, key
        if labelSet != self._labelSet:
            self._labelSet = labelSet
            self._fill()
        self._showTicks()

    @property
    def names(self) -> tuple[str, ...]:
        """The ticked structures in the model's order."""
        if self._labelSet is None:
            return ()
        leftOut = self._leftOut()
        return tuple(name for name in self._labelSet.names if name not in leftOut)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The structures to ask of a run: none where all are ticked."""
        return () if self._labelSet is None or self.names == self._labelSet.names else self.names

    def obstacle(self) -> str:
        """Return why nothing can be segmented, empty when something can."""
        if self._labelSet is not None and not self.names:
            return _("Tick at least one structure.")
        return ""

    def _leftOut(self) -> frozenset[str]:
        return leftOutStructures(self._parameterNode, self._key)

    # What is shown

    def _fill(self) -> None:
        """List the structures and groups of another model, without a search."""
        self._updating = True
        names = () if self._labelSet is None else self._labelSet.names
        self._groups = {} if self._labelSet is None else groups_of_set(self._labelSet)
        self.ui.structureList.clear()
        for name in names:
            self.ui.structureList.addItem(name)
        self.ui.structureSearchLineEdit.text = ""
        self.ui.structureGroupComboBox.clear()
        self.ui.structureGroupComboBox.addItem(_("All groups"))
        words = _groupTexts()
        for group, members in self._groups.items():
            self.ui.structureGroupComboBox.addItem(
                _("{group} ({count})").format(group=words[group], count=len(members))
            )
        for widget in (
            self.ui.structureSearchLineEdit,
            self.ui.structureGroupComboBox,
            self.ui.allStructuresButton,
            self.ui.noStructuresButton,
            self.ui.onlyTheseStructuresButton,
            self.ui.structureCountLabel,
        ):
            widget.setVisible(len(names) >= _MANY)
        self._updating = False
        self._filter()

    def _showTicks(self) -> None:
        names, leftOut = () if self._labelSet is None else self._labelSet.names, self._leftOut()
        self._updating = True
        for row, name in enumerate(names):
            self.ui.structureList.item(row).setCheckState(qt.Qt.Unchecked if name in leftOut else qt.Qt.Checked)
        self._updating = False
        self.ui.structureCountLabel.text = _("{ticked} of {count} ticked").format(
            ticked=len(self.names), count=len(names)
        )

    def _filter(self) -> None:
        """List only what the search and the group say."""
        if self._updating:
            return
        listed = set(self._listed())
        for row, name in enumerate(() if self._labelSet is None else self._labelSet.names):
            self.ui.structureList.item(row).setHidden(name not in listed)

    def _listed(self) -> list[str]:
        """Return the structures that match the search and are in the group."""
        if self._labelSet is None:
            return []
        index, search = self.ui.structureGroupComboBox.currentIndex, self.ui.structureSearchLineEdit.text
        members = set(self._labelSet.names if index < 1 else list(self._groups.values())[index - 1])
        return [each.name for each in self._labelSet if each.name in members and matches(each, search)]

    # What the user does

    def _onToggled(self, item) -> None:
        if self._updating:
            return
        ticked = int(item.checkState()) == int(qt.Qt.Checked)
        name = item.text()
        self._choose(added=[name] if ticked else [], removed=[] if ticked else [name])

    def _onOnlyThese(self) -> None:
        listed = self._listed()
        self._choose(added=listed, removed=set(self._labelSet.names) - set(listed))

    def _choose(self, added: Iterable[str] = (), removed: Iterable[str] = ()) -> None:
        """Tick and untick structures."""
        if self._parameterNode is None or self._labelSet is None:
            return
        before = self._leftOut()
        after = (before - set(added)) | set(removed)
        if after != before:
            setLeftOutStructures(self._parameterNode, self._key, after)
            self._showTicks()
            self.onChanged([name for name in self._labelSet.names if name in before ^ after])


def leftOutStructures(parameterNode, key: str) -> frozenset[str]:
    """Return the structures that are unticked for the model with this key; none where the node is damaged."""
    return frozenset(_all(parameterNode).get(key, ()))


def setLeftOutStructures(parameterNode, key: str, names: Iterable[str]) -> None:
    """Keep which structures are unticked for the model with this key."""
    every = {**_all(parameterNode), key: sorted(names)}
    kept = {each: listed for each, listed in every.items() if listed}
    parameterNode.SetParameter(LEFT_OUT, json.dumps(kept, ensure_ascii=False) if kept else "")


def _all(parameterNode) -> dict[str, list[str]]:
    try:
        read = json.loads("" if parameterNode is None else parameterNode.GetParameter(LEFT_OUT) or "{}")
    except ValueError:
        return {}
    if not isinstance(read, dict):
        return {}
    return {key: [str(name) for name in names] for key, names in read.items() if isinstance(names, list)}


def _groupTexts() -> dict[str, str]:
    """Return what the groups are called."""
    return {
        "organs": _("Organs"),
        "vertebrae": _("Vertebrae"),
        "ribs": _("Ribs"),
        "muscles": _("Muscles"),
        "bones": _("Bones"),
        "vessels": _("Vessels"),
        "heart": _("Heart"),
        "brain": _("Brain"),
    }
