"""``Host``: a main window with slice views, in which a scripted module is loaded as Slicer loads it."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

import slicer

from slicerhost import pythonqt, scene

qt = pythonqt.install()

from slicerhost import layout_manager, mrml_widgets, ui_loader  # noqa: E402 - after Qt's classes were changed

TITLE = "Test host (not 3D Slicer)"


class qSlicerScriptedLoadableModule(scene.Module):
    """What ``slicer.modules.<name>`` is for a scripted module."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self.path, self.title = str(path), name
        self.widget = None

    def widgetRepresentation(self):
        return self.widget


@pythonqt.cpp
class qSlicerScriptedLoadableModuleWidget(mrml_widgets.qMRMLWidget):
    """The Qt widget around a module's Python widget."""

    def __init__(self) -> None:
        super().__init__()
        self._isEntered, self._python = False, None

    isEntered = property(lambda self: self._isEntered)

    def self(self):
        return self._python


class Host:
    """The window and the one module in it."""

    def __init__(self) -> None:
        self.application = scene.start()
        self._qt = qt.QApplication.instance() or qt.QApplication(sys.argv[:1])
        self.application.processEvents = self._qt.processEvents
        self.application.moduleManager = lambda: self
        self.application.layoutManager = lambda: self.layoutManager
        self.application.setOverrideCursor = self._qt.setOverrideCursor
        self.application.restoreOverrideCursor = self._qt.restoreOverrideCursor
        settings = qt.QSettings(self.application.temporaryPath + "/settings.ini", qt.QSettings.IniFormat)
        self.application.userSettings = self.application.settings = lambda: settings
        slicer.qSlicerScriptedLoadableModule = qSlicerScriptedLoadableModule
        slicer.qSlicerScriptedLoadableModuleWidget = qSlicerScriptedLoadableModuleWidget
        ui_loader.install()
        self._makeWindow()

    def _makeWindow(self) -> None:
        self.window = qt.QMainWindow()
        self.window.setWindowTitle(TITLE)
        center = qt.QWidget()
        column = qt.QVBoxLayout(center)
        viewport = qt.QWidget()
        self.layoutManager = layout_manager.LayoutManager(viewport)
        self.slices = self.layoutManager.slices
        column.addWidget(viewport)
        label = qt.QLabel(TITLE)
        label.setAlignment(qt.Qt.AlignCenter)
        label.setMaximumHeight(20)
        column.addWidget(label)
        self.window.setCentralWidget(center)
        self._dock = qt.QDockWidget("Module")
        self._dock.setMinimumWidth(480)
        self.window.addDockWidget(qt.Qt.LeftDockWidgetArea, self._dock)
        self.window.resize(1200, 720)

    def module(self, name: str):
        """Return a module by its name, None when there is none (this is the module manager's method)."""
        return getattr(slicer.modules, name.lower(), None)

    def loadModule(self, path: Path):
        """Load a scripted module and open its panel; returns its Python widget."""
        name = path.stem
        sys.path.append(str(path.parent))
        spec = importlib.util.spec_from_file_location(name, path)
        self.pythonModule = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.pythonModule)
        module = qSlicerScriptedLoadableModule(name, path)
        getattr(self.pythonModule, name)(module)
        setattr(slicer.modules, name.lower(), module)
        self.application.completeStartup()
        self._module = module
        return self.openPanel()

    def openPanel(self):
        """Build the module's panel and open it, also in place of one that was cleaned up; returns its widget."""
        module, name = self._module, self._module.name
        frame = module.widget = qSlicerScriptedLoadableModuleWidget()
        qt.QVBoxLayout(frame)
        frame.setMRMLScene(slicer.mrmlScene)
        self.widget = frame._python = getattr(self.pythonModule, name + "Widget")(frame)
        self.widget.setup()
        self._area = qt.QScrollArea()
        self._area.setWidgetResizable(True)
        self._area.setWidget(frame)
        self._dock.setWidget(self._area)
        self._dock.setWindowTitle(module.title)
        frame._isEntered = True
        self.widget.enter()
        self.window.show()
        self.process()
        return self.widget

    def process(self, milliseconds: int = 50) -> None:
        """Let Qt work for a while."""
        timer = qt.QElapsedTimer()
        timer.start()
        while timer.elapsed() < milliseconds:
            self._processEvents()

    def waitFor(self, condition: Callable[[], bool], seconds: float = 240.0) -> None:
        """Let Qt work until a condition holds; fails when it does not within a time that is ample."""
        timer = qt.QElapsedTimer()
        timer.start()
        while not condition():
            assert timer.elapsed() < 1000 * seconds, f"waited {seconds:g} s in vain"
            self._processEvents()

    def _processEvents(self) -> None:
        self._qt.processEvents(qt.QEventLoop.AllEvents, 20)
        time.sleep(0.002)  # it returns at once when there are none: the processor is for the child processes

    def showSection(self, section) -> None:
        """Scroll the panel to one of its sections."""
        self.process()
        self._area.ensureVisible(0, section.mapTo(self._area.widget(), qt.QPoint(0, 0)).y() + self._area.height, 0, 0)
        self.process()

    def screenshot(self, path: Path) -> None:
        """Draw the views and save a picture of the window."""
        self.layoutManager.arrange()
        self.process(100)
        self.layoutManager.draw()
        self.process(100)
        assert self.window.grab().save(str(path))

    def close(self) -> None:
        """Close the module as Slicer does at its end."""
        self.widget.cleanup()
        self.application.aboutToQuit()
        self.window.close()
