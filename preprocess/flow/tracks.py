"""Points tracked through flow, and the shapes around them: the targets of MME.

Sun et al., "Masked Motion Encoding" (CVPR 2023), section 3.2; tracks as in dense trajectories
(Wang et al., IJCV 2013, eq. 1): p_(t+1) = p_t + (M * flow_t)(p_t), M a 3x3 median filter, through
L = 6 consecutive flows, with a histogram of oriented gradients (HOG, 9 bins) at each position.

Where a choice had to be made:

- Points lie on a grid over the whole frame, 42 along its short side: a crop of 0.66 of the short
  side, seen as 14 patches, still has the paper's 4 points a patch (28 / 0.66). Every frame starts
  tracks, so a trainer can take any crop and any first frame.
- Flow is sampled bilinearly; the paper rounds positions, its public code flow too.
- HOG covers a cell of 8 px around the position, the paper's cell at 224 px, by unsigned orientation
  with linear interpolation between bins. It is stored as the mean gradient of each bin, not
  normalised: the trainer does that for all points of a patch together, as the paper does.
- A track ends at the first position outside the frame, or at the last frame of the clip.

With stabilised flow (preprocess/flow/camera.py) there are two ways. Given as `flows`, it is what
the paper does: points drift off what they started on as the camera moves. Given as `residual`
beside the flow between the frames as they are, points stay on it, and only the displacement that
is recorded is free of the camera.

Letters: F frames, T first frames of tracks, G grid points, L steps, H, W frame size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from preprocess.flow.options import TrackOptions
from shared.tracks import NUM_BINS, Tracks, grid_shape, start_points


@torch.inference_mode()
def make_tracks(
    frames: torch.Tensor,
    flows: torch.Tensor,
    options: TrackOptions,
    residual: torch.Tensor | None = None,
) -> Tracks:
    """Tracks that start at every one of consecutive frames.

    The last L frames start tracks that end with the last flow: where more frames follow, overlap
    chunks by L frames and keep the later chunk's.

    Args:
        frames: [F, H, W] grey, uint8 or float 0..255.
        flows: [F-1, 2, H, W] float, u then v, pixels per frame.
        options: see TrackOptions.
        residual: [F-1, 2, H, W], flow without the camera's part (w of preprocess/flow/camera.py),
            to record in place of the flow that is followed.

    Returns:
        Tracks with T = F, on the CPU.
    """
    num_frames, height, width = frames.shape
    assert flows.shape == (num_frames - 1, 2, height, width), (frames.shape, flows.shape)
    fields = [_filtered(field, options) for field in (flows, residual) if field is not None]
    size = (height, width)
    points = start_points(size, grid_shape(size, options.points))
    starts = torch.from_numpy(points).to(flows.device)
    positions, displacements, num_steps = follow(fields[0], fields[-1], starts, options.length)
    hog = positions.new_zeros((*positions.shape[:3], 0))
    if options.cell:
        hog = _hog_along(orientation_maps(frames, options.cell), positions, num_steps)
    return Tracks(displacements.cpu().numpy(), num_steps.byte().cpu().numpy(), hog.cpu().numpy())


def follow(
    flows: torch.Tensor, recorded: torch.Tensor, starts: torch.Tensor, length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Follow points through flow from every frame.

    Args:
        flows: [F-1, 2, H, W], what moves the points.
        recorded: [F-1, 2, H, W], what is written down; `flows` itself, or without the camera.
        starts: [G, 2] x, y.
        length: L.

    Returns:
        positions [F, G, L, 2] that steps start from; displacements [F, G, L, 2]; num_steps [F, G]
        integers. Positions stay, and displacements are 0, after the track's end.
    """
    (num_flows, _, height, width), num_points = flows.shape, len(starts)
    position = starts.expand(num_flows + 1, num_points, 2)
    alive = torch.ones(num_flows + 1, num_points, dtype=torch.bool, device=flows.device)
    num_steps = torch.zeros_like(alive, dtype=torch.int64)
    size = starts.new_tensor([width, height])
    positions, displacements = [], []
    for step in range(length):
        through = num_flows - step  # tracks from the frames before this one have a flow left
        moved = _moved(flows[step:], position)
        displacement = moved if recorded is flows else _moved(recorded[step:], position)
        alive[max(through, 0) :] = False
        after = position + moved
        alive = alive & (after >= 0).all(-1) & (after < size).all(-1)
        positions.append(position)
        displacements.append(displacement * alive[..., None])
        position = torch.where(alive[..., None], after, position)
        num_steps += alive
    return torch.stack(positions, 2), torch.stack(displacements, 2), num_steps


def median_filter(fields: torch.Tensor) -> torch.Tensor:
    """3x3 median of each plane of [..., H, W], the border repeated."""
    planes = fields.reshape(-1, *fields.shape[-2:])
    medians = [_plane_medians(batch) for batch in _batches(planes)]
    return torch.cat(medians).reshape(fields.shape)


def _batches(planes: torch.Tensor) -> Sequence[torch.Tensor]:
    """Batches of planes [N, H, W]: single planes on a CPU, so that they stay in its cache; all of
    them on a GPU, which would idle between small launches."""
    return planes.split(1) if planes.device.type == "cpu" else [planes]


