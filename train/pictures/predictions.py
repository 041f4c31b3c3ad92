"""Draws clips with their likeliest classes: frames in a row, with the motion box, if any."""

from __future__ import annotations

import numpy as np

from shared.drawing import draw_box
from train.clips.reader import ClipReader
from train.clips.table import ClipTable
from train.evaluation.predictions import Prediction
from train.pictures.clips import TILE_HEIGHT, enlarge, spread_times
from train.pictures.rows import Rows, rows_file

NUM_TIMES = 6  # frames in a row
MOST_CLASSES = 5  # lines that fit beside a row


def prediction_png(prediction: Prediction, table: ClipTable, index: int) -> bytes:
    """A PNG file with frames of one clip, and beside them the classes with their probabilities.

    Args:
        table, index: the clip in the shards.
    """
    first, last = (int(row) for row in table.frames[index])
    times = spread_times(last - first, NUM_TIMES)
    reader = ClipReader(table, max_open=1)
    frames = reader.frames(index, times, 1)
    pictures = [_tile(frames[int(t)]) for t in times]
    if table.boxes_folder is not None:
        scale = np.array(pictures[0].shape[1::-1]) / table.source_size[index]
        for picture, box in zip(pictures, reader.boxes(index, times), strict=True):
            draw_box(picture, box * np.tile(scale, 2))
    rows: Rows = [
        (_caption(prediction, kind, len(prediction.guesses)), pictures)
        for kind in prediction.guesses
    ]
    return rows_file([(_title(prediction), rows)])


def _tile(frame: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(enlarge(frame, TILE_HEIGHT))


def _caption(prediction: Prediction, kind: str, num_kinds: int) -> str:
    """Lines such as `jump  83 %`, which `rows_file` splits at commas."""
    lines = [
        f"{each.name.replace(', ', ' ')}  {100 * each.probability:.0f} %"
        for each in prediction.guesses[kind][:MOST_CLASSES]
    ]
    return ", ".join([f"{kind}:", *lines] if num_kinds > 1 else lines)


def _title(prediction: Prediction) -> str:
    start, stop = prediction.span
    if start is None and stop is None:
        return prediction.clip
    end = "the end" if stop is None else f"{stop:g} s"
    return f"{prediction.clip}, {start or 0:g} s to {end}"
