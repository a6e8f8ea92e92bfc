"""TransferSeg's lines in the menu that a right click opens in Slicer's views.

Slicer loads this file by its path and makes the class that is named like it.
"""

from __future__ import annotations

import qt
import slicer
from AbstractScriptedSubjectHierarchyPlugin import AbstractScriptedSubjectHierarchyPlugin
from slicer.i18n import tr as _


def registerViewMenu() -> None:
    """Add the lines to the views' menu; called once, when Slicer has started.

    Slicer asks plugins of view menus only where they are registered by hand.
    """
    plugin = slicer.qSlicerSubjectHierarchyScriptedPlugin(None)
    plugin.setPythonSource(TransferSegSubjectHierarchyPlugin.filePath)
    slicer.qSlicerSubjectHierarchyPluginHandler.instance().registerPlugin(plugin)


class TransferSegSubjectHierarchyPlugin(AbstractScriptedSubjectHierarchyPlugin):
    """Offers what the section "Correct" can do with the scan that is shown, while TransferSeg is open."""

    filePath = __file__

    def __init__(self, scriptedPlugin) -> None:
        """Make the lines; the base class must not be initialised for plugins of view menus."""
        self.rightAction = self._action(scriptedPlugin, "TransferSegRightAction", self.onRight)
        self.placeAction = self._action(scriptedPlugin, "TransferSegPlaceAction", self.onPlace)
        self.acceptAction = self._action(scriptedPlugin, "TransferSegAcceptAction", self.onAccept)

    @staticmethod
    def _action(scriptedPlugin, name: str, slot):
        action = qt.QAction(scriptedPlugin)
        action.objectName = name
        constants = slicer.qSlicerSubjectHierarchyAbstractPlugin
        constants.setActionPosition(action, constants.SectionNode + 5)
        action.connect("triggered()", slot)
        return action

    def viewContextMenuActions(self) -> list:
        """Return the lines of this plugin."""
        return [self.rightAction, self.placeAction, self.acceptAction]

    def showViewContextMenuActionsForItem(self, itemID, eventData=None) -> None:
        """Show the lines that make sense now."""
        from TransferSegGui.shortcut_keys import ACCEPT_KEYS, RIGHT_KEYS, keysText

        panel = _openPanel()
        name = "" if panel is None else panel.accepting.structure
        # What follows a tab is shown as the key that does the same.
        self.rightAction.text = _("'{name}' is right in this scan").format(name=name) + "\t" + keysText(RIGHT_KEYS)
        self.placeAction.text = _("Next doubtful place")
        self.acceptAction.text = _("Accept and next scan") + "\t" + keysText(ACCEPT_KEYS)
        self.rightAction.visible = bool(name)
        self.placeAction.visible = panel is not None and panel.ui.nextPlaceButton.enabled
        self.acceptAction.visible = panel is not None and panel.ui.acceptButton.enabled

    def onRight(self) -> None:
        """Tick the structure that is chosen, and choose the next."""
        panel = _openPanel()
        if panel is not None:
            panel.accepting.acceptStructure()

    def onPlace(self) -> None:
        """Show the next place where the result may be wrong."""
        panel = _openPanel()
        if panel is not None and panel.ui.nextPlaceButton.enabled:
            panel.ui.nextPlaceButton.click()

    def onAccept(self) -> None:
        """Save the case and show the next scan."""
        panel = _openPanel()
        if panel is not None and panel.ui.acceptButton.enabled:
            panel.accepting.accept()


def _openPanel():
    """Return the section "Correct" while TransferSeg is open, else None."""
    frame = slicer.modules.transferseg.widgetRepresentation()
    return frame.self().correctPanel if frame is not None and frame.isEntered else None
