"""Tracks points through flow and records the gradients around them: the targets of MME.

Sun et al., "Masked Motion Encoding" (CVPR 2023), section 3.2. Points are tracked as in dense
trajectories (Wang et al., IJCV 2013, eq. 1): p_(t+1) = p_t + (M * flow_t)(p_t), where M is a 3x3
median filter, through L = 6 consecutive flows. At each position a histogram of oriented gradients
(HOG, 9 bins) is computed.

These choices are ours:

- Points lie on a grid over the whole frame, with 42 points along its short side. A crop of 0.66 of
  the short side, seen as 14 patches, then has the 4 points a patch of the paper (28 / 0.66). Tracks
  start at every frame, so a trainer can take any crop and any first frame; or at the tubelets of
  one kind of training window (shared/track_window.py).
- Flow is sampled bilinearly. The paper rounds positions; its public code also rounds flow.
- HOG covers a cell of 8 px around the position, which is the paper's cell at 224 px, of the grey
  frame. By option there are several cells, in a square around the position, and each channel of
  colour has HOG of its own (`HogLayout` in shared/tracks.py). Orientations are unsigned, with
  linear interpolation between bins. Each bin stores its mean gradient without normalisation: the
  trainer normalises over all points of a patch, as the paper does.
- A track ends at the first position outside the frame, or at the last frame of the clip.

There are two ways to use stabilised flow (preprocess/flow/camera.py). If it is given as `flows`,
which is what the paper does, points leave their object when the camera moves. If it is given as
`residual`, together with the flow between the original frames, points stay on their object, and
only the recorded displacement is free of camera motion.

Letters: F frames, T first frames of tracks, G grid points, L steps, H, W frame size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from preprocess.flow.options import TrackOptions
from preprocess.flow.point_tracker import PointTracker
from shared.tracks import NUM_BINS, Tracks, grid_shape, start_points


@torch.inference_mode()
def make_tracks(
    frames: torch.Tensor,
    flows: torch.Tensor,
    options: TrackOptions,
    residual: torch.Tensor | None = None,
    colour: torch.Tensor | None = None,
    tracker: PointTracker | None = None,
    starts: np.ndarray | None = None,
) -> Tracks:
    """Compute tracks through consecutive frames.

    Tracks from the last L frames are cut short, because they end with the last flow. If more frames
    follow, let chunks overlap by L frames, and keep the tracks of the later chunk.

    Args:
        frames: [F, H, W], grey, uint8 or float 0..255.
        flows: float [F-1, 2, H, W], u then v, pixels per frame.
        options: see TrackOptions.
        residual: float [F-1, 2, H, W], flow without camera motion (w in preprocess/flow/camera.py).
            It is recorded in place of `flows`.
        colour: uint8 [F, H, W, 3], the frames in RGB, for the channels "rgb" and for a tracker.
        tracker: follows points instead of the flow.
        starts: int64 [T], increasing, the frames where tracks start; None for all F.

    Returns:
        Tracks on the CPU.
    """
    num_frames, height, width = frames.shape
    assert flows.shape == (num_frames - 1, 2, height, width), (frames.shape, flows.shape)
    size = (height, width)
    points = start_points(size, grid_shape(size, options.points))
    at = torch.from_numpy(points).to(flows.device)
    first = torch.arange(num_frames) if starts is None else torch.from_numpy(starts)
    first = first.to(flows.device)
    if tracker is None:
        fields = [_filtered(field, options) for field in (flows, residual) if field is not None]
        followed = follow(fields[0], fields[-1], at, options.length, first)
    else:
        assert colour is not None and residual is None
        positions, displacements, num_steps = tracker.follow(colour, at, options.length)
        followed = positions[first], displacements[first], num_steps[first]
    positions, displacements, num_steps = followed
    hog = positions.new_zeros((*positions.shape[:3], 0))
    if options.cell:
        pictures = [frames]
        if options.channels == "rgb":
            assert colour is not None and colour.shape == (*frames.shape, 3)
            pictures = list(colour.unbind(-1))
        parts = [hog_along(picture, first, positions, num_steps, options) for picture in pictures]
        hog = torch.cat(parts, dim=-1)
    return Tracks(displacements.cpu().numpy(), num_steps.byte().cpu().numpy(), hog.cpu().numpy())


def follow(
    flows: torch.Tensor,
    recorded: torch.Tensor,
    starts: torch.Tensor,
    length: int,
    first: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Follow points through flow.

    Args:
        flows: float [F-1, 2, H, W], the flow that moves the points.
        recorded: float [F-1, 2, H, W], the flow that is recorded: `flows` itself, or flow without
            camera motion.
        starts: float [G, 2], x and y of the first positions.
        length: L, the number of steps.
        first: int64 [T], increasing, the frames where tracks start.

    Returns:
        positions: float [T, G, L, 2], where each step starts.
        displacements: float [T, G, L, 2], pixels.
        num_steps: int64 [T, G]. After the end of a track its position stays, and its displacements
            are 0.
    """
    (num_flows, _, height, width), num_points = flows.shape, len(starts)
    position = starts.expand(len(first), num_points, 2)
    alive = torch.ones(len(first), num_points, dtype=torch.bool, device=flows.device)
    num_steps = torch.zeros_like(alive, dtype=torch.int64)
    size = starts.new_tensor([width, height])
    positions, displacements = [], []
    for step in range(length):
        moved = _moved(flows, first + step, position)
        displacement = moved if recorded is flows else _moved(recorded, first + step, position)
        alive = alive & (first + step < num_flows)[:, None]  # tracks that have a flow left
        after = position + moved
        alive = alive & (after >= 0).all(-1) & (after < size).all(-1)
        positions.append(position)
        displacements.append(displacement * alive[..., None])
        position = torch.where(alive[..., None], after, position)
        num_steps += alive
    return torch.stack(positions, 2), torch.stack(displacements, 2), num_steps


