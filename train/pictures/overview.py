"""Overview of one clip in one picture: motion box, motion map, visible patches, prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shared.errors import InputError
from shared.grid import canonical_view
from shared.layout import DatasetLayout
from train.clips.stored_boxes import read_box_table, read_clip
from train.pictures.clips import TILE_HEIGHT, draw_tiles, enlarge, see_view, spread_times
from train.pictures.inputs import evaluated_frames, read_held_out, read_pretraining
from train.pictures.reconstruction import Reconstruction, reconstruct
from train.pictures.rows import Rows
from train.running.run_folder import RunFolder


def overview_rows(
    layout: DatasetLayout, folder: RunFolder, shown: int | Sequence[str], num_times: int
) -> list[tuple[Reconstruction, Rows]]:
    """Rows of held-out clips: motion box and contours, motion map, visible patches, prediction.

    Args:
        folder: a pretraining run that predicts pixels.
        shown: number or ids of clips, as for `chosen_clips`.
        num_times: number of frames of each clip.

    Raises:
        InputError: there are no boxes, no frames or no weights.
    """
    config = read_pretraining(folder)
    boxes = read_box_table(layout)
    if boxes is None:
        made = layout.make("boxes")
        raise InputError(
            "not-finished", f"no finished boxes in {layout.boxes}; make them with `{made}`"
        )
    row_of = {clip_id: row for row, clip_id in enumerate(boxes.clip_id)}
    table, _ = read_held_out(layout, config.needs_boxes, config.needed_motion)
    index_of = {clip_id.decode(): index for index, clip_id in enumerate(table.ids)}
    found = []
    for clip in reconstruct(layout, [folder], shown):
        if clip.clip_id not in row_of:
            continue
        times = spread_times(len(clip.clip), num_times)
        numbers = evaluated_frames(table, index_of[clip.clip_id], config)[times]
        stored = read_clip(layout, boxes, row_of[clip.clip_id], numbers)
        # Boxes are drawn on the whole frame, which is then cropped to the view of the model.
        view = canonical_view(*stored.size, size=config.model.image_size)
        nothing = np.zeros((config.model.grid, config.model.grid), bool)
        tiles = draw_tiles(stored, view, config.model.patch_size, nothing)
        drawn = replace(view, size=(TILE_HEIGHT, TILE_HEIGHT))
        rows: Rows = [("motion box, around the strongest contours", tiles.boxed)]
        if tiles.maps:
            rows.append(("motion map, derivatives of optical flow", tiles.maps))
        rows = [
            (caption, [see_view(picture, stored.size, drawn) for picture in pictures])
            for caption, pictures in rows
        ]
        predictions = [
            (caption, [enlarge(picture, TILE_HEIGHT) for picture in pictures])
            for caption, pictures in clip.rows(num_times)[1:]
        ]
        found.append((clip, rows + predictions))
    return found
