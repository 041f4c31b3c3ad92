"""Odd but intact videos, as cameras, streams and cuts leave them, are decoded as they are shown."""

import struct

import av
import numpy as np
import pytest
from click.testing import CliRunner
from dataset_fixtures import arguments, run_flows
from test_decode import assert_set_aside, decode
from video_fixtures import remux, render_video, with_display_matrix

from preprocess.verify import main as verify
from preprocess.video.completeness import Completeness
from preprocess.video.decode import decode_clip
from preprocess.video.frame_chunks import DecodeOptions
from preprocess.video.seeking import Clock
from shared.layout import DatasetLayout
from shared.manifest import Clip, write_manifest


@pytest.mark.parametrize(
    ("codec", "extension", "rate", "options"),
    [
        ("mpeg4", "avi", 12, {"bf": "2"}),
        ("libx264", "avi", 12, {"bf": "2"}),
        ("mpeg1video", "mpg", 25, {"bf": "2"}),
        # Of small frames FFmpeg's muxer tells too few times.
        ("mpeg2video", "mpg", 25, {"bf": "2", "qmin": "1", "qmax": "1"}),
        ("mpeg2video", "mpg", 25, {}),
    ],
)
def test_a_span_with_b_frames_has_its_frames_alone(tmp_path, codec, extension, rate, options):
    """Where frames have other times once a demuxer has sought."""
    path = tmp_path / f"a.{extension}"
    render_video(path, 100, codec=codec, rate=rate, keyframe_every=9, options=options)
    whole, times = decode(path)
    assert len(whole) == 100
    for first, last in ((8, 20), (27, 45), (50, 71), (83, 99)):
        span, span_times = decode(path, round(first / rate, 3), round(last / rate, 3))
        assert np.array_equal(span_times, times[first:last])
        assert np.array_equal(span, whole[first:last])


@pytest.mark.parametrize("extension", ["mp4", "mkv", "ts"])
def test_a_span_with_intra_refresh_has_all_its_frames(tmp_path, extension):
    """Its keyframes are none by themselves: a decoder that begins there keeps frames back."""
    options = {"x264-params": "intra-refresh=1:keyint=30:bframes=0"}
    path = render_video(tmp_path / f"a.{extension}", 120, options=options, keyframe_every=30)
    whole, times = decode(path)
    assert len(whole) == 120
    for first, last in ((32, 34), (40, 62), (61, 90), (92, 110), (118, 120)):
        span, span_times = decode(path, round(first / 12, 3), round(last / 12, 3))
        assert np.array_equal(span_times, times[first:last])
        assert np.array_equal(span, whole[first:last])


MATRICES = {  # a b c d, and what becomes of a picture [..., H, W] and of its vectors (u, v)
    "upright": ((1, 0, 0, 1), lambda p: p, lambda u, v: (u, v)),
    "half a turn": ((-1, 0, 0, -1), lambda p: p[..., ::-1, ::-1], lambda u, v: (-u, -v)),
    "left to right": ((-1, 0, 0, 1), lambda p: p[..., ::-1], lambda u, v: (-u, v)),
    "upside down": ((1, 0, 0, -1), lambda p: p[..., ::-1, :], lambda u, v: (u, -v)),
    "transposed": ((0, 1, 1, 0), lambda p: p.swapaxes(-1, -2), lambda u, v: (v, u)),
    "clockwise": (
        (0, 1, -1, 0),
        lambda p: np.rot90(p, -1, axes=(-2, -1)),
        lambda u, v: (-v, u),
    ),
    "transversed": (
        (0, -1, -1, 0),
        lambda p: p[..., ::-1, ::-1].swapaxes(-1, -2),
        lambda u, v: (-v, -u),
    ),
}


