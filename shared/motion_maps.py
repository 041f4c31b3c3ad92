"""The format of motion maps in flows shards, and how they are read.

Each of the T frames of a clip has a map of h x w pixels with one byte per pixel. The steps are
finer for small motion, because the largest values of a map lie far above most others.
"""

from __future__ import annotations

import numpy as np

from shared.errors import InputError
from shared.make_commands import make_around
from shared.shards import ShardReader

# Levels of the square root of a map. More levels would store noise: 24 levels take half the bytes
# of 255 after gzip, and their boxes match annotated boxes equally well (benchmarks/map_storage.py).
LEVELS = 24


def compand(maps: np.ndarray, levels: int = LEVELS) -> tuple[np.ndarray, np.ndarray]:
    """Store maps float32 [T, h, w] as bytes with map = scale * values**2.

    Args:
        maps: values of at least 0.
        levels: largest stored value, 1..255.

    Returns:
        values uint8 [T, h, w], scale float32 [T]; a map of zeros has scale 0.
    """
    assert maps.ndim == 3 and maps.dtype == np.float32, (maps.shape, maps.dtype)
    scale = maps.max(axis=(1, 2), initial=0.0) / np.float32(levels**2)
    divisor = np.where(scale > 0, scale, np.float32(1))[:, None, None]
    values = np.floor(np.sqrt(maps / divisor) + np.float32(0.5)).clip(0, levels).astype(np.uint8)
    return values, scale


def expand(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The inverse of `compand`: uint8 [T, h, w] and float32 [T] -> maps float32 [T, h, w]."""
    return scale[:, None, None] * np.square(values, dtype=np.float32)


def has_residual(reader: ShardReader) -> bool:
    """Whether a flows shard has residual lengths beside its motion maps."""
    return "/residual/values" in reader


def read_maps(
    reader: ShardReader, clip: int, first: int, last: int, kind: str = "motion"
) -> tuple[np.ndarray, np.ndarray]:
    """Read the stored maps of one clip of a flows shard, for `expand`.

    Args:
        clip: number of the clip in the shard.
        first, last: rows of the clip in `/motion/scale`, last exclusive.
        kind: "motion", the motion maps; "residual", the residual lengths.

    Returns:
        values uint8 [last - first, h, w], scale float32 [last - first].

    Raises:
        InputError: the shard is damaged, or its maps do not have the size that it states.
    """
    width, height = reader.pair("/clip/map_size", clip)
    offsets = reader.rows("/motion/offsets", first, last + 1)
    if min(width, height) < 1 or np.any(np.diff(offsets) != width * height):
        clip_id = reader.rows("/clip/id", clip, clip + 1)[0].decode(errors="replace")
        raise InputError(
            "damaged-file",
            f"{reader.path}: the maps of clip {clip_id} are not {width} x {height}; "
            f"{make_around(reader.path.parent, 'verify')} lists damaged shards",
        )
    values = reader.rows(f"/{kind}/values", int(offsets[0]), int(offsets[-1]))
    return values.reshape(-1, height, width), reader.rows(f"/{kind}/scale", first, last)
