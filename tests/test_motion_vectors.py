"""Vectors of the codec: FFmpeg's rows, their sign, size and span, and the copies that have them."""

import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from av.video.frame import PictureType
from errors import refuses
from hypothesis import given
from hypothesis import strategies as st

from preprocess.flow.tvl1 import tvl1_flow
from preprocess.video.clip_vectors import ClipVectors
from preprocess.video.decode import decode_clip
from preprocess.video.errors import ClipError
from preprocess.video.frame_chunks import DecodeOptions
from preprocess.video.motion_vectors import (
    COLUMNS,
    VECTOR_CELL,
    VectorFlows,
    cell_displacements,
    export_vectors,
    fill_holes,
    turn_upright,
)
from preprocess.video.transcode import clear_scratch
from preprocess.video.transcode import transcode as transcode_up_to
from shared.manifest import Clip
from shared.randomness import counter_generator

PAN = (3, -2)  # px a frame, right and up
HEIGHT, WIDTH = 128, 192


def panning_frames(num_frames: int, size=(HEIGHT, WIDTH)) -> list[np.ndarray]:
    """u1 grey pictures of one texture that moves by PAN a frame."""
    (height, width), (right, down) = size, (abs(PAN[0]) * num_frames, abs(PAN[1]) * num_frames)
    noise = counter_generator("motion vectors").normal(size=(height + down, width + right))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3.0)
    smooth = np.clip(128 + 180 * smooth / np.abs(smooth).max(), 0, 255).astype(np.uint8)
    places = [(right - PAN[0] * t, -PAN[1] * t) for t in range(num_frames)]
    return [np.ascontiguousarray(smooth[y:, x:][:height, :width]) for x, y in places]


def write_video(path: Path, frames, codec="libx264", first_pts=0, **options) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape
        stream.pix_fmt = "yuv420p"
        stream.options = {"threads": "1", **{name: str(value) for name, value in options.items()}}
        stream.codec_context.time_base = Fraction(1, 25)
        for index, grey in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(grey, format="gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = first_pts + index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def vector_flows(path: Path) -> tuple[list[np.ndarray], str]:
    """The maps of a video, one a frame, and the types of its frames."""
    maps, types = [], ""
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        export_vectors(stream)
        flows = VectorFlows(stream)
        for packet in container.demux(stream):
            flows.note(packet)
            for frame in packet.decode():
                maps += flows.add(frame)
                types += PictureType(frame.pict_type).name
        maps += flows.finish()
    return maps, types


def transcode(video: Path, scratch: Path) -> Path:
    return transcode_up_to(video, scratch, max_pixels=1 << 24)


X264 = {"preset": "fast", "crf": 20, "g": 100}


def raw_vectors(frame: av.VideoFrame) -> np.ndarray:
    """The rows of a decoded frame as FFmpeg has them: int32 [M, 10], columns `COLUMNS`."""
    data = frame.side_data.get("MOTION_VECTORS")
    if data is None:  # an I-frame
        return np.empty((0, len(COLUMNS)), np.int32)
    return np.stack([data.to_ndarray()[name].astype(np.int32) for name in COLUMNS], axis=1)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {**X264, "bf": 0}),
        ("libx264", {**X264, "bf": 2, "b_strategy": 0, "x264-params": "b-pyramid=none"}),
        ("libx264", {**X264, "bf": 3, "b_strategy": 0, "x264-params": "b-pyramid=normal"}),
        ("libx264", {**X264, "bf": 3, "b_strategy": 0, "refs": 1, "x264-params": "annexb=1"}),
        ("mpeg4", {"g": 100, "qscale": 3}),
        ("mpeg4", {"g": 100, "qscale": 3, "bf": 2}),
    ],
    ids=["h264", "h264-b", "h264-pyramid", "h264-annexb", "mpeg4", "mpeg4-b"],
)
def test_a_pan_has_its_sign_and_size_in_every_frame(tmp_path, codec, options):
    suffix = ".ts" if "annexb" in options.get("x264-params", "") else ".mp4"
    path = write_video(tmp_path / f"pan{suffix}", panning_frames(14), codec, **options)
    maps, types = vector_flows(path)
    assert len(maps) == len(types) == 14, "F frames give F maps, and the first map holds no flow"
    assert types.startswith("I") and ("B" in types) == (options.get("bf", 0) > 0)
    assert np.isnan(maps[0]).all()
    last = -1 if codec == "mpeg4" and "B" in types else None  # FFmpeg exports none for that frame
    for flow in maps[1:last]:
        assert flow.shape == (2, HEIGHT // 8, WIDTH // 8) and flow.dtype == np.float32
        assert np.isnan(flow[0]).mean() < 0.5
        inner = flow[:, 2:-2, 2:-2].reshape(2, -1)
        # 1/2 px vectors of MPEG-4 spread over the 3 frames that they span
        assert np.nanmedian(inner, axis=1) == pytest.approx(PAN, abs=0.17)


def test_b_frames_refer_to_the_nearest_reference_frame(tmp_path):
    """Without nal_ref_idc, every third frame of a pyramid would be off by a factor."""
    options = {**X264, "bf": 3, "b_strategy": 0, "x264-params": "b-pyramid=normal"}
    path = write_video(tmp_path / "pan.mp4", panning_frames(13), **options)
    spans = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        export_vectors(stream)
        for frame in container.decode(stream):
            rows = raw_vectors(frame)
            rows = rows[rows[:, 0] < 0]
            if len(rows):
                u = -rows[:, 7] / rows[:, 9]
                spans.append(round(float(np.median(u)) / PAN[0]))
    assert spans == [1, 2, 1, 4] * 3


def test_intra_blocks_are_marked(tmp_path):
    """A patch of new noise appears in one frame: its blocks can come from nowhere."""
    frames = [frame.copy() for frame in panning_frames(6)]
    noise = counter_generator("intra").integers(0, 256, (48, 48), dtype=np.uint8)
    for frame in frames[3:]:
        frame[32:80, 64:112] = noise
    maps, _ = vector_flows(write_video(tmp_path / "cut.mp4", frames, **X264, bf=0))
    holes = np.isnan(maps[3][0])
    assert holes[4:10, 8:14].mean() > 0.8 and holes.mean() < 0.4
    assert (np.isnan(maps[3][0]) == np.isnan(maps[3][1])).all()
    filled = fill_holes(maps[3], maps[2])
    assert np.isfinite(filled).all()
    assert (filled[:, ~holes] == maps[3][:, ~holes]).all()
    assert np.median(filled[:, holes], axis=1) == pytest.approx(PAN, abs=1.0)


def test_maps_of_frames_without_vectors_are_held():
    missing = np.full((2, 3, 4), np.nan, dtype=np.float32)
    before = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert (fill_holes(missing, before) == before).all()
    assert (fill_holes(missing, None) == 0).all()


def test_cells_go_up_to_the_frames_edge(tmp_path):
    path = write_video(tmp_path / "pan.mp4", panning_frames(5, (120, 180)), **X264, bf=0)
    maps, _ = vector_flows(path)
    assert maps[2].shape == (2, 15, 23)
    assert np.nanmedian(maps[2].reshape(2, -1), axis=1) == pytest.approx(PAN, abs=0.1)


def test_the_same_maps_from_run_to_run(tmp_path):
    options = {**X264, "bf": 3, "x264-params": "b-pyramid=normal"}
    path = write_video(tmp_path / "pan.mp4", panning_frames(20), **options)
    first, _ = vector_flows(path)
    for _ in range(2):
        again, _ = vector_flows(path)
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=True))


