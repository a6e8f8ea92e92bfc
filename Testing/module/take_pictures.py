"""Take the tutorial's pictures: the whole loop in the test host, a picture of each step into Resources/Screenshots.

    QT_QPA_PLATFORM=offscreen VTK_DEFAULT_OPENGL_WINDOW=vtkEGLRenderWindow
    python Testing/module/take_pictures.py [FOLDER [LAST-STEP]]

In five scans a structure is drawn that the model does not know: the vertebrae. The window's title, and the line below
the views, say that this is not 3D Slicer.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from PIL import Image

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "Testing"), str(TOP / "Testing" / "module")]

#: Of each step: the section that is open in the picture, and what is scrolled to. Other steps have no picture.
SECTIONS = {
    "loaded": ("model segment", "modelCollapsibleButton"),
    "segmenting": ("model segment", "modelCollapsibleButton"),
    "segmented": ("model segment", "modelCollapsibleButton"),
    "painted": ("correct", "correctCollapsibleButton"),
    "reviewed": ("correct", "correctCollapsibleButton"),
    "saved": ("correct", "caseTable"),
    "ready to fine-tune": ("fineTune", "fineTuneCollapsibleButton"),
    "fine-tuning": ("fineTune", "fineTuneCollapsibleButton"),
    "verdict": ("fineTune", "fineTuneCollapsibleButton"),
    "promoted": ("model history", "modelCollapsibleButton"),
    "segmented with the new version": ("model segment", "modelCollapsibleButton"),
    "rolled back": ("model history", "modelCollapsibleButton"),
}
#: For fine-tuning. On a computer with much else to do: more minutes, and settings with fewer steps, as JSON.
MINUTES = int(os.environ.get("TRANSFERSEG_PICTURES_MINUTES", "15"))
SETTINGS = json.loads(os.environ.get("TRANSFERSEG_PICTURES_SETTINGS", "{}"))
#: How far the runs are that are pictured under way.
MIDWAY = 0.5
#: Of a picture's file: clones of the repository stay small.
MOST_BYTES = 150_000
#: The patients whose scans are corrected beside the sample.
OTHERS = ("pt_22", "pt_120", "pt_70", "pt_103")
_FOLDED = ("model", "history", "segment", "correct", "fineTune")


def main(folder: Path, last: str = "") -> None:
    """Go through the loop (to its end, or to a step) with folders of its own, and take the pictures."""
    import whole_loop

    with tempfile.TemporaryDirectory(prefix="TransferSeg-", ignore_cleanup_errors=True) as temporary:
        whole_loop.use_folders(Path(temporary))
        os.environ["HOME"] = temporary  # what the panel shows of it is "~"
        from slicerhost.window import Host

        host = Host()
        host.loadModule(TOP / "TransferSeg" / "TransferSeg.py")
        host.window.resize(1440, 1000)
        host._dock.setMinimumWidth(520)
        folder.mkdir(parents=True, exist_ok=True)
        cases = whole_loop.real_cases(OTHERS)
        loop = whole_loop.WholeLoop(host, Path("~/my-cases"), minutes=MINUTES, settings=SETTINGS, references=cases)
        loop.zoom, loop.midway = 1.5, MIDWAY
        for step in loop.steps():
            print(step, flush=True)
            if step in SECTIONS:
                open_section(host, step)
                wait_for_plan(host)
                number = list(SECTIONS).index(step) + 1
                picture = folder / f"{number:02d}-{step.replace(' ', '-')}.png"
                host.screenshot(picture)
                shrink(picture)
            if step == last:
                break
        print(loop.result["report"] if loop.result else "")
        host.close()


def wait_for_plan(host) -> None:
    """Return when the plan for the given minutes is shown, at once where none is being made."""
    label = host.widget.ui.fineTunePlanLabel
    host.waitFor(lambda: not label.text.startswith("Planning"), 1800.0)


def shrink(picture: Path) -> None:
    """Write a picture with 256 colours, which makes it a quarter as large and looks the same, or with a few less."""
    with Image.open(picture) as image:
        whole = image.convert("RGB")
    for colours in (256, 192, 128, 96, 64):
        few = whole.quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
        few.save(picture, optimize=True)
        if picture.stat().st_size <= MOST_BYTES:
            return


def open_section(host, step: str) -> None:
    """Open what the picture is to show and close the rest, as a user would, and scroll to it."""
    ui, (opened, shown) = host.widget.ui, SECTIONS[step]
    for name in _FOLDED:
        getattr(ui, f"{name}CollapsibleButton").collapsed = name not in opened.split()
    ui.reviewedTable.scrollToBottom()  # to both structures that are ticked
    host.process(200)
    host.showSection(getattr(ui, shown))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else TOP / "Resources" / "Screenshots", *sys.argv[2:3])
