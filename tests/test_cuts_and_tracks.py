"""Cuts of open groups of pictures, empty entries of AVI, several pictures, and late pictures."""

import struct
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from click.testing import CliRunner
from companion_tracks import CONTAINERS, PICTURE, SOUND, render_tracks
from dataset_fixtures import arguments, run_flows
from test_decode import assert_set_aside, decode
from test_odd_videos import later_by
from test_spans import clips_of, frames_of, read_together
from video_fixtures import (
    cut_at_keyframe,
    moving_picture,
    remux,
    render_video,
    with_orientation_message,
)

from preprocess.annotations.clip_rows import frames_to_seconds
from preprocess.doctor import examine
from preprocess.doctor import main as doctor
from preprocess.video.avi_entries import EmptyEntries, count_empty_entries
from preprocess.video.decode import Tally, decode_clip
from preprocess.video.frame_chunks import DecodeOptions
from preprocess.video.headers import read_header
from preprocess.video.video_file import open_video, picture_start_of
from preprocess.video.video_index import SUFFIXES, scan_videos
from shared.layout import DatasetLayout
from shared.manifest import Clip, write_manifest

OPEN_GOPS = {  # encoder options that make B-frames before a keyframe refer to what lies before it
    "libx264": {
        "bf": "3",
        "x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:b-adapt=0:repeat-headers=1",
    },
    "libx265": {
        "x265-params": "log-level=none:pools=none:repeat-headers=1:open-gop=1:keyint=12:"
        "min-keyint=12:bframes=3:b-adapt=0:scenecut=0"
    },
    "mpeg4": {"bf": "2"},
    "mpeg2video": {"bf": "2"},
}


# --------------------------------------------------------------------------------------------------
# Cuts


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize(
    ("codec", "extension"),
    [
        ("libx264", "mkv"),
        ("libx264", "avi"),
        ("libx264", "mp4"),
        ("libx264", "ts"),
        ("libx264", "flv"),
        ("libx265", "mkv"),
        ("libx265", "mp4"),
        ("mpeg4", "mkv"),
        ("mpeg4", "avi"),
        ("mpeg4", "mp4"),
        ("mpeg2video", "avi"),
        ("mpeg2video", "mpg"),
        ("mpeg2video", "mkv"),
    ],
)
def test_a_cut_of_an_open_gop_has_all_frames_that_can_be_shown(tmp_path, codec, extension, number):
    """Frames before the keyframe refer to what was cut off: players do not show them either."""
    kind = "avi" if extension == "avi" else "mkv"
    options = {"codec": codec, "options": OPEN_GOPS[codec], "rate": 25}
    source = render_video(tmp_path / f"source.{kind}", 60, **options)
    path = cut_at_keyframe(source, tmp_path / f"cut.{extension}", number)
    whole, times = decode(path)
    truth = np.stack([moving_picture(i) for i in range(60)]).astype(float)
    distance = np.abs(whole.astype(float)[:, None] - truth[None]).mean(axis=(2, 3, 4))
    first = distance[0].argmin()
    assert 12 * (number - 1) - 3 <= first <= 12 * (number - 1) + 3  # B-frames move the keyframe
    assert np.array_equal(distance.argmin(axis=1), np.arange(first, 60))
    np.testing.assert_allclose(times - times[0], np.arange(60 - first) / 25, atol=2e-3)
    begin = times[0] + 4 / 25
    span, _ = decode(path, round(begin, 3), round(begin + 10 / 25, 3))
    assert np.array_equal(span, whole[4:14])


