"""What `flows` makes on request: further sources, stabilised flow, tracks; and what it refuses."""

import errno
import hashlib
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from camera_fixtures import camera_flow
from dataset_fixtures import checksums, run_boxes, run_flows
from errors import refused, refuses

from preprocess.flow.boundaries import boundary_map, window_sums
from preprocess.flow.motion_maps import reduce_maps
from preprocess.flow.options import TrackOptions
from preprocess.flow.sources import DisOptions, make_source
from preprocess.flow.tracks import make_tracks
from preprocess.flow.tvl1 import tvl1_flow
from preprocess.flow_run.decode_step import grey_frames as grey_pictures
from preprocess.flow_run.decode_step import scaled_frames
from preprocess.video import transcode
from preprocess.video.decode import decode_clip
from preprocess.video.frame_chunks import DecodeOptions
from shared.errors import EXIT_SET_ASIDE
from shared.layout import BOUNDARIES, LENGTHS, DatasetLayout
from shared.manifest import Clip, write_manifest
from shared.motion_maps import compand, expand
from shared.randomness import counter_generator
from shared.run_record import read_jsonl
from shared.shard_index import read_index
from shared.shards import ShardReader
from shared.stored_tracks import read_tracks
from shared.tracks import quantised

SIZE = (80, 112)  # height, width
ZOOM = np.array([[1.03, 0, 1.5], [0, 1.03, -3.0], [0, 0, 1]])  # an even frame, onto the next


def zooming_frames(num_frames: int) -> list[np.ndarray]:
    """uint8 [H, W, 3]: a still scene under a camera that zooms in and out again, by ZOOM."""
    height, width = SIZE
    noise = counter_generator("flow outputs").normal(size=(3 * height, 3 * width))
    scene = sum(s * cv2.GaussianBlur(noise, (0, 0), s) for s in (1.5, 4.0))
    scene = np.clip(128 + 45 * scene / scene.std(), 0, 255).astype(np.uint8)
    corner = np.array([[1.0, 0, width], [0, 1, height], [0, 0, 1]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    views = [
        cv2.warpPerspective(scene, to_scene, (width, height), flags=flags)
        for to_scene in (corner, corner @ np.linalg.inv(ZOOM))
    ]
    return [np.repeat(views[i % 2][..., None], 3, axis=2) for i in range(num_frames)]


def write_clip(path: Path, num_frames: int, codec: str = "libx264", **options: str) -> None:
    write_frames(path, zooming_frames(num_frames), codec, **options)


def write_frames(
    path: Path, frames: list[np.ndarray], codec: str = "libx264", **options: str
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(12))
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"threads": "1", **options}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def dataset(out: Path, lengths: list[int]) -> DatasetLayout:
    layout = DatasetLayout(out, "zoom")
    for index, length in enumerate(lengths):
        options = {"crf": "10", "bf": "2"}
        write_clip(layout.videos / f"{index}.mp4", length, **options)
    write_manifest(layout.manifest, [Clip(f"clip-{i}", f"{i}.mp4") for i in range(len(lengths))])
    return layout


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> DatasetLayout:
    """Two sources, stabilised and not, with tracks; a clip of one chunk and one of two."""
    layout = dataset(tmp_path_factory.mktemp("everything"), [9, 70])
    done = run_flows(
        layout, "--source", "tvl1,motion-vectors", "--stabilise", "warp", "--keep-unstabilised",
        "--trajectories", "--track-points", 8,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "The tracks are " in done.output, "their size has a line of its own"
    return layout


def maps_of(reader: ShardReader) -> list[np.ndarray]:
    """float32 [F, h, w] of each clip."""
    maps = []
    for (first, last), (width, height) in zip(
        reader["/clip/frames"], reader["/clip/map_size"], strict=True
    ):
        values = np.stack(reader.ragged("/motion/offsets", "/motion/values", first, last))
        scale = reader.rows("/motion/scale", first, last)
        maps.append(expand(values.reshape(-1, height, width), scale))
    return maps


def grey_frames(layout: DatasetLayout, video: str) -> torch.Tensor:
    chunks = decode_clip(Clip("clip", video), layout.videos, DecodeOptions())
    rgb = np.concatenate([chunk.rgb for chunk in chunks])
    return torch.from_numpy(np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in rgb]))


