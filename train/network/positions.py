"""Fixed sine-cosine tables of the positions of tokens in a clip."""

from __future__ import annotations

import numpy as np
import torch

BASE = 10_000.0  # Vaswani et al. 2017, sec. 3.5: wavelengths from 2*pi to 10000*2*pi


def position_table(kind: str, time_steps: int, grid: int, width: int) -> torch.Tensor:
    """The position table of a clip, float32 [time_steps * grid * grid, width], values -1..1.

    Tokens are ordered t-major: index = t * grid * grid + row * grid + column.

    Args:
        kind: `sincos-1d` encodes the index of the token (VideoMAE). `sincos-3d` has separate
            channels for time, row and column, so that a step of one row is the same everywhere.
        time_steps: number of tubelets along time.
        grid: patches along each side of the frame.
        width: number of channels; even.
    """
    if kind == "sincos-1d":
        table = _interleaved(np.arange(time_steps * grid * grid), width)
    elif kind == "sincos-3d":
        table = _factorised(time_steps, grid, width)
    else:
        raise AssertionError(f"unknown position table {kind!r}")
    return torch.from_numpy(table.astype(np.float32))


def _interleaved(index: np.ndarray, width: int) -> np.ndarray:
    """Channels 2i and 2i+1 are sine and cosine of index / BASE ** (2i / width), in float64.

    They are computed in float64 and rounded once, as in VideoMAE: imported weights were trained
    with these values.
    """
    exponent = 2 * (np.arange(width) // 2) / width
    angle = index[:, None] / np.power(BASE, exponent)[None, :]
    angle[:, 0::2] = np.sin(angle[:, 0::2])
    angle[:, 1::2] = np.cos(angle[:, 1::2])
    return angle


def _factorised(time_steps: int, grid: int, width: int) -> np.ndarray:
    """Channels of time, then row, then column. Time gets the remainder of the division by three."""
    space_width = 2 * (width // 6)
    time_width = width - 2 * space_width
    t, row, column = np.meshgrid(
        np.arange(time_steps), np.arange(grid), np.arange(grid), indexing="ij"
    )
    return np.concatenate(
        [
            _interleaved(t.ravel(), time_width),
            _interleaved(row.ravel(), space_width),
            _interleaved(column.ravel(), space_width),
        ],
        axis=1,
    )
