"""From frames to what the flows shards hold: flow, the camera's part of it, maps, tracks."""

from __future__ import annotations

from dataclasses import dataclass

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
from preprocess.flow.motion_maps import motion_map, reduce_maps
from preprocess.flow.options import VECTOR_CELL, TrackOptions
from preprocess.flow.sources import MOTION_VECTORS, FlowSource, make_source
from preprocess.flow.tracks import make_tracks
from preprocess.flow_run.messages import GreyFrames, Job, Maps, TracksOfFrames, WorkOptions
from preprocess.video.frame_chunks import scaled_size
from preprocess.video.video_file import ClipError
from shared.layout import BOUNDARIES, LENGTHS, UNSTABILISED
from shared.motion_maps import compand
from shared.tracks import grid_shape, quantised

VECTOR_INLIER_PX = 1.0  # pixels of the source: vectors are rounded, and chosen for their bits


class FlowMaker:
    """Makes every output that needs pictures, and the tracks, chunk by chunk.

    Raises:
        InputError: a source cannot be made ready.
    """

    def __init__(self, options: WorkOptions) -> None:
        self._options = options
        flow = options.flow
        self._sources = {
            name: make_source(name, flow.solvers, options.device) for name in flow.pictured
        }
        # Whatever compiles on first use does so now, while the pool waits for a worker to start.
        for source in self._sources.values():
            _flows(source, torch.zeros(2, 32, 32, dtype=torch.uint8, device=options.device))

    def parts(self, grey: GreyFrames) -> list[Maps | TracksOfFrames]:
        """All outputs of a chunk: maps of its new pairs, tracks that no later chunk prolongs."""
        # A copy: frames from the object store are read-only, and torch warns of that.
        frames = torch.from_numpy(grey.frames.copy()).to(self._options.device)
        num_known = max(0, grey.num_before - 1)  # pairs that the chunk before had
        parts: list[Maps | TracksOfFrames] = []
        for name, source in self._sources.items():
            is_tracked = name == self._options.flow.tracked
            # Tracks and windows that began before the chunk need flows of known pairs once more.
            first = 0 if is_tracked or self._options.flow.boundaries else num_known
            new = num_known - first
            solved = self._solve(name, source, frames[first:])
            camera = _part(solved.camera, new)
            at = grey.first_index + num_known
            parts.append(self._maps(grey, name, at, solved.flow[new:], camera))
            if self._options.flow.lengths:
                parts.append(self._maps(grey, name + LENGTHS, at, solved.flow[new:], camera))
            if self._options.flow.boundaries:
                parts += self._boundaries(grey, name + BOUNDARIES, at, solved)
            if solved.as_it_is is not None:
                parts.append(self._maps(grey, name + UNSTABILISED, at, solved.as_it_is[new:], None))
            if is_tracked:
                parts += _tracks(grey, frames, solved, self._options.flow.tracks)
        return parts

    def _solve(self, name: str, source: FlowSource, frames: torch.Tensor) -> _Solved:
        options = self._options.flow
        is_kept = name + UNSTABILISED in options.outputs
        if not options.is_stabilised(name):
            return _Solved(_flows(source, frames))
        if options.stabilise == "subtract":
            flow = _flows(source, frames)
            residual, camera = _subtracted(flow)
        else:
            flow = _flows(source, frames) if is_kept else None
            residual, camera = _warped(source, frames)
        return _Solved(residual, camera, flow if is_kept else None)

    def _maps(
        self,
        grey: GreyFrames,
        output: str,
        first_index: int,
        flows: torch.Tensor,
        camera: _Camera | None,
    ) -> Maps:
        values, scale = _companded(flows, self._options.map_short_side, output)
        return Maps(grey.place, grey.attempt, first_index, values, scale, output, *_columns(camera))

    def _boundaries(
        self, grey: GreyFrames, output: str, num_known: int, solved: _Solved
    ) -> list[Maps]:
        """The maps whose windows are known now and were not by the clip's first num_known pairs."""
        flows, before = solved.flow, grey.first_index
        new = range(decided(num_known, False), decided(before + len(flows), grey.is_last))
        if not new:
            return []
        camera = _part(solved.camera, new.start - before, new.stop - before)
        return [self._maps(grey, output, new.start, window_sums(flows, before, new), camera)]


