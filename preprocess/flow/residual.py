"""How far each place moves beyond what the camera does: the map that motion boxes are made of.

    flows (T,2,H,W) --residual_lengths--> (T,h,w) --> shared/motion_maps.py

The camera's part of the flow between two frames is fitted as a polynomial with 8 numbers, the flow
of a plane under a small camera motion (Adiv, PAMI 1985, equation 8):

    u = a + b x + c y + g x^2 + h x y
    v = d + e x + f y + g x y + h y^2

The fit is by least squares with weights that fall where the flow disagrees (Geman and McClure's),
weights and numbers in turn. Unlike RANSAC (`residual_flow` of preprocess/flow/camera.py) it draws
nothing at random and has no threshold in pixels, so it costs little and gives the same everywhere.
What covers most of the frame passes for the background.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from preprocess.flow.motion_maps import reduce_maps

NUM_SAMPLES = 600  # of a flow, on a grid; more do not change how well boxes agree
NUM_ITERATIONS = 8  # of weights and least squares
BORDER = 0.75  # of the way from the middle to the edges; the border lies beyond
LEAST_SCALE_PX = 0.05  # flow is not more exact than that, so weights need not be either
GAUSSIAN_SCALE = 1.4826  # a median distance times this is a standard deviation, for Gaussian noise
RIDGE = 1e-9  # keeps the equations solvable where nearly all weight lies on few samples


def residual_lengths(flows: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Length of the flow that is left when the camera's part is taken out.

    Args:
        flows: float32 [T, 2, H, W], u then v, pixels per frame; H and W at least 2.
        size: (h, w) of the result, at most (H, W).

    Returns:
        float32 [T, h, w], pixels of the flow per frame, at least 0: the length of the mean residual
        over the area of each cell, so that noise within a cell cancels.
    """
    num_pairs, _, height, width = flows.shape
    step = max(1, round(float(np.sqrt(height * width / NUM_SAMPLES))))
    samples = flows[..., step // 2 :: step, step // 2 :: step].cpu().numpy().astype(np.float64)
    rows = np.arange(height, dtype=np.float64)[step // 2 :: step]
    columns = np.arange(width, dtype=np.float64)[step // 2 :: step]
    camera = fit_camera(samples.reshape(num_pairs, -1), _design(columns, rows, width, height))

    cells = reduce_maps(flows.flatten(0, 1), size).unflatten(0, (num_pairs, 2)).cpu().numpy()
    cell_rows = (np.arange(size[0]) + 0.5) * (height / size[0]) - 0.5
    cell_columns = (np.arange(size[1]) + 0.5) * (width / size[1]) - 0.5
    of_camera = camera @ _design(cell_columns, cell_rows, width, height).T
    u, v = np.moveaxis(cells - of_camera.reshape(cells.shape), 1, 0)
    return np.hypot(u, v).astype(np.float32)


def fit_camera(flows: np.ndarray, design: np.ndarray) -> np.ndarray:
    """The camera's motion that most of the samples of each flow agree on.

    The fit goes to the nearest minimum, so it starts from two places, the median flow and the
    motion of the border, where the background is likelier than in the middle. That with the smaller
    median distance is taken.

    Args:
        flows: float64 [T, 2 N], u of all N samples, then v of all.
        design: float64 [2 N, 8], what each of the 8 numbers does to each sample.

    Returns:
        float64 [T, 8]. Each pair is fitted by itself: its numbers do not depend on the others.
    """
    num_samples = len(design) // 2
    start = np.zeros((len(flows), design.shape[1]))
    start[:, 0] = np.median(flows[:, :num_samples], axis=1)
    start[:, 3] = np.median(flows[:, num_samples:], axis=1)
    place = np.abs(design[:num_samples, 1:3])
    is_border = np.tile((place > BORDER * place.max(axis=0)).any(axis=1), 2)
    of_border = start.copy()
    of_border[:, :6] = _fit(
        flows[:, is_border], design[is_border, :6], start[:, :6], 5, _least_absolute
    )
    fits = [_fit(flows, design, each, NUM_ITERATIONS, _redescending) for each in (start, of_border)]
    distances = [np.median(_squared_distances(flows, design, fit), axis=1) for fit in fits]
    return np.where((distances[1] < distances[0])[:, None], fits[1], fits[0])


def _fit(
    flows: np.ndarray,
    design: np.ndarray,
    fitted: np.ndarray,
    num_iterations: int,
    weights_of: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Weighted least squares, again and again; weights are of the squared distances [T, N]."""
    ridge = RIDGE * np.eye(design.shape[1])
    for _ in range(num_iterations):
        weights = weights_of(_squared_distances(flows, design, fitted))
        weighted = np.tile(weights, 2)[:, :, None] * design
        left = weighted.transpose(0, 2, 1) @ design + ridge
        fitted = np.linalg.solve(left, weighted.transpose(0, 2, 1) @ flows[:, :, None])[..., 0]
    return fitted


def _squared_distances(flows: np.ndarray, design: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    u, v = np.split(flows - fitted @ design.T, 2, axis=1)
    return u * u + v * v


def _least_absolute(squared: np.ndarray) -> np.ndarray:
    return 1 / np.sqrt(squared + LEAST_SCALE_PX**2)


def _redescending(squared: np.ndarray) -> np.ndarray:
    """Geman and McClure's weights, with the scale of each pair's own distances."""
    scale = GAUSSIAN_SCALE**2 * np.median(squared, axis=1, keepdims=True)
    return (1 + squared / scale.clip(LEAST_SCALE_PX**2)) ** -2


def _design(columns: np.ndarray, rows: np.ndarray, width: int, height: int) -> np.ndarray:
    """float64 [2 N, 8] at the places rows x columns, in pixels of a picture of that size.

    x and y are taken from the middle of the picture in units of half its width, so that the eight
    numbers are of one magnitude.
    """
    down_by, across_by = (rows - (height - 1) / 2) / width, (columns - (width - 1) / 2) / width
    y, x = (2 * by.ravel() for by in np.meshgrid(down_by, across_by, indexing="ij"))
    one, zero = np.ones_like(x), np.zeros_like(x)
    across = np.stack([one, x, y, zero, zero, zero, x * x, x * y], axis=-1)
    down = np.stack([zero, zero, zero, one, x, y, x * y, y * y], axis=-1)
    return np.concatenate([across, down])
