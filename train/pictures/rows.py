"""Puts rows of pictures of clips into one file: the layout of all figures of models."""

from __future__ import annotations

import io
import warnings

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from train.pictures.style import NO_DATE, STYLE, printable

Rows = list[tuple[str, list[np.ndarray]]]  # (caption, pictures uint8 [H, W, 3]) of one clip

LABEL_INCHES = 2.1
ROW_INCHES = 8.0  # width of a row of pictures, if each is then 1 to 2.4 inches wide
GAP = 0.35  # inches between clips


def rows_file(
    blocks: list[tuple[str, Rows]], suffix: str = "png", dots_per_inch: int = 120
) -> bytes:
    """Draw clips below each other on white, with the captions of rows on the left.

    Args:
        blocks: title and rows of each clip; all pictures have one shape.
        suffix: a kind of file of FILE_KINDS. In SVG and PDF, pictures keep their own pixels.
    """
    num_columns = max(len(pictures) for _, rows in blocks for _, pictures in rows)
    wide = min(2.4, max(1.0, ROW_INCHES / num_columns))
    first = blocks[0][1][0][1][0]
    tall = wide * first.shape[0] / first.shape[1]
    num_rows = sum(len(rows) for _, rows in blocks)
    width, height = LABEL_INCHES + num_columns * wide, num_rows * tall + len(blocks) * GAP + 0.05
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # The font lacks some scripts; it draws a box for each of their characters.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(width, height), dpi=dots_per_inch, facecolor="white")
        top = height
        for title, rows in blocks:
            top -= GAP
            place = (LABEL_INCHES / width, (top + 0.08) / height)
            figure.text(*place, printable(title, 90), fontsize=9, weight="bold")
            for caption, pictures in rows:
                top -= tall
                _draw_row(figure, caption, pictures, top, (wide, tall))
        if suffix != "png":
            stream = io.BytesIO()
            with matplotlib.rc_context({"svg.fonttype": "path"}):
                figure.savefig(stream, format=suffix, facecolor="white", metadata=NO_DATE[suffix])
            return stream.getvalue()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    opaque = np.asarray(canvas.buffer_rgba())[..., :3]  # without alpha the file is smaller
    stream = io.BytesIO()
    Image.fromarray(opaque).save(stream, format="png", optimize=True)
    return stream.getvalue()


def _draw_row(
    figure: Figure,
    caption: str,
    pictures: list[np.ndarray],
    bottom: float,
    cell: tuple[float, float],
) -> None:
    """Draw one row of cells of (width, height) inches, `bottom` inches above the lower edge."""
    edge = 0.02  # inches of white around a picture
    width, height = figure.get_size_inches()
    for column, picture in enumerate(pictures):
        left = LABEL_INCHES + column * cell[0] + edge
        inches = np.array([left, bottom + edge, cell[0] - 2 * edge, cell[1] - 2 * edge])
        axes = figure.add_axes(inches / [width, height, width, height], xticks=[], yticks=[])
        axes.imshow(picture, interpolation="nearest", aspect="auto")
        axes.spines[:].set_visible(False)
        axes.grid(False)
    text = "\n".join(printable(line, 34) for line in caption.split(", "))
    place = ((LABEL_INCHES - 0.1) / width, (bottom + cell[1] / 2) / height)
    figure.text(*place, text, ha="right", va="center", fontsize=8.5, linespacing=1.4)
