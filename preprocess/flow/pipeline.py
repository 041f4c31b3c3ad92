"""Computes the content of flows shards from frames: flow, camera motion, motion maps, tracks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from preprocess.flow.boundaries import boundary_map, decided, window_sums
from preprocess.flow.camera import (
    FLOW_INLIER_PX,
    camera_motion,
    residual_flow,
    total_flow,
    warp_back,
)
from preprocess.flow.chunks import GreyFrames, Maps, TracksOfFrames
from preprocess.flow.motion_maps import motion_map, reduce_maps
from preprocess.flow.options import FlowOptions, TrackOptions
from preprocess.flow.point_tracker import PointTracker
from preprocess.flow.residual import residual_lengths
from preprocess.flow.sources import MOTION_VECTORS, FlowSource, make_source
from preprocess.flow.track_columns import coded
from preprocess.flow.tracks import make_tracks
from preprocess.video.errors import ClipError
from preprocess.video.frame_chunks import scaled_size
from preprocess.video.motion_vectors import VECTOR_CELL
from shared.layout import BOUNDARIES, LENGTHS, UNSTABILISED
from shared.motion_maps import compand
from shared.tracks import grid_shape

VECTOR_INLIER_PX = 1.0  # source pixels; encoders round vectors, and choose them to save bits


class FlowPipeline:
    """Computes the tracks and all outputs that need frames, chunk by chunk.

    Args:
        flow: options of flow.
        map_short_side: short side of the motion maps in pixels; maps are never enlarged.
        device: "cpu" or "cuda".

    Raises:
        InputError: a source cannot be loaded.
    """

    def __init__(self, flow: FlowOptions, map_short_side: int, device: str) -> None:
        self._flow = flow
        self._map_short_side = map_short_side
        self._device = device
        self._sources = {
            name: make_source(name, flow.options_of(name), device) for name in flow.pictured
        }
        self._tracker = None
        if flow.tracks is not None and flow.tracks.weights is not None:
            self._tracker = PointTracker(flow.tracks.weights, device)
        # Code that is compiled on first use is compiled now, while the pool waits for its workers.
        for source in self._sources.values():
            _flows(source, torch.zeros(2, 32, 32, dtype=torch.uint8, device=device))

    def run(self, grey: GreyFrames) -> list[Maps | TracksOfFrames]:
        """Compute the maps of the new pairs of a chunk, and the tracks that are complete.

        Raises:
            ClipError: the flow is not finite.
            InputError: a source refuses the frames.
        """
        # A copy: frames from the object store are read-only, and torch warns about that.
        frames = torch.from_numpy(grey.frames.copy()).to(self._device)
        num_known = max(0, grey.num_before - 1)  # pairs of the previous chunk
        outputs = self._flow.outputs
        results: list[Maps | TracksOfFrames] = []
        for name, source in self._sources.items():
            is_tracked = name == self._flow.tracked
            # Tracks and windows that started before this chunk need the flows of known pairs again.
            first = 0 if is_tracked or self._flow.boundaries else num_known
            new = num_known - first
            solved = self._solve(name, source, frames[first:])
            camera = _slice_camera(solved.camera, new)
            at = grey.first_index + num_known
            for output in (name, name + LENGTHS):
                if output in outputs:
                    results.append(self._maps(grey, output, at, solved.flow[new:], camera))
            if name + BOUNDARIES in outputs:
                results += self._boundaries(grey, name + BOUNDARIES, at, solved)
            if solved.unstabilised is not None:
                results.append(
                    self._maps(grey, name + UNSTABILISED, at, solved.unstabilised[new:], None)
                )
            if is_tracked and self._flow.tracks:
                results += _tracks(grey, frames, solved, self._flow.tracks, self._tracker)
        return results

    def _solve(self, name: str, source: FlowSource, frames: torch.Tensor) -> _Solved:
        options = self._flow
        is_kept = name + UNSTABILISED in options.outputs
        if not options.is_stabilised(name):
            return _Solved(_flows(source, frames))
        if options.stabilise == "subtract":
            flow = _flows(source, frames)
            residual, camera = _subtracted(flow)
            return _Solved(residual, camera, flow if is_kept else None)
        unstabilised = _flows(source, frames) if is_kept else None
        residual, camera = _warped(source, frames)
        return _Solved(residual, camera, unstabilised)

    def _maps(
        self,
        grey: GreyFrames,
        output: str,
        first_index: int,
        flows: torch.Tensor,
        camera: _Camera | None,
    ) -> Maps:
        return Maps(
            grey.clip_index,
            grey.attempt,
            first_index,
            *_companded(flows, self._map_short_side, output),
            output,
            *_columns(camera),
            *_residual(flows, self._map_short_side, self._flow, output),
        )

    def _boundaries(
        self, grey: GreyFrames, output: str, num_known: int, solved: _Solved
    ) -> list[Maps]:
        """The maps whose windows are complete now, but were not after num_known pairs."""
        flows, before = solved.flow, grey.first_index
        new = range(decided(num_known, False), decided(before + len(flows), grey.is_last))
        if not new:
            return []
        camera = _slice_camera(solved.camera, new.start - before, new.stop - before)
        return [self._maps(grey, output, new.start, window_sums(flows, before, new), camera)]


def vector_maps(
    clip_index: int,
    attempt: int,
    first_index: int,
    flows: list[np.ndarray],
    options: FlowOptions,
    map_short_side: int,
) -> list[Maps]:
    """Compute the maps of one chunk from motion vectors, for each output.

    Args:
        clip_index, attempt: as in GreyFrames.
        first_index: number of the first pair in the clip.
        flows: for each pair float32 [2, h, w], one vector a cell, source pixels.
        options: options of flow.
        map_short_side: short side of the motion maps in pixels; maps are never enlarged.
    """
    # In cells per frame, so that derivatives have the same meaning for frames of any size.
    cells = torch.from_numpy(np.stack(flows)) / VECTOR_CELL
    camera = None
    if options.is_stabilised(MOTION_VECTORS):
        cells, camera = _subtracted(cells, VECTOR_INLIER_PX / VECTOR_CELL)
    outputs = (MOTION_VECTORS, MOTION_VECTORS + LENGTHS)
    return [
        Maps(
            clip_index,
            attempt,
            first_index,
            *_companded(cells, map_short_side, output),
            output,
            *_columns(camera),
            *_residual(cells, map_short_side, options, output),
        )
        for output in outputs
        if output in options.outputs
    ]


@dataclass(frozen=True)
class _Camera:
    """Camera motion of T pairs: homographies float64 [T, 3, 3], inliers int32 [T]."""

    homographies: np.ndarray
    inliers: np.ndarray


@dataclass(frozen=True)
class _Solved:
    """Flow of consecutive pairs.

    Attributes:
        flow: float32 [T, 2, H, W], pixels per frame, without camera motion if `camera` is given.
        camera: the camera motion that was removed.
        unstabilised: float32 [T, 2, H, W], flow with camera motion, if that is stored too.
    """

    flow: torch.Tensor
    camera: _Camera | None = None
    unstabilised: torch.Tensor | None = None


def _flows(source: FlowSource, frames: torch.Tensor) -> torch.Tensor:
    flows = source(frames[:-1], frames[1:])
    assert len(flows) == len(frames) - 1, "F frames must give F-1 flows"
    return flows


def _warped(source: FlowSource, frames: torch.Tensor) -> tuple[torch.Tensor, _Camera]:
    """Flow to the second frames after these were warped back, and the camera motion."""
    pictures = frames.cpu().numpy()
    pairs = list(pairwise(pictures))
    found = [camera_motion(first, second) for first, second in pairs]
    aligned = [
        warp_back(second, motion.homography, first)
        for (first, second), motion in zip(pairs, found, strict=True)
    ]
    flows = source(frames[:-1], torch.from_numpy(np.stack(aligned)).to(frames.device))
    homographies = np.stack([motion.homography for motion in found])
    return flows, _Camera(homographies, np.array([m.num_inliers for m in found], dtype=np.int32))


def _subtracted(
    flows: torch.Tensor, inlier_px: float = FLOW_INLIER_PX
) -> tuple[torch.Tensor, _Camera]:
    """Flow without the camera motion that is fitted to it, and that camera motion."""
    residual, homographies, inliers = zip(
        *(residual_flow(flow, inlier_px) for flow in flows.cpu().numpy()), strict=True
    )
    camera = _Camera(np.stack(homographies), np.array(inliers, dtype=np.int32))
    return torch.from_numpy(np.stack(residual)).to(flows.device), camera


def _tracks(
    grey: GreyFrames,
    frames: torch.Tensor,
    solved: _Solved,
    options: TrackOptions,
    tracker: PointTracker | None,
) -> list[TracksOfFrames]:
    """The tracks of a chunk that no later chunk extends; an empty list if there are none."""
    # The next chunk starts with the last frames of this one, and has more flows for their tracks.
    count = len(frames) if grey.is_last else len(frames) - options.length
    known = max(0, grey.num_before - options.length)  # frames whose tracks came with the last chunk
    if count <= known:
        return []
    starts = np.arange(grey.first_index + known, grey.first_index + count)
    if options.starts is not None:
        num_seen = grey.first_index + len(frames)
        starts = options.starts.possible_starts(starts, num_seen, grey.is_last)
    flows, residual, colour = solved.flow, None, None
    if grey.colour is not None:
        colour = torch.from_numpy(grey.colour.copy()).to(frames.device)
    if solved.camera is not None:
        # Computed from warped frames, flow reaches further than flow between the original frames.
        flows, residual = _with_camera(solved.flow, solved.camera), solved.flow
    first = starts - grey.first_index
    tracks = make_tracks(frames, flows, options, residual, colour, tracker, first)
    height, width = frames.shape[1:]
    return [
        TracksOfFrames(
            grey.clip_index,
            grey.attempt,
            grey.first_index + known,
            count - known,
            starts,
            grid_shape((height, width), options.points),
            (width, height),
            coded(tracks, options),
        )
    ]


def _with_camera(residual: torch.Tensor, camera: _Camera) -> torch.Tensor:
    """Flow between the original frames."""
    pairs = zip(residual.cpu().numpy(), camera.homographies, strict=True)
    flows = np.stack([total_flow(flow, homography) for flow, homography in pairs])
    return torch.from_numpy(flows).to(residual.device)


def _companded(flows: torch.Tensor, short_side: int, output: str) -> tuple[np.ndarray, np.ndarray]:
    """Compute and compand the maps of an output.

    These are MOFO's equation 1; for LENGTHS the distance that each pixel moves, in pixels of the
    map; for BOUNDARIES the maps of MOFO's public code.

    Args:
        flows: float32 [T, 2, H, W]; for BOUNDARIES the sums over windows.
        short_side: short side of the maps in pixels.
        output: name of the output.

    Returns:
        values uint8 [T, h, w] and scale float32 [T], see `shared.motion_maps.compand`.

    Raises:
        ClipError: a value is NaN or infinite.
    """
    height, width = flows.shape[2:]
    map_width, map_height = scaled_size(width, height, short_side)
    if output.endswith(LENGTHS):
        # vector_norm along dim 1 takes 45 times as long on a CPU.
        maps = torch.hypot(flows[:, 0], flows[:, 1]) * (map_width / width)
    elif output.endswith(BOUNDARIES):
        maps = boundary_map(flows)
    else:
        maps = motion_map(flows)
    reduced = reduce_maps(maps, (map_height, map_width)).cpu().numpy()
    if not np.isfinite(reduced).all():
        raise ClipError("not-finite", "the flow has NaN or infinite values", "flow")
    return compand(reduced)


def _residual(
    flows: torch.Tensor, short_side: int, options: FlowOptions, output: str
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """As Maps has them: residual lengths of flows [T, 2, H, W] and their scale, where stored."""
    if not options.has_residual(output):
        return None, None
    height, width = flows.shape[2:]
    map_width, map_height = scaled_size(width, height, short_side)
    return compand(residual_lengths(flows, (map_height, map_width)))


def _slice_camera(camera: _Camera | None, first: int, end: int | None = None) -> _Camera | None:
    return camera and _Camera(camera.homographies[first:end], camera.inliers[first:end])


def _columns(camera: _Camera | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The camera motion as Maps has it: homography float64 [T, 9], inliers int32 [T]."""
    if camera is None:
        return None, None
    return camera.homographies.reshape(-1, 9), camera.inliers
