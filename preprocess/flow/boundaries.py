"""Motion maps as the public code of MOFO makes them: boundaries of motion over eight flows.

    flows (T,2,H,W) --window_sums--> (n,2,H,W) --boundary_map--> (n,H,W)

Unlike equation 1 (preprocess/flow/motion_maps.py), derivatives keep their sign while they are
summed over time, so that flicker cancels. A window reaches past the chunk of frames that flow is
computed on; `decided` and OVERLAP say how chunks are put together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

WINDOW = 8  # flows
BEFORE = 3  # of them lie before the one that the map is of, the others after it
OVERLAP = WINDOW  # frames of a chunk that the next one needs again
LARGEST_FLOW = 20.0  # pixels either way; the code stores flow in 8 bits, from -20 to 20
GREY_LEVEL = 2 * LARGEST_FLOW / 255  # what the code calls 1, in pixels


def decided(num_flows: int, is_last: bool) -> int:
    """Of how many flows, from the clip's first, the window is known.

    Args:
        num_flows: known so far.
        is_last: whether the clip has no more; its last windows are moved back to be whole.
    """
    if is_last:
        return num_flows
    return num_flows - (WINDOW - BEFORE - 1) if num_flows >= WINDOW else 0


def window_sums(flows: torch.Tensor, first_flow: int, which: range) -> torch.Tensor:
    """The sum of the clipped flows in the window of each of `which`.

    Args:
        flows: [T, 2, H, W] float, u then v, pixels per frame, up to the last that is known.
        first_flow: number of the first of them in the clip.
        which: numbers in the clip.

    Returns:
        [n, 2, H, W]. A clip of fewer than 8 flows is one window.
    """
    clipped = flows.clamp(-LARGEST_FLOW, LARGEST_FLOW)
    latest = max(0, first_flow + len(flows) - WINDOW)
    starts = np.clip(np.arange(which.start, which.stop) - BEFORE, 0, latest) - first_flow
    assert np.all(starts >= 0), (first_flow, len(flows), which)
    sums = flows.new_zeros((len(starts), *flows.shape[1:]))
    for total, start in zip(sums, starts, strict=True):
        total.copy_(clipped[start : start + WINDOW].sum(dim=0))
    return sums


def boundary_map(flow: torch.Tensor) -> torch.Tensor:
    """The mean of |grad u| and |grad v|, by 3x3 kernels: differences over two pixels, summed over
    three rows or columns. The border repeats.

    Args:
        flow: [B, 2, H, W] float, pixels.

    Returns:
        [B, H, W], pixels, at least 0. A step of s pixels along an edge gives 3 s beside it.
    """
    height, width = flow.shape[2:]
    padded = flow.new_empty(*flow.shape[:2], height + 2, width + 2)
    padded[..., 1:-1, 1:-1] = flow
    padded[..., 1:-1, 0], padded[..., 1:-1, -1] = flow[..., 0], flow[..., -1]
    padded[..., 0, :], padded[..., -1, :] = padded[..., 1, :], padded[..., -2, :]
    across = padded[..., 2:] - padded[..., :-2]
    down = padded[..., 2:, :] - padded[..., :-2, :]
    across = across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :]
    down = down[..., :-2] + down[..., 1:-1] + down[..., 2:]
    return across.hypot(down).mean(dim=1)
