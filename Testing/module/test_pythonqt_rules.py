"""A lint test: the module's sources keep PythonQt's rules, which only a real Slicer would enforce, mostly in silence.

Each rule is first tried on lines that break it.
"""

from __future__ import annotations

import ast
import functools
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("PySide6", reason="Qt's own classes tell which attributes are properties")

TOP = Path(__file__).resolve().parents[2]
MODULE = TOP / "TransferSeg"
UI_FILE = MODULE / "Resources" / "UI" / "TransferSeg.ui"
SOURCES = sorted(MODULE.rglob("*.py"))

#: Qt's class that a widget of Slicer or CTK is, and its properties beyond those of that class.
SLICERS_OWN = {
    "qMRMLWidget": ("QWidget", set()),
    "qMRMLNodeComboBox": ("QWidget", {"currentNodeID", "nodeTypes", "noneEnabled", "addEnabled", "removeEnabled"}),
    "qMRMLSegmentEditorWidget": ("QWidget", {"readOnly", "maximumNumberOfUndoStates", "maskingSectionVisible"}),
    "ctkCollapsibleButton": ("QAbstractButton", {"collapsed", "flat"}),
    "ctkPathLineEdit": ("QWidget", {"currentPath", "filters", "nameFilters", "settingKey"}),
}
#: What a widget shows; the value must have been through tr().
TEXT_PROPERTIES = {"text", "toolTip", "title", "placeholderText", "windowTitle", "statusTip", "whatsThis", "suffix"}
TEXT_METHODS = {"setText", "setToolTip", "setTitle", "setPlaceholderText", "addItem", "setPlainText", "appendPlainText"}
TEXT_METHODS |= {"setHorizontalHeaderLabels", "setFormat", "setSuffix", "showStatusMessage", "delayDisplay", "addItems"}
POP_UPS = {"QMessageBox", "QDialog", "QInputDialog", "QFileDialog", "QProgressDialog", "ctkMessageBox", "errorDisplay"}
POP_UPS |= {"warningDisplay", "infoDisplay", "messageBox", "confirmOkCancelDisplay", "confirmYesNoDisplay"}
POP_UPS |= {"confirmRetryCloseDisplay", "tryWithErrorDisplay", "createProgressDialog", "exec_", "delayDisplay"}
#: Signals with several signatures somewhere in Qt 5, CTK or Slicer: which one is meant must be said.
OVERLOADED = {"currentNodeChanged", "currentIndexChanged", "activated", "highlighted", "valueChanged", "finished"}
OVERLOADED |= {"buttonClicked", "error", "selectionChanged", "triggered", "nodeAddedByUser"}
#: What Slicer brings along; anything else must not be needed when the module is imported.
ALLOWED = {"slicer", "qt", "ctk", "vtk", "numpy", "scipy", "SimpleITK", "requests", "TransferSegLib", "TransferSegGui"}
ALLOWED |= {"AbstractScriptedSubjectHierarchyPlugin"}


