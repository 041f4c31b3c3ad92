"""Measures of optical flow: energy, end-point error, distance to another flow."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

ATTACHMENT = 0.15


def energy(flow: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Mean of |grad u| + |grad v| + 0.15 |I1(x + u) - I0(x)| over pixels that stay in the frame.

    flow (2, H, W), frames (H, W) with grey values 0..255. Gradients are forward differences, zero
    across the border. Frames are warped with the bicubic kernel of OpenCV and PyTorch (a = -0.75).
    """
    _, height, width = flow.shape
    u, v = (torch.as_tensor(x).double() for x in flow)
    x, y = torch.arange(width) + u, torch.arange(height)[:, None] + v
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)[None]
    frame = torch.as_tensor(second).double()[None, None]
    warped = F.grid_sample(frame, grid, "bicubic", padding_mode="border", align_corners=True)[0, 0]
    residual = (warped - torch.as_tensor(first).double()).abs()
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    per_pixel = _total_variation(u) + _total_variation(v) + ATTACHMENT * residual
    return float(per_pixel[inside].mean())


def _total_variation(component: torch.Tensor) -> torch.Tensor:
    along_x = F.pad(component[:, 1:] - component[:, :-1], (0, 1))
    along_y = F.pad(component[1:] - component[:-1], (0, 0, 0, 1))
    return (along_x.square() + along_y.square()).sqrt()


def end_point_error(flow: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> float:
    """Mean distance in px between flows (2, H, W) over the pixels that are True in valid (H, W)."""
    return float(distances(flow, truth)[... if valid is None else valid].mean())


def distances(flow: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(H, W) distances in px between two flows (2, H, W)."""
    return np.sqrt(np.square(np.asarray(flow) - np.asarray(other)).sum(0))
