"""What moves in each frame, as a table of bits in boxes shards, and the patches that it fills.

A box is a rectangle around what moves. The table has its shape: each frame of a clip has a map of
w x h cells that cover the whole source frame, one bit a cell, row by row, as `numpy.packbits`
packs them. Masks and heads use it with `inside = "positions"`.
"""

from __future__ import annotations

import math

import numpy as np

from shared.errors import InputError
from shared.grid import View
from shared.make_commands import make_around
from shared.motion_cells import cell_means
from shared.shards import ShardReader

MOVING_SHARE = 0.15
"""See `window_area`."""
FILLED_SHARE = 0.25
"""See `moving_positions`."""


def pack_areas(areas: np.ndarray) -> np.ndarray:
    """Pack moving areas bool [T, h, w] to bytes uint8 [T, ceil(h * w / 8)]."""
    assert areas.dtype == np.bool_ and areas.ndim == 3, (areas.dtype, areas.shape)
    return np.packbits(areas.reshape(len(areas), math.prod(areas.shape[1:])), axis=1)


def unpack_areas(packed: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The inverse of `pack_areas`; `size` is (h, w)."""
    height, width = size
    bits = np.unpackbits(packed, axis=1, count=height * width)
    return bits.reshape(len(packed), height, width).astype(np.bool_)


def has_areas(reader: ShardReader) -> bool:
    """Whether a boxes shard has the table of what moves."""
    return "/moving/bits" in reader


def read_areas(reader: ShardReader, clip: int, first: int, last: int) -> np.ndarray:
    """Read what moves in frames of one clip of a boxes shard.

    Args:
        clip: number of the clip in the shard.
        first, last: rows of the frames in `/moving/offsets`, last exclusive.

    Returns:
        bool [last - first, h, w], True where the frame moves.

    Raises:
        InputError: the shard is damaged, or its table does not have the size that it states.
    """
    width, height = reader.pair("/clip/moving_size", clip)
    offsets = reader.rows("/moving/offsets", first, last + 1)
    num_bytes = -(-width * height // 8)
    if min(width, height) < 1 or np.any(np.diff(offsets) != num_bytes):
        clip_id = reader.rows("/clip/id", clip, clip + 1)[0].decode(errors="replace")
        raise InputError(
            "damaged-file",
            f"{reader.path}: the table of what moves in clip {clip_id} is not {width} x {height}; "
            f"{make_around(reader.path.parent, 'verify')} lists damaged shards",
        )
    packed = reader.rows("/moving/bits", int(offsets[0]), int(offsets[-1]))
    return unpack_areas(packed.reshape(last - first, num_bytes), (height, width))


def window_area(areas: np.ndarray, share: float = MOVING_SHARE) -> np.ndarray:
    """Find the area in which a window of frames moves.

    A cell belongs to it if it moves in at least a share of the frames in which anything moves, so
    that one bad frame does not decide. `window_box` does the same for boxes.

    Args:
        areas: bool [T, h, w], what moves in each frame.
        share: of the frames in which something moves.

    Returns:
        bool [h, w]. If no cell moves so often, because what moves is small and fast, all cells that
        move in any frame. All False if nothing moves.
    """
    counts = areas.sum(axis=0)
    num_moving = int(areas.any(axis=(1, 2)).sum())
    area = (counts > 0) & (counts >= share * num_moving)
    return area if area.any() else counts > 0


def moving_positions(
    areas: np.ndarray, view: View, source_size: tuple[int, int], patch: int
) -> np.ndarray:
    """Find the patches of a view that the area of a window (`window_area`) fills.

    Args:
        areas: bool [T, h, w], what moves in each frame of the window; it covers the whole source.
        view: crop, size and flips.
        source_size: (width, height) of the source in pixels.
        patch: side of a patch in pixels of the view.

    Returns:
        bool [rows, columns], True if at least a share FILLED_SHARE of the patch moves. All False if
        nothing moves, or only outside the crop.
    """
    grid = (view.size[0] // patch, view.size[1] // patch)
    area = window_area(areas)[None].astype(np.float32)
    return cell_means(area, view, source_size, grid)[0] >= FILLED_SHARE
