"""Pictures of clips for the report: samples of the classes, and unusual clips."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from shared.grid import canonical_view, inside_boxes
from shared.layout import DatasetLayout
from shared.manifest import ClassList, Clip
from shared.randomness import counter_generator
from shared.scene import tube_mask
from shared.shard_cache import local_shard
from train.clips.stored_boxes import BoxTable, read_clip
from train.pictures.clips import (
    draw_thumbnail,
    draw_tiles,
    spread_over_classes,
)
from train.pictures.style import jpeg_uri, png_uri

NUM_SAMPLES = 4
NUM_TIMES = 4  # frames that are shown of a sample clip
NUM_UNUSUAL = 12
INSIDE_RATIO = 0.75  # MOFO, sec. 4.1


@dataclass(frozen=True)
class MaskSettings:
    """The settings of the mask that is drawn on sample clips.

    Attributes:
        image_size, patch_size: of the model, in pixels.
        mask_ratio: share of all positions that are masked, 0..1.
        inside_ratio: share of the positions in the box that are masked, 0..1; None for a mask that
            does not depend on the box.
        source: where the settings come from, for the caption.
    """

    image_size: int = 224
    patch_size: int = 16
    mask_ratio: float = 0.9
    inside_ratio: float | None = INSIDE_RATIO
    source: str = "the defaults of MOFO"


def choose_samples(table: BoxTable, clips: list[Clip], num_samples: int = NUM_SAMPLES) -> list[int]:
    """Choose rows of `table` at random: clips with motion, of classes spread over the list."""
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
    """Pictures of the sample clips, in the form that the template needs."""
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
                "visible": f"{int((~hidden).sum())} of {hidden.size} patches, and {seen_inside} of "
                f"the {int(inside.sum())} patches in the box",
                "boxed": [jpeg_uri(tile) for tile in tiles.boxed],
                "maps": [jpeg_uri(tile) for tile in tiles.maps],
                "masked": [png_uri(tile) for tile in tiles.masked],
            }
        )
    return pictures


def unusual(table: BoxTable, most: int = NUM_UNUSUAL) -> list[tuple[int, str, str]]:
    """Clips with extreme values of several measures, each clip once: (row of `table`, why, value).

    A value must lie beyond the median of its measure. A measure that is equal for all clips gives
    no clip.
    """
    measures = [
        ("many frames without motion", table.still_share, -1, lambda v: f"{_percent(v)} of frames"),
        ("large box", table.clip_share, -1, lambda v: f"{_percent(v)} of the frame"),
        ("small box", table.clip_share, 1, lambda v: f"{_percent(v)} of the frame"),
        (
            "much motion outside the box",
            table.score,
            1,
            lambda v: f"{_percent(1 - v)} of the energy",
        ),
        ("jumping box", table.jump, -1, lambda v: f"{100 * v:.1f} % of the diagonal per frame"),
        ("long clip", table.num_frames, -1, lambda v: f"{v:.0f} frames"),
        ("short clip", table.num_frames, 1, lambda v: f"{v:.0f} frames"),
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


def unusual_pictures(layout: DatasetLayout, table: BoxTable) -> list[dict]:
    """Thumbnails of unusual clips for the template; without pictures if there are no frames."""
    with_frames = local_shard(layout.frames / table.shard[0]).is_file()
    pictures = []
    for row, why, value in unusual(table):
        image = None
        if with_frames and table.num_frames[row] > 0:
            middle = np.array([table.num_frames[row] // 2])
            image = jpeg_uri(draw_thumbnail(read_clip(layout, table, row, middle)))
        pictures.append({"clip_id": table.clip_id[row], "why": why, "value": value, "image": image})
    return pictures


def _draw_mask(inside: np.ndarray, mask: MaskSettings, rng: np.random.Generator) -> np.ndarray:
    """Draw a tube mask bool [P] (True is masked); `inside` bool [P] marks positions in the box."""
    if mask.inside_ratio is None:
        return tube_mask(np.zeros_like(inside), mask.mask_ratio, mask.mask_ratio, rng)
    return tube_mask(inside, mask.mask_ratio, mask.inside_ratio, rng)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
