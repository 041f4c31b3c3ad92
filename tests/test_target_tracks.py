"""Pixels and point tracks as targets (TrackMAE): against loops, and in a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from errors import refuses
from hypothesis import given
from hypothesis import strategies as st
from shard_fixtures import write_moving_squares
from torch.nn import functional as F
from track_fixtures import add_tracks, random_tracks
from training_fixtures import TINY_RECIPE, tiny_run

from shared.grid import View
from shared.layout import DatasetLayout
from shared.tracks import Tracks
from train.clips.reader import ClipReader
from train.clips.table import read_clip_table
from train.clips.tracks import PlacedTracks
from train.network.autoencoder import MaskedAutoencoder
from train.network.model_config import ModelConfig
from train.objectives.pixels import masked_loss, normalised_pixels
from train.objectives.pixels_and_tracks import SCALES, STARTS, PixelsAndTracks, upsampled
from train.objectives.target import ClipCut, ShownView
from train.options.config import LoaderConfig
from train.options.recipe import pretrain_config, read_recipe
from train.pretrain import pretrain
from train.running.run_folder import RunFolder
from train.samples.datasets import PretrainDataset
from train.samples.views import StoredClip
from train.tables.typed import Choice

SOURCE, TRACKED, POINTS = (60, 40), (30, 20), (4, 6)  # source px, tracked px, rows and columns
MODEL = ModelConfig(12, 8, 4, 2, width=6, num_heads=1, decoder_width=6, decoder_heads=1)
CUT = ClipCut(MODEL, 1, Choice("centre", {}))
VIEWS = [View((6.0, 2.0, 42.0, 38.0), (12, 12), x, y) for x in (False, True) for y in (False, True)]
FIRSTS = [1, 4, 4, 9]
RECIPE = (
    TINY_RECIPE
    + """
