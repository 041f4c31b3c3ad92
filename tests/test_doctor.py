"""preprocess.doctor: headers are read without decoding, and each thing that is wrong is counted."""

import io
import json
import os
import shutil
import signal
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from errors import refused, refuses
from manifest_fixtures import lock

from preprocess.doctor import FINDINGS, diagnose, doubles, examine, main
from preprocess.running.video_headers import read_headers
from preprocess.video.decode import decode_clip
from preprocess.video.errors import ClipError
from preprocess.video.frame_chunks import DecodeOptions
from preprocess.video.headers import VideoHeader, read_header
from preprocess.video.video_index import VideoIndex
from shared.layout import DatasetLayout
from shared.manifest import Clip, write_manifest


def encoded(container: str, codec: str, num_frames: int = 12, rate: int = 12) -> bytes:
    """A small video of noise."""
    stream = io.BytesIO()
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, 64, 64, 3), np.uint8)
    with av.open(stream, "w", format=container) as file:
        video = file.add_stream(codec, rate=rate)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        for frame in frames:
            file.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(video.encode(None))
    return stream.getvalue()


def sound_alone() -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as file:
        sound = file.add_stream("aac", rate=16_000)
        sound.layout = "mono"
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        samples.sample_rate, samples.time_base = 16_000, Fraction(1, 16_000)
        file.mux(sound.encode(samples))
        file.mux(sound.encode(None))
    return stream.getvalue()


@pytest.fixture(scope="module")
def second(tmp_path_factory) -> Path:
    """A video of one second at 12 frames a second."""
    path = tmp_path_factory.mktemp("video") / "second.mp4"
    path.write_bytes(encoded("mp4", "libx264"))
    return path


# ---------------------------------------------------------------------- headers


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [
        ("a.mp4", "mp4", "libx264"),
        ("a.mp4", "mp4", "libx265"),
        ("a.mp4", "mp4", "mpeg4"),
        ("a.avi", "avi", "mpeg4"),
        ("a.mkv", "matroska", "libx264"),
        ("a.webm", "webm", "libvpx-vp9"),
        ("a.mov", "mov", "mpeg4"),
        ("a.flv", "flv", "flv"),
        ("a.wmv", "asf", "wmv2"),
        ("a.ts", "mpegts", "libx264"),
        ("a.mpg", "mpeg", "mpeg2video"),
    ],
)
def test_headers_tell_length_and_rate_of_every_container(tmp_path, name, container, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg cannot write {codec}")
    (tmp_path / name).write_bytes(encoded(container, codec, num_frames=50, rate=25))
    header = read_header(tmp_path, name)
    assert isinstance(header, VideoHeader), header
    assert header.frames_per_second == pytest.approx(25, rel=0.01)
    assert header.seconds == pytest.approx(2.0, abs=0.1)
    assert header.num_frames == pytest.approx(50, abs=2)


def test_headers_of_the_samples_agree_with_a_full_decode(samples):
    names = ["ssv2/2.mp4", "ssv2/2.webm", "clips/h265_video.mp4", "davis/car-shadow.mp4"]
    names += ["clips/RATRACE_wave_f_nm_np1_fr_goo_37.avi", "clips/video_90.mov"]
    for name in names:
        header = read_header(samples, name)
        chunks = decode_clip(Clip("a", name), samples, DecodeOptions(short_side=32))
        assert abs(header.num_frames - sum(len(chunk.rgb) for chunk in chunks)) <= 1, name


def test_a_file_that_is_no_video_is_described_in_words(tmp_path, second):
    (tmp_path / "text.mp4").write_text("#EXTM3U\nhttp://localhost/x.ts\n")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(second.read_bytes()[:5000])
    (tmp_path / "sound.mp4").write_bytes(sound_alone())
    (tmp_path / "out.mp4").symlink_to(second)
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "damaged or not a video" in read_header(tmp_path, "text.mp4")
    assert "damaged or not a video" in read_header(tmp_path, "empty.mp4")
    assert "damaged or not a video" in read_header(tmp_path, "cut.mp4")
    assert read_header(tmp_path, "sound.mp4") == "no video stream"
    assert "leads out of the video root" in read_header(tmp_path, "out.mp4")
    assert "not a regular file" in read_header(tmp_path, "pipe.mp4")
    assert "no file" in read_header(tmp_path, "gone.mp4")
    assert "leaves the video root" in read_header(tmp_path, "../second.mp4")


class Deadly(str):
    """A name that kills the process that looks at it, as a file that crashes FFmpeg would."""

    def encode(self, *arguments: str) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_file_that_kills_its_reader_is_named_and_the_others_are_read(tmp_path, second):
    names = [f"{i}.mp4" for i in range(70)]
    for name in names:
        shutil.copy(second, tmp_path / name)
    videos = [*names[:66], Deadly("deadly.mp4"), *names[66:]]
    found = list(read_headers(tmp_path, videos, workers=1))
    assert sorted(video for video, _ in found) == sorted(videos)
    assert {header for video, header in found if video == "deadly.mp4"} == {
        "kills the process that opens it"
    }
    assert all(isinstance(header, VideoHeader) for video, header in found if video != "deadly.mp4")


# ---------------------------------------------------------------------- findings

HEADER = VideoHeader("h264", num_frames=120, seconds=10.0, frames_per_second=12.0)


@pytest.mark.parametrize(
    ("start", "stop", "kinds"),
    [
        (None, None, []),
        (0.0, 10.0, []),
        (9.0, 10.12, []),  # a frame and a half late, as the decoder lets a video end early
        (9.0, 10.13, ["shorter"]),
        (3.0, 3.083, ["empty"]),
        (3.0, 3.084, []),
        (2.0, 60.0, ["shorter"]),
        (9.95, 12.0, ["empty"]),
        (11.0, None, ["empty"]),
    ],
)
def test_spans_are_compared_with_the_video(start, stop, kinds):
    clip = Clip("a", "a.mp4", start, stop)
    assert [kind for kind, _ in examine(clip, HEADER, (12.0,))] == kinds


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0.0, 1.0),
        (0.0, 1.12),
        (0.0, 1.2),
        (0.5, 60.0),
        (0.833, 60.0),
        (0.917, 60.0),
        (2.0, 3.0),
        (0.5, 0.583),
        (0.5, 0.667),
    ],
)
def test_what_is_lost_is_what_the_decoder_refuses(second, start, stop):
    """A span that ends after the video has the frames up to the video's end."""
    clip = Clip("a", second.name, start, stop)
    kinds = [kind for kind, _ in examine(clip, read_header(second.parent, second.name), ())]
    try:
        chunks = list(decode_clip(clip, second.parent, DecodeOptions()))
    except ClipError:
        assert kinds == ["empty"]
    else:
        num_frames = sum(len(chunk.rgb) for chunk in chunks)
        assert num_frames == (12 - round(start * 12) if stop > 0.9 else 2)
        assert kinds == (["shorter"] if stop > 1.125 else [])


