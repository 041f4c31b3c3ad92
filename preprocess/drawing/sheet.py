"""A sheet of pictures and lines of text, as pixels, or as a vector file for papers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from preprocess.drawing.frames import (
    DARK,
    TEXT_INDENT,
    TEXT_SHARE,
    Ground,
    caption,
    fitted,
)

DOTS_PER_INCH = 100  # pixels of a sheet in an inch of a PDF or SVG


@dataclass(frozen=True)
class Line:
    """A line of text: its left, top, width and height in pixels, and whether it is strong."""

    x: int
    y: int
    width: int
    height: int
    text: str
    strong: bool


@dataclass
class Sheet:
    """A sheet `width` pixels wide that grows downwards.

    Attributes:
        width, height: size in pixels.
        ground: colours of the background and of text.
        pictures: left, top and pixels uint8 [h, w, 3] of each picture.
        lines: lines of text.
    """

    width: int
    height: int = 0
    ground: Ground = DARK
    pictures: list[tuple[int, int, np.ndarray]] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def add_line(self, text: str, height: int = 22, strong: bool = False) -> None:
        """Add a line of text below everything else."""
        self.lines.append(Line(0, self.height, self.width, height, text, strong))
        self.height += height

    def add_row(self, cells: Sequence[np.ndarray | str], width: int, gap: int = 6) -> None:
        """Add a row of pictures of one size, or of lines of text, in columns of a width."""
        height, top = 22, self.height + gap
        for column, cell in enumerate(cells):
            left = gap + column * (width + gap)
            if isinstance(cell, str):
                self.lines.append(Line(left, top, width, height, cell, False))
            else:
                self.pictures.append((left, top, cell))
                height = cell.shape[0]
        self.height += height + 2 * gap

    def pixels(self) -> np.ndarray:
        """The sheet as uint8 [height, width, 3]."""
        sheet = np.empty((self.height, self.width, 3), np.uint8)
        sheet[:] = self.ground.paper
        for line in self.lines:
            drawn = caption(line.text, line.width, line.height, line.strong, self.ground)
            sheet[line.y : line.y + line.height, line.x : line.x + line.width] = drawn
        for x, y, picture in self.pictures:
            sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
        return sheet

    def file(self, suffix: str) -> bytes:
        """The sheet as a PNG, SVG or PDF file. The same sheet makes the same file.

        In SVG and PDF text is sharp, and pictures keep their pixels.
        """
        if suffix == "png":
            return cv2.imencode(".png", self.pixels()[..., ::-1])[1].tobytes()
        size = (self.width / DOTS_PER_INCH, self.height / DOTS_PER_INCH)
        style: dict[Any, Any] = {
            "svg.fonttype": "path",
            "svg.hashsalt": "mofo",
            "text.parse_math": False,
        }
        date = {"svg": "Date", "pdf": "CreationDate"}[suffix]
        stream = io.BytesIO()
        with matplotlib.rc_context(style):
            figure = Figure(figsize=size, dpi=DOTS_PER_INCH, facecolor=_share(self.ground.paper))
            for x, y, picture in self.pictures:
                height, width = picture.shape[:2]
                place = np.array([x, self.height - y - height, width, height], float)
                place /= np.array([self.width, self.height] * 2)
                axes = figure.add_axes(tuple(place))
                axes.imshow(picture, interpolation="nearest", aspect="auto")
                axes.axis("off")
            for line in self.lines:
                colour = self.ground.ink if line.strong else self.ground.muted
                figure.text(
                    (line.x + TEXT_INDENT) / self.width,
                    1 - (line.y + line.height / 2) / self.height,
                    fitted(line.text, line.width, line.height),
                    color=_share(colour),
                    fontsize=72 / DOTS_PER_INCH * round(line.height * TEXT_SHARE),
                    va="center",
                )
            figure.savefig(
                stream, format=suffix, metadata={date: None}, facecolor=figure.get_facecolor()
            )
        return stream.getvalue()


def _share(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """A colour in 0..1, as matplotlib takes it."""
    return (rgb[0] / 255, rgb[1] / 255, rgb[2] / 255)
