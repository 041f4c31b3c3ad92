"""Charts of the report: curves, histograms, heat maps and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import Formatter, MaxNLocator

from shared.scene import masked_counts
from train.pictures.style import PALETTE, SERIES, Chart, heat_rgba, printable, shortened

MOST_NAMED_CLASSES = 16  # with more, the axes of a confusion matrix show class numbers
LONGEST_NAME = 34  # characters of the name of a class beside a confusion matrix
MOST_POINTS = 600  # points of a curve that a chart of this width can show
MOST_NAMES_INSIDE = 5  # curves whose legend lies inside the axes


@dataclass(frozen=True)
class Curve:
    """One line of a chart: values y over x, both [n].

    Attributes:
        between: lowest and highest value of an interval around each y, drawn as vertical bars; none
            if empty.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    between: Sequence[tuple[float, float]] = ()

    @property
    def is_line(self) -> bool:
        """Whether it has two points or more; a single dot is no chart."""
        return len(self.x) > 1


def curves_chart(
    title: str,
    curves: list[Curve],
    x_label: str,
    y_label: str,
    reference: tuple[float, str] | None = None,
    as_percent: bool = False,
    from_zero: bool = False,
    width: float = Chart.width,
) -> Chart:
    """Lines over a common axis; `reference` is the (value, name) of a dashed horizontal line."""

    def draw(axes: Axes) -> None:
        for number, curve in enumerate(curves):
            x, y = _thinned(np.asarray(curve.x, float), np.asarray(curve.y, float))
            marker = "o" if len(x) <= 12 else None
            colour = PALETTE[SERIES[number % len(SERIES)]]
            style = "-" if number < len(SERIES) else "--"
            name = printable(curve.name, 28)
            axes.plot(x, y, style, label=name, color=colour, marker=marker, markersize=3.5)
            for place, bar in zip(curve.x, curve.between, strict=bool(curve.between)):
                # A line, which the legend avoids; it does not see what axes.vlines draws.
                axes.plot([place, place], bar, color=colour, linewidth=1.2, alpha=0.6)
        if reference is not None:
            value, name = reference
            axes.axhline(value, color=PALETTE["muted"], linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                name,
                (1, value),
                (0, 3),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                color=PALETTE["muted"],
                fontsize=8.5,
            )
        if len(curves) > MOST_NAMES_INSIDE:  # a long legend would cover curves
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), handlelength=2.4)
        elif len(curves) > 1:
            axes.legend(loc="best", handlelength=1.4)
        if as_percent:
            axes.yaxis.set_major_formatter(PlainTicks(percent=True))
        else:
            axes.yaxis.set_major_formatter(PlainTicks())
        axes.xaxis.set_major_formatter(PlainTicks())
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.02, y=0.12)
        axes.set_xlim(left=0)
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)

    return Chart(title, draw, width)


def shares_chart(title: str, shares_of: dict[str, np.ndarray], x_label: str, y_label: str) -> Chart:
    """Histograms of shares float [n] in 0..1 on common axes; each sums to 1, and NaN is ignored."""
    bins = np.linspace(0.0, 1.0, 26)

    def draw(axes: Axes) -> None:
        for (name, shares), colour in zip(shares_of.items(), SERIES, strict=False):
            known = shares[~np.isnan(shares)]
            if len(known) == 0:
                continue
            heights = np.histogram(np.clip(known, 0.0, 1.0), bins)[0] / len(known)
            axes.stairs(heights, bins, label=name, color=PALETTE[colour], linewidth=1.5)
            axes.stairs(heights, bins, color=PALETTE[colour], alpha=0.12, fill=True)
        if len(shares_of) > 1:
            axes.legend(loc="best", handlelength=1.4)
        axes.xaxis.set_major_formatter(PlainTicks(percent=True))
        axes.yaxis.set_major_formatter(PlainTicks(percent=True))
        axes.set_xlim(0, 1)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)

    return Chart(title, draw)


def coverage_chart(coverage: np.ndarray) -> Chart:
    """Map of where motion is: share of frames [h, w] whose box covers each part of the frame."""
    most = float(coverage.max())

    def draw(axes: Axes) -> None:
        shown = heat_rgba(coverage / most if most > 0 else coverage)
        axes.imshow(shown, extent=(0, 1, 1, 0), interpolation="nearest", aspect=0.75)
        axes.grid(False)
        axes.set_xticks([0, 0.5, 1], ["left", "middle", "right"])
        axes.set_yticks([0, 0.5, 1], ["top", "middle", "bottom"])
        axes.spines[["top", "right"]].set_visible(True)

    return Chart("Map of where motion boxes lie", draw, width=3.4, height=2.5)


def inside_chart(
    num_inside: np.ndarray, num_positions: int, mask_ratio: float, inside_ratio: float
) -> Chart:
    """Histogram of the positions inside the clips' boxes, and the share of them that is masked."""
    counts = np.bincount(np.clip(num_inside, 0, num_positions), minlength=num_positions + 1)
    positions = np.arange(1, num_positions)
    masked = np.array(
        [masked_counts(num_positions, int(m), mask_ratio, inside_ratio) for m in positions]
    )

    def draw(axes: Axes) -> None:
        width = max(1, (num_positions + 1) // 49)
        edges = np.arange(0, num_positions + 1 + width, width)
        binned = np.add.reduceat(counts, edges[:-1]) / counts.sum()
        axes.bar(
            edges[:-1],
            binned,
            width=0.85 * width,
            align="edge",
            color=PALETTE["muted"],
            alpha=0.45,
        )
        axes.set_ylabel("share of clips")
        axes.yaxis.set_major_formatter(PlainTicks(percent=True))
        axes.set_xlabel(f"positions inside the box, of {num_positions}")
        axes.set_xlim(0, edges[-1])
        axes.grid(False)
        right = _right_axis(axes, "share masked")
        right.plot(
            positions, masked[:, 1] / positions, color=PALETTE["blue"], label="masked inside"
        )
        outside = (masked[:, 0] - masked[:, 1]) / (num_positions - positions)
        right.plot(positions, outside, color=PALETTE["orange"], label="masked outside")
        right.set_ylim(0, 1.05)
        right.yaxis.set_major_formatter(PlainTicks(percent=True))
        right.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handlelength=1.4)

    return Chart("Positions inside the motion box, and the share of them masked", draw)