[pretrain.trackmae]
target = {kind = "pixels_and_tracks", stabilised = false}
mask = {kind = "motion_bins", mask_ratio = 0.5, stabilised = false}
"""
)


def slow_tracks() -> Tracks:
    """Most points stay in the frame."""
    tracks = random_tracks(2)
    displacements = tracks.displacements * np.float32(0.4)
    whole = np.minimum(2, 11 - np.arange(12))[:, None]
    whole = np.where(np.random.default_rng(7).random((12, 24)) < 0.97, whole, tracks.num_steps)
    return replace(tracks, displacements=displacements, num_steps=whole.astype(np.uint8))


def shown(tracks: Tracks, view: View, firsts: list[int] = FIRSTS) -> ShownView:
    first_frames = np.array(firsts)
    return ShownView(
        frames=np.repeat(first_frames, 2),
        first_frames=first_frames,
        num_frames=12,
        view=view,
        source_size=SOURCE,
        tracks=lambda frames: PlacedTracks(tracks.take(frames), 11 - frames, POINTS, TRACKED),
        motion=lambda: np.zeros((4, 3, 3), np.float32),
    )


def slow_place(tracks: Tracks, place: np.ndarray, frame: int, end: int) -> np.ndarray:
    """A place in source pixels at a later frame, hop by hop."""
    while frame < end and not np.isnan(place).any():
        hop = min(tracks.displacements.shape[2], end - frame)
        if (place < 0).any() or (place >= SOURCE).any():
            return np.full(2, np.nan)
        column, row = (int(place[axis] / SOURCE[axis] * POINTS[1 - axis]) for axis in (0, 1))
        point = row * POINTS[1] + column
        if tracks.num_steps[frame, point] < hop:
            return np.full(2, np.nan)
        for step in range(hop):
            place = place + 2 * tracks.displacements[frame, point, step]
        frame += hop
    return place


def slow_moves(tracks: Tracks, view: View, target: PixelsAndTracks, across: int) -> np.ndarray:
    """Displacements in pixels of the view, [T', across, across, 2]."""
    x1, y1, x2, y2 = view.crop
    signs = np.array([-1 if view.flip_x else 1, -1 if view.flip_y else 1])
    scale = signs * [12 / (x2 - x1), 12 / (y2 - y1)]
    found = np.full((4, across, across, 2), np.nan)
    for row, column in np.ndindex(across, across):
        share = (np.array([column, row]) + 0.5) / across
        share = np.where(signs < 0, 1 - share, share)
        start = np.array([x1 + share[0] * (x2 - x1), y1 + share[1] * (y2 - y1)])
        place = start
        for step in range(3):
            begin = place if target.starts == "clip" else start
            place = slow_place(tracks, begin, FIRSTS[step], FIRSTS[step + 1])
            if FIRSTS[step + 1] > FIRSTS[step]:
                found[step, row, column] = (place - begin) * scale
    found[3] = found[2]
    return found


def slow_upsampled(moves: np.ndarray, factor: int) -> np.ndarray:
    """Bilinear interpolation between the four points around, corners kept."""
    steps, rows, columns, _ = moves.shape
    found = np.zeros((steps, rows * factor, columns * factor, 2))
    for row, column in np.ndindex(rows * factor, columns * factor):
        at_y = row * (rows - 1) / max(rows * factor - 1, 1)
        at_x = column * (columns - 1) / max(columns * factor - 1, 1)
        for y, x in np.ndindex(rows, columns):
            share = max(0.0, 1 - abs(at_y - y)) * max(0.0, 1 - abs(at_x - x))
            if share > 0:
                found[:, row, column] += share * moves[:, y, x]
    return found


def slow_target(tracks: Tracks, view: View, target: PixelsAndTracks) -> np.ndarray:
    """[N, K * 2] with NaN for tokens that do not count."""
    per_side = int(target.points**0.5)
    moves = slow_moves(tracks, view, target, 3 if target.upsample else 3 * per_side)
    if target.upsample:
        moves = slow_upsampled(moves, per_side)
    rows = []
    for t, row, column in np.ndindex(4, 3, 3):
        points = [
            moves[t, row * per_side + y, column * per_side + x]
            for y, x in np.ndindex(per_side, per_side)
        ]
        values = np.array(points)
        for axis in (0, 1):
            if target.scale == "patch":
                divisor = np.sqrt(
                    sum((v - np.mean(values[:, axis])) ** 2 for v in values[:, axis])
                    / (len(values) - 1)
                )
                values[:, axis] = (values[:, axis] - np.mean(values[:, axis])) / (
                    divisor + target.quiet
                )
        if target.scale == "size":
            values = values / (np.sqrt(np.mean(values**2)) + target.quiet)
        rows.append(values.ravel())
    return np.array(rows)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("starts", STARTS)
@pytest.mark.parametrize(
    ("scale", "points", "upsample", "quiet"),
    [("patch", 4, True, 0.1), ("patch", 9, False, 1e-6), ("size", 4, False, 0.1),
     ("size", 1, False, 0.5), ("none", 4, True, 0.1), ("none", 1, False, 0.1)],
)  # fmt: skip
def test_displacements_are_those_of_loops(view, starts, scale, points, upsample, quiet):
    tracks = slow_tracks()
    target = PixelsAndTracks(points, upsample, starts, scale, quiet)
    found = target.of_view(shown(tracks, view), CUT)
    assert found["target"].dtype == np.float32 and found["target"].shape == (36, 2 * points)
    assert found["counts"].dtype == np.bool_ and found["counts"].shape == (36,)
    wanted = slow_target(tracks, view, target)
    known = np.isfinite(wanted).all(axis=1)
    np.testing.assert_array_equal(found["counts"], known)
    assert 3 < known.sum() < 36 and not known[9:18].any()  # twice the same frame
    np.testing.assert_allclose(found["target"][known], wanted[known], atol=2e-5, rtol=1e-5)
    assert not found["target"][~known].any()


@given(
    seed=st.integers(0, 10**6),
    size=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    factor=st.integers(2, 3),
)
def test_upsampling_is_that_of_loops_and_of_torch(seed, size, factor):
    rng = np.random.default_rng(seed)
    moves = rng.normal(size=(*size, 2))
    found = upsampled(moves, factor)
    np.testing.assert_allclose(found, slow_upsampled(moves, factor), atol=1e-12)
    planes = torch.from_numpy(moves).permute(0, 3, 1, 2)
    shape = (size[1] * factor, size[2] * factor)
    wanted = F.interpolate(planes, shape, mode="bilinear", align_corners=True)
    np.testing.assert_allclose(found, wanted.permute(0, 2, 3, 1), atol=1e-12)
    moves[rng.random(moves.shape[:3]) < 0.3] = np.nan
    np.testing.assert_array_equal(
        np.isnan(upsampled(moves, factor)), np.isnan(slow_upsampled(moves, factor))
    )


def test_patches_that_move_as_a_whole_are_still_only_in_the_scale_patch():
    tracks = random_tracks(2)
    same = replace(
        tracks,
        displacements=np.full_like(tracks.displacements, 0.25),
        num_steps=np.minimum(2, 11 - np.arange(12))[:, None].repeat(24, 1).astype(np.uint8),
    )
    view = VIEWS[0]
    moved = PixelsAndTracks().of_view(shown(same, view, [0, 2, 4, 6]), CUT)
    assert moved["counts"].all() and np.abs(moved["target"]).max() < 1e-6
    assert "as a whole" in PixelsAndTracks().words.zeros
    moved = PixelsAndTracks(scale="none").of_view(shown(same, view, [0, 2, 4, 6]), CUT)
    # Two frames of 0.25 tracked pixels are one source pixel, a third of a pixel of the view.
    np.testing.assert_allclose(moved["target"], 1 / 3, atol=1e-6)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_the_loss_is_the_sum_of_both_means(weight):
    target, model = PixelsAndTracks(weight=weight), MODEL
    mask = torch.arange(model.num_tokens)[None].expand(2, -1) % 2 == 0
    num_masked = int(mask[0].sum())
    batch = {
        "clips": torch.randn(2, 3, 8, 12, 12),
        "mask": mask,
        "target": torch.randn(2, num_masked, 8),
        "counts": torch.rand(2, num_masked) < 0.6,
    }
    wanted, weights = target.of_batch(batch, num_masked, CUT)
    sizes = target.num_values(CUT)
    assert sizes == (model.patch_dim, 8) and wanted.shape == (2, num_masked, sum(sizes))
    predicted = torch.randn_like(wanted)
    pixels = normalised_pixels(batch["clips"], model)[mask].view(2, num_masked, -1)
    of_pixels = F.mse_loss(predicted[..., : sizes[0]], pixels)
    errors = (predicted[..., sizes[0] :] - batch["target"]) ** 2
    of_tracks = (errors * batch["counts"].unsqueeze(2)).mean()
    found = masked_loss(predicted, wanted, weights)
    torch.testing.assert_close(found, of_pixels + weight * of_tracks)


def test_impossible_options_are_refused():
    for options in ({"points": 3}, {"points": 0}, {"quiet": 0.0}, {"weight": -1.0}):
        with refuses("out-of-range", *options):
            PixelsAndTracks(**options)
    with refuses("unknown-name", "scale", "clip", ", ".join(SCALES)):
        PixelsAndTracks(scale="clip")
    with refuses("unknown-name", "starts", "end", ", ".join(STARTS)):
        PixelsAndTracks(starts="end")
    with refuses("option-conflict", "points is 1", "upsample", "patch"):
        PixelsAndTracks(points=1, upsample=False)
    with refuses("option-conflict", "flips", "'time'"):
        PixelsAndTracks().check(CUT, ("x", "time"))
    with refuses("out-of-range", "tubelet_size 8", "at least 2 tubelets"):
        PixelsAndTracks().check(replace(CUT, model=replace(MODEL, tubelet_size=8)), ())


# ---------------------------------------------------------------------------------------------
# Stored clips and runs
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> DatasetLayout:
    layout = write_moving_squares(tmp_path_factory.mktemp("squares"), num_clips=20)
    add_tracks(layout, length=2)
    (layout.out / "tracks.toml").write_text(RECIPE)
    return layout


def config_of(squares: DatasetLayout, **changes):
    tables = read_recipe("squares", squares.out / "tracks.toml")
    return pretrain_config(tables, "trackmae", changes)


def test_needs_follow_from_the_options(squares):
    config = config_of(squares)
    needs = config.needed_motion
    assert (needs.track_length, needs.stabilised, needs.hog) == (1, False, None)
    assert needs.track_points == 3  # 2 positions in 0.66 of the short side
    dense = config_of(squares, target={"upsample": False, "points": 9})
    assert dense.needed_motion.track_points == 9
    with refuses("option-conflict", "shuffle_frames", "motion_bins"):
        config_of(squares, shuffle_frames=True)
    with refuses("option-conflict", "shuffle_frames", "pixels_and_tracks"):
        config_of(squares, shuffle_frames=True, mask={"kind": "tube", "mask_ratio": 0.5})


def test_stored_clips_move_as_their_square_does(squares):
    """Points that start in the square move with it, also when it has left their patch."""
    target = {"kind": "pixels_and_tracks", "upsample": False, "scale": "none", "points": 9}
    changes = {"flips": [], "model": {"image_size": 64}, "target": target}
    config = config_of(squares, **changes)
    table = read_clip_table(squares, ["train"], True, config.needed_motion)
    reader = ClipReader(table, 4)
    rng, compared = np.random.default_rng(0), 0
    for index in range(5):
        clip = StoredClip(table, index, reader, config.model)
        view, _ = clip.random_view(replace(config, flips=("x",)), rng)
        found = config.target.of_view(clip.shown(view), config.cut)
        moves = found["target"].reshape(2, 16, 9, 2)
        boxes = clip.source_view(view).apply(reader.boxes(index, view.frames[[0, 2]]))
        if np.isnan(boxes).any() or (boxes <= 0).any() or (boxes >= 64).any():
            continue  # the square is cut by the crop
        expected = boxes[1, :2] - boxes[0, :2]
        moving = moves[0][found["counts"][:16]].reshape(-1, 2)
        moving = moving[(np.abs(moving) > 1e-6).any(axis=1)]
        np.testing.assert_allclose(np.median(moving, axis=0), expected, atol=2.4)
        np.testing.assert_array_equal(moves[0], moves[1])  # the last step repeats
        compared += 1
    assert compared


def test_a_run_predicts_both_with_a_decoder_each(squares):
    config = config_of(squares)
    model = MaskedAutoencoder(config.model)
    assert model.second_decoder.head.out_features == 8
    assert model.decoder.head.out_features == config.model.patch_dim
    table = read_clip_table(squares, ["train"], False, config.needed_motion)
    sample = PretrainDataset(table, config, LoaderConfig(), 0)[0, 0]
    assert sample["mask"].sum() == 4 and sample["target"].shape == (1, 4, 8)
    common = tiny_run(squares.out, "decoder_mask=random", run="tracks", epochs=1)
    common = replace(common, recipe=squares.out / "tracks.toml")
    folder = RunFolder(pretrain(common, "trackmae").path)
    assert folder.is_finished and list(folder.snapshots.glob("step-*.png"))
