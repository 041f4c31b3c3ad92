"""Turn coded pictures upright: phones store the view of their sensor and a display matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from preprocess.video.motion_vectors import turn_upright


@dataclass(frozen=True)
class Orientation:
    """How a coded picture becomes upright: it is mirrored left to right, then turned.

    Attributes:
        is_mirrored: whether it is mirrored first; front cameras store mirrored pictures.
        quarter_turns: counterclockwise, 0 to 3.
    """

    is_mirrored: bool = False
    quarter_turns: int = 0

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Orientation:
        """The orientation of a decoded frame by its display matrix, rounded to quarter turns."""
        side_data: Any = frame.side_data.get("DISPLAYMATRIX")
        if side_data is None:
            return cls()
        # x' = a x + c y, y' = b x + d y, y downwards, in units of 1 / 65536 (ISO/IEC 14496-12,
        # 6.2.2); the third row and column shift.
        a, b, _, c, d = np.frombuffer(side_data, dtype=np.int32)[:5].tolist()
        is_mirrored = a * d - b * c < 0
        if is_mirrored:
            a, b = -a, -b  # the rotation that is left after mirroring
        return cls(is_mirrored, round(-math.atan2(b, a) / (math.pi / 2)) % 4)

    def upright_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) of the upright picture from that of the coded one, and the reverse."""
        return size[::-1] if self.quarter_turns % 2 else size

    def turn_picture(self, rgb: np.ndarray) -> np.ndarray:
        """Turn uint8 [H, W, 3] upright; the result is contiguous."""
        flipped = rgb[:, ::-1] if self.is_mirrored else rgb
        return np.ascontiguousarray(np.rot90(flipped, self.quarter_turns))

    def turn_flow(self, flow: np.ndarray) -> np.ndarray:
        """Turn a flow, float32 [2, h, w]: its cells as the picture, and its vectors with them."""
        return turn_upright(flow, self.quarter_turns, self.is_mirrored)
