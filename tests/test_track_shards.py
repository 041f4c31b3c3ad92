"""Tracks that start at the tubelets of training windows: from a run of `flows` to the targets."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_fixtures import checksums, run_flows
from errors import refuses
from shard_fixtures import write_moving_squares
from test_flow_outputs import dataset, grey_frames
from test_targets_motion import MME_RECIPE
from track_fixtures import add_tracks
from training_fixtures import TINY_RECIPE

from preprocess.flow.options import (
    TrackOptions,
    flow_folders,
    read_flow_options,
    shard_kind,
)
from preprocess.flow.sources import make_source
from preprocess.flow.track_columns import chunk_values, coded
from preprocess.flow.tracks import make_tracks
from preprocess.flow_run.assembly import Assembly
from preprocess.flow_run.stored_clips import stored_events
from shared.manifest import read_manifest
from shared.shard_index import read_index
from shared.shards import ShardReader
from shared.stored_tracks import PackedTracks, PlainTracks, read_tracks, stored_starts
from train.clips.reader import ClipReader
from train.clips.table import MotionNeeds, read_clip_table
from train.options.config import LoaderConfig
from train.options.recipe import pretrain_config, read_recipe
from train.samples.datasets import PretrainDataset

ROOT = Path(__file__).resolve().parents[1]
WINDOW = "4x2x2"  # spans 7 frames; tubelets begin at every fourth frame
LENGTHS = [5, 9, 70]  # shorter than a window, one window, and two chunks of frames
STARTS = [[0, 3], [0, 4], [*range(0, 68, 4)]]
TRACKS = ("--trajectories", "--track-length", 4, "--track-points", 7, "--track-window", WINDOW)


@pytest.fixture(scope="module")
def zooming(tmp_path_factory):
    layout = dataset(tmp_path_factory.mktemp("windows"), LENGTHS)
    done = run_flows(layout, "--source", "dis", *TRACKS)
    assert done.exit_code == 0, done.output
    assert f"the tubelets of {WINDOW}" in done.output
    return layout


def test_tracks_start_at_the_tubelets_alone(zooming):
    """What is stored is that of tracks through the whole clip, coded; chunks leave no mark."""
    options = TrackOptions(length=4, points=7, window=WINDOW)
    source = make_source("dis", read_flow_options({"source": "dis"}).options_of("dis"))
    with ShardReader(zooming.flows / "00000.h5", "flows") as reader:
        assert reader.attributes["track_window"] == WINDOW
        assert "/track/hog" not in reader and "/track/displacements" not in reader
        for index, (first, last) in enumerate(reader["/clip/frames"]):
            starts = stored_starts(reader, first, last)
            assert (starts - first).tolist() == STARTS[index]
            frames = grey_frames(zooming, f"{index}.mp4")
            whole = make_tracks(frames, source(frames[:-1], frames[1:]), options)
            expected = coded(whole.take(starts - first), options)
            found = read_tracks(reader, starts)
            assert isinstance(found, PackedTracks)
            for name, stored in (("steps", found.num_steps), ("moves", found.moves),
                                 ("shape", found.shape)):  # fmt: skip
                apart = np.abs(stored.astype(int) - expected[name].reshape(stored.shape))
                # Sums of a matrix product depend on its size: at most, a rounding falls otherwise.
                assert apart.max() <= 1 and (apart > 0).mean() < 1e-3, name
            few = read_tracks(reader, [int(starts[1]), int(starts[0])])
            np.testing.assert_array_equal(few.moves, found.moves[[1, 0]])
            np.testing.assert_array_equal(few.num_steps, found.num_steps[[1, 0]])


def test_a_chunk_holds_the_tracks_of_a_frame(zooming):
    """So that a window, which reads whole frames, unpacks nothing else."""
    import h5py

    with h5py.File(zooming.flows / "00000.h5") as file:
        assert file["track/moves"].chunks == (9 * 70,)
        assert file["track/shape"].chunks == (37 * 70,)
    options = TrackOptions(length=6, window="16x3x2")
    assert chunk_values(options, 55, 3150) == 55 * 3150
    assert chunk_values(options, 55, 12_600) == 11 * 12_600, "a chunk has at most 256 KiB"
    assert chunk_values(options, 13, 300_000) == 0 == chunk_values(TrackOptions(), 54, 70)


def test_frames_without_tracks_are_refused(zooming):
    with (
        ShardReader(zooming.flows / "00000.h5", "flows") as reader,
        refuses("missing-data", reader.path, WINDOW, "--trajectories"),
    ):
        read_tracks(reader, [1])


def test_the_lines_of_the_page_read_them_without_this_program(zooming):
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "shards.md").read_text(), re.DOTALL
    )
    [block] = [block for block in blocks if "track/moves" in block or "track/offsets" in block]
    shard = zooming.flows / "00000.h5"
    names: dict = {}
    exec(block.replace("out/ssv2/flows/00000.h5", str(shard)), names)
    with ShardReader(shard, "flows") as reader:
        tracks = read_tracks(reader, [0]).whole()
    known = np.arange(4) < names["steps"][:, None]
    assert known.any() and np.array_equal(known.sum(axis=1), tracks.num_steps[0])
    found = names["found"]
    assert np.abs(found["moves"] - tracks.displacements[0])[known].max() < 1e-3
    assert np.abs(found["shape"].clip(0) - tracks.hog[0])[known].max() < 1e-3
    assert tracks.hog[0].max() > 1


def test_programs_that_read_version_1_alone_refuse_them(zooming, tmp_path):
    import h5py

    with h5py.File(zooming.flows / "00000.h5") as file:
        assert file.attrs["format_version"] == 2
    plain = dataset(tmp_path, [5])
    assert run_flows(plain, "--source", "dis", "--trajectories").exit_code == 0
    for path in (plain.flows / "00000.h5", zooming.frames / "00000.h5"):
        with h5py.File(path) as file:
            assert file.attrs["format_version"] == 1


def test_a_shard_made_again_from_its_events_has_the_same_bytes(zooming, tmp_path):
    [record] = {path.read_text() for path in zooming.root.rglob("options.json")}
    recorded = json.loads(record)
    flow = read_flow_options(recorded.get("options", recorded))
    assert flow.tracks is not None and flow.tracks.window == WINDOW
    clips = read_manifest(zooming.manifest)
    names = ["frames", *flow_folders(flow).values()]
    readers = {
        name: ShardReader(zooming.root / name / "00000.h5", shard_kind(name)) for name in names
    }
    assembly = Assembly(0, dict(enumerate(clips)), tmp_path, flow)
    for event in stored_events(readers, {c.clip_id: i for i, c in enumerate(clips)}, flow):
        assembly.add(event)
    folders = {name: tmp_path / name for name in names}
    for folder in folders.values():
        folder.mkdir()
    assembly.publish(folders, {name: read_index(zooming.root / name).config for name in names})
    assembly.close()
    for name in names:
        made, before = checksums(folders[name]), checksums(zooming.root / name)
        assert made["00000.h5"] == before["00000.h5"], name


def test_other_windows_are_refused_with_both_values(zooming):
    done = run_flows(zooming, "--source", "dis", *TRACKS[:-1], "4x1x2")
    assert done.exit_code != 0 and "--track-window" in done.output
    assert WINDOW in done.output and "4x1x2" in done.output
    done = run_flows(zooming, "--source", "dis", *TRACKS[:-2])
    assert "--track-window was given and is now not given" in done.output
    done = run_flows(zooming, "--source", "dis", *TRACKS[:-1], "4x1")
    assert done.exit_code != 0 and "FRAMESxSTRIDExTUBELET" in done.output


# ------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE + MME_RECIPE.replace(
        "target =", "frames = {begins_every = 4}\ntarget =", 1))  # fmt: skip
    return read_recipe("squares", path)


def test_training_gets_the_targets_of_tracks_from_every_frame(recipe, tmp_path):
    """Within the rounding, for windows that begin at tubelets; also from the cache."""
    config = pretrain_config(recipe, "mme")
    assert str(config.needed_motion.track_window) == WINDOW
    samples = {}
    for name, window in (("every frame", ""), ("tubelets", WINDOW)):
        layout = write_moving_squares(tmp_path / name, num_clips=8)
        add_tracks(layout, window=window)
        table = read_clip_table(layout, ["train"], boxes=True, motion=config.needed_motion)
        for megabytes in (0, 100):
            loader = LoaderConfig(workers=0, cache_megabytes=megabytes)
            several = PretrainDataset(table, config, loader, seed=0)
            keys = [(epoch, index) for epoch in range(3) for index in range(len(table))]
            samples[name, megabytes] = [several[key] for key in keys]
    begun = set()
    for plain, packed, cached in zip(
        samples["every frame", 0], samples["tubelets", 0], samples["tubelets", 100], strict=True
    ):
        for name in ("mask", "counts", "pixels"):
            assert np.array_equal(plain[name], packed[name])
        assert np.array_equal(packed["target"], cached["target"])
        begun.add(round(float(plain["target"].abs().sum()), 3))
        moves = 4 * 6 * 2
        for part in (slice(0, moves), slice(moves, None)):
            apart = (plain["target"] - packed["target"])[..., part].square().mean().sqrt()
            assert apart < 0.25 * (1 + plain["target"][..., part].square().mean().sqrt())
    assert len(begun) > 6, "clips, windows and crops differ"
    assert any(sample["target"].abs().max() > 0 for sample in samples["tubelets", 0])


def test_what_needs_other_frames_is_refused_before_training(recipe, tmp_path):
    layout = write_moving_squares(tmp_path, num_clips=8)
    add_tracks(layout, window=WINDOW)
    anywhere = pretrain_config(recipe, "mme", {"frames": {"begins_every": 1}}).needed_motion
    made = layout.make("flows", "--trajectories --overwrite")
    with refuses("missing-data", WINDOW, "every frame", made):
        read_clip_table(layout, ["train"], boxes=True, motion=anywhere)
    denser = pretrain_config(
        recipe, "mme", {"frames": {"stride": 1, "begins_every": 2}}
    ).needed_motion
    with refuses("missing-data", WINDOW, "4x1x2", "--track-window 4x1x2 --overwrite"):
        read_clip_table(layout, ["train"], boxes=True, motion=denser)
    colours = pretrain_config(recipe, "mme", {"trajectories": {"hog_channels": "rgb"}})
    assert colours.needed_motion.track_window is None
    with refuses("option-conflict", "--track-window", "--track-channels"):
        TrackOptions(channels="rgb", window=WINDOW)
    maps_alone = MotionNeeds()
    assert len(read_clip_table(layout, ["train"], boxes=True, motion=maps_alone)) > 0
    needs = replace(anywhere, track_window=pretrain_config(recipe, "mme").cut.window)
    table = read_clip_table(layout, ["train"], boxes=True, motion=needs)
    with refuses("missing-data", WINDOW):
        ClipReader(table, 2, cache_bytes=10**8).tracks(0, np.array([0, 1]))


def test_old_shards_are_read_by_a_recipe_with_windows(recipe, tmp_path):
    layout = write_moving_squares(tmp_path, num_clips=8)
    add_tracks(layout)
    config = pretrain_config(recipe, "mme")
    table = read_clip_table(layout, ["train"], boxes=True, motion=config.needed_motion)
    placed = ClipReader(table, 2).tracks(0, np.array([0, 4]))
    assert isinstance(placed.tracks, PlainTracks)
    assert len(PretrainDataset(table, config, LoaderConfig(workers=0), seed=0)[0, 0]["target"]) == 1
