"""The examples of docs/python.md run as they stand, with tiny models, tiny scans and a few steps."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import re
from pathlib import Path

import pytest
import SimpleITK as sitk

from Testing.finetuning import projects
from Testing.finetuning.conftest import make_parent
from TransferSegLib.images.write import write_label_map
from TransferSegLib.structures import LabelSet

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
README = PAGE.parents[1] / "README.md"
#: The family of that page exists only in the test that runs it.
PAGES = sorted(page for page in PAGE.parent.glob("*.md") if page.stem != "adding-a-network-family")
#: What would take long, and what takes seconds.
SHORTER = {
    '"head-neck-ct"': '"tiny"',
    "mandible": "bright",
    "minutes=10": "minutes=0, device='cpu'",
    '{"strategy": "finetune", "seed": 1}': "KNOBS",
    '"width": 16, "steps": 4000, "spacing_mm": 3.0': '"width": 2, "steps": 2, "spacing_mm": 1.0, "patch": 32, '
    '"validation_share": 0.4',
}


def examples(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def write_ball(number: int, scan: Path, labels: Path) -> None:
    """Write a scan with its label map, of which the bright ball is drawn."""
    image, truth = projects.ball_scan(number)
    label_map = sitk.GetImageFromArray((truth == 1).astype("uint8"))
    label_map.CopyInformation(image)
    scan.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(scan))
    write_label_map(label_map, labels, LabelSet((projects.BRIGHT,)))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the files that the page names, and a library with a model 'tiny'."""
    parent = make_parent(LabelSet((projects.BRIGHT, projects.DARK)))
    projects.put_parent(tmp_path / "library", projects.seeing(parent))
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(tmp_path / "library"))
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("scan", "other")):
        sitk.WriteImage(projects.ball_scan(number)[0], str(tmp_path / f"{name}.nii.gz"))
    for number in (1, 2, 3):
        patient = tmp_path / f"p{number}"
        write_ball(number, patient / "ct.nii.gz", patient / "corrected.seg.nrrd")
    for number, name in enumerate(("a_1", "b_1", "c_1"), start=4):
        write_ball(number, tmp_path / "images" / f"{name}.nii.gz", tmp_path / "labels" / f"{name}.nii.gz")
    return tmp_path


@pytest.mark.timeout(600)
def test_the_examples_run(files: Path) -> None:
    namespace: dict[str, object] = {"KNOBS": projects.UNBROKEN}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for number, code in enumerate(examples(PAGE), start=1):
            for long, short in SHORTER.items():
                code = code.replace(long, short)
            exec(compile(code, f"{PAGE.name}, example {number}", "exec"), namespace)
    text = printed.getvalue()
    assert (files / "organs.seg.nrrd").is_file() and (files / "organs.png").is_file()
    assert "There is no structure 'no such structure'" in text and "Segmenting: 100 %" in text
    assert "better 1 True" in text and "0 [0, 1]" in text, "fine-tuned, used, and gone back"
    assert "No problems found." in text and "mean of structures 3" in text
    assert (files / "run" / "model" / "model.json").is_file()


def test_the_example_of_the_readme_runs(files: Path) -> None:
    """As it stands, with the bundled model: nothing is left out, and nothing is imported elsewhere."""
    (example,) = examples(README)
    printed = io.StringIO()
    namespace: dict[str, object] = {}
    with contextlib.redirect_stdout(printed):
        exec(compile(example, README.name, "exec"), namespace)
    assert "'brainstem'" in printed.getvalue()
    assert isinstance(namespace["label_map"], sitk.Image) and namespace["segmenter"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_example_of_the_docs_is_python_whose_imports_exist(page: Path) -> None:
    for number, code in enumerate(examples(page), start=1):
        tree = ast.parse(code, f"{page.name}, example {number}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("TransferSegLib"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