def median_filter(fields: torch.Tensor) -> torch.Tensor:
    """Apply a 3x3 median filter to each plane of [..., H, W]; the border is repeated."""
    planes = fields.reshape(-1, *fields.shape[-2:])
    medians = [_plane_medians(batch) for batch in _batches(planes)]
    return torch.cat(medians).reshape(fields.shape)


def _batches(planes: torch.Tensor) -> Sequence[torch.Tensor]:
    """Split planes [N, H, W] into batches.

    On a CPU these are single planes, which stay in its cache. On a GPU all planes are one batch,
    because the GPU would idle between small launches.
    """
    return planes.split(1) if planes.device.type == "cpu" else [planes]


def _plane_medians(planes: torch.Tensor) -> torch.Tensor:
    """The 3x3 medians of planes [N, H, W].

    Each column of three is sorted once. The median of nine is the median of three values: the
    largest of the column minima, the median of the column medians, and the smallest of the column
    maxima. Neighbouring pixels share the sorted columns.
    """
    padded = F.pad(planes, (1, 1, 1, 1), mode="replicate")
    (height, width), three = planes.shape[1:], range(3)
    low, middle, high = _sorted_three(*(padded[:, i : i + height] for i in three))
    lows, middles, highs = ([v[..., i : i + width] for i in three] for v in (low, middle, high))
    largest_low = torch.maximum(torch.maximum(lows[0], lows[1]), lows[2])
    smallest_high = torch.minimum(torch.minimum(highs[0], highs[1]), highs[2])
    return _sorted_three(largest_low, _sorted_three(*middles)[1], smallest_high)[1]


def orientation_maps(frames: torch.Tensor, cell: int) -> torch.Tensor:
    """Average gradients by orientation over cells.

    Args:
        frames: [F, H, W], grey.
        cell: side of the cells in pixels, even.

    Returns:
        float32 [F, 9, H+1, W+1]. Entry [.., y, x] is the mean over the pixels of the cell around
        the pixel corner (x, y) that lie in the frame. The length of a pixel's gradient (central
        differences) is divided between the two bins nearest to its orientation.
    """
    num_pixels = _box_sums(torch.ones(1, 1, *frames.shape[1:], device=frames.device), cell)
    shape = (len(frames), NUM_BINS, *num_pixels.shape[2:])
    maps = frames.new_empty(shape, dtype=torch.float32)
    results = maps.split(1) if frames.device.type == "cpu" else [maps]
    for batch, result in zip(_batches(frames), results, strict=True):
        torch.div(_box_sums(_gradient_shares(batch), cell), num_pixels, out=result)
    return maps