@pytest.mark.parametrize(
    ("rate", "expected", "wrong"),
    [
        (12.0, (12.0,), False),
        (12.0, (), False),
        (30.0, (25.0, 29.97), False),
        (24.0, (25.0, 29.97), True),
        (59.94, (60.0,), False),
        (None, (), True),
    ],
)
def test_frame_rates_are_compared_with_the_dataset(rate, expected, wrong):
    header = VideoHeader("h264", 100, 10.0, rate)
    kinds = [kind for kind, _ in examine(Clip("a", "a.mp4"), header, expected)]
    assert kinds == (["frame_rate"] if wrong else [])


def test_one_frame_and_no_header_are_lost():
    one = VideoHeader("h264", 1, 0.04, 25.0)
    assert [kind for kind, _ in examine(Clip("a", "a.mp4"), one, ())] == ["empty"]
    assert list(examine(Clip("a", "a.mp4"), "damaged", ())) == [("unreadable", "damaged")]


@pytest.fixture
def dataset(tmp_path, second) -> DatasetLayout:
    """An "ssv2" (12 frames a second) with one clip of each kind."""
    layout = DatasetLayout(tmp_path, "ssv2")
    layout.videos.mkdir(parents=True)
    for name in ("good", "short", "again", "both"):
        shutil.copy(second, layout.videos / f"{name}.mp4")
    (layout.videos / "both.webm").write_bytes(encoded("webm", "libvpx-vp9"))
    (layout.videos / "fast.mp4").write_bytes(encoded("mp4", "libx264", num_frames=30, rate=30))
    (layout.videos / "torn.mp4").write_bytes(b"torn")
    clips = [
        Clip("good", "good.mp4"),
        Clip("short", "short.mp4", 0.0, 3.0),
        Clip("late", "short.mp4", 2.0, 3.0),
        Clip("again", "again.mp4", 0.0, 1.0),
        Clip("again2", "again.mp4", 0.0, 1.0),
        Clip("both", "both.webm"),
        Clip("fast", "fast.mp4"),
        Clip("torn", "torn.mp4"),
        Clip("gone", "gone.mp4"),
    ]
    write_manifest(layout.manifest, clips)
    layout.missing.write_text("clip_id,video,split\nm1,m1,train\nm2,m2,val\n")
    return layout


def test_each_finding_is_counted_and_named(dataset):
    found = diagnose(dataset, dataset.videos, None, workers=0)
    clips = {kind: [clip_id for clip_id, _ in rows] for kind, rows in found.findings.items()}
    assert clips == {
        "missing": ["m1", "m2"],
        "unreadable": ["torn", "gone"],
        "empty": ["late"],
        "shorter": ["short"],
        "frame_rate": ["fast"],
        "double": ["again2", "both"],
    }
    assert (found.num_clips, found.num_remaining) == (11, 6)
    assert found.frame_rates == {12.0: 4, 30.0: 1} and found.codecs == {"h264": 4, "vp9": 1}
    assert found.hours * 3600 == pytest.approx(5, abs=0.2)
    assert dict(found.findings["double"]) == {
        "again2": "the same span of again.mp4 as clip again",
        "both": "both.webm is used, not both.mp4",
    }