class Rules(ast.NodeVisitor):
    """Collects the lines of a source file that break a rule."""

    def __init__(self, widgets: dict[str, str], testCode: set[ast.AST]) -> None:
        self.problems: list[str] = []
        self._widgets, self._testCode = widgets, testCode
        self._made: dict[str, str] = {}
        self._translated: set[ast.AST] = set()

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._checkImport(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._checkImport(node, node.module or "")
        for alias in node.names:
            if alias.name in POP_UPS:
                self._tell(node, f"pop-up {alias.name}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        words = dotted(node)
        if words[:1] == ["qt"]:
            if len(words) == 2 and words[1] in {"Signal", "Slot", "Property", "QtCore", "QtWidgets", "QtGui"}:
                self._tell(node, f"PythonQt has no qt.{words[1]}")
            if len(words) == 4 and words[2][0].isupper() and words[3][0].isupper():
                self._tell(node, f"scoped enumeration {'.'.join(words)}")
        if node.attr in POP_UPS and node not in self._testCode:
            self._tell(node, f"pop-up {node.attr}")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        made = node.value
        if isinstance(made, ast.Call) and dotted(made.func)[:1] == ["qt"] and len(dotted(made.func)) == 2:
            for target in node.targets:
                self._made[".".join(dotted(target))] = dotted(made.func)[1]
        for target in node.targets:
            if isinstance(target, ast.Attribute) and target.attr in TEXT_PROPERTIES:
                self._checkText(node.value)
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        if isinstance(node.exc, ast.Call) and dotted(node.exc.func)[-1:] in (["RuntimeError"], ["ValueError"]):
            for argument in node.exc.args:
                self._checkText(argument)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        words = dotted(node.func)
        if words[-1:] == ["_"] and len(words) == 1:
            self._checkTranslation(node)
        if words[:1] == ["print"]:
            self._tell(node, "print: the panel has a status line and a log")
        className = self._classOf(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if (className or words[:1] in (["qt"], ["ctk"])) and node.keywords:
            self._tell(node, f"keyword in the Qt call {'.'.join(words)}")
        if className and words[-1] in propertiesOf(className):
            self._tell(node, f"{words[-1]} of {className} is a property, not to be called")
        if words[-1:] == ["connect"]:
            self._checkConnect(node, words)
        if isinstance(node.func, ast.Attribute) and node.func.attr in TEXT_METHODS:
            for argument in node.args:
                self._checkText(argument)
        self.generic_visit(node)

    def _checkImport(self, node: ast.AST, module: str) -> None:
        if module.split(".")[0] in {"torch", "PySide6", "PyQt5", "PythonQt"}:
            self._tell(node, f"import of {module}")

    def _checkConnect(self, node: ast.Call, words: list[str]) -> None:
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            if not (first.value.endswith(")") and "(" in first.value):
                self._tell(node, f"signal '{first.value}' without its full signature")
        elif len(words) > 2 and words[-2] in OVERLOADED:
            self._tell(node, f"overloaded signal {words[-2]}: connect it by its full signature")

    def _checkTranslation(self, node: ast.Call) -> None:
        constant = len(node.args) == 1 and isinstance(node.args[0], ast.Constant)
        if not constant or not isinstance(node.args[0].value, str):
            self._tell(node, "tr() of something that is not a plain text: it cannot be collected for translation")

    def _checkText(self, value: ast.expr) -> None:
        """Tell of letters that did not go through tr()."""
        translated = {
            inner
            for each in ast.walk(value)
            if isinstance(each, ast.Call) and dotted(each.func)[-1:] in (["_"], ["translate"])
            for inner in ast.walk(each)
        }
        calls = {
            inner
            for each in ast.walk(value)
            if isinstance(each, ast.Call) and dotted(each.func)[-1:] not in (["format"],)
            for argument in [*each.args, *each.keywords]
            for inner in ast.walk(argument)
        }
        # Names in a subscript or a comparison are shown to nobody, nor is how a number is written.
        unseen = {
            inner
            for each in ast.walk(value)
            if isinstance(each, (ast.Subscript, ast.Compare))
            for inner in ast.walk(each)
        }
        unseen |= {
            inner
            for each in ast.walk(value)
            if isinstance(each, ast.FormattedValue) and each.format_spec is not None
            for inner in ast.walk(each.format_spec)
        }
        for each in ast.walk(value):
            if not isinstance(each, ast.Constant) or not isinstance(each.value, str):
                continue
            hidden = each in translated or each in calls or each in unseen
            if not hidden and any(letter.isalpha() for letter in each.value):
                self._tell(each, f"text without tr(): {each.value!r}")

    def _classOf(self, value: ast.expr) -> str:
        """Return the Qt class of a widget of the .ui file, or of what this file made of ``qt``; empty: unknown."""
        words = dotted(value)
        if len(words) > 1 and words[-2] == "ui":
            return self._widgets.get(words[-1], "")
        return self._made.get(".".join(words), "")

    def _tell(self, node: ast.AST, text: str) -> None:
        if "without tr" in text and node in self._testCode:
            return  # the self-test speaks to developers
        self.problems.append(f"{getattr(node, 'lineno', 0)}: {text}")


def dotted(node: ast.AST) -> list[str]:
    """Return the names of ``a.b.c``, or nothing for anything that is not only names."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return [*before, node.attr] if before else ["", node.attr]
    return []


@functools.cache
def propertiesOf(className: str) -> set[str]:
    """Return Qt's properties of a class, which PythonQt makes attributes."""
    from PySide6 import QtCore, QtGui, QtWidgets

    name, more = SLICERS_OWN.get(className, (className, set()))
    aClass = next((getattr(each, name) for each in (QtWidgets, QtGui, QtCore) if hasattr(each, name)), None)
    if aClass is None or not hasattr(aClass, "staticMetaObject"):
        return set(more)
    meta = aClass.staticMetaObject
    return {meta.property(index).name() for index in range(meta.propertyCount())} | more


@functools.cache
def widgetClasses() -> dict[str, str]:
    return {each.get("name", ""): each.get("class", "") for each in ET.parse(UI_FILE).getroot().iter("widget")}


def problemsOf(source: str) -> list[str]:
    tree = ast.parse(source)
    tests = {
        inner
        for each in ast.walk(tree)
        if isinstance(each, ast.ClassDef) and each.name.endswith("Test")
        for inner in ast.walk(each)
    }
    rules = Rules(widgetClasses(), tests)
    rules.visit(tree)
    return rules.problems


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("self.ui.segmentButton.setEnabled(enabled=True)", "keyword"),
        ("qt.QLabel('', parent=x)", "keyword"),
        ("timer = qt.QTimer()\ntimer.start(msec=5)", "keyword"),
        ("a = self.ui.segmentStatusLabel.text()", "is a property"),
        ("a = ui.projectPathLineEdit.currentPath()", "is a property"),
        ("a = ui.minutesSpinBox.value()", "is a property"),
        ("process = qt.QProcess()\nb = process.objectName()", "is a property"),
        ("changed = qt.Signal(int)", "no qt.Signal"),
        ("a = qt.Qt.AlignmentFlag.AlignLeft", "scoped enumeration"),
        ("self.ui.modelComboBox.currentIndexChanged.connect(f)", "overloaded signal"),
        ("self.ui.modelComboBox.connect('currentIndexChanged', f)", "without its full signature"),
        ("import torch", "import of torch"),
        ("def f():\n    from torch import nn", "import of torch"),
        ("slicer.util.errorDisplay(_('No.'))", "pop-up"),
        ("qt.QMessageBox.question(a, b, c)", "pop-up"),
        ("dialog.exec_()", "pop-up"),
        ("self.ui.segmentButton.toolTip = 'Choose a volume.'", "without tr"),
        ("label.setText(f'{count} cases')", "without tr"),
        ("label.text = _('Done') if done else 'Not done'", "without tr"),
        ("box.addItem('Red view')", "without tr"),
        ("raise RuntimeError('The volume is empty.')", "without tr"),
        ("label.text = _(f'{name} is done')", "cannot be collected"),
        ("print('hello')", "print"),
    ],
)
def test_a_line_that_breaks_a_rule_is_found(line: str, expected: str):
    assert any(expected in problem for problem in problemsOf(line)), problemsOf(line)


@pytest.mark.parametrize(
    "line",
    [
        "self.ui.segmentStatusLabel.text = _('{count} cases').format(count=3)",
        "self.ui.segmentButton.connect('clicked(bool)', f)",
        "self.ui.segmentButton.clicked.connect(f)",
        "x = ui.inputVolumeSelector.currentNode()",
        "label.text = ', '.join(names)",
        "label.setText(table['name'])",
        "label.text = f'{share:.2f}'",
        "a = qt.Qt.AlignLeft",
    ],
)
def test_a_good_line_passes(line: str):
    assert problemsOf(line) == []


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(MODULE)) for path in SOURCES])
def test_the_sources_keep_the_rules(path: Path):
    assert problemsOf(path.read_text(encoding="utf-8")) == []