def confusion_chart(matrix: np.ndarray, names: list[str], title: str = "Confusion matrix") -> Chart:
    """Confusion matrix [true, predicted] of counts; opacity shows the share of the true class.

    With many classes, opacity shows the square root of the share, so that single mistakes can be
    seen. One more column than rows, as of `most_confused`, is named "another class".
    """
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    count = len(matrix)
    named = count <= MOST_NAMED_CLASSES
    side = 3.2 + 0.17 * count if named else 5.6  # inches: cells of one size
    longest = max((len(name) for name in names), default=0) if named else 0
    side += 0.07 * max(0, min(longest, LONGEST_NAME) - 16)

    def draw(axes: Axes) -> None:
        opacity = shares if named else np.sqrt(shares)
        axes.imshow(heat_rgba(opacity), interpolation="nearest", aspect="equal")
        axes.grid(False)
        axes.spines[["top", "right"]].set_visible(True)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if not named:
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
            axes.set_xlabel("predicted class number")
            axes.set_ylabel("true class number")
        else:
            short = [shortened(name, LONGEST_NAME) for name in names]
            rotation = 0 if max(map(len, short)) * count <= 44 else 45
            place: dict[str, Any] = (
                {"ha": "center"} if rotation == 0 else {"ha": "right", "rotation_mode": "anchor"}
            )
            others = ["another class"] * (matrix.shape[1] - count)
            axes.set_xticks(range(matrix.shape[1]), short + others, rotation=rotation, **place)
            axes.set_yticks(range(count), short)
            axes.tick_params(length=0)
            for row, column in np.ndindex(matrix.shape):
                if matrix[row, column]:
                    colour = "on-dark" if shares[row, column] > 0.55 else "ink"
                    axes.text(
                        column,
                        row,
                        f"{matrix[row, column]}",
                        ha="center",
                        va="center",
                        fontsize=8.5 if count <= 12 else 7,
                        color=PALETTE[colour],
                    )

    return Chart(title, draw, width=side, height=0.94 * side)


def most_confused(
    matrix: np.ndarray, most: int = MOST_NAMED_CLASSES
) -> tuple[list[int], np.ndarray]:
    """Choose the classes of a confusion matrix [true, predicted] that are confused most often.

    Returns:
        at most `most` class numbers in rising order, and the counts [n, n + 1] of their clips by
        predicted class; the last column counts all other classes.
    """
    mistakes = matrix + matrix.T
    pairs = np.argsort(-np.triu(mistakes, 1), axis=None, kind="stable")
    chosen: dict[int, None] = {}
    for pair in pairs:
        two = np.unravel_index(pair, matrix.shape)
        if mistakes[two] == 0 or two[0] == two[1]:
            break
        added = [int(number) for number in two if int(number) not in chosen]
        if len(chosen) + len(added) <= most:
            chosen |= dict.fromkeys(added)
    numbers = sorted(chosen)
    counts = matrix[np.ix_(numbers, numbers)]
    others = matrix[numbers].sum(axis=1, keepdims=True) - counts.sum(axis=1, keepdims=True)
    return numbers, np.concatenate([counts, others], axis=1)


def _right_axis(axes: Axes, label: str) -> Axes:
    right = axes.twinx()
    right.set_ylabel(label)
    right.grid(False)
    right.spines["right"].set_visible(True)
    return right


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop NaN, and reduce a curve to MOST_POINTS points that are means of their neighbours."""
    kept = np.isfinite(y) & np.isfinite(x)
    x, y = x[kept], y[kept]
    if len(x) <= MOST_POINTS:
        return x, y
    parts = np.array_split(np.arange(len(x)), MOST_POINTS)
    return np.array([x[part].mean() for part in parts]), np.array(
        [y[part].mean() for part in parts]
    )


class PlainTicks(Formatter):
    """Formats the numbers of an axis with equal decimals: 0.95, 1.00; 12k; 1.5e-4.

    With `percent`, shares are written as 2.5 %, 5.0 %.
    """

    def __init__(self, percent: bool = False) -> None:
        self.percent = percent

    def __call__(self, value: float, pos: int | None = None) -> str:
        return self.format_ticks([value])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        if self.percent:
            return [f"{text} %" for text in PlainTicks().format_ticks([100 * v for v in values])]
        largest = max(map(abs, values), default=0.0)
        if largest >= 10_000:
            return [f"{value / 1000:g}k" if value else "0" for value in values]
        if 0 < largest < 0.01:
            return [_scientific(value) for value in values]
        shifted = (np.array(values) * 10.0**places for places in range(7))
        exact = (np.allclose(each, np.round(each), rtol=0, atol=1e-3) for each in shifted)
        decimals = next((places for places, fits in enumerate(exact) if fits), 6)
        return [f"{value:.{decimals}f}".replace("-", "\u2212") for value in values]


def _scientific(value: float) -> str:
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e\u2212{abs(int(exponent))}"
