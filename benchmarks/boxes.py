"""How well do motion boxes agree with annotated ones, and what do they do to training masks?

    python -m benchmarks.boxes --samples ../shared/samples --toy out \\
        --out benchmarks/results/boxes.json

Runs the commands as a user would: manifest of a folder of videos, `flows`, and `boxes` for each
recipe. Sets: the clips of JHMDB-21, DAVIS and Something-Something V2 in --samples, and the toy
dataset in --toy; each falls into halves by source video (benchmarks/annotated_sets.py). Whoever
chooses numbers looks at `--half tune` alone. About ten minutes on one core.

Two measures. Per frame: intersection over union of the motion box with the smallest box around all
annotated ones, 0 where there is none, averaged over the frames of a clip and then over clips. Per
training window of 16 frames, every second one of the video, from every fourth frame on: how many of
the 14 x 14 positions of the canonical view are inside its box (`window_box`), and how much of the
annotated area of its frames that box holds.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np

from benchmarks.annotated_sets import (
    HALVES,
    AnnotatedClip,
    AnnotatedSet,
    annotated_sets,
    half_of,
    make_flows,
    read_clips,
)
from benchmarks.datasets import run
from preprocess.annotated_boxes.metrics import (
    TRIVIAL_BOXES,
    bounding_boxes,
    box_area,
    box_figures,
    clip_to_frame,
    intersect,
    trivial_box,
)
from preprocess.flow.sources import MOTION_VECTORS
from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.grid import (
    PATCH,
    TUBE_GRID,
    TUBE_POSITIONS,
    canonical_view,
    positions_inside,
    window_box,
)
from shared.layout import DatasetLayout
from shared.moving_areas import moving_positions
from shared.run_record import command_line, git_commit, versions

FIRST_DEFAULT = ("residual=0", "frames_before=4", "frames_after=4", "sigma=5.625",
                 "mean_factor=1.25", "least_motion=0.01", "steady_frames=0",
                 "least_boxes=1")  # fmt: skip
"""The default before residual lengths: a sum of motion maps over 9 frames."""
RECIPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "without residual lengths": ("--set", "residual=0"),
    "first default": tuple(part for each in FIRST_DEFAULT for part in ("--set", each)),
    "paper": ("--motion-preset", "paper"),
    "mofo-code": ("--motion-preset", "mofo-code"),
    "default, DIS flow": ("--source", "dis"),
    "default, motion vectors": ("--source", MOTION_VECTORS),
}
WINDOW_FRAMES, STRIDE, WINDOW_STEP = 16, 2, 4
STEP = 0.1  # of the edges of constant boxes that are tried, as a share of the frame
NUM_RESAMPLES = 2000
LARGE_SHARE = 0.8  # of the frame; what is annotated over more of it, motion cannot tell from all


@dataclass(frozen=True)
class ClipMeasures:
    """Of one clip: means over its annotated frames, and of its windows one by one."""

    source: str
    iou: float
    area: float
    positions: np.ndarray
    recall: float


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--samples", required=True, type=click.Path(path_type=Path), metavar="FOLDER",
              help="Folder with ssv2/, davis/, actions/jhmdb21/ and boxes/.")  # fmt: skip
@click.option("--toy", type=click.Path(path_type=Path), metavar="OUT",
              help="OUT of a rendered toy dataset; without it, that set is left out.")  # fmt: skip
@click.option("--half", type=click.Choice(HALVES), default="report",
              help="Half of the sources to measure on.")  # fmt: skip
@click.option("--recipe", "recipes", multiple=True, type=click.Choice(list(RECIPES)),
              metavar="NAME", help="Recipe to measure, of RECIPES in benchmarks/boxes.py; may be "
              "repeated.  [default: all]")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="JSON to write.")
@user_errors
def main(
    samples: Path, toy: Path | None, half: str, recipes: tuple[str, ...], out: Path | None
) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        sets = annotated_sets(samples, toy, Path(scratch))
        if not sets:
            raise InputError("empty", f"no annotated clips in {samples}")
        for name, of_set in sets.items():
            layout = DatasetLayout(Path(scratch), f"boxes-of-{name}")  # no official files
            wanted = {recipe: RECIPES[recipe] for recipe in recipes or RECIPES}
            make_flows(layout, of_set.videos, *_flow_options(wanted))
            for recipe, options in wanted.items():
                rows += _rows_of(layout, of_set, half, recipe, options)
    if out is not None:
        content = {
            "command": command_line(),
            "versions": versions(),
            "git_commit": git_commit(),
            "half": half,
            "rows": rows,
        }
        write_atomically(out, json.dumps(content, indent=1).encode() + b"\n")


def _flow_options(recipes: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Sources and maps that the recipes need, in one decode."""
    given = [option for options in recipes.values() for option in options]
    sources = ",".join(["tvl1", *(name for name in ("dis", MOTION_VECTORS) if name in given)])
    return ("--source", sources, *(("--boundaries",) if "mofo-code" in given else ()))