def _gradient_shares(frames: torch.Tensor) -> torch.Tensor:
    """float [N, 9, H, W]: the gradient of each pixel of frames [N, H, W], by orientation."""
    grey = F.pad(frames[:, None].float(), (1, 1, 1, 1), mode="replicate")
    along_x = (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]) / 2
    along_y = (grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]) / 2
    length = torch.hypot(along_x, along_y)
    bins = torch.atan2(along_y, along_x) * (NUM_BINS / math.pi) % NUM_BINS
    lower = bins.floor()
    share = (bins - lower) * length
    lower = lower.long() % NUM_BINS  # rounding turns a tiny negative angle into a full turn
    shares = grey.new_zeros(len(frames), NUM_BINS, *frames.shape[1:])
    shares.scatter_(1, lower, length - share)
    return shares.scatter_(1, (lower + 1) % NUM_BINS, share)


def _box_sums(planes: torch.Tensor, cell: int) -> torch.Tensor:
    """Sum planes [..., H, W] over the cells around pixel corners, [..., H+1, W+1]; 0 outside."""
    sums = F.pad(planes, (cell // 2,) * 4)
    for dim in (-2, -1):  # shifted sums are 20 times faster on a CPU than avg_pool2d with stride 1
        length = sums.shape[dim] - cell + 1
        shifted = [sums.narrow(dim, shift, length) for shift in range(cell)]
        sums = shifted[0].clone()
        for values in shifted[1:]:
            sums += values
    return sums


def _filtered(fields: torch.Tensor, options: TrackOptions) -> torch.Tensor:
    """Flow fields after clipping and the median filter."""
    fields = fields.float()
    if options.max_flow:
        fields = fields.clamp(-options.max_flow, options.max_flow)
    return median_filter(fields)


def _sorted_three(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The smallest, the middle and the largest of three values, element by element."""
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    middle = torch.minimum(high, c)
    return torch.minimum(low, middle), torch.maximum(low, middle), torch.maximum(high, c)


def _moved(flows: torch.Tensor, frames: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """float [T, G, 2]: the displacement of points by the flow of their frame.

    It is 0 for frames after the last flow. `frames` is int64 [T], increasing.
    """
    moved = torch.zeros_like(positions)
    some = _planes(flows, frames)
    if len(some):
        moved[: len(some)] = _sampled(some, positions[: len(some)])
    return moved


def _planes(fields: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """The fields of frames int64 [T], increasing, without those after the last field.

    Neighbours are a view: copies of all maps of HOG would be hundreds of megabytes.
    """
    frames = frames[frames < len(fields)]
    if not len(frames):
        return fields[:0]
    first, last = int(frames[0]), int(frames[-1]) + 1
    return fields[first:last] if last - first == len(frames) else fields[frames]


def _sampled(fields: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Sample fields [T, C, H, W] bilinearly at positions [T, G, 2]: [T, G, C].

    Positions outside take the value of the border.
    """
    height, width = fields.shape[2:]
    grid = positions[:, :, None] * positions.new_tensor([2 / width, 2 / height]) - 1
    values = F.grid_sample(
        fields, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return values[..., 0].transpose(1, 2)


def hog_along(
    frames: torch.Tensor,
    first: torch.Tensor,
    positions: torch.Tensor,
    num_steps: torch.Tensor,
    options: TrackOptions,
) -> torch.Tensor:
    """HOG of one channel along tracks: float [T, G, L, cells * cells * 9], by row, column and bin.

    A cell that lies outside of the frame has the values of the nearest cell at its border.

    Args:
        frames: [F, H, W], one channel.
        first: int64 [T], increasing, the frames where tracks start.
        positions: float [T, G, L, 2]; step s of a track from frame t lies in frame t + s.
        num_steps: int64 [T, G], steps before the end of each track; HOG is 0 after it.
        options: has the side and the number of cells.
    """
    maps = orientation_maps(frames, options.cell)
    num_starts, num_points, length, _ = positions.shape
    offsets = (torch.arange(options.cells) - (options.cells - 1) / 2) * options.cell
    # Entry i of a map belongs to pixel corner i, which is the centre of pixel i of the map.
    shifts = [positions.new_tensor([float(x), float(y)]) for y in offsets for x in offsets]
    centres = [positions + shift + 0.5 for shift in shifts]
    values = positions.new_zeros(num_starts, num_points, length, len(centres), NUM_BINS)
    for step in range(length):
        some = _planes(maps, first + step)
        if len(some):
            for cell, at in enumerate(centres):
                values[: len(some), :, step, cell] = _sampled(some, at[: len(some), :, step])
    is_step = torch.arange(length, device=positions.device) < num_steps[..., None]
    return values.flatten(3) * is_step[..., None]
