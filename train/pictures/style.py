"""The style of charts: one palette and one type size, as SVG for light and dark pages.

Charts are drawn in the light palette. The SVG replaces each colour by a CSS variable
(`var(--ink)`), which the page sets for light mode, dark mode and print. Text stays text in the font
of the page.
"""

from __future__ import annotations

import base64
import io
import re
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE = {
    "ink": "#1d2329",
    "muted": "#5c6873",
    "rule": "#d3d9de",
    "blue": "#1f6f8b",
    "orange": "#c8641e",
    "green": "#4f8a3a",
    "violet": "#85549a",
    "on-dark": "#fdfefe",
}
SERIES = ("blue", "orange", "green", "violet")
TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # Unicode annex 9
# Heat maps use one blue whose alpha is the value, which is readable on light and dark pages.
HEAT_RGB = (38, 124, 168)

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mofo",
    "text.parse_math": False,  # the name of a class may contain "$\frac"
    "font.size": 9,
    "text.color": PALETTE["ink"],
    "axes.edgecolor": PALETTE["muted"],
    "axes.labelcolor": PALETTE["muted"],
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": PALETTE["rule"],
    "grid.linewidth": 0.6,
    "xtick.color": PALETTE["muted"],
    "ytick.color": PALETTE["muted"],
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.0,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


FILE_KINDS = ("png", "svg", "pdf")
# The same figure makes the same file.
NO_DATE: dict[str, dict[str, Any]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


@dataclass(frozen=True)
class Chart:
    """A chart that can be drawn into a page or a file.

    Attributes:
        title: for screen readers; it is not drawn, because the caption says the same.
        draw: draws the chart on given axes.
        width, height: inches of 72 px; the size of text is relative to these.
    """

    title: str
    draw: Callable[[Axes], None]
    width: float = 4.0
    height: float = 2.5

    def svg(self) -> Markup:
        """The chart as an element of an HTML page, with the colours of the page."""
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        text = self._save(format="svg", metadata=metadata).decode()
        return _inline_svg(text, self.title)

    def file(self, suffix: str = "png", pixels_per_inch: int = 200) -> bytes:
        """The chart as a file of a kind in FILE_KINDS, on white.

        Text of an SVG becomes outlines, which look the same where the font is missing.
        """
        return self._save(
            {"svg.fonttype": "path"},
            format=suffix,
            dpi=pixels_per_inch,
            facecolor="white",
            metadata=NO_DATE[suffix],
        )

    def _save(self, further: dict[Any, Any] | None = None, **options: Any) -> bytes:
        with matplotlib.rc_context({**STYLE, **(further or {})}), warnings.catch_warnings():
            # Some scripts are not in the font that measures text; the fonts of the page draw them.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure = Figure(figsize=(self.width, self.height), layout="constrained")
            self.draw(figure.subplots())
            stream = io.BytesIO()
            figure.savefig(stream, **options)
        return stream.getvalue()


def heat_rgba(shares: np.ndarray) -> np.ndarray:
    """Convert shares float [...] in 0..1 to RGBA uint8 [..., 4]: one colour, the share as alpha."""
    rgba = np.empty((*np.shape(shares), 4), dtype=np.uint8)
    rgba[..., :3] = HEAT_RGB
    rgba[..., 3] = np.round(255 * np.clip(shares, 0.0, 1.0))
    return rgba


def visible(text: str) -> str:
    """Replace control characters and characters that change the direction of text."""
    return "".join("\ufffd" if _is_hidden(character) else character for character in text)


def printable(text: str, most: int = 60) -> str:
    """Make text fit for one line of a chart: visible, and at most `most` characters long."""
    kept = visible(text).replace("\n", " ").replace("\t", " ")
    return kept if len(kept) <= most else kept[: most - 1] + "\u2026"


def shortened(text: str, most: int) -> str:
    """As `printable`, but cut in the middle: names of classes often differ at the end only."""
    kept = printable(text, len(text))
    start, end = (most - 1) // 2, (most - 1) - (most - 1) // 2
    return kept if len(kept) <= most else f"{kept[:start].rstrip()}\u2026{kept[-end:].lstrip()}"


def _is_hidden(character: str) -> bool:
    if character in "\n\t":
        return False
    turns = unicodedata.bidirectional(character) in TURNING or character in "\u200e\u200f\u061c"
    return turns or unicodedata.category(character) in ("Cc", "Cs")


def png_uri(image: np.ndarray) -> str:
    """An image uint8 [H, W, 3] RGB as a data: address, in PNG format."""
    done, encoded = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done, image.shape
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode()


def jpeg_uri(image: np.ndarray, quality: int = 85) -> str:
    """An image uint8 [H, W, 3] RGB as a data: address, in JPEG format."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
    done, encoded = cv2.imencode(".jpg", image[..., ::-1], options)
    assert done, image.shape
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _inline_svg(text: str, title: str) -> Markup:
    """Turn the SVG of matplotlib into an element of an HTML page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[a-z]+(?:2d)?_\d+(?:_\d+)?"', "", text)  # ids must be unique on a page
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None, "matplotlib's SVG has a viewBox"
    width = float(box[1].split()[2])
    text = text[text.index(">") + 1 :]
    for name, colour in PALETTE.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"\n\s*", "\n", text)
    head = (
        f'<svg class="chart" role="img" aria-label="{escape(title)}" viewBox="{box[1]}" '
        f'style="--width: {width:.0f}">'
    )
    return Markup(head + text.strip())