def _rows_of(
    layout: DatasetLayout, of_set: AnnotatedSet, half: str, recipe: str, options: tuple[str, ...]
) -> list[dict]:
    """Figures of a recipe, and with the default also of boxes that look at nothing."""
    name = recipe.replace(" ", "-").replace(",", "")
    place = ("--dataset", layout.dataset, "--out", str(layout.out))
    run("preprocess.boxes", *place, *options, "--name", name)
    clips = read_clips(layout.boxes_of(name), of_set)
    judged = [clip for clip in clips if half_of(clip.source) == half]
    found = {recipe: [measures(clip, clip.boxes) for clip in judged]}
    if recipe == "default":
        for trivial, share in TRIVIAL_BOXES.items():
            found[trivial] = [_constant(clip, trivial_box(share, (1, 1))) for clip in judged]
        found["default, positions that move"] = [moving_measures(clip) for clip in judged]
        best = best_constant([clip for clip in clips if half_of(clip.source) == "tune"])
        found["constant of the tune half"] = [_constant(clip, best) for clip in judged]
        smaller = [clip for clip in judged if _annotated_share(clip) <= LARGE_SHARE]
        if len(smaller) < len(judged):
            key = f"{recipe}, clips with at most {LARGE_SHARE:.0%} annotated"
            found[key] = [measures(clip, clip.boxes) for clip in smaller]
    rows = [{"set": of_set.name, "boxes": key, **figures(each)} for key, each in found.items()]
    for row in rows:
        print(text_of(row), flush=True)
    return rows


# --------------------------------------------------------------------------------------------------
# Measures


def measures(clip: AnnotatedClip, boxes: np.ndarray) -> ClipMeasures:
    """Of boxes float32 [T, 4] for a clip's frames, NaN where there is none."""
    found = box_figures(boxes[clip.frames].astype(np.float64), clip.annotated, clip.size)
    view = canonical_view(*clip.size)
    positions, recalls = [], []
    for window in windows(len(boxes)):
        box = window_box(boxes[window])
        positions.append(positions_inside(view.apply(box), view.size).sum())
        rows = np.flatnonzero(np.isin(clip.frames, window))
        if len(rows):
            same = np.tile(box.astype(np.float64), (len(rows), 1))
            recalls.append(box_figures(same, clip.annotated[rows], clip.size)["recall"].mean())
    return ClipMeasures(
        clip.source,
        float(found["iou"].mean()),
        float(found["area"].mean()),
        np.array(positions),
        float(np.mean(recalls)),
    )


def moving_measures(clip: AnnotatedClip) -> ClipMeasures:
    """Of what moves in a clip's windows (`moving_positions`); per frame, of its boxes.

    The recall is that of the annotated area of the canonical view.
    """
    view = canonical_view(*clip.size)
    annotated = view.apply(bounding_boxes(clip_to_frame(clip.annotated, clip.size)))
    positions, recalls = [], []
    for window in windows(len(clip.boxes)):
        moves = moving_positions(clip.areas[window], view, clip.size, PATCH)
        positions.append(moves.sum())
        rows = np.flatnonzero(np.isin(clip.frames, window))
        shares = np.array([_shares_of_patches(box) for box in annotated[rows]])
        if shares.sum() > 0:
            recalls.append(shares[:, moves].sum() / shares.sum())
    recall = float(np.mean(recalls)) if recalls else 0.0
    boxed = measures(clip, clip.boxes)
    return replace(boxed, positions=np.array(positions), recall=recall)