@pytest.mark.parametrize("num_hidden", [5, 12, 15, 24])
def test_groups_of_pictures_that_an_edit_list_hides_are_no_loss(tmp_path, num_hidden):
    """As cuts without encoding leave them: hidden whole, or up to a frame in the middle."""

    def earlier(_, packet):
        packet.pts -= round(num_hidden / 12 / packet.time_base)
        packet.dts -= round(num_hidden / 12 / packet.time_base)

    source = render_video(tmp_path / "a.mp4", 60, options={"bf": "0"}, keyframe_every=12)
    path = remux(source, tmp_path / "cut.mp4", earlier, {"movflags": "faststart"})
    rgb, _ = decode(path)
    assert np.array_equal(rgb, decode(source)[0][num_hidden:])
    assert np.array_equal(decode(path, 1.0, 2.0)[0], rgb[12:24])
    data = path.read_bytes()
    for share in (0.5, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        assert_set_aside("damaged-file", path)


@pytest.mark.parametrize(("codec", "extension"), [("libx264", "mkv"), ("libx264", "avi")])
def test_frames_lost_behind_the_first_ones_are_still_missed(tmp_path, codec, extension):
    """Frames lost elsewhere count, although the video is cut in an open group of pictures."""
    options = {"codec": codec, "options": OPEN_GOPS[codec], "rate": 25}
    source = render_video(tmp_path / f"source.{extension}", 60, **options)
    data = cut_at_keyframe(source, tmp_path / f"cut.{extension}").read_bytes()
    path = tmp_path / f"shorter.{extension}"
    for share in (0.6, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        assert_set_aside("damaged-file", path)


# --------------------------------------------------------------------------------------------------
# Empty entries


def rewrite_avi(path, empty_before):
    """Write an AVI again with so many empty entries before each entry of the picture, by number.

    The number of all entries means before the end.
    """
    data = path.read_bytes()
    begin = data.index(b"movi") - 8
    length = struct.unpack_from("<I", data, begin + 4)[0]
    place, end, number, entries = begin + 12, begin + 8 + length, 0, b""
    num_empty = 0
    while place < end:
        identifier, size = struct.unpack_from("<4sI", data, place)
        if identifier == b"00dc" and size == 0:
            num_empty += 1
        elif identifier == b"00dc":
            entries += empty_before.get(number, 0) * b"00dc\0\0\0\0"
            num_empty += empty_before.get(number, 0)
            number += 1
        entries += data[place : place + 8 + size + size % 2]
        place += 8 + size + size % 2
    entries += empty_before.get(number, 0) * b"00dc\0\0\0\0"
    num_empty += empty_before.get(number, 0)
    head = bytearray(data[:begin])
    for place in (head.index(b"strh") + 8 + 32, head.index(b"avih") + 8 + 16):
        struct.pack_into("<I", head, place, number + num_empty)
    struct.pack_into("<I", head, 4, len(head) + len(entries) + 4)
    movi = b"LIST" + struct.pack("<I", 4 + len(entries)) + b"movi" + entries
    path.write_bytes(bytes(head) + movi)
    return num_empty


@pytest.mark.parametrize("with_sound", [False, True])
@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "mjpeg"])
@pytest.mark.parametrize(
    "empty_before",
    [{0: 3}, {0: 40}, {60: 1}, {60: 20}, {0: 2, 20: 7, 60: 2}, dict.fromkeys(range(61), 1)],
    ids=["first", "many-first", "one-last", "last", "everywhere", "every-other"],
)
def test_empty_entries_of_an_avi_are_no_frames(tmp_path, codec, empty_before, with_sound):
    options = {"strict": "unofficial"} if codec == "mjpeg" else {}
    path = render_video(tmp_path / "a.avi", 60, codec=codec, options=options)
    plain, _ = decode(path)
    if with_sound:
        path = render_video(tmp_path / "b.avi", 60, codec=codec, options=options, with_sound=5.0)
    own = count_empty_entries(path, 0)
    assert own.total <= 1  # which the muxer may write beside sound
    num_empty = rewrite_avi(path, empty_before)
    assert num_empty == own.total + sum(empty_before.values())
    assert count_empty_entries(path, 0) == EmptyEntries(num_empty, empty_before.get(60, 0))
    rgb, times = decode(path)
    assert np.array_equal(rgb, plain)
    before = np.array([empty_before.get(number, 0) for number in range(60)]).cumsum()
    assert np.diff(times).min() > 0
    if own.total == 0:
        np.testing.assert_allclose(
            times - times[0], (np.arange(60) + before - before[0]) / 12, atol=1e-3
        )