def test_only_files_that_no_clip_uses_are_doubles(tmp_path):
    paths = [f"{i:04d}/video.{suffix}" for i in range(3000) for suffix in ("mp4", "webm")]
    index = VideoIndex(tmp_path, paths, {}, [])
    all_used = [Clip(path, path) for path in paths]
    assert not list(doubles(all_used, index, rooted=False))
    webm = [clip for clip in all_used if clip.video.endswith(".webm")]
    found = list(doubles(webm, index, rooted=True))
    assert len(found) == 3000
    assert found[7] == ("0007/video.webm", "0007/video.webm is used, not 0007/video.mp4")
    few = "0000/video.mp4, 0001/video.mp4, 0002/video.mp4, ..."
    assert {what.partition(" is used, not ")[2] for _, what in doubles(webm, index, False)} == {few}


def test_own_videos_of_one_name_in_several_folders_are_no_doubles(tmp_path, second):
    layout = DatasetLayout(tmp_path, "mine")
    for folder in "abc":
        (layout.videos / folder).mkdir(parents=True)
        shutil.copy(second, layout.videos / folder / "video.mp4")
    write_manifest(layout.manifest, [Clip("a", "a/video.mp4"), Clip("b", "b/video.mp4")])
    found = diagnose(layout, layout.videos, None, workers=0)
    assert found.num_clips == found.num_remaining == 2 and not found.findings["double"]


def test_frame_rates_by_video(dataset, tmp_path):
    info = tmp_path / "EPIC_100_video_info.csv"
    info.write_text("video_id,duration,fps,resolution\nfast,1.0,29.97,1x1\ngood,1.0,50.0,1x1\n")
    found = diagnose(dataset, dataset.videos, info, workers=0)
    assert dict(found.findings["frame_rate"]) == {"good": "12.000 frames/s, expected 50"}
    info.write_text("video_id,duration,fps\nP01_01,1.0,29.97\n")
    with refuses("no-match", info, "again.mp4"):
        diagnose(dataset, dataset.videos, info, workers=0)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_a_table_or_json(dataset, tmp_path):
    options = ["--dataset", "ssv2", "--out", tmp_path]
    status, stdout, _ = run(*options, "--first", 1)
    assert status == 0 and stdout.endswith("6 of 11 clips remain\n")
    assert "missing             2\n    m1: no video m1\n    ...\n" in stdout
    assert "files a second\n" in stdout
    status, stdout, _ = run(*options, "--first", 1, "--json", "--workers", 0)
    found = json.loads(stdout)
    assert status == 0 and list(found["findings"]) == list(FINDINGS)
    assert found["clips"] == 11 and found["remaining"] == 6
    assert found["findings"]["unreadable"]["clips"] == 2
    assert [row["clip_id"] for row in found["findings"]["unreadable"]["first"]] == ["torn"]


def test_folders_that_may_not_be_read_are_noted(dataset, tmp_path, monkeypatch):
    (dataset.videos / "lost+found").mkdir()
    lock(monkeypatch, dataset.videos / "lost+found")
    options = ["--dataset", "ssv2", "--out", tmp_path, "--workers", 0]
    note = "note: 1 folder not searched, such as 'lost+found': Permission denied"
    status, stdout, _ = run(*options)
    assert status == 0 and f"\n{note}" in stdout
    _, stdout, _ = run(*options, "--json")
    assert [line.startswith(note) for line in json.loads(stdout)["notes"]] == [True]


def test_a_list_of_missing_clips_that_is_none_is_named(dataset, tmp_path):
    dataset.missing.write_text("clip_id,video,split\nm1,m1\n")
    status, _, stderr = run("--dataset", "ssv2", "--out", tmp_path, "--workers", 0)
    assert status == 1
    named = (f"{dataset.missing}, row 2: 2 values", "clip_id,video,split", "`make manifest`")
    refused(stderr, "bad-entry", *named)


def test_wrong_input_is_one_line(dataset, tmp_path):
    status, stdout, stderr = run("--dataset", "mine", "--out", tmp_path)
    assert (status, stdout) == (1, "")
    refused(stderr, "missing-file", tmp_path / "mine" / "manifest.csv")
    options = ["--dataset", "ssv2", "--out", tmp_path]
    status, _, stderr = run(*options, "--videos", tmp_path / "nowhere")
    assert status == 1 and f"{tmp_path / 'nowhere'}" in stderr and "[missing-folder]" in stderr
    status, _, stderr = run(*options, "--video-info", tmp_path / "nowhere.csv")
    assert status == 1
    refused(stderr, "missing-file", tmp_path / "nowhere.csv", "--video-info")
