"""Cuts of open groups of pictures, empty entries of AVI, several pictures, and late pictures."""

import struct

import numpy as np
import pytest
from test_decode import decode, reason
from video_fixtures import (
    cut_at_keyframe,
    moving_picture,
    render_video,
)

from preprocess.video.avi_entries import EmptyEntries, count_empty_entries

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
    "codec, extension",
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


@pytest.mark.parametrize("codec, extension", [("libx264", "mkv"), ("libx264", "avi")])
def test_frames_lost_behind_the_first_ones_are_still_missed(tmp_path, codec, extension):
    """A cut of an open group of pictures is no excuse for what is lost elsewhere."""
    options = {"codec": codec, "options": OPEN_GOPS[codec], "rate": 25}
    source = render_video(tmp_path / f"source.{extension}", 60, **options)
    data = cut_at_keyframe(source, tmp_path / f"cut.{extension}").read_bytes()
    path = tmp_path / f"shorter.{extension}"
    for share in (0.6, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        assert "early" in reason(path) or "damaged" in reason(path)


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