def test_empty_entries_of_a_damaged_avi_excuse_nothing(tmp_path):
    """Bytes that are not index entries may look like empty ones."""
    path = render_video(tmp_path / "a.avi", 60, codec="mpeg4")
    rewrite_avi(path, {20: 5, 60: 3})
    assert count_empty_entries(path, 0) == EmptyEntries(8, 3)
    data = path.read_bytes()
    path.write_bytes(data + bytes(100))  # padding after the end
    assert count_empty_entries(path, 0) == EmptyEntries(8, 3)
    place = data.index(b"00dc", len(data) * 3 // 4)
    path.write_bytes(data[:place] + bytes(4) + data[place + 4 :])
    assert count_empty_entries(path, 0) == EmptyEntries(0, 0)


# --------------------------------------------------------------------------------------------------
# Several pictures


def two_pictures(path, flagged):
    """Two video streams of 24 frames, 64x48 and 96x64; those numbered in `flagged` are default."""
    with av.open(str(path), "w") as container:
        packets = []
        for number, size in enumerate([(64, 48), (96, 64)]):
            stream = container.add_stream("libx264", rate=12, options={"preset": "ultrafast"})
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            if number in flagged:
                stream.disposition = av.stream.Disposition.default
            for index in range(24):
                picture = moving_picture(index, *size)
                packets += stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
            packets += stream.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


@pytest.mark.parametrize(("flagged", "width"), [((), 64), ((0,), 64), ((1,), 96), ((0, 1), 64)])
def test_the_stream_flagged_as_default_is_decoded(tmp_path, flagged, width):
    path = two_pictures(tmp_path / "a.mkv", flagged)
    rgb, _ = decode(path)
    assert rgb.shape[0] == 24 and rgb.shape[2] == width
    assert decode(path, 0.5, 1.0)[0].shape[2] == width


# --------------------------------------------------------------------------------------------------
# Pictures that start after the sound


@pytest.mark.parametrize("extension", ["mp4", "mkv", "ts", "flv"])
def test_spans_count_from_the_start_of_the_file(tmp_path, extension):
    """As players do: here the picture starts 1.5 s after the sound."""
    source = render_video(tmp_path / "a.mp4", 24, with_sound=5.0, options={"bf": "0"})
    path = remux(source, tmp_path / f"late.{extension}", later_by(1.5))
    whole, times = decode(path)
    assert len(whole) == 24 and times[0] == 0
    span, span_times = decode(path, 2.5, 3.0)
    assert np.array_equal(span, whole[12:18])
    np.testing.assert_allclose(span_times, times[12:18], atol=1e-6)
    assert_set_aside("out-of-range", path, 1.0, 1.45, named=["1 and 1.45 s", "1.5"])
    clips = [Clip(str(a), path.name, a, b) for a, b in ((1.0, 2.5), (2.0, 3.0), (2.5, 9.0))]
    chunks, ends = read_together(clips, tmp_path)
    assert set(ends.values()) == {None}
    for index, (first, last) in enumerate([(0, 12), (6, 18), (12, 24)]):
        assert np.array_equal(frames_of(chunks[index])[0], whole[first:last])


def test_vectors_of_a_copy_belong_to_the_span(tmp_path):
    """The copy that is encoded for its motion vectors has no sound."""
    options = {"with_sound": 5.0, "codec": "mpeg2video", "rate": 12, "options": {"bf": "0"}}
    source = render_video(tmp_path / "a.mkv", 24, **options)
    path = remux(source, tmp_path / "late.mkv", later_by(1.5))
    decoding = DecodeOptions(vectors=True, scratch=tmp_path / "scratch")
    [whole] = decode_clip(Clip("a", path.name), tmp_path, decoding)
    [span] = decode_clip(Clip("a", path.name, 2.5, 3.0), tmp_path, decoding)
    assert np.array_equal(span.rgb, whole.rgb[12:18])
    assert np.array_equal(span.vectors, whole.vectors[12:17])


@pytest.mark.parametrize(
    ("picture", "sounds", "seconds"),
    [
        (0, [], 0.0),
        (500, [], 0.0),
        (500, [0], 0.5),
        (500, [0, 200], 0.5),
        (500, [700], 0.0),
        (0, [-7], 0.0),  # samples before 0, from encoders of sound, are not played
        (40, [-7], 0.04),
        (500, [None], 0.0),
        (None, [0], 0.0),
    ],
)
def test_the_file_starts_with_its_first_picture_or_sound(picture, sounds, seconds):
    tick = Fraction(1, 1000)
    stream = SimpleNamespace(start_time=picture, time_base=tick)
    audio = [SimpleNamespace(start_time=start, time_base=tick) for start in sounds]
    container = SimpleNamespace(streams=SimpleNamespace(audio=audio))
    assert picture_start_of(container, stream) == pytest.approx(seconds)


# --------------------------------------------------------------------------------------------------
# Orientation in the stream


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_spans_are_turned_as_the_whole_video(tmp_path, quarter_turns):
    """H.264 can say once, beside the first frame, how all of them are turned."""
    source = render_video(tmp_path / "source.mp4", 60, keyframe_every=12, options={"bf": "2"})
    path = with_orientation_message(source, tmp_path / "a.mp4", quarter_turns)
    plain, _ = decode(source)
    expected = np.rot90(plain, quarter_turns, axes=(1, 2))
    assert np.array_equal(decode(path)[0], expected)
    for first, last in ((3, 9), (30, 36), (50, 60)):
        span, _ = decode(path, round(first / 12, 3), round(last / 12, 3))
        assert np.array_equal(span, expected[first:last])
    chunks, _ = read_together(clips_of(path, [(30, 50), (35, 60)]), tmp_path)
    assert np.array_equal(frames_of(chunks[1])[0], expected[35:60])


# --------------------------------------------------------------------------------------------------
# Suffixes


FAMILIES = {  # encoder, suffixes that files of one container come with; FFmpeg knows the first
    "libx264 in MP4": [".mp4", ".mov", ".m4v", ".3gp", ".3g2", ".qt", ".f4v", ".mp4v"],
    "libx264 in Matroska": [".mkv", ".mk3d"],
    "libvpx in WebM": [".webm"],
    "mpeg4 in AVI": [".avi", ".divx"],
    "libx264 in a transport stream": [".ts", ".mts", ".m2ts", ".m2t"],
    "mpeg2video in a program stream": [".mpg", ".mpeg", ".mpe", ".vob"],
    "libx264 in FLV": [".flv"],
    "wmv2 in ASF": [".wmv", ".asf"],
    "libvpx in Ogg": [".ogv"],
}


def test_every_suffix_belongs_to_a_container():
    found = [suffix for suffixes in FAMILIES.values() for suffix in suffixes]
    assert sorted(found) == sorted(SUFFIXES)


@pytest.mark.parametrize("family", FAMILIES)
def test_videos_of_every_suffix_are_found_and_decoded(tmp_path, family):
    suffixes = FAMILIES[family]
    source = tmp_path / f"source{suffixes[0]}"
    video = render_video(source, 24, codec=family.split()[0], rate=25).read_bytes()
    names = [f"{i}{suffix}" for i, suffix in enumerate(suffixes)]
    names += [f"upper-{name.upper()}" for name in names]
    for name in names:
        path = tmp_path / "videos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(video)
        assert len(decode(path)[0]) == 24
    assert scan_videos(tmp_path / "videos").paths == sorted(names)


def test_a_cut_ogg_file_is_never_taken_for_a_whole_one(tmp_path):
    data = render_video(tmp_path / "a.ogv", 48, codec="libvpx").read_bytes()
    path = tmp_path / "cut.ogv"
    for share in (0.5, 0.9, 0.99):
        path.write_bytes(data[: int(share * len(data))])
        assert_set_aside("damaged-file", path)


# --------------------------------------------------------------------------------------------------
# What is reported about a video


def anamorphic(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"preset": "ultrafast"})
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(16, 15)
        for index in range(24):
            frame = av.VideoFrame.from_ndarray(moving_picture(index), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_oddities_of_a_video_are_reported_once(tmp_path):
    """In a run of flows, and by the doctor, with the number of videos and the first of them."""
    layout = DatasetLayout(tmp_path, "odd")
    layout.videos.mkdir(parents=True)
    for name in ("b", "a"):
        two_pictures(layout.videos / f"{name}.mkv", (1,))
    anamorphic(layout.videos / "c.mp4")
    source = render_video(tmp_path / "d.mp4", 24, with_sound=5.0, options={"bf": "0"})
    remux(source, layout.videos / "d.mp4", later_by(1.5))
    spans = [Clip(f"d{i}", "d.mp4", 2.0 + i / 4, 3.0 + i / 4) for i in range(3)]
    whole = [Clip(name[0], name) for name in ("b.mkv", "a.mkv", "c.mp4")]
    write_manifest(layout.manifest, whole + spans)
    done = run_flows(layout, "--flow-short-side", 16, "--map-short-side", 4)
    assert done.exit_code == 0, done.output
    notes = [line for line in done.output.splitlines() if line.startswith("note: ")]
    anamorphic_note, late_note, several_note = notes
    assert several_note.startswith("note: 2 videos with several video streams; ")
    assert "(first: a.mkv, 2 streams, number 1 of 96x64 is decoded: flagged as" in several_note
    assert "note: 1 video with pixels that are not square; " in anamorphic_note
    assert "(first: c.mp4, pixels of 16:15)" in anamorphic_note
    assert "note: 1 video with a picture that starts after the sound; " in late_note
    assert "(first: d.mp4, after 1.5" in late_note
    found = CliRunner().invoke(doctor, arguments(layout, "--workers", 0))
    assert [line for line in found.output.splitlines() if line.startswith("note: ")] == notes


def test_a_late_picture_is_no_matter_to_whole_videos(tmp_path):
    source = render_video(tmp_path / "a.mp4", 24, with_sound=5.0, options={"bf": "0"})
    path = remux(source, tmp_path / "late.mp4", later_by(1.5))
    tally = Tally()
    list(decode_clip(Clip("a", path.name), tmp_path, DecodeOptions(), tally))
    assert tally.remarks == []
    list(decode_clip(Clip("a", path.name, 2.0, 3.0), tmp_path, DecodeOptions(), tally))
    assert [remark.code for _, remark in tally.remarks] == ["late-picture"]


def test_the_doctor_compares_spans_with_the_picture(tmp_path):
    source = render_video(tmp_path / "a.mp4", 24, with_sound=5.0, options={"bf": "0"})
    path = remux(source, tmp_path / "late.mp4", later_by(1.5))
    header = read_header(tmp_path, path.name)
    assert header.picture_start == pytest.approx(1.5, abs=1e-3)
    for start, stop, kinds in [(1.0, 1.4, ["empty"]), (1.0, 3.4, []), (2.0, 9.0, ["shorter"])]:
        found = examine(Clip("a", path.name, start, stop), header, ())
        assert [kind for kind, _ in found] == kinds
    # Frames count from the first picture, whatever begins before it.
    clip = frames_to_seconds(Clip("a", path.name), (6, 12), header)
    whole, _ = decode(path)
    assert np.array_equal(decode(path, *clip.span)[0], whole[6:12])


@pytest.mark.parametrize("extension", CONTAINERS)
def test_headers_tell_when_the_picture_starts_as_the_decoder_does(tmp_path, extension):
    path = render_tracks(tmp_path / f"a.{extension}", (SOUND, PICTURE))
    with open_video(path, 10**6) as container:
        seconds = picture_start_of(container, container.streams.video[0])
    assert read_header(tmp_path, path.name).picture_start == pytest.approx(seconds)