def test_against_tvl1(tmp_path):
    frames = panning_frames(4)
    maps, _ = vector_flows(write_video(tmp_path / "pan.mp4", frames, **X264, bf=0))
    pair = [torch.from_numpy(frame)[None] for frame in frames[1:3]]
    dense = tvl1_flow(*pair)[0].flatten(1).median(dim=1).values
    assert np.nanmedian(maps[2].reshape(2, -1), axis=1) == pytest.approx(dense.tolist(), abs=0.25)


def test_rows_equal_those_of_another_extractor(samples):
    folder = samples / "motion_vectors"
    expected = {int(path.stem.split("-")[1]): np.load(path) for path in folder.glob("mvs-*.npy")}
    types = folder.joinpath("frame_types.txt").read_text().split()
    compared = 0
    with av.open(str(folder / "vid_mpeg4_part2.mp4")) as container:
        stream = container.streams.video[0]
        export_vectors(stream)
        for index, frame in enumerate(container.decode(stream)):
            if index in expected:
                assert np.array_equal(raw_vectors(frame), expected[index])
                compared += 1
            assert PictureType(frame.pict_type).name == types[index]
            if index >= max(expected):
                break
    assert compared == len(expected) == 4


def test_against_dense_flow_on_real_clips(samples):
    """Camera and object motion, x264 with a B-pyramid and MPEG-4 with B-frames."""
    for name in ("davis/car-shadow.mp4", "clips/RATRACE_wave_f_nm_np1_fr_goo_37.avi"):
        maps, _ = vector_flows(samples / name)
        with av.open(str(samples / name), metadata_errors="ignore") as container:
            frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        ratios = []
        for t in range(1, 36):
            pair = [np.ascontiguousarray(frames[t - 1]), np.ascontiguousarray(frames[t])]
            dense = cv2.DISOpticalFlow_create(1).calc(*pair, None)
            size = maps[t].shape[:0:-1]
            dense = cv2.resize(dense, size, interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
            moving = (np.hypot(*dense) > 1) & ~np.isnan(maps[t][0])
            share = (maps[t] * dense).sum(0) / np.square(dense).sum(0)
            if moving.sum() > 20:
                ratios.append(np.median(share[moving]))
        assert np.median(ratios) == pytest.approx(1, abs=0.1), name


def test_codecs_without_vectors_are_named(tmp_path):
    path = write_video(tmp_path / "clip.mkv", panning_frames(3), "ffv1")
    with av.open(str(path)) as container, refuses("not-supported", "ffv1", "--transcode"):
        export_vectors(container.streams.video[0])


def block(left, top, width, height, motion, scale=4, source=-1):
    values = {"source": source, "w": width, "h": height, "motion_scale": scale,
              "dst_x": left + width // 2, "dst_y": top + height // 2,
              "motion_x": motion[0], "motion_y": motion[1]}  # fmt: skip
    return tuple(values.get(name, 0) for name in COLUMNS)


@given(st.data())
def test_cells_are_area_means_of_blocks(data):
    """Against painting every pixel of every block."""
    cell = VECTOR_CELL
    width, height = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 50))
    shapes = {(16, 16): [(0, 0)], (16, 8): [(0, 0), (0, 8)], (8, 16): [(0, 0), (8, 0)],
              (8, 8): [(0, 0), (8, 8)], (4, 4): [(0, 4), (8, 12)], (8, 4): [(8, 4)]}  # fmt: skip
    blocks = []
    for y in range(0, height, 16):
        for x in range(0, width, 16):
            shape = data.draw(st.sampled_from([None, *shapes]))
            for right, down in shapes.get(shape, []):
                motion = data.draw(st.tuples(st.integers(-90, 90), st.integers(-90, 90)))
                blocks.append(block(x + right, y + down, *shape, motion))
    rows = np.array(blocks, dtype=[(name, np.int32) for name in COLUMNS])
    size = (-(-height // cell), -(-width // cell))
    painted = np.full((2, 64 + 16, 64 + 16), np.nan)
    for row in rows:
        left, top = row["dst_x"] - row["w"] // 2, row["dst_y"] - row["h"] // 2
        for axis, name in enumerate(("motion_x", "motion_y")):
            painted[axis, top : top + row["h"], left : left + row["w"]] = -row[name] / 4
    result = cell_displacements(rows, size)
    for i in range(size[0]):
        for j in range(size[1]):
            pixels = painted[:, i * cell : (i + 1) * cell, j * cell : (j + 1) * cell]
            known = pixels[:, ~np.isnan(pixels[0])]
            expected = known.mean(axis=1) if known.size else [np.nan, np.nan]
            assert result[:, i, j] == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_turning_turns_places_and_vectors():
    """A map turned with its picture is the map of the turned pictures."""
    size = (96, 96)
    frames = panning_frames(2, size)
    flow = cv2.DISOpticalFlow_create(2).calc(*frames, None)
    for turns in range(5):
        turned = [np.ascontiguousarray(np.rot90(frame, turns)) for frame in frames]
        expected = cv2.DISOpticalFlow_create(2).calc(*turned, None).transpose(2, 0, 1)
        result = turn_upright(flow.transpose(2, 0, 1), turns)
        assert np.median(np.abs(result - expected)) < 0.1
    one = np.zeros((2, 2, 3), dtype=np.float32)
    one[0, 0, 2] = 5  # the top right corner moves right: turned, the top left moves up
    assert turn_upright(one, 1).shape == (2, 3, 2)
    assert turn_upright(one, 1)[:, 0, 0].tolist() == [0, -5]


# ------------------------------------------------------------------ of one clip


def clip_flows(path: Path, is_shown=lambda index: True) -> list[np.ndarray]:
    flows = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        vectors = ClipVectors(stream)
        index = 0
        for packet in container.demux(stream):
            vectors.saw_packet(packet)
            for frame in packet.decode():
                vectors.saw_frame(frame, is_shown(index))
                index += 1
            flows += vectors.take()
        vectors.saw_end()
        return flows + vectors.take()


@pytest.mark.parametrize("num_frames", [2, 63, 64, 65])
def test_frames_in_flows_out(tmp_path, num_frames):
    options = {**X264, "bf": 3, "x264-params": "b-pyramid=normal"}
    path = write_video(tmp_path / "pan.mp4", panning_frames(num_frames, (48, 64)), **options)
    flows = clip_flows(path)
    assert len(flows) == num_frames - 1
    assert all(flow.shape == (2, 6, 8) and np.isfinite(flow).all() for flow in flows)


def test_a_clip_of_a_video_has_the_flows_between_its_frames(tmp_path):
    options = {**X264, "bf": 3, "b_strategy": 0, "x264-params": "b-pyramid=normal"}
    path = write_video(tmp_path / "pan.mp4", panning_frames(20), **options)
    whole = clip_flows(path)
    span = clip_flows(path, lambda index: 6 <= index < 15)
    assert len(span) == 8
    assert all(np.array_equal(a, b) for a, b in zip(span, whole[6:14], strict=True))


def test_flows_of_turned_videos_are_upright(samples):
    options = DecodeOptions(vectors=True)
    (chunk,) = decode_clip(Clip("clip", "video_90.mov"), samples / "clips", options)
    width, height = chunk.source_size
    assert (width, height) == (320, 568), "stored on its side"
    assert [flow.shape for flow in chunk.vectors] == [(2, height // 8, width // 8)] * 2


# ------------------------------------------------------------------ re-encoded copies


def test_a_copy_has_the_frames_and_times_of_the_video(tmp_path):
    frames = panning_frames(130, (90, 122))
    video = write_video(tmp_path / "pan.mkv", frames, "ffv1", first_pts=5)
    copy = transcode(video, tmp_path / "scratch")
    maps, types = vector_flows(copy)
    assert types == "I" + "P" * 119 + "I" + "P" * 9, "no B-frames, few keyframes"
    for flow in maps[1:120]:
        assert np.nanmedian(flow.reshape(2, -1), axis=1) == pytest.approx(PAN, abs=0.1)
    with av.open(str(copy)) as container:
        decoded = list(container.decode(video=0))
        start = container.streams.video[0].start_time or 0
        times = [float((frame.pts - start) * frame.time_base) for frame in decoded]
    assert times == pytest.approx([t / 25 for t in range(130)], abs=1e-6)
    assert (decoded[0].height, decoded[0].width) == (90, 122)
    difference = decoded[7].to_ndarray(format="gray").astype(float) - frames[7]
    assert np.abs(difference).mean() < 3


def test_copies_of_odd_sizes_keep_their_size(tmp_path):
    frames = [np.zeros((64, 64), dtype=np.uint8)] * 3
    video = write_video(tmp_path / "even.mkv", frames, "ffv1")
    with av.open(str(tmp_path / "odd.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 67, 65, "yuv444p"
        for grey in panning_frames(4, (65, 67)):
            picture = av.VideoFrame.from_ndarray(grey, format="gray")
            container.mux(stream.encode(picture.reformat(format="yuv444p")))
        container.mux(stream.encode(None))
    for path, size in ((video, (64, 64)), (tmp_path / "odd.mkv", (65, 67))):
        maps, _ = vector_flows(transcode(path, tmp_path / "scratch"))
        assert maps[1].shape == (2, -(-size[0] // 8), -(-size[1] // 8))


def test_copies_are_kept_by_content_and_cleared(tmp_path):
    scratch = tmp_path / "scratch"
    video = write_video(tmp_path / "one.mkv", panning_frames(4), "ffv1")
    copy = transcode(video, scratch)
    before = copy.stat().st_mtime_ns
    video.rename(tmp_path / "renamed.mkv")
    assert transcode(tmp_path / "renamed.mkv", scratch) == copy
    assert copy.stat().st_mtime_ns == before, "found, not made again"
    write_video(tmp_path / "renamed.mkv", panning_frames(5), "ffv1")
    assert transcode(tmp_path / "renamed.mkv", scratch) != copy
    (scratch / ".half.mp4.0123.tmp").write_bytes(b"")
    (scratch / "notes.txt").write_text("somebody's own")
    assert len(list(scratch.iterdir())) == 4
    clear_scratch(scratch)
    assert [path.name for path in scratch.iterdir()] == ["notes.txt"]
    (scratch / "notes.txt").unlink()
    clear_scratch(scratch)
    assert not scratch.exists()
    clear_scratch(scratch)  # nothing to do


def test_what_cannot_be_copied_leaves_nothing(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    whole = write_video(tmp_path / "whole.mkv", panning_frames(30), "ffv1").read_bytes()
    (tmp_path / "empty.mkv").write_bytes(whole[:600])
    for name in ("text.mp4", "empty.mkv"):
        with pytest.raises(ClipError):
            transcode(tmp_path / name, tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_killed_run_leaves_no_half_copy(tmp_path):
    video = write_video(tmp_path / "long.mkv", panning_frames(12) * 150, "ffv1")
    scratch = tmp_path / "scratch"
    code = (
        "import sys; from pathlib import Path; from preprocess.video.transcode import transcode\n"
        "transcode(Path(sys.argv[1]), Path(sys.argv[2]), 1 << 24)"
    )
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen([sys.executable, "-c", code, video, scratch], cwd=root)
    while process.poll() is None and not list(scratch.glob(".*.tmp")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    left = list(scratch.iterdir())
    assert len(left) == 1 and left[0].name.endswith(".tmp"), "killed while it wrote"
    clear_scratch(scratch)
    assert not scratch.exists()
