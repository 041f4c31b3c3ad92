"""Computes motion maps as the public code of MOFO does: boundaries of motion over eight flows.

    flows (T,2,H,W) --window_sums--> (n,2,H,W) --boundary_map--> (n,H,W)

Unlike equation 1 (preprocess/flow/motion_maps.py), derivatives keep their sign while they are
summed over time, so flicker cancels. A window reaches beyond the chunk of frames that flow is
computed on. `decided` and OVERLAP define how chunks fit together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

WINDOW = 8  # flows
BEFORE = 3  # flows of the window that lie before the flow that the map belongs to
OVERLAP = WINDOW  # frames of a chunk that the next chunk needs again
LARGEST_FLOW = 20.0  # pixels; the public code stores flow from -20 to 20 in 8 bits
GREY_LEVEL = 2 * LARGEST_FLOW / 255  # pixels; one of these 8-bit levels


def decided(num_flows: int, is_last: bool) -> int:
    """The number of flows, counted from the first of the clip, whose window is complete.

    Args:
        num_flows: number of flows that are known.
        is_last: whether the clip has no more flows. The last windows of a clip are moved back, so
            that they are complete.
    """
    if is_last:
        return num_flows
    return num_flows - (WINDOW - BEFORE - 1) if num_flows >= WINDOW else 0


def window_sums(flows: torch.Tensor, first_flow: int, which: range) -> torch.Tensor:
    """Sum the clipped flows in the window of each flow in `which`.

    Args:
        flows: float [T, 2, H, W], u then v, pixels per frame, up to the last one that is known.
        first_flow: number of flows[0] in the clip.
        which: numbers in the clip of the flows whose windows are summed.

    Returns:
        float [n, 2, H, W], pixels. A clip with fewer than 8 flows is one window.
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
    """Compute the mean of |grad u| and |grad v| with 3x3 kernels.

    A derivative is a difference over two pixels, summed over three rows or columns. Beyond the
    border its values are repeated.

    Args:
        flow: float [B, 2, H, W], u then v, pixels.

    Returns:
        float [B, H, W], pixels, 0 or more. A step of s pixels along an edge gives 3 s beside it.
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