def _plane_medians(planes: torch.Tensor) -> torch.Tensor:
    """Of each plane [N, H, W]. The median of nine is that of the columns' largest minimum, middle
    median and smallest maximum, and neighbours share the sorted columns.
    """
    padded = F.pad(planes, (1, 1, 1, 1), mode="replicate")
    (height, width), three = planes.shape[1:], range(3)
    low, middle, high = _sorted_three(*(padded[:, i : i + height] for i in three))
    lows, middles, highs = ([v[..., i : i + width] for i in three] for v in (low, middle, high))
    largest_low = torch.maximum(torch.maximum(lows[0], lows[1]), lows[2])
    smallest_high = torch.minimum(torch.minimum(highs[0], highs[1]), highs[2])
    return _sorted_three(largest_low, _sorted_three(*middles)[1], smallest_high)[1]


def orientation_maps(frames: torch.Tensor, cell: int) -> torch.Tensor:
    """Gradients by orientation, averaged over cells: frames [F, H, W] -> [F, 9, H+1, W+1] float32.

    Entry [.., y, x] is the mean over the `cell` x `cell` pixels around the pixel corner (x, y), as
    far as they lie in the frame. The gradient (central differences) of a pixel counts with its
    length, shared between the two orientations next to its own.
    """
    num_pixels = _box_sums(torch.ones(1, 1, *frames.shape[1:], device=frames.device), cell)
    shape = (len(frames), NUM_BINS, *num_pixels.shape[2:])
    maps = frames.new_empty(shape, dtype=torch.float32)
    results = maps.split(1) if frames.device.type == "cpu" else [maps]
    for batch, result in zip(_batches(frames), results, strict=True):
        torch.div(_box_sums(_gradient_shares(batch), cell), num_pixels, out=result)
    return maps


def _gradient_shares(frames: torch.Tensor) -> torch.Tensor:
    """[N, 9, H, W]: the gradient of each pixel of frames [N, H, W], by orientation."""
    grey = F.pad(frames[:, None].float(), (1, 1, 1, 1), mode="replicate")
    along_x = (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]) / 2
    along_y = (grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]) / 2
    length = torch.hypot(along_x, along_y)
    bins = torch.atan2(along_y, along_x) * (NUM_BINS / math.pi) % NUM_BINS
    lower = bins.floor()
    share = (bins - lower) * length
    lower = lower.long() % NUM_BINS  # a tiny negative angle is rounded to a full turn
    shares = grey.new_zeros(len(frames), NUM_BINS, *frames.shape[1:])
    shares.scatter_(1, lower, length - share)
    return shares.scatter_(1, (lower + 1) % NUM_BINS, share)


def _box_sums(planes: torch.Tensor, cell: int) -> torch.Tensor:
    """[..., H, W] -> [..., H+1, W+1]: sums over the cells around pixel corners, zero outside."""
    sums = F.pad(planes, (cell // 2,) * 4)
    for dim in (-2, -1):  # shifted sums: 20 times faster on CPU than avg_pool2d with stride 1
        length = sums.shape[dim] - cell + 1
        shifted = [sums.narrow(dim, shift, length) for shift in range(cell)]
        sums = shifted[0].clone()
        for values in shifted[1:]:
            sums += values
    return sums


def _filtered(fields: torch.Tensor, options: TrackOptions) -> torch.Tensor:
    fields = fields.float()
    if options.max_flow:
        fields = fields.clamp(-options.max_flow, options.max_flow)
    return median_filter(fields)


def _sorted_three(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    middle = torch.minimum(high, c)
    return torch.minimum(low, middle), torch.maximum(low, middle), torch.maximum(high, c)


def _moved(flows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """[F, G, 2]: where flows take the points of as many first frames; 0 for the rest."""
    moved = torch.zeros_like(positions)
    if len(flows):
        moved[: len(flows)] = _sampled(flows, positions[: len(flows)])
    return moved


def _sampled(fields: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Values [T, G, C] of fields [T, C, H, W] at positions [T, G, 2]; bilinear, border repeated."""
    height, width = fields.shape[2:]
    grid = positions[:, :, None] * positions.new_tensor([2 / width, 2 / height]) - 1
    values = F.grid_sample(
        fields, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return values[..., 0].transpose(1, 2)


def _hog_along(
    maps: torch.Tensor, positions: torch.Tensor, num_steps: torch.Tensor
) -> torch.Tensor:
    """[F, G, L, 9]: values of maps [F, 9, H+1, W+1] at positions [F, G, L, 2] of frame t + step."""
    num_frames, num_points, length, _ = positions.shape
    values = positions.new_zeros(num_frames, num_points, length, NUM_BINS)
    for step in range(min(length, num_frames)):
        # Entry i of a map stands at the pixel corner i, which is the middle of "pixel" i there.
        at = positions[: num_frames - step, :, step] + 0.5
        values[: num_frames - step, :, step] = _sampled(maps[step:], at)
    is_step = torch.arange(length, device=positions.device) < num_steps[..., None]
    return values * is_step[..., None]
