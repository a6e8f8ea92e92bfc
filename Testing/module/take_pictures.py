"""Take the tutorial's pictures: the whole loop in the test host, a picture of each step into Resources/Screenshots.

QT_QPA_PLATFORM=offscreen VTK_DEFAULT_OPENGL_WINDOW=vtkEGLRenderWindow python Testing/module/take_pictures.py [FOLDER]

The window's title, and the line below the views, say that this is not 3D Slicer.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "Testing"), str(TOP / "Testing" / "module")]

#: Of each step: the section that the picture shows. Steps that are not here have no picture.
SECTIONS = {
    "loaded": "modelCollapsibleButton",
    "segmenting": "segmentCollapsibleButton",
    "segmented": "segmentCollapsibleButton",
    "painted": "segmentEditorWidget",
    "reviewed": "reviewedTable",
    "saved": "caseTable",
    "ready to fine-tune": "fineTuneCollapsibleButton",
    "fine-tuning": "fineTuneCollapsibleButton",
    "verdict": "fineTuneProgressBar",
    "promoted": "modelCollapsibleButton",
    "segmented with the new version": "segmentCollapsibleButton",
    "rolled back": "modelCollapsibleButton",
}


def main(folder: Path) -> None:
    """Go through the loop with folders of its own, and take the pictures."""
    import whole_loop

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        whole_loop.use_folders(Path(temporary))
        from slicerhost.window import Host

        host = Host()
        host.loadModule(TOP / "TransferSeg" / "TransferSeg.py")
        host.window.resize(1400, 900)
        folder.mkdir(parents=True, exist_ok=True)
        loop = whole_loop.WholeLoop(host, Path(temporary) / "my-cases")
        for step in loop.steps():
            print(step, flush=True)
            if step in SECTIONS:
                open_section(host, step)
                number = list(SECTIONS).index(step) + 1
                host.screenshot(folder / f"{number:02d}-{step.replace(' ', '-')}.png")
        print(loop.result["report"])
        host.close()


def open_section(host, step: str) -> None:
    """Open what the picture is to show, as a user would, and scroll to it."""
    ui = host.widget.ui
    ui.historyCollapsibleButton.collapsed = step not in ("promoted", "rolled back")
    host.showSection(getattr(ui, SECTIONS[step]))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else TOP / "Resources" / "Screenshots")