def vector_maps(
    job: Job, first_index: int, flows: list[np.ndarray], options: WorkOptions
) -> list[Maps]:
    """Maps of flows of motion vectors, float32 [2, h, w] each in pixels of the source: every
    output."""
    # In pixels of the map, so that derivatives mean what they mean on frames of any size.
    cells = torch.from_numpy(np.stack(flows)) / VECTOR_CELL
    camera = None
    if options.flow.is_stabilised(MOTION_VECTORS):
        cells, camera = _subtracted(cells, VECTOR_INLIER_PX / VECTOR_CELL)
    outputs = (MOTION_VECTORS, MOTION_VECTORS + LENGTHS)[: 1 + options.flow.lengths]
    return [
        Maps(
            job.place,
            job.attempt,
            first_index,
            *_companded(cells, options.map_short_side, output),
            output,
            *_columns(camera),
        )
        for output in outputs
    ]


@dataclass(frozen=True)
class _Camera:
    """Homographies float64 [T, 3, 3] and inliers int32 [T] of pairs."""

    homographies: np.ndarray
    inliers: np.ndarray


@dataclass(frozen=True)
class _Solved:
    """Flow of consecutive pairs [T, 2, H, W], stabilised with a camera; as it is where kept."""

    flow: torch.Tensor
    camera: _Camera | None = None
    as_it_is: torch.Tensor | None = None


def _flows(source: FlowSource, frames: torch.Tensor) -> torch.Tensor:
    flows = source(frames[:-1], frames[1:])
    assert len(flows) == len(frames) - 1, "F frames must give F-1 flows"
    return flows


def _warped(source: FlowSource, frames: torch.Tensor) -> tuple[torch.Tensor, _Camera]:
    """Flow to the second frames warped back by the camera's motion."""
    pictures = frames.cpu().numpy()
    pairs = list(zip(pictures[:-1], pictures[1:], strict=True))
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
    """Flow without the camera's motion that is fitted to it."""
    residual, homographies, inliers = zip(
        *(residual_flow(flow, inlier_px) for flow in flows.cpu().numpy()), strict=True
    )
    camera = _Camera(np.stack(homographies), np.array(inliers, dtype=np.int32))
    return torch.from_numpy(np.stack(residual)).to(flows.device), camera


def _tracks(
    grey: GreyFrames, frames: torch.Tensor, solved: _Solved, options: TrackOptions
) -> list[TracksOfFrames]:
    # The next chunk begins with the last frames of this one, and has more flows for their tracks.
    count = len(frames) if grey.is_last else len(frames) - options.length
    known = max(0, grey.num_before - options.length)  # the chunk before had those
    if count <= known:
        return []
    flows, residual = solved.flow, None
    if solved.camera is not None:
        # From the frames warped back, which reaches further than flow between those as they are.
        flows, residual = _with_camera(solved.flow, solved.camera), solved.flow
    tracks = quantised(make_tracks(frames, flows, options, residual))
    height, width = frames.shape[1:]
    grid = grid_shape((height, width), options.points)
    arrays = [tracks[name][known:count] for name in ("displacements", "steps", "hog")]
    return [
        TracksOfFrames(
            grey.place, grey.attempt, grey.first_index + known, grid, (width, height), *arrays
        )
    ]


def _with_camera(residual: torch.Tensor, camera: _Camera) -> torch.Tensor:
    """Flow between the frames as they are."""
    pairs = zip(residual.cpu().numpy(), camera.homographies, strict=True)
    flows = np.stack([total_flow(flow, homography) for flow, homography in pairs])
    return torch.from_numpy(flows).to(residual.device)


def _companded(flows: torch.Tensor, short_side: int, output: str) -> tuple[np.ndarray, np.ndarray]:
    """What an output stores of flows [T, 2, H, W]: MOFO's equation 1; of LENGTHS, how far each
    pixel moves, in widths of a pixel of the map; of BOUNDARIES, those of sums over windows."""
    height, width = flows.shape[2:]
    map_width, map_height = scaled_size(width, height, short_side)
    if output.endswith(LENGTHS):
        maps = torch.linalg.vector_norm(flows, dim=1) * (map_width / width)
    elif output.endswith(BOUNDARIES):
        maps = boundary_map(flows)
    else:
        maps = motion_map(flows)
    maps = reduce_maps(maps, (map_height, map_width)).cpu().numpy()
    if not np.isfinite(maps).all():
        raise ClipError("flow", "the flow holds NaN or infinite values")
    return compand(maps)


def _part(camera: _Camera | None, first: int, end: int | None = None) -> _Camera | None:
    return camera and _Camera(camera.homographies[first:end], camera.inliers[first:end])


def _columns(camera: _Camera | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """As Maps has them: homography float64 [T, 9], inliers int32 [T]."""
    if camera is None:
        return None, None
    return camera.homographies.reshape(-1, 9), camera.inliers
