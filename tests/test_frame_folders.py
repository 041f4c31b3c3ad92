"""Folders of numbered pictures are clips: found, ordered, decoded and checked like videos."""

import random
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from dataset_fixtures import run_flows
from errors import sets_aside
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from video_fixtures import moving_picture, render_video

from preprocess.doctor import diagnose
from preprocess.manifest import main
from preprocess.video.decode import Tally, decode_clip
from preprocess.video.frame_chunks import DecodeOptions
from preprocess.video.frame_names import frame_series
from preprocess.video.spans import decode_together
from preprocess.video.video_index import scan_videos
from shared.layout import DatasetLayout
from shared.manifest import Clip, read_manifest

CLIP = Clip("a", "a/", frames_per_second=10.0)


def write_frames(folder: Path, num_frames: int = 6, name: str = "{:06d}.png", first: int = 1):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(num_frames):
        path = folder / name.format(first + index)
        Image.fromarray(moving_picture(index)).save(path)
    return folder


def decoded(clip: Clip, root: Path, **options: object) -> tuple[np.ndarray, list[float]]:
    chunks = list(decode_clip(clip, root, DecodeOptions(**options)))
    assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    times = [seconds for chunk in chunks for seconds in chunk.pts_seconds.tolist()]
    return np.concatenate([chunk.rgb for chunk in chunks]), times


@given(
    st.sets(st.integers(0, 10**7), min_size=2, max_size=30),
    st.sampled_from(["", "img_", "frame-", "a 1 b"]),
    st.sampled_from(["{}", "{:03d}", "{:06d}"]),
    st.integers(0, 99),
)
def test_frames_are_in_the_order_of_their_numbers(numbers, prefix, width, seed):
    names = [f"{prefix}{width.format(number)}.JPG" for number in sorted(numbers)]
    shuffled = random.Random(seed).sample(names, len(names))
    assert frame_series([*shuffled, "notes.txt", "flow_x_00001.jpg", "Thumbs.db"]) == names


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["1.jpg"],
        ["cat.jpg", "dog.jpg"],
        ["a_1.jpg", "b_1.jpg", "c_1.jpg"],  # thumbnails of clips
        ["a_1.jpg", "a_2.jpg", "b_1.jpg", "b_2.jpg"],
        ["1.jpg", "01.jpg"],
        ["1.jpg", "2.jpg", "1.png", "2.png"],
        ["1.txt", "2.txt"],
    ],
)
def test_other_pictures_are_no_frames(names):
    assert frame_series(names) == []


def test_every_frame_is_decoded_once_in_order_with_its_time(tmp_path):
    write_frames(tmp_path / "a", 12, "img_{}.png")  # 10 comes after 9
    rgb, times = decoded(CLIP, tmp_path, chunk_frames=5)
    assert np.array_equal(rgb, [moving_picture(index) for index in range(12)])
    assert times == pytest.approx([index / 10 for index in range(12)])


def test_hidden_files_beside_frames_are_passed_over(tmp_path):
    frames = write_frames(tmp_path / "a", 3, "img_{}.png")
    for path in list(frames.iterdir()):
        (frames / f"._{path.name}").write_bytes(b"what macOS writes")
    assert scan_videos(tmp_path).paths == ["a/"]
    rgb, _ = decoded(CLIP, tmp_path)
    assert np.array_equal(rgb, [moving_picture(index) for index in range(3)])


def test_spans_take_their_frames_alone_and_together(tmp_path):
    write_frames(tmp_path / "a", 10)
    clips = [Clip(str(i), "a/", i / 10, i / 10 + 0.3, frames_per_second=10.0) for i in (0, 2, 7)]
    for clip, first in zip(clips, (0, 2, 7), strict=True):
        rgb, times = decoded(clip, tmp_path)
        assert np.array_equal(rgb, [moving_picture(first + index) for index in range(3)])
        assert times == pytest.approx([(first + index) / 10 for index in range(3)])
    tally = Tally()
    steps = list(decode_together(clips, tmp_path, DecodeOptions(), tally))
    assert [index for index, step in steps if step is None] == [0, 1, 2] and tally.num_frames == 9


def test_pictures_are_upright_scaled_and_rgb(tmp_path):
    (tmp_path / "a").mkdir()
    for index in range(2):
        image = Image.fromarray(moving_picture(index)).convert("L")
        turned = Image.Exif()
        turned[0x0112] = 6  # EXIF: turned by a quarter
        image.save(tmp_path / "a" / f"{index}.jpg", exif=turned)
    [chunk] = decode_clip(CLIP, tmp_path, DecodeOptions(short_side=24))
    assert chunk.source_size == (48, 64) and chunk.rgb.shape == (2, 32, 24, 3)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_frames_of_16_bit_grey_are_scaled_to_8_bits(tmp_path, monkeypatch, mode):
    """Within one of what FFmpeg makes of such a video; versions of Pillow open them differently."""
    grey = np.tile(np.arange(0, 65536, 1024, np.uint16), (48, 1))
    grey[:, -1] = 65535
    (tmp_path / "a").mkdir()
    for index in range(2):
        Image.fromarray(grey).save(tmp_path / "a" / f"{index}.png")
    opened = ImageOps.exif_transpose
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda image: opened(image).convert(mode))
    rgb, _ = decoded(CLIP, tmp_path)
    assert np.array_equal(rgb[0, :, :, 0], np.round(grey / 257)) and np.array_equal(*rgb)
    video = av.VideoFrame.from_ndarray(grey, format="gray16le").reformat(format="rgb24")
    assert np.abs(video.to_ndarray().astype(int) - rgb[0]).max() <= 1


