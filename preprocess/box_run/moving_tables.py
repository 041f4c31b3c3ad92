"""Collects what moves in the clips of a boxes shard, in the form that the shard stores."""

from __future__ import annotations

import numpy as np

from shared.grid import PATCH, canonical_view
from shared.moving_areas import moving_positions, pack_areas


class MovingTables:
    """Tables of what moves, clip by clip in the order of the shard."""

    def __init__(self) -> None:
        self._sizes: list[tuple[int, int]] = []
        self._packed: list[np.ndarray] = []
        self._positions: list[np.ndarray] = []

    def add(self, areas: np.ndarray, source_size: np.ndarray) -> None:
        """Add a clip.

        Args:
            areas: bool [T, h, w], True where the frame moves; cells of the whole source frame.
            source_size: (width, height) of the source in pixels.
        """
        height, width = areas.shape[1:]
        size = int(source_size[0]), int(source_size[1])
        moving = moving_positions(areas, canonical_view(*size), size, PATCH)
        self._sizes.append((width, height))
        self._packed.append(pack_areas(areas))
        self._positions.append(np.flatnonzero(moving))

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of MOVING_FIELDS in shared/schema.py."""
        lengths = [packed.shape[1] for packed in self._packed for _ in packed]
        bits = [packed.ravel() for packed in self._packed]
        return {
            "/clip/moving_size": np.array(self._sizes, dtype="<i4").reshape(-1, 2),
            "/moving/offsets": np.cumsum([0, *lengths], dtype="<i8"),
            "/moving/bits": np.concatenate([np.empty(0, "|u1"), *bits]),
            "/moving/tube_offsets": np.cumsum([0, *map(len, self._positions)], dtype="<i8"),
            "/moving/tube_index": np.concatenate([np.empty(0), *self._positions]).astype("<i2"),
        }
