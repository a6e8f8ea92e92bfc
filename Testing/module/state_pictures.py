"""Take a picture of each state of the panel, for somebody who looks at them.

    python Testing/module/state_pictures.py FOLDER [STATE ...]

writes the pictures into a folder: the whole panel at 400 and 520 pixels, light and dark, side by side. What is found to
be cut off or hard to read is printed. TRANSFERSEG_FONT_SCALE=1.5 makes the letters half as large again.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP), str(TOP / "Testing"), str(TOP / "Testing" / "module")]
os.environ.setdefault("PYSIDE6_OPTION_PYTHON_ENUM", "2")


@contextmanager
def panelHost(folder: Path) -> Iterator:
    """Open the panel with a library, jobs and projects of its own."""
    import whole_loop

    whole_loop.use_folders(folder)
    os.environ["HOME"] = str(folder)  # what the panel shows of it is "~"
    from slicerhost.window import Host

    host = Host()
    host.loadModule(TOP / "TransferSeg" / "TransferSeg.py")
    try:
        yield host
    finally:
        host.close()


def variants(host, font_scale: float = 1.0) -> Iterator[tuple[str, object]]:
    """Show the panel at each width, light and dark; yields a name and the picture of the whole panel."""
    from contextlib import nullcontext

    from dark_style import darkStyle
    from narrow_panel import panel_of
    from panel_states import WIDTHS

    for isDark in (False, True):
        with darkStyle(host) if isDark else nullcontext():
            host.widget.fineTunePanel.decision.update()
            host.widget.paintBoxes()
            for width in WIDTHS:
                with panel_of(host, width, font_scale, isChecked=False):
                    yield f"{width} {'dark' if isDark else 'light'}", host._area.widget().grab()
    host.widget.fineTunePanel.decision.update()
    host.widget.paintBoxes()


def main(folder: Path, *wanted: str) -> None:
    """Take the pictures."""
    from contrast import faint
    from panel_states import PanelStates, problems

    folder.mkdir(parents=True, exist_ok=True)
    scale = float(os.environ.get("TRANSFERSEG_FONT_SCALE", "1"))
    with (
        tempfile.TemporaryDirectory(prefix="TransferSeg-", ignore_cleanup_errors=True) as temporary,
        panelHost(Path(temporary)) as host,
    ):
        host.window.resize(1280, 720)
        for name, bring in PanelStates(host, Path(temporary)).every():
            bring()
            if wanted and not any(each in name for each in wanted):
                continue
            pictures = []
            for variant, picture in variants(host, scale):
                pictures.append(picture)
                for each in [*problems(host), *faint(host._area.widget())]:
                    print(f"{name}, {variant}: {each}", flush=True)
            import qt

            sheet = qt.QPixmap(sum(each.width() for each in pictures), max(each.height() for each in pictures))
            sheet.fill(qt.QColor("#888888"))
            painter, left = qt.QPainter(sheet), 0
            for picture in pictures:
                painter.drawPixmap(left, 0, picture)
                left += picture.width()
            painter.end()
            assert sheet.save(str(folder / f"{name}.png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