def test_texts_of_the_ui_file_are_translated():
    for widget in ET.parse(UI_FILE).getroot().iter("widget"):
        for each in widget.findall("property"):
            if each.get("name") in TEXT_PROPERTIES:
                (text,) = each.findall("string")
                assert text.get("notr") != "true", (widget.get("name"), each.get("name"))


def test_importing_the_panels_needs_only_what_slicer_brings_and_not_torch():
    """Follows the imports at file level from the module's files through the library."""
    waiting, seen = [path for path in SOURCES if path.name != "TransferSeg.py"], set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        for module in importedAtFileLevel(path):
            first = module.split(".")[0]
            assert first in ALLOWED or first in sys.stdlib_module_names, f"{path.relative_to(TOP)} imports {module}"
            waiting += [each for each in filesOf(module) if each not in seen]
    assert any(path.is_relative_to(TOP / "TransferSegLib") for path in seen), "the library was followed"


def importedAtFileLevel(path: Path) -> Iterator[str]:
    """Yield the modules that importing a file imports, not those in its functions or for type checkers."""
    waiting: list[ast.stmt] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names if filesOf(f"{node.module}.{alias.name}"))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            waiting += [*node.body, *node.orelse]
        elif isinstance(node, (ast.Try, ast.With, ast.ClassDef)):
            waiting += node.body


def filesOf(module: str) -> list[Path]:
    """Return the file of one of the project's modules, and those of the packages it is in."""
    parts = module.split(".")
    top = {"TransferSegLib": TOP, "TransferSegGui": MODULE}.get(parts[0])
    if top is None:
        return []
    packages = [top.joinpath(*parts[: count + 1], "__init__.py") for count in range(len(parts))]
    candidates = [top.joinpath(*parts).with_suffix(".py"), *packages]
    return (
        [each for each in candidates if each.is_file()] if (candidates[0].is_file() or packages[-1].is_file()) else []
    )
