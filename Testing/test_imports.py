"""Imports go one way: the packages of the library make no circle, and it needs neither Slicer nor Qt."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "TransferSegLib"
#: Text files of the repository that people read or programs run.
_TEXT = {".py", ".md", ".toml", ".txt", ".json", ".yaml", ".ui", ".cmake", ".sh"}


def imported(file: Path, types_too: bool = True) -> set[str]:
    """Return the modules that a file imports, wherever in it; without ``types_too`` only those that it runs."""
    found = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if not types_too:
        tree.body = [one for one in tree.body if not (isinstance(one, ast.If) and "TYPE_CHECKING" in ast.dump(one))]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def packages() -> dict[str, set[str]]:
    """Return the packages below TransferSegLib, each with those that it imports from."""
    names = {folder.name for folder in LIBRARY.iterdir() if (folder / "__init__.py").is_file()}
    arrows: dict[str, set[str]] = {name: set() for name in names}
    for name in names:
        for file in (LIBRARY / name).rglob("*.py"):
            into = {module.split(".")[1] for module in imported(file) if module.startswith("TransferSegLib.")}
            arrows[name] |= (into & names) - {name}
    return arrows


def test_packages_make_no_circle() -> None:
    order = list(TopologicalSorter(packages()).static_order())  # raises CycleError
    assert max(order.index("images"), order.index("networks")) < order.index("models") < order.index("inference")
    assert order.index("inference") < order.index("training") < order.index("finetuning") < order.index("jobs")


def test_the_diagram_of_the_packages_is_true() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = {pair for pair in re.findall(r"^  (\w+).* --> (\w+)", page, re.MULTILINE) if pair[0] != "panel"}
    arrows = packages()
    assert {(one, other) for one, other in drawn if other not in arrows[one]} == set(), "drawn, and no import"
    reached: dict[str, set[str]] = {}
    for name in TopologicalSorter({name: {b for a, b in drawn if a == name} for name, _ in drawn}).static_order():
        reached[name] = {one for a, b in drawn if a == name for one in {b, *reached[b]}}
    missing = {(one, other) for one in reached for other in arrows[one] & reached.keys() if other not in reached[one]}
    assert missing == set(), "imports that the diagram does not have"


def test_modules_make_no_circle() -> None:
    files = {module_of(file): file for file in LIBRARY.rglob("*.py")}
    arrows = {name: (imported(file, types_too=False) & files.keys()) - {name} for name, file in files.items()}
    for name in arrows:
        arrows[name] -= {"TransferSegLib"}  # its version only
    list(TopologicalSorter(arrows).static_order())


def test_the_library_needs_neither_slicer_nor_qt() -> None:
    for file in LIBRARY.rglob("*.py"):
        wrong = {module for module in imported(file) if re.match(r"(slicer|qt|vtk|ctk|PySide6)(\.|$)", module)}
        assert not wrong, f"{file} imports {wrong}"


@pytest.mark.parametrize(
    "module", ["TransferSegLib.cli.main", "TransferSegLib.models.store", "TransferSegLib.jobs.store"]
)
def test_torch_is_not_loaded_where_nothing_is_computed(module: str) -> None:
    program = f"import sys, {module}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize("module", ["TransferSegLib.cli.main", "TransferSegLib.finetuning.plan"])
def test_statistics_are_not_loaded_before_a_verdict(module: str) -> None:
    """Loading scipy.stats takes a second: the panel would open that much later."""
    program = f"import sys, {module}; print('torch' in sys.modules, 'scipy.stats' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    "module",
    [
        "TransferSegLib.cli.main",
        "TransferSegLib.inference.segment",
        "TransferSegLib.training.base",
        "TransferSegLib.finetuning.finetune",
    ],
)
def test_work_on_one_computer_loads_nothing_of_clusters(module: str) -> None:
    """Nor the writer of DICOM Segmentations. torch loads parts of torch.distributed by itself: these do not count."""
    program = f"""if True:
        import importlib, sys
        if "{module}" != "TransferSegLib.cli.main":
            import torch
        before = set(sys.modules)
        importlib.import_module("{module}")
        print(*sorted(set(sys.modules) - before))
    """
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = result.stdout.split()
    assert module in loaded
    unwanted = r"(ray|submitit|highdicom|pydicom|torch\.distributed|TransferSegLib\.executors)(\.|$)"
    assert [name for name in loaded if re.match(unwanted, name)] == []


def test_no_mark_of_an_unfinished_merge_is_left() -> None:
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if tracked.returncode:
        pytest.skip("no git checkout: files cannot be listed")
    for name in tracked.stdout.splitlines():
        file = ROOT / name
        if file.suffix in _TEXT and file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace")
            assert not re.search(r"^(<{7} |>{7} )", text, re.MULTILINE), f"{name} holds an unfinished merge"
