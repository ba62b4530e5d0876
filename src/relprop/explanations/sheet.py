"""The contact sheet: what the model saw, what it looked at, and both on top of each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from relprop.explanations.heatmaps import heatmap
from relprop.explanations.shown import one_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

COLUMNS = 8
CELL = 256
GAP = 12
MARGIN = 40
LABELS = 40  # the column of row labels
NARROWEST = 960  # so that the colour scale and its words fit
ROWS = ("picture", "relevance", "overlay")
INK, FAINT, LINE = "#1b1f24", "#68717a", "#d5d9de"


@dataclass(frozen=True, eq=False)
class Panel:
    """One column of the sheet: lines of text, and the picture, the heatmap and the overlay under them."""

    title: str
    subtitle: str
    images: tuple[Image, Image, Image]
    note: str = ""


def contact_sheet(panels: Sequence[Panel], title: str, cmap: str = "seismic", together: int = 1) -> Image:
    """All panels side by side, in bands of at most `COLUMNS`, with a colour scale at the end.

    Raises:
        ImageError: an unknown colormap.
        MissingExtraError: Pillow or matplotlib is not installed.
    """
    from PIL import Image, ImageDraw

    columns = max(1, math.ceil(len(panels) / math.ceil(len(panels) / COLUMNS)))  # bands of nearly equal length
    if together <= COLUMNS:
        columns = min(math.ceil(columns / together), COLUMNS // together) * together
    bands = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    head, foot, caption = 60, 56, 92 if any(panel.note for panel in panels) else 68
    band = caption + len(ROWS) * (CELL + GAP) + 2 * GAP
    width = 2 * MARGIN + LABELS + columns * (CELL + GAP) - GAP
    sheet = Image.new("RGB", (max(width, NARROWEST), 2 * MARGIN + head + len(bands) * band + foot), "white")
    draw = ImageDraw.Draw(sheet)
    title = _fitted(title, 28, True, sheet.width - 2 * MARGIN)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=_font(28, bold=True))
    for i, row in enumerate(bands):
        _band(sheet, draw, row, MARGIN + head + i * band, caption)
    _scale(sheet, draw, sheet.height - MARGIN - 24, cmap)
    return sheet


def _band(sheet: Image, draw: ImageDraw, panels: Sequence[Panel], top: int, caption: int) -> None:
    for j, label in enumerate(ROWS):
        middle = top + caption + j * (CELL + GAP) + CELL // 2
        _rotated(sheet, label, MARGIN, middle)
    for i, panel in enumerate(panels):
        left = MARGIN + LABELS + i * (CELL + GAP)
        draw.text((left, top), _fitted(panel.title, 22, True), fill=INK, font=_font(22, bold=True))
        draw.text((left, top + 30), _fitted(panel.subtitle, 18, False), fill=FAINT, font=_font(18))
        draw.text((left, top + 54), _fitted(panel.note, 18, False), fill=FAINT, font=_font(18))
        for j, image in enumerate(panel.images):
            _cell(sheet, draw, image, left, top + caption + j * (CELL + GAP))


def _cell(sheet: Image, draw: ImageDraw, image: Image, left: int, top: int) -> None:
    """The whole image, as large as fits, in the middle of its cell."""
    from PIL.Image import Resampling

    factor = CELL / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    # Pixels of a small picture stay visible as squares: they are what relevance was given to.
    fitted = image.convert("RGB").resize(size, Resampling.NEAREST if factor >= 1 else Resampling.LANCZOS)
    x, y = left + (CELL - size[0]) // 2, top + (CELL - size[1]) // 2
    sheet.paste(fitted, (x, y))
    draw.rectangle((x - 1, y - 1, x + size[0], y + size[1]), outline=LINE)


def _scale(sheet: Image, draw: ImageDraw, top: int, cmap: str) -> None:
    """The colormap, and what its ends mean."""
    left, width, height = MARGIN + LABELS, 240, 16
    ramp = heatmap(torch.linspace(-1, 1, width).expand(height, width), cmap=cmap)
    assert not isinstance(ramp, list)
    font = _font(18)
    draw.text((left, top + height // 2), "against the class", fill=FAINT, font=font, anchor="lm")
    left += round(draw.textlength("against the class", font=font)) + GAP
    sheet.paste(ramp, (left, top))
    draw.rectangle((left - 1, top - 1, left + width, top + height), outline=LINE)
    note = "for the class; each heatmap on its own scale"
    draw.text((left + width + GAP, top + height // 2), note, fill=FAINT, font=font, anchor="lm")


def _rotated(sheet: Image, text: str, left: int, middle: int) -> None:
    """Text that reads upwards, centred at a height."""
    from PIL import Image, ImageDraw

    font = _font(18)
    width = round(font.getlength(text)) + 4
    label = Image.new("RGB", (width, 26), "white")
    ImageDraw.Draw(label).text((width / 2, 13), text, fill=FAINT, font=font, anchor="mm")
    turned = label.rotate(90, expand=True)
    sheet.paste(turned, (left, middle - turned.height // 2))


def _fitted(text: str, size: int, bold: bool, width: int = CELL) -> str:
    """The text, cut with an ellipsis where it is wider than that."""
    text, font = one_line(text), _font(size, bold)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


@cache
def _font(size: int, bold: bool = False) -> FreeTypeFont:
    # matplotlib brings this font along, so it is the same one everywhere.
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
