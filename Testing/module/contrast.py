"""How well what the panel shows stands out from its ground: ratios of luminance as WCAG 2 defines them."""

from __future__ import annotations

from collections.abc import Iterator

#: WCAG 2, level AA: of texts, and of what is no text (boxes, icons).
OF_TEXT, OF_OTHERS = 4.5, 3.0


def contrast(one, other) -> float:
    """Return the ratio of two colours' luminances (WCAG 2)."""

    def luminance(color) -> float:
        parts = [color.redF(), color.greenF(), color.blueF()]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def faint(panel) -> list[str]:
    """Return what is hard to read in a widget, with its ratio: texts, and the texts and icons in tables.

    What is disabled is left out, as WCAG does.
    """
    import qt

    found = []
    for label in panel.findChildren(qt.QLabel):
        if label.visible and label.enabled and label.text:
            ratio = contrast(label.palette.color(label.foregroundRole()), ground(label))
            if ratio < OF_TEXT:
                found.append(f"{label.objectName}: {ratio:.1f}")
    for line in panel.findChildren(qt.QLineEdit):
        if line.visible and line.enabled:
            ratio = contrast(line.palette.text().color(), line.palette.base().color())
            if ratio < OF_TEXT:
                found.append(f"{line.objectName}: {ratio:.1f}")
    for table in panel.findChildren(qt.QTableWidget):
        if table.visible and table.enabled and table.objectName:
            found += [f"{table.objectName}, {each}" for each in faintCells(table)]
    return found


def faintCells(table) -> Iterator[str]:
    """Yield the texts and icons of a QTableWidget that are hard to see."""
    for row in range(table.rowCount):
        for column in range(table.columnCount):
            item = table.item(row, column)
            if item is None or table.isRowHidden(row):
                continue
            paper, ink = item.background(), item.foreground()
            stops = [color for _place, color in paper.gradient().stops()] if paper.gradient() is not None else []
            grounds = stops or [paper.color() if paper.style() else table.palette.base().color()]
            text = ink.color() if ink.style() else table.palette.text().color()
            ratio = min(contrast(text, each) for each in grounds)
            if item.text() and ratio < OF_TEXT:
                yield f"{item.text()}: {ratio:.1f}"
            if not item.icon().isNull():
                ratio = iconContrast(item.icon(), table.palette.base().color())
                if ratio < OF_OTHERS:
                    yield f"icon of {item.text()}: {ratio:.1f}"


def iconContrast(icon, ground) -> float:
    """Return how much the part of an icon stands out that does so most."""
    import qt

    picture = icon.pixmap(qt.QSize(16, 16)).toImage()
    pixels = [picture.pixelColor(x, y) for x in range(picture.width()) for y in range(picture.height())]
    return max(contrast(each, ground) for each in pixels if each.alpha() > 200)


def ground(widget):
    """Return the colour behind a label: its own, or that of the nearest widget around it that fills its ground."""
    while not widget.autoFillBackground and not widget.isWindow():
        widget = widget.parentWidget()
    return widget.palette.color(widget.backgroundRole())
