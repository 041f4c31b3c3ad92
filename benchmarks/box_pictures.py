"""Pictures of what `benchmarks.boxes` measures: a chart of the windows, and single clips.

    python -m benchmarks.box_pictures chart benchmarks/results/moving_positions.json \\
        docs/pictures/positions-inside.png
    python -m benchmarks.box_pictures clips --samples ../shared/samples --set jhmdb out/pictures

The chart has the number of positions inside of training windows, as a histogram for each set.
`clips` draws the ten clips with the lowest IoU and ten others at random, of one set and one half:
annotated boxes in green, motion boxes in orange, and what moves in blue. The pictures of the sample
clips belong to others, so they are not kept in the project.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click
import cv2
import numpy as np
from matplotlib.figure import Figure

from benchmarks.annotated_sets import (
    HALVES,
    AnnotatedClip,
    annotated_sets,
    half_of,
    make_flows,
    read_clips,
)
from benchmarks.boxes import measures
from benchmarks.datasets import run
from preprocess.annotated_boxes.metrics import bounding_boxes, clip_to_frame
from shared.drawing import ANNOTATION_RGB, BOX_RGB, CONTOUR_RGB, draw_box
from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.shard_index import read_index
from shared.shards import ShardReader

RECIPES = {
    "first default": ("before", "#b0b0b0"),
    "default": ("boxes", "#ff911e"),
    "default, positions that move": ("positions that move", "#2090c0"),
}
"""Rows of the results that the chart has: name and colour."""
EDGES = [*range(0, 196, 28), 196, 197]  # of `figures` in benchmarks/boxes.py
NUM_CLIPS, NUM_FRAMES = 10, 4
WIDTH = 240  # px of a drawn frame
BLACK, WHITE = (0, 0, 0), (255, 255, 255)

PATH = click.Path(path_type=Path)


@click.group(help=__doc__.split("\n")[0])
def main() -> None:
    pass


@main.command(
    help="Draw the histogram of positions inside, from RESULTS to PICTURE.",
    context_settings={"show_default": True},
)
@click.argument("results", type=PATH)
@click.argument("picture", type=PATH)
@user_errors
def chart(results: Path, picture: Path) -> None:
    rows = json.loads(results.read_text(encoding="utf-8"))["rows"]
    sets = list(dict.fromkeys(row["set"] for row in rows))
    figure = Figure(figsize=(3.2 * len(sets), 2.8), layout="constrained")
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, sets, strict=True):
        found = {row["boxes"]: row for row in rows if row["set"] == name}
        chosen = [key for key in RECIPES if key in found]
        for number, key in enumerate(chosen):
            label, colour = RECIPES[key]
            counts = np.array(found[key]["histogram"])
            left = np.arange(len(counts)) - 0.4 + 0.8 * number / len(chosen)
            median = f"{label}, median {found[key]['positions']:.0f}"
            shares, width = counts / counts.sum(), 0.8 / len(chosen)
            panel.bar(left, shares, width, align="edge", color=colour, label=median)
        panel.set_title(f"{name}, {found[chosen[0]]['clips']} clips", fontsize=9)
        panel.set_xticks(range(len(EDGES) - 1), [str(edge) for edge in EDGES[:-1]], fontsize=7)
        panel.set_xlabel("positions inside, from", fontsize=8)
        panel.legend(fontsize=6)
    panels[0].set_ylim(top=1.35 * panels[0].get_ylim()[1])  # room for the legends
    panels[0].set_ylabel("share of windows", fontsize=8)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110, metadata={"Software": None})
    print(picture)


@main.command(
    help="Draw the worst clips of a set and some at random, to FOLDER.",
    context_settings={"show_default": True},
)
@click.argument("folder", type=PATH)
@click.option("--samples", required=True, type=PATH, metavar="FOLDER",
              help="Folder with ssv2/, davis/, actions/jhmdb21/ and boxes/.")  # fmt: skip
@click.option("--set", "name", required=True, metavar="NAME", help="Set: davis, jhmdb or ssv2.")
@click.option("--half", type=click.Choice(HALVES), default="report", show_default=True,
              help="Half of the sources that is drawn.")  # fmt: skip
@user_errors
def clips(folder: Path, samples: Path, name: str, half: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        sets = annotated_sets(samples, None, Path(scratch))
        if name not in sets:
            raise InputError("unknown-name", f"--set is {name!r}; allowed: {', '.join(sets)}")
        layout = DatasetLayout(Path(scratch), f"boxes-of-{name}")
        make_flows(layout, sets[name].videos)
        run("preprocess.boxes", "--dataset", layout.dataset, "--out", str(layout.out))
        found = [c for c in read_clips(layout.boxes, sets[name]) if half_of(c.source) == half]
        draw_clips(folder, layout, found)


def draw_clips(folder: Path, layout: DatasetLayout, found: list[AnnotatedClip]) -> None:
    """Write worst.png and random.png to a folder, a row a clip."""
    scores = np.array([measures(clip, clip.boxes).iou for clip in found])
    order = scores.argsort()
    rest = np.random.default_rng(0).permutation(order[NUM_CLIPS:])[:NUM_CLIPS]
    for name, chosen in (("worst", order[:NUM_CLIPS]), ("random", rest)):
        rows = [_row(layout, found[number], scores[number]) for number in chosen]
        if rows:
            height = min(row.shape[0] for row in rows)
            sheet = np.concatenate([cv2.resize(row, (row.shape[1], height)) for row in rows])
            encoded = cv2.imencode(".png", sheet[..., ::-1])[1]
            write_atomically(folder / f"{name}.png", encoded.tobytes())
            print(folder / f"{name}.png")


def _row(layout: DatasetLayout, clip: AnnotatedClip, iou: float) -> np.ndarray:
    """Four annotated frames of a clip side by side, uint8 [H, W, 3], RGB."""
    around = bounding_boxes(clip_to_frame(clip.annotated, clip.size))
    size = WIDTH, round(WIDTH * clip.size[1] / clip.size[0])
    scale = np.tile(np.array(size) / clip.size, 2)
    drawn = []
    for row in np.linspace(0, len(clip.frames) - 1, NUM_FRAMES).round().astype(int):
        frame = clip.frames[row]
        picture = np.ascontiguousarray(cv2.resize(_picture(layout, clip.clip_id, frame), size))
        moves = cv2.resize(clip.areas[frame].astype(np.uint8), size, interpolation=0)
        outlines, _ = cv2.findContours(moves, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(picture, outlines, -1, CONTOUR_RGB, 1)
        draw_box(picture, around[row] * scale, ANNOTATION_RGB)
        draw_box(picture, clip.boxes[frame] * scale, BOX_RGB)
        drawn.append(picture)
    sheet = np.concatenate(drawn, axis=1)
    text = f"{clip.clip_id} {iou:.2f}"
    for colour, width in ((BLACK, 3), (WHITE, 1)):  # readable on bright and on dark frames
        cv2.putText(sheet, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, width)
    return sheet


def _picture(layout: DatasetLayout, clip_id: str, frame: int) -> np.ndarray:
    """A stored frame, uint8 [H, W, 3], RGB."""
    index = read_index(layout.frames)
    assert index is not None, layout.frames
    for shard in index.shards:
        with ShardReader(layout.frames / shard.name, "frames") as reader:
            ids = reader.clip_ids()
            if clip_id in ids:
                first = reader.pair("/clip/frames", ids.index(clip_id))[0] + int(frame)
                [jpeg] = reader.ragged("/jpeg/offsets", "/jpeg/values", first, first + 1)
                decoded = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
                assert decoded is not None, clip_id
                return decoded[..., ::-1]
    raise AssertionError(f"{clip_id} has boxes but no frames")


if __name__ == "__main__":
    main()