def test_folders_that_cannot_be_used_are_set_aside(tmp_path):
    with sets_aside("missing-file", "a"):
        decoded(CLIP, tmp_path)
    frames = write_frames(tmp_path / "a", 3)
    with sets_aside("out-of-range", "--max-frames"):
        decoded(CLIP, tmp_path, max_frames=2)
    with sets_aside("out-of-range", "--max-seconds"):
        decoded(CLIP, tmp_path, max_seconds=0.1)
    with sets_aside("out-of-range", "000001.png", "64x48", "--max-pixels"):
        decoded(CLIP, tmp_path, max_pixels=100)
    with sets_aside("out-of-range", "no frame"):
        decoded(Clip("a", "a/", 5.0, frames_per_second=10.0), tmp_path)
    with sets_aside("missing-data", "a/", "motion vectors"):
        decoded(CLIP, tmp_path, vectors=True)
    Image.fromarray(moving_picture(0, 80)).save(frames / "000003.png")
    with sets_aside("not-supported", "64x48", "80x48", "frame 2"):
        decoded(CLIP, tmp_path)
    (frames / "000003.png").write_bytes((frames / "000002.png").read_bytes()[:-40])
    with sets_aside("damaged-file", "000003.png"):
        decoded(CLIP, tmp_path)


def test_frames_outside_of_the_root_are_not_opened(tmp_path):
    outside = write_frames(tmp_path / "outside", 2)
    folder = tmp_path / "root" / "a"
    folder.mkdir(parents=True)
    for path in outside.iterdir():
        (folder / path.name).symlink_to(path)
    with sets_aside("unsafe-path", "000001.png", "video root"):
        decoded(CLIP, folder.parent)
    (folder.parent / "b").symlink_to(outside)
    with sets_aside("unsafe-path", "video root"):
        decoded(Clip("b", "b/"), folder.parent)


PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("content", [b"", b"<svg/>", b"\xff\xd8\xff", PNG + b"0" * 40])
def test_files_that_are_no_pictures_are_set_aside(tmp_path, content):
    frames = write_frames(tmp_path / "a", 3)
    (frames / "000002.png").write_bytes(content)
    with sets_aside("damaged-file", "000002.png"):
        decoded(CLIP, tmp_path)


def test_the_index_takes_folders_of_frames_and_counts_the_rest(tmp_path):
    write_frames(tmp_path / "run" / "one.v2", 3)
    write_frames(tmp_path / "run" / "two" / "img", 3)
    write_frames(tmp_path / "thumbs", 1, "cat.png")
    write_frames(tmp_path / "beside", 2)
    (tmp_path / "beside" / "clip.mp4").touch()
    index = scan_videos(tmp_path)
    assert index.paths == ["beside/clip.mp4", "run/one.v2/", "run/two/img/"]
    assert index.folders == ["beside", "run", "run/two", "thumbs"]
    assert index.others == {("thumbs", ".png"): 1, ("beside", ".png"): 2}
    assert index.find("one.v2", "webm") == index.find_exact("run/one.v2") == ["run/one.v2/"]


def test_a_dataset_of_files_and_folders_goes_from_the_manifest_to_the_shards(tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    write_frames(videos / "run" / "frames", 7)
    render_video(videos / "jump" / "file.mp4", 8, size=(48, 32))
    given = ["--dataset", "mine", "--out", out, "--videos", videos, "--test-share", 0]
    done = CliRunner().invoke(main, [*map(str, given), "--frames-per-second", "10"])
    assert done.exit_code == 0 and "1 folder of frames, read at 10 frames a second" in done.output
    layout = DatasetLayout(out, "mine")
    folder = next(clip for clip in read_manifest(layout.manifest) if clip.is_frame_folder)
    assert (folder.clip_id, folder.video, folder.label) == ("run__frames", "run/frames/", 1)
    assert folder.frames_per_second == 10
    diagnosis = diagnose(layout, videos, None, 0)
    assert diagnosis.num_remaining == 2 and diagnosis.codecs == {"h264": 1, "frames": 1}
    assert diagnosis.frame_rates[10.0] == 1
    done = run_flows(layout, "--videos", videos)
    assert done.exit_code == 0, done.output
    with h5py.File(layout.frames / "00000.h5") as shard:
        ids = shard["clip/id"].asstr()[:].tolist()
        first, last = shard["clip/frames"][ids.index("run__frames")]
        assert np.allclose(shard["frame/pts_seconds"][first:last], np.arange(7) / 10)
