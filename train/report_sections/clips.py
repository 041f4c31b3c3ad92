"""Pictures of clips for the report: samples of the classes, and the strangest clips."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from shared.grid import canonical_view, inside_boxes
from shared.layout import DatasetLayout
from shared.manifest import ClassList, Clip
from shared.masking import tube_mask
from shared.randomness import counter_generator
from train.clips.stored_boxes import BoxTable, read_clip
from train.pictures.clips import (
    draw_thumbnail,
    draw_tiles,
    spread_over_classes,
)
from train.pictures.style import jpeg_uri, png_uri

NUM_SAMPLES = 4
NUM_TIMES = 4  # frames shown of a sample clip
NUM_STRANGEST = 12
INSIDE_RATIO = 0.75  # MOFO, sec. 4.1


@dataclass(frozen=True)
class MaskSettings:
    """What of the pretraining recipe decides the mask that samples are shown with.

    Attributes:
        image_size, patch_size: of the model, pixels.
        mask_ratio: share of all positions hidden, 0..1.
        inside_ratio: share of those in the box; None for a mask that does not look at it.
        source: where these come from, for the caption.
    """

    image_size: int = 224
    patch_size: int = 16
    mask_ratio: float = 0.9
    inside_ratio: float | None = INSIDE_RATIO
    source: str = "the defaults of MOFO"


def choose_samples(table: BoxTable, clips: list[Clip], num_samples: int = NUM_SAMPLES) -> list[int]:
    """Rows of `table`: clips with motion, of classes spread over the list, drawn at random."""
    label_of = {clip.clip_id: clip.label for clip in clips}
    moving = np.flatnonzero(~np.isnan(table.clip_share))
    labels = [label_of.get(table.clip_id[row]) for row in moving]
    numbers = np.array([-1 if label is None else label for label in labels], dtype=np.int64)
    return moving[spread_over_classes(numbers, num_samples)].tolist()


def sample_pictures(
    layout: DatasetLayout,
    table: BoxTable,
    clips: list[Clip],
    classes: ClassList,
    mask: MaskSettings,
) -> list[dict]:
    """Tiles of the sample clips as the template takes them."""
    clip_of = {clip.clip_id: clip for clip in clips}
    pictures = []
    for row in choose_samples(table, clips):
        times = np.linspace(0, table.num_frames[row] - 1, NUM_TIMES + 2).round().astype(int)[1:-1]
        times = np.unique(times)
        shown = read_clip(layout, table, row, times)
        view = canonical_view(*shown.size, size=mask.image_size)
        inside = inside_boxes(shown.all_boxes, view, mask.patch_size)
        rng = counter_generator("report mask", shown.clip_id)
        hidden = _draw_mask(inside.ravel(), mask, rng)
        tiles = draw_tiles(shown, view, mask.patch_size, hidden.reshape(inside.shape))
        seen_inside = int((~hidden & inside.ravel()).sum())
        clip = clip_of.get(shown.clip_id)
        pictures.append(
            {
                "clip_id": shown.clip_id,
                "label": classes.class_name(clip.label if clip else None),
                "split": clip.split if clip else "not in the manifest",
                "shown": [int(time) for time in times],
                "visible": f"{int((~hidden).sum())} of {hidden.size} patches, {seen_inside} of "
                f"the {int(inside.sum())} in the box",
                "boxed": [jpeg_uri(tile) for tile in tiles.boxed],
                "maps": [jpeg_uri(tile) for tile in tiles.maps],
                "masked": [png_uri(tile) for tile in tiles.masked],
            }
        )
    return pictures


def strangest(table: BoxTable, most: int = NUM_STRANGEST) -> list[tuple[int, str, str]]:
    """(row of `table`, why, value) of the clips at the ends of several measures, each clip once.

    Only what lies beyond the median of a measure is strange: one that is the same for all clips
    gives none.
    """
    measures = [
        ("most frames without motion", table.still_share, -1, _percent),
        ("largest box", table.clip_share, -1, lambda v: f"{_percent(v)} of the frame"),
        ("smallest box", table.clip_share, 1, lambda v: f"{_percent(v)} of the frame"),
        (
            "most motion outside its box",
            table.score,
            1,
            lambda v: f"{_percent(1 - v)} of the energy",
        ),
        ("box jumps most", table.jump, -1, lambda v: f"{100 * v:.1f} % of the diagonal a frame"),
        ("longest", table.num_frames, -1, lambda v: f"{v:.0f} frames"),
        ("shortest", table.num_frames, 1, lambda v: f"{v:.0f} frames"),
    ]
    rankings = []
    for why, values, sign, text in measures:
        known = np.flatnonzero(~np.isnan(values))
        if len(known):
            known = known[sign * values[known] < sign * np.median(values[known])]
            order = known[np.argsort(sign * values[known], kind="stable")]
            rankings.append((why, values, iter(order), text))
    found: dict[int, tuple[int, str, str]] = {}
    for why, values, order, text in itertools.chain.from_iterable([rankings] * most):
        row = next((int(row) for row in order if int(row) not in found), None)
        if row is not None and len(found) < most:
            found[row] = (row, why, text(float(values[row])))
    names = [why for why, *_ in measures]
    return sorted(found.values(), key=lambda item: names.index(item[1]))


def strangest_pictures(layout: DatasetLayout, table: BoxTable) -> list[dict]:
    """Thumbnails of the strangest clips as the template takes them, without frames if need be."""
    with_frames = (layout.frames / table.shard[0]).is_file()
    pictures = []
    for row, why, value in strangest(table):
        image = None
        if with_frames and table.num_frames[row] > 0:
            middle = np.array([table.num_frames[row] // 2])
            image = jpeg_uri(draw_thumbnail(read_clip(layout, table, row, middle)))
        pictures.append({"clip_id": table.clip_id[row], "why": why, "value": value, "image": image})
    return pictures


def _draw_mask(inside: np.ndarray, mask: MaskSettings, rng: np.random.Generator) -> np.ndarray:
    """Hidden positions bool [P] of a tube mask; `inside` bool [P] are those in the box."""
    if mask.inside_ratio is None:
        return tube_mask(np.zeros_like(inside), mask.mask_ratio, mask.mask_ratio, rng)
    return tube_mask(inside, mask.mask_ratio, mask.inside_ratio, rng)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