def _shares_of_patches(box: np.ndarray) -> np.ndarray:
    """float [14, 14]: how much of each patch of the canonical view lies in a box [4]."""
    edges = np.arange(TUBE_GRID[0] + 1) * PATCH
    x1, y1, x2, y2 = np.nan_to_num(box)  # a box outside of the view covers nothing
    across, down = (
        np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None) / PATCH
        for low, high in ((x1, x2), (y1, y2))
    )
    return np.outer(down, across)


def windows(num_frames: int) -> list[np.ndarray]:
    """Numbers int64 [16] of the frames of each window; a short clip repeats its last frame."""
    span = (WINDOW_FRAMES - 1) * STRIDE + 1
    starts = range(0, max(1, num_frames - span + 1), WINDOW_STEP)
    return [
        np.minimum(first + STRIDE * np.arange(WINDOW_FRAMES), num_frames - 1) for first in starts
    ]


def _constant(clip: AnnotatedClip, shares: np.ndarray) -> ClipMeasures:
    """One box for all frames, x1 y1 x2 y2 as shares of width and height."""
    box = shares * np.tile(clip.size, 2)
    return measures(clip, np.tile(box.astype(np.float32), (len(clip.boxes), 1)))


def best_constant(clips: list[AnnotatedClip]) -> np.ndarray:
    """float64 [4], the box with edges at multiples of STEP whose mean IoU is highest."""
    edges = np.round(np.arange(0, 1 + STEP / 2, STEP), 6)
    spans = [(low, high) for low in edges for high in edges if low < high]
    tried = np.array([(x1, y1, x2, y2) for x1, x2 in spans for y1, y2 in spans])
    total = np.zeros(len(tried))
    for clip in clips:
        some = np.linspace(0, len(clip.frames) - 1, min(5, len(clip.frames))).astype(int)
        for row in some:
            boxes = tried * np.tile(clip.size, 2)
            [around] = bounding_boxes(clip_to_frame(clip.annotated[row : row + 1], clip.size))
            common = np.nan_to_num(box_area(intersect(boxes, around)))
            total += common / (box_area(boxes) + box_area(around) - common) / len(some)
    return tried[total.argmax()]


def _annotated_share(clip: AnnotatedClip) -> float:
    """Share of the frame that the annotated boxes cover, mean over frames."""
    whole = np.tile(trivial_box(1.0, clip.size), (len(clip.frames), 1))
    return float(box_figures(whole, clip.annotated, clip.size)["iou"].mean())


def figures(clips: list[ClipMeasures]) -> dict:
    """Means over clips with 95 % intervals, and the windows of all clips; medians over clips."""
    positions = np.concatenate([clip.positions for clip in clips])
    medians = [float(np.median(clip.positions)) for clip in clips]
    return {
        "clips": len(clips),
        "sources": len({clip.source for clip in clips}),
        "iou": float(np.mean([clip.iou for clip in clips])),
        "iou_95": interval(clips, lambda clip: clip.iou),
        "area": float(np.mean([clip.area for clip in clips])),
        "positions": float(np.median(medians)),
        "recall": float(np.mean([clip.recall for clip in clips])),
        "recall_95": interval(clips, lambda clip: clip.recall),
        "all_inside": float(np.mean(positions == TUBE_POSITIONS)),
        "histogram": np.histogram(positions, bins=[*range(0, 196, 28), 196, 197])[0].tolist(),
    }


def interval(clips: list[ClipMeasures], value: Callable[[ClipMeasures], float]) -> list[float]:
    """Bootstrapped over source videos, since clips of one video are alike."""
    sources = sorted({clip.source for clip in clips})
    sums = np.array([[sum(value(c) for c in clips if c.source == each),
                      sum(c.source == each for c in clips)] for each in sources])  # fmt: skip
    drawn = np.random.default_rng(0).integers(len(sources), size=(NUM_RESAMPLES, len(sources)))
    totals = sums[drawn].sum(axis=1)
    return [float(each) for each in np.quantile(totals[:, 0] / totals[:, 1], [0.025, 0.975])]


def text_of(row: dict) -> str:
    low, high = row["iou_95"]
    return (
        f"{row['set']:6} {row['boxes']:46} {row['clips']:4d} clips  IoU {row['iou']:.3f} "
        f"({low:.3f} to {high:.3f})  area {row['area']:.2f}  window: {row['positions']:5.1f} "
        f"positions, recall {row['recall']:.2f}, all inside {row['all_inside']:.1%}"
    )


if __name__ == "__main__":
    main()
