"""Point trackers from TorchScript files: against a slow loop, and files that are no tracker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from errors import refuses

from preprocess.flow.options import FlowOptions, TrackOptions, read_flow_options
from preprocess.flow.point_tracker import PointTracker
from preprocess.flow.tracks import make_tracks
from shared.tracks import start_points

HEIGHT, WIDTH = 12, 16


class ByFirstPixel(torch.nn.Module):
    """Moves all points alike, by the red and green values of a frame's first pixel, in 1/16 px from
    -8 to 8; the points are seen in frames where it has blue."""

    def forward(
        self, video: torch.Tensor, queries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        first = video[0, :, :, 0, 0]
        moves = (first[:, :2] - 128.0) / 16.0
        moves[0] = 0.0
        tracks = queries[:, None, :, 1:] + moves.cumsum(0)[None, :, None]
        visible = (first[:, 2] > 0)[None, :, None].expand(1, video.shape[1], queries.shape[1])
        return tracks, visible


class Short(torch.nn.Module):
    """Leaves a frame out."""

    def forward(
        self, video: torch.Tensor, queries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (1, video.shape[1] - 1, queries.shape[1])
        return torch.zeros([1, video.shape[1] - 1, queries.shape[1], 2]), torch.ones(shape)


def saved(program: torch.nn.Module, path: Path) -> Path:
    torch.jit.script(program).save(str(path))
    return path


def colour_frames(num_frames: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 256, (num_frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
    colour[:, 0, 0, :2] = rng.integers(80, 177, (num_frames, 2))  # at most 3 px
    colour[:, 0, 0, 2] = rng.random(num_frames) < 0.8
    return torch.from_numpy(colour)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("length", [1, 3])
def test_tracks_are_those_of_a_slow_loop(tmp_path, seed, length):
    tracker = PointTracker(saved(ByFirstPixel(), tmp_path / "tracker.pt"))
    colour = colour_frames(6, seed)
    starts = torch.from_numpy(start_points((HEIGHT, WIDTH), (3, 4)))
    positions, displacements, num_steps = tracker.follow(colour, starts, length)
    assert positions.shape == displacements.shape == (6, 12, length, 2)
    ended = 0
    for frame, point in np.ndindex(6, 12):
        x, y = starts[point].tolist()
        steps = 0
        for step in range(length):
            assert positions[frame, point, step].tolist() == pytest.approx([x, y], abs=1e-4)
            later = frame + step + 1
            red, green, blue = colour[later, 0, 0].tolist() if later < 6 else (0, 0, 0)
            move = (red - 128) / 16, (green - 128) / 16
            inside = 0 <= x + move[0] < WIDTH and 0 <= y + move[1] < HEIGHT
            if later >= 6 or steps < step or not (inside and blue):
                assert displacements[frame, point, step].tolist() == [0.0, 0.0]
                continue
            assert displacements[frame, point, step].tolist() == pytest.approx(move, abs=1e-4)
            x, y, steps = x + move[0], y + move[1], steps + 1
        assert num_steps[frame, point] == steps
        ended += steps < length
    assert 0 < ended < 72


def test_hog_is_taken_where_the_tracker_goes(tmp_path):
    weights = saved(ByFirstPixel(), tmp_path / "tracker.pt")
    options = TrackOptions(length=2, points=3, cell=4, weights=weights)
    colour = colour_frames(4, 0)
    grey, flows = colour[..., 0], torch.full((3, 2, HEIGHT, WIDTH), 5.0)
    tracker = PointTracker(weights)
    tracks = make_tracks(grey, flows, options, colour=colour, tracker=tracker)
    starts = torch.from_numpy(start_points((HEIGHT, WIDTH), (3, 4)))
    _, displacements, num_steps = tracker.follow(colour, starts, 2)
    np.testing.assert_array_equal(tracks.displacements, displacements)
    np.testing.assert_array_equal(tracks.num_steps, num_steps)
    by_flow = make_tracks(grey, flows, TrackOptions(length=2, points=3, cell=4))
    both = (tracks.num_steps > 0) & (by_flow.num_steps > 0)
    np.testing.assert_allclose(tracks.hog[both][:, 0], by_flow.hog[both][:, 0], atol=1e-4)


def test_files_that_are_no_tracker_are_refused(tmp_path):
    with refuses("missing-file", tmp_path / "none.pt", "TorchScript"):
        PointTracker(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("no program")
    with refuses("wrong-format", tmp_path / "text.pt", "TorchScript"):
        PointTracker(tmp_path / "text.pt")
    starts = torch.from_numpy(start_points((HEIGHT, WIDTH), (3, 4)))
    with refuses("wrong-format", "(1, 2, 12, 2)", "12 points in 3 frames"):
        PointTracker(saved(Short(), tmp_path / "short.pt")).follow(colour_frames(4, 0), starts, 2)
    with refuses("wrong-format", tmp_path / "linear.pt", "fails"):
        program = saved(torch.nn.Linear(2, 2), tmp_path / "linear.pt")
        PointTracker(program).follow(colour_frames(4, 0), starts, 2)


def test_options_of_a_tracker(tmp_path):
    weights = saved(ByFirstPixel(), tmp_path / "tracker.pt")
    options = read_flow_options({"trajectories": True, "track_weights": str(weights)})
    assert options.tracks.weights == weights and options.needs_colour
    assert len(options.config("tvl1")["track_weights"]) == 64
    assert "track_weights" not in FlowOptions(tracks=TrackOptions()).config("tvl1")
    with refuses("option-conflict", "--stabilise warp", "--track-weights"):
        FlowOptions(stabilise="warp", tracks=TrackOptions(weights=weights))
    with refuses("option-needs-another", "--track-weights", "--trajectories"):
        read_flow_options({"track_weights": str(weights)})
    missing = FlowOptions(tracks=TrackOptions(weights=tmp_path / "none.pt"))
    with refuses("missing-file", "--track-weights", tmp_path / "none.pt"):
        missing.config("tvl1")