def test_each_source_has_a_folder_of_the_same_clips(everything):
    folders = sorted(path.name for path in everything.root.glob("flows*"))
    assert folders == ["flows", "flows-motion-vectors", "flows-tvl1-unstabilised"]
    for folder in folders:
        config = read_index(everything.root / folder).config
        assert config["flow_source"] == folder.split("-", 1)[-1].replace("flows", "tvl1").replace(
            "tvl1-unstabilised", "tvl1"
        )
        with ShardReader(everything.root / folder / "00000.h5", "flows") as reader:
            assert reader.clip_ids() == ["clip-0", "clip-1"]
            assert [len(maps) for maps in maps_of(reader)] == [9, 70]
            assert reader.attributes == config
    with ShardReader(everything.root / "flows-motion-vectors" / "00000.h5", "flows") as reader:
        assert reader["/clip/map_size"].tolist() == [[112 // 8, 80 // 8]] * 2


def test_stabilised_flow_of_a_still_scene_is_nothing(everything):
    """A zoom has derivatives, so its maps are not 0 until the camera is taken out."""
    with (
        ShardReader(everything.flows / "00000.h5", "flows") as stabilised,
        ShardReader(everything.root / "flows-tvl1-unstabilised" / "00000.h5", "flows") as plain,
    ):
        for left, before in zip(maps_of(stabilised), maps_of(plain), strict=True):
            # 0.03 in x and y. OpenCV 4 renders the frames to 1/32 of a pixel, which adds a little.
            assert np.median(before) == pytest.approx(0.03 * 2**0.5, rel=0.15)
            assert np.median(left) < 0.3 * np.median(before)
        assert "/camera/homography" not in plain
        homographies = stabilised["/camera/homography"].reshape(-1, 3, 3)
        assert len(homographies) == len(stabilised["/camera/inliers"]) == 79
        assert stabilised["/camera/inliers"].min() > 25
        for row in (*range(8), *range(9, 78)):
            truth = ZOOM if (row - 9 * (row > 8)) % 2 == 0 else np.linalg.inv(ZOOM)
            error = camera_flow(homographies[row], SIZE) - camera_flow(truth, SIZE)
            assert np.hypot(*error).mean() < 0.2
        assert np.array_equal(homographies[8], homographies[7]), "the last frame repeats"
    with ShardReader(everything.root / "flows-motion-vectors" / "00000.h5", "flows") as vectors:
        assert "/camera/homography" in vectors and "/track/steps" not in vectors


def test_unstabilised_maps_are_those_of_a_run_without(everything, tmp_path):
    layout = DatasetLayout(tmp_path, "zoom")
    layout.root.mkdir()
    layout.videos.symlink_to(everything.videos)
    layout.manifest.write_bytes(everything.manifest.read_bytes())
    assert run_flows(layout).exit_code == 0
    with (
        ShardReader(everything.root / "flows-tvl1-unstabilised" / "00000.h5", "flows") as kept,
        ShardReader(layout.flows / "00000.h5", "flows") as alone,
    ):
        for path in ("/motion/values", "/motion/scale", "/motion/offsets", "/clip/frames"):
            assert np.array_equal(kept[path], alone[path])
        assert "/track/steps" not in alone and "/camera/inliers" not in alone
    assert checksums(everything.frames) == checksums(layout.frames)


def test_tracks_are_those_of_the_whole_clip(tmp_path):
    """Chunks of 64 frames and their overlap leave no mark; HOG and steps come back by offsets."""
    layout = dataset(tmp_path, [9, 70])
    options = TrackOptions(length=4, points=7)
    done = run_flows(
        layout, "--source", "dis", "--dis-preset", "fast",
        "--trajectories", "--track-length", 4, "--track-points", 7,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    source = make_source("dis", DisOptions(dis_preset="fast"))
    with ShardReader(layout.flows / "00000.h5", "flows") as reader:
        assert reader.attributes["track_length"] == 4 and reader.attributes["flow_source"] == "dis"
        assert reader["/clip/track_grid"].tolist() == [[7, 10]] * 2
        assert reader["/clip/track_size"].tolist() == [[112, 80]] * 2
        assert (np.diff(reader["/track/offsets"]) == 70).all()
        for index, (first, last) in enumerate(reader["/clip/frames"]):
            frames = grey_frames(layout, f"{index}.mp4")
            expected = quantised(make_tracks(frames, source(frames[:-1], frames[1:]), options))
            found = quantised(read_tracks(reader, range(first, last)).whole())
            for name in ("displacements", "steps", "hog"):
                assert np.array_equal(found[name], expected[name]), name


def test_hog_of_colour_is_that_of_the_whole_clip(tmp_path):
    """Colour frames overlap from chunk to chunk as grey frames do, and are scaled as they are."""
    layout = dataset(tmp_path, [70])
    options = TrackOptions(length=2, points=5, channels="rgb", cells=2)
    done = run_flows(
        layout, "--source", "dis", "--dis-preset", "fast", "--flow-short-side", 64,
        "--trajectories", "--track-length", 2, "--track-points", 5,
        "--track-channels", "rgb", "--track-cells", 2,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    chunks = decode_clip(Clip("clip", "0.mp4"), layout.videos, DecodeOptions())
    rgb = np.concatenate([chunk.rgb for chunk in chunks])
    frames, colour = (torch.from_numpy(f(rgb, 64)) for f in (grey_pictures, scaled_frames))
    flows = make_source("dis", DisOptions(dis_preset="fast"))(frames[:-1], frames[1:])
    expected = quantised(make_tracks(frames, flows, options, colour=colour))
    with ShardReader(layout.flows / "00000.h5", "flows") as reader:
        kept = [reader.attributes[f"track_{name}"] for name in ("channels", "cells")]
        assert kept == ["rgb", 2]
        found = quantised(read_tracks(reader, range(70)).whole())
    assert found["hog"].shape[-1] == 108
    for name in ("displacements", "steps"):
        assert np.array_equal(found[name], expected[name]), name
    apart = np.abs(found["hog"].astype(int) - expected["hog"])
    assert apart.max() <= 1 and apart.mean() < 1e-4, (apart.max(), apart.mean())
    other = run_flows(layout, "--source", "dis", "--dis-preset", "fast", "--flow-short-side", 64,
                      "--trajectories", "--track-length", 2, "--track-points", 5)  # fmt: skip
    assert other.exit_code == 1
    assert "--track-channels" in other.output and "rgb" in other.output and "grey" in other.output


class OnePixelRight(torch.nn.Module):
    """A point tracker for which everything moves one pixel to the right in each frame."""

    def forward(
        self, video: torch.Tensor, queries: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        frames = torch.arange(video.shape[1])
        moved = frames.float()[None, :, None, None] * torch.tensor([1.0, 0.0])
        tracks = queries[:, None, :, 1:] + moved
        return tracks, torch.ones(tracks.shape[:3])


def test_tracks_may_come_from_a_tracker_of_others(tmp_path):
    layout = dataset(tmp_path, [9])
    weights = tmp_path / "tracker.pt"
    torch.jit.script(OnePixelRight()).save(str(weights))
    asked = ["--source", "dis", "--trajectories", "--track-points", 5, "--track-cell", 0]
    done = run_flows(layout, *asked, "--track-weights", weights)
    assert done.exit_code == 0, done.output
    with ShardReader(layout.flows / "00000.h5", "flows") as reader:
        found = reader.attributes["track_weights"]
        tracks = read_tracks(reader, [0, 7]).whole()
    assert found == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (tracks.displacements[0, :, :, 1] == 0).all()
    assert np.array_equal(tracks.num_steps[0].reshape(5, 7)[:, :-1], np.full((5, 6), 6))
    assert (tracks.displacements[0][tracks.num_steps[0] == 6][..., 0] == 1).all()
    assert (tracks.num_steps[1] == 1).all()
    again = run_flows(layout, *asked)
    refused(again, "other-inputs", layout.flows, "track weights", "--overwrite")


def test_tracks_of_a_still_scene_under_a_moving_camera_do_not_move(everything):
    with ShardReader(everything.flows / "00000.h5", "flows") as reader:
        tracks = read_tracks(reader, range(79)).whole()
    whole = tracks.num_steps == 6
    # 6 flows follow the first 3 frames of 9 and 64 of 70; no point is carried out of the frame.
    can_be = np.r_[0:3, 9:73]
    assert whole[can_be].all() and whole.sum() == whole[can_be].sum()
    assert np.median(np.abs(tracks.displacements[whole])) < 0.05
    assert (tracks.hog[whole] > 0).any(axis=-1).all()


def test_tracks_without_hog_and_shards_without_tracks(everything, tmp_path):
    layout = dataset(tmp_path, [9])
    done = run_flows(layout, "--trajectories", "--track-cell", 0, "--track-points", 5)
    assert done.exit_code == 0, done.output
    with ShardReader(layout.flows / "00000.h5", "flows") as reader:
        tracks = read_tracks(reader, [4, 0]).whole()
        assert tracks.hog.shape == (2, 35, 6, 0) and tracks.displacements.shape == (2, 35, 6, 2)
        assert tracks.num_steps.max(axis=1).tolist() == [4, 6]
    with (
        ShardReader(everything.root / "flows-motion-vectors" / "00000.h5", "flows") as reader,
        refuses("missing-data", reader.path, "--trajectories"),
    ):
        read_tracks(reader, [0])


def test_motion_vectors_alone(tmp_path):
    """Nothing for flow workers to do; the sizes of chunks leave no mark."""
    layout = dataset(tmp_path, [2, 64, 65, 130])
    done = run_flows(layout, "--source", "motion-vectors")
    assert done.exit_code == 0, done.output
    with ShardReader(layout.flows / "00000.h5", "flows") as reader:
        maps = maps_of(reader)
    assert [len(clip) for clip in maps] == [2, 64, 65, 130]
    assert all(np.array_equal(clip[-1], clip[-2]) for clip in maps)
    assert np.median(maps[3]) < 0.05, "a pan is no motion boundary"


def test_videos_without_vectors_need_copies(tmp_path):
    layout = DatasetLayout(tmp_path, "mixed")
    write_clip(layout.videos / "0.mp4", 12, crf="10")
    write_clip(layout.videos / "1.mkv", 12, "ffv1")
    write_clip(layout.videos / "2.mkv", 12, "ffv1")
    clips = [Clip("h264", "0.mp4"), Clip("ffv1", "1.mkv"), Clip("span", "2.mkv", 0.25, 0.75)]
    write_manifest(layout.manifest, clips)
    done = run_flows(layout, "--source", "motion-vectors")
    assert done.exit_code == EXIT_SET_ASIDE
    failures = read_jsonl(layout.failures)
    assert [failure["clip_id"] for failure in failures] == ["ffv1", "span"]
    assert "ffv1" in failures[0]["reason"] and "--transcode" in failures[0]["reason"]

    other = run_flows(layout, "--source", "motion-vectors", "--transcode")
    refused(other, "other-options", "--transcode was not given and is now given")
    done = run_flows(layout, "--source", "motion-vectors", "--transcode", "--overwrite")
    assert done.exit_code == 0, done.output
    assert not layout.failures.exists()
    assert not [path for path in layout.root.iterdir() if "transcode" in path.name]
    with (
        ShardReader(layout.flows / "00000.h5", "flows") as flows,
        ShardReader(layout.frames / "00000.h5", "frames") as frames,
    ):
        assert [len(maps) for maps in maps_of(flows)] == [12, 12, 6]
        assert frames["/clip/frames"].tolist() == [[0, 12], [12, 24], [24, 30]]
        times = frames["/frame/pts_seconds"][24:]
        assert times == pytest.approx(np.arange(3, 9) / 12, abs=1e-3), "frames are the video's own"


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "no-space"), (errno.EMFILE, "file-system")]
)
def test_a_disk_that_is_full_of_copies_ends_the_run_and_costs_no_clip(
    tmp_path, monkeypatch, number, code
):
    layout = DatasetLayout(tmp_path, "mixed")
    for index in range(3):
        write_clip(layout.videos / f"{index}.mkv", 12 + index, "ffv1")
    write_manifest(layout.manifest, [Clip(f"clip-{n}", f"{n}.mkv") for n in range(3)])
    real = transcode._copy_frames

    def copy_frames(source, stream, output):
        if source.name.endswith("1.mkv"):
            raise av.error.FFmpegError(number, os.strerror(number))
        return real(source, stream, output)

    options = ("--source", "motion-vectors", "--transcode", "--clips-per-shard", 1)
    with monkeypatch.context() as patch:
        patch.setattr(transcode, "_copy_frames", copy_frames)
        refused(run_flows(layout, *options), code, ".transcoded", "run the same command again")
    assert read_jsonl(layout.failures) == [] and read_index(layout.flows) is None
    done = run_flows(layout, *options)
    assert done.exit_code == 0, done.output
    assert "1 of 3 shards are finished" in done.output
    assert [entry.clips for entry in read_index(layout.flows).shards] == [1, 1, 1]


def test_lengths_are_how_far_things_move(tmp_path):
    """A camera that pans by 3 and 2 px a frame: the same everywhere, so no boundary of motion."""
    layout = DatasetLayout(tmp_path, "pan")
    height, width = SIZE
    noise = counter_generator("pan").normal(size=(3 * height, 3 * width))
    scene = cv2.GaussianBlur(noise, (0, 0), 2.0) * 300 + 128
    scene = np.repeat(scene.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    views = [scene[40 + 2 * i :, 60 + 3 * i :][:height, :width] for i in range(8)]
    write_frames(layout.videos / "0.mp4", views, crf="10", bf="0")
    write_manifest(layout.manifest, [Clip("clip-0", "0.mp4")])
    sources = ("--source", "tvl1,motion-vectors")
    assert run_flows(layout, *sources).exit_code == 0
    before = {name: checksums(layout.root / name) for name in ("flows", "flows-motion-vectors")}
    done = run_flows(layout, *sources, "--lengths")
    assert done.exit_code == 0, done.output
    assert {name: checksums(layout.root / name) for name in before} == before
    # A pixel of the map covers 80 / 64 pixels of the frame, 8 of it for motion vectors.
    for source, pixels in (("tvl1", 80 / 64), ("motion-vectors", 8)):
        maps = {}
        for name in (source, source + LENGTHS):
            folder = layout.flows if name == "tvl1" else layout.flows_of(name)
            config = read_index(folder).config
            assert config["flow_source"] == source
            assert config.get("map") == ("length" if name.endswith(LENGTHS) else None)
            with ShardReader(folder / "00000.h5", "flows") as reader:
                [maps[name]] = maps_of(reader)
        inner = {name: each[:, 2:-2, 2:-2] for name, each in maps.items()}
        length = np.median(inner[source + LENGTHS]) * pixels
        assert length == pytest.approx(np.hypot(3, 2), rel=0.1), source
        assert np.median(inner[source]) < 0.1


@pytest.mark.parametrize("further", [(), ("--trajectories", "--track-points", 8)])
def test_boundaries_are_those_of_the_whole_clip(tmp_path, further):
    """However it was cut into chunks: clips shorter than a window, of one chunk, and of several."""
    layout = dataset(tmp_path, [3, 8, 9, 64, 65, 70, 130])
    done = run_flows(layout, "--boundaries", *further)
    assert done.exit_code == 0, done.output
    folder = layout.flows_of("tvl1" + BOUNDARIES)
    assert read_index(folder).config["map"] == "boundaries"
    with ShardReader(folder / "00000.h5", "flows") as reader:
        stored = maps_of(reader)
    for index, found in enumerate(stored):
        frames = grey_frames(layout, f"{index}.mp4")
        flows = tvl1_flow(frames[:-1], frames[1:])
        sums = window_sums(flows, 0, range(len(flows)))
        expected = reduce_maps(boundary_map(sums), found.shape[1:]).numpy()
        expected = expand(*compand(expected))
        assert np.array_equal(found[:-1], expected), index
        assert np.array_equal(found[-1], expected[-1])
    done = run_boxes(layout, "--motion-preset", "mofo-code", "--name", "code")
    assert done.exit_code == 0, done.output
    assert read_index(layout.boxes_of("code")).config["made_from"] == folder.name
    if further:
        plain = DatasetLayout(tmp_path / "plain", "zoom")
        shutil.copytree(layout.videos, plain.videos)  # encoders do not repeat bytes under load
        shutil.copy(layout.manifest, plain.manifest)
        assert run_flows(plain, *further).exit_code == 0
        assert checksums(plain.flows)["00000.h5"] == checksums(layout.flows)["00000.h5"]


def test_a_further_source_leaves_the_first_as_it_was(tmp_path):
    layout = dataset(tmp_path, [6])
    assert run_flows(layout).exit_code == 0
    before = checksums(layout.flows), checksums(layout.frames)
    done = run_flows(layout, "--source", "tvl1,dis")
    assert done.exit_code == 0, done.output
    assert (checksums(layout.flows), checksums(layout.frames)) == before
    assert "reuse" in run_flows(layout, "--source", "tvl1,dis").output
    other = run_flows(layout, "--source", "dis,tvl1")
    refused(other, "other-options", "--source was tvl1 and is now dis")


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--source", "farneback"], "unknown-name", "tvl1, dis, raft, motion-vectors"),
        (["--source", "tvl1,tvl1"], "duplicate", "tvl1"),
        (["--source", "raft"], "missing-option", "--raft-weights FILE"),
        (["--raft-weights", "weights.pth"], "option-needs-another", "--source raft"),
        (["--source", "raft", "--raft-weights", "/nowhere.pth"], "missing-file", "/nowhere.pth"),
        (["--dis-preset", "fast"], "option-needs-another", "--source dis"),
        (["--source", "dis", "--preset", "exact"], "option-needs-another", "--source tvl1"),
        (["--transcode"], "option-needs-another", "motion-vectors"),
        (["--boundaries", "--source", "motion-vectors"], "option-conflict", "--boundaries"),
        (["--keep-unstabilised"], "option-needs-another", "--stabilise"),
        (["--track-length", "4"], "option-needs-another", "--trajectories"),
        (["--trajectories", "--track-cell", "3"], "out-of-range", "--track-cell is 3"),
        (["--source", "motion-vectors", "--trajectories"], "option-conflict", "--trajectories"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, arguments, code, named):
    layout = DatasetLayout(tmp_path, "empty")
    write_manifest(layout.manifest, [Clip("clip", "clip.mp4")])
    done = run_flows(layout, *arguments)
    refused(done, code, named)
    assert len(done.output.splitlines()) == 1
    assert not layout.flows.exists()