@pytest.mark.parametrize("name", MATRICES)
def test_turned_and_mirrored_videos_are_as_players_show_them(tmp_path, name):
    """Front cameras store a picture mirrored, with a matrix that mirrors it back."""
    matrix, turn, turn_vectors = MATRICES[name]
    source = render_video(tmp_path / "source.mp4", 12)
    path = with_display_matrix(source, tmp_path / "a.mp4", *matrix)
    plain, turned = (_chunk_with_vectors(each) for each in (source, path))
    expected = turn(plain.rgb.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    assert np.array_equal(turned.rgb, expected)
    assert turned.source_size == expected.shape[2:0:-1]
    assert len(turned.vectors) == 11
    for found, flow in zip(turned.vectors, plain.vectors, strict=True):
        assert np.array_equal(found, turn_vectors(*turn(flow)))
    assert np.abs(turned.vectors).max() > 1


def _chunk_with_vectors(path):
    [chunk] = decode_clip(Clip("clip", path.name), path.parent, DecodeOptions(vectors=True))
    return chunk


def test_repeated_times_are_kept_and_verified(tmp_path):
    """Every frame is kept, also one that has the time of the frame before it."""

    def repeat(index, packet):
        if index in (5, 9):
            packet.pts = packet.dts = 100 * (index - 1)  # ms

    layout = DatasetLayout(tmp_path, "repeats")
    source = render_video(tmp_path / "source.mkv", 20, rate=10, options={"bf": "0"})
    layout.videos.mkdir(parents=True)
    path = remux(source, layout.videos / "a.mkv", repeat)
    write_manifest(layout.manifest, [Clip("clip", path.name)])
    sizes = ("--flow-short-side", 16, "--map-short-side", 4)
    done = run_flows(layout, *sizes)
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(verify, arguments(layout, "--workers", 1))
    assert done.exit_code == 0, done.output
    _, times = decode(path)
    assert len(times) == 20 and np.count_nonzero(np.diff(times) == 0) == 2


def test_times_that_go_back_are_refused(tmp_path):
    data = render_video(tmp_path / "a.ts", 24).read_bytes()
    path = tmp_path / "both.ts"
    path.write_bytes(data + data)
    assert_set_aside("damaged-file", path, named=["1.917", "0.000 s"])
    source = render_video(tmp_path / "a.mkv", 12, options={"bf": "0"})
    still = remux(source, tmp_path / "b.mkv", _at_0)
    assert_set_aside("damaged-file", still)


def _at_0(index, packet):
    packet.pts = packet.dts = 0


def later_by(seconds):
    """A change for `remux`: the picture begins that much later."""

    def shift(index, packet):
        packet.pts += round(seconds / packet.time_base)
        packet.dts += round(seconds / packet.time_base)

    return shift


@pytest.mark.parametrize("with_sound", [False, True])
@pytest.mark.parametrize("extension", ["mkv", "flv"])
def test_a_picture_that_starts_late_is_whole(tmp_path, extension, with_sound):
    source = render_video(tmp_path / "a.mp4", 48, with_sound=with_sound, options={"bf": "0"})
    path = remux(source, tmp_path / f"late.{extension}", later_by(0.5))
    rgb, times = decode(path)
    assert len(rgb) == 48 and times[0] == 0
    data = path.read_bytes()
    for share in (0.5, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        assert_set_aside("damaged-file", path)


def test_the_hours_before_a_cut_are_no_part_of_the_clip(tmp_path):
    source = render_video(tmp_path / "a.mp4", 24, options={"bf": "0"})
    assert len(decode(remux(source, tmp_path / "a.mkv", later_by(7200)))[0]) == 24


def test_a_fragmented_mp4_without_edit_list_is_whole(tmp_path):
    """With B-frames its picture begins after 0, where the index counts from."""
    movflags = {"movflags": "dash+frag_keyframe+empty_moov"}
    source = render_video(tmp_path / "a.mp4", 60, rate=30)
    path = remux(source, tmp_path / "dash.mp4", options=movflags)
    assert len(decode(path)[0]) == 60
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    assert_set_aside("damaged-file", path)


@pytest.mark.parametrize("bf", ["0", "1", "2"])
def test_an_flv_with_b_frames_is_whole(tmp_path, bf):
    path = render_video(tmp_path / "a.flv", 60, rate=30, options={"bf": bf})
    assert len(decode(path)[0]) == 60
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
    assert_set_aside("damaged-file", path)


@pytest.mark.parametrize(
    ("codec", "extension"), [("libx264", "flv"), ("wmv2", "wmv"), ("mpeg4", "mkv")]
)
def test_sound_may_end_long_after_the_picture(tmp_path, codec, extension):
    """Where the container tells how long its longest stream is, and nothing of the picture."""
    path = render_video(tmp_path / f"a.{extension}", 36, codec=codec, with_sound=8.0)
    data = path.read_bytes().replace(b"DURATION", b"DURATIOX")  # the tag of Matroska
    path.write_bytes(data)
    assert len(decode(path)[0]) == 36
    for share in (0.3, 0.6, 0.8):
        path.write_bytes(data[: int(share * len(data))])
        assert_set_aside("damaged-file", path)


@pytest.mark.parametrize("with_sound", [False, True])
def test_a_cut_asf_file_is_never_taken_for_a_whole_one(tmp_path, with_sound):
    """FFmpeg forgets its duration."""
    path = render_video(tmp_path / "a.wmv", 48, codec="wmv2", with_sound=with_sound)
    assert len(decode(path)[0]) == 48
    data = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        assert_set_aside("damaged-file", path)
    assert len(decode(path, 0.0, 1.0)[0]) == 12  # which does not need the end
    path.write_bytes(data + bytes(1000))
    assert len(decode(path)[0]) == 48


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_a_last_frame_that_is_shown_long_ends_no_clip_early(tmp_path, extension):
    """As in recordings of a screen on which nothing more happens."""

    def hold(index, packet):
        if index == 47:
            packet.duration = round(2 / packet.time_base)

    source = render_video(tmp_path / f"a.{extension}", 48, options={"bf": "0"})
    path = remux(source, tmp_path / f"long.{extension}", hold, {"movflags": "faststart"})
    assert len(decode(path)[0]) == 48
    assert len(decode(path, 2.0, 20.0)[0]) == 24
    data = path.read_bytes()
    for share in (0.5, 0.9, 0.97):
        path.write_bytes(data[: int(share * len(data))])
        assert_set_aside("damaged-file", path)


def _uneven(index, packet):
    """Every third frame is shown six times as long, and one for three seconds."""
    extra = (5 * (index // 3) + (36 if index > 24 else 0)) / 12
    packet.pts = packet.dts = round((index / 12 + extra) / packet.time_base)


@pytest.mark.parametrize(
    ("codec", "extension", "with_sound"),
    [
        ("libx264", "mkv", False),
        ("libx264", "mkv", True),
        ("libvpx-vp9", "webm", False),
        ("libx264", "ts", True),
        ("libx264", "flv", True),
    ],
)
def test_frames_at_uneven_distances_are_no_holes(tmp_path, codec, extension, with_sound):
    """As in recordings of a screen or a call, where nothing is lost between them."""
    source = render_video(
        tmp_path / f"a.{'webm' if extension == 'webm' else 'mp4'}",
        48,
        codec=codec,
        with_sound=8.0 if with_sound else False,
        options={"bf": "0"} if codec == "libx264" else {},
    )
    path = remux(source, tmp_path / f"uneven.{extension}", _uneven)
    rgb, times = decode(path)
    assert len(rgb) == 48 and np.diff(times).max() > 3
    assert len(decode(path, 2.0, 9.0)[0]) > 10


def _at_4_per_second(index, packet):
    packet.pts = packet.dts = round(index / 4 / packet.time_base)
    packet.duration = round(1 / 4 / packet.time_base)


@pytest.mark.parametrize("sound", [False, 4.0])
def test_an_flv_whose_frames_come_less_often_than_its_rate_says_is_whole(tmp_path, sound):
    """FLV states no duration of a frame, and the last one is shown for as long as the others."""
    source = render_video(
        tmp_path / "a.mp4", 48, rate=30, with_sound=sound, options={"bf": "0"}, keyframe_every=4
    )
    path = remux(source, tmp_path / "slow.flv", _at_4_per_second)
    assert len(decode(path)[0]) == 48
    assert len(decode(path, 10.0, 20.0)[0]) == 8
    data = path.read_bytes()
    pictures = flv_pictures(data)
    for num_lost in (4, 12, 24):  # at the end of a packet, where nothing else shows the cut
        path.write_bytes(data[: pictures[-num_lost]])
        assert_set_aside("damaged-file", path, named=["12.0"])


def flv_pictures(data):
    """Where the tag of each picture begins; the first one has the parameters of the codec."""
    found, at = [], 13
    while at < len(data):
        if data[at] == 9:
            found.append(at)
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    return found


@pytest.mark.parametrize("extension", ["mkv", "ts"])
def test_holes_where_packets_were_lost_are_found(tmp_path, extension):
    source = render_video(tmp_path / f"a.{extension}", 96, options={"bf": "0"}, keyframe_every=4)
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos is not None]
    if extension == "mkv":  # blocks turned into padding, which no demuxer reports
        for place in places[40:70]:
            block = data.rfind(0xA3, place - 4, place + 1)
            assert block > 0
            data[block] = 0xEC
    else:
        del data[places[40] // 188 * 188 : places[70] // 188 * 188]
    path = tmp_path / f"hole.{extension}"
    path.write_bytes(data)
    assert_set_aside("damaged-file", path)
    assert_set_aside("damaged-file", path, 2.0, 7.5)


def test_frames_that_an_avi_dropped_are_not_missing(tmp_path):
    """Capture programs write empty entries for frames that they came too late for."""
    options = {"strict": "unofficial"}  # of MJPEG, for pictures of a limited range
    source = render_video(tmp_path / "a.avi", 60, codec="mjpeg", options=options)
    dropped = {13, 30, 31, 32, 33, 34}
    path = remux(source, tmp_path / "dropped.avi", lambda index, _: index not in dropped)
    rgb, times = decode(path)
    assert len(rgb) == 54 and times[-1] == pytest.approx(59 / 12)
    data = path.read_bytes()
    for share in (0.5, 0.8):
        path.write_bytes(data[: int(share * len(data))])
        assert_set_aside("damaged-file", path)


def test_a_chapter_track_that_was_left_out_is_no_damage(tmp_path):
    data = render_video(tmp_path / "a.mp4", 24).read_bytes()
    reference = struct.pack(">I4sI4sI", 20, b"tref", 12, b"chap", 9)  # there is no track 9
    for box in (b"trak", b"moov"):  # these lie after the frames
        start = data.find(box) - 4
        size = int.from_bytes(data[start : start + 4], "big") + len(reference)
        data = data[:start] + struct.pack(">I", size) + data[start + 4 :]
    behind = data.find(b"trak") + 4
    path = tmp_path / "chapters.mp4"
    path.write_bytes(data[:behind] + reference + data[behind:])
    assert len(decode(path)[0]) == 24


def test_a_frame_without_a_time_follows_the_one_before_it(tmp_path):
    path = render_video(tmp_path / "a.mp4", 24, options={"bf": "0"})
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        clock = Clock(container, stream, Completeness(Clip("a", path.name), container, stream))
        frames = list(container.decode(video=0))
        frames[12].pts = frames[12].dts = None
        seconds = [clock.seconds(frame) for frame in frames]
    np.testing.assert_allclose(seconds, np.arange(24) / 12, atol=1e-3)
