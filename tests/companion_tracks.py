"""Videos with other tracks before and after the picture, in every container that holds them."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from video_fixtures import moving_picture

NUM_FRAMES, SIZE = 48, (64, 48)
CONTAINERS = {  # encoder of the picture, frames a second, encoder of the sound, codec of subtitles
    "mp4": ("libx264", 12, "aac", "mov_text"),
    "mov": ("libx264", 12, "aac", "mov_text"),
    "3gp": ("libx264", 12, "aac", "mov_text"),
    "mkv": ("libx264", 12, "aac", "subrip"),
    "webm": ("libvpx", 12, "libopus", "webvtt"),
    "ogv": ("libvpx", 12, "libopus", None),
    "avi": ("mpeg4", 12, "pcm_s16le", None),
    "flv": ("libx264", 12, "aac", None),
    "ts": ("libx264", 12, "aac", "dvb_subtitle"),
    "m2ts": ("libx264", 12, "ac3", "hdmv_pgs_subtitle"),
    "mpg": ("mpeg2video", 25, "mp2", "dvd_subtitle"),
}
MUXERS = {"m2ts": "mpegts", "mpg": "mpeg"}  # where FFmpeg's choice by the suffix is another one
PICTURE, SOUND, SUBTITLE, DATA = "picture", "sound", "subtitle", "data"
TIMECODE, CHAPTERS, ATTACHMENT, COVER = "timecode", "chapters", "attachment", "cover"
SUBTITLE_BYTES = {
    "mov_text": b"\0\5hello",
    "dvb_subtitle": b"\x20\0\x0f\0\0",
    "hdmv_pgs_subtitle": b"\x16\0\x0f\0\0",
    "dvd_subtitle": b"\x00\x20\x00\x10" + bytes(28),
}
KINDS = {  # the tracks that a container can hold beside the picture and sound
    "mp4": (SUBTITLE, TIMECODE, CHAPTERS, COVER),
    "mov": (SUBTITLE, TIMECODE, CHAPTERS),
    "3gp": (SUBTITLE,),
    "mkv": (SUBTITLE, ATTACHMENT, COVER),
    "webm": (SUBTITLE,),
    "ogv": (),
    "avi": (DATA,),
    "flv": (DATA,),
    "ts": (SUBTITLE, DATA),
    "m2ts": (SUBTITLE,),
    "mpg": (SUBTITLE,),
}
ALWAYS_LAST = (TIMECODE, CHAPTERS, ATTACHMENT, COVER)  # wherever they are added
TYPES = {PICTURE: "video", COVER: "video", SOUND: "audio", TIMECODE: "data", CHAPTERS: "data"}


def layouts_of(extension: str) -> list[tuple[str, ...]]:
    """Orders of tracks: each kind before and after the picture, with and without sound."""
    layouts: list[tuple[str, ...]] = [(PICTURE, SOUND), (SOUND, PICTURE), (SOUND, SOUND, PICTURE)]
    for kind in KINDS[extension]:
        layouts += [(PICTURE, kind), (SOUND, PICTURE, kind)]
        if kind not in ALWAYS_LAST and extension != "flv":  # which numbers tracks by their packets
            layouts += [(kind, PICTURE), (kind, SOUND, PICTURE)]
    return layouts


def render_tracks(path: Path, layout: tuple[str, ...]) -> Path:
    """Write NUM_FRAMES of `moving_picture` with the other tracks of a layout around them."""
    extension = path.suffix[1:]
    codec, _, sound_codec, _ = CONTAINERS[extension]
    if not {codec, sound_codec} <= av.codecs_available or not hasattr(
        av.container.OutputContainer, "add_mux_stream"
    ):
        pytest.skip(f"this build of PyAV cannot write {codec} and {sound_codec}")
    with av.open(str(path), "w", format=MUXERS.get(extension)) as container:
        packets = [packet for kind in layout for packet in _track(container, extension, kind)]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    if DATA in layout and extension == "avi":
        _declare_data(path, sum(kind != PICTURE for kind in layout[: layout.index(DATA)]))
    return path


def track_types(path: Path) -> list[str]:
    """What FFmpeg finds in a file: "video", "audio", "subtitle", "data" or "attachment" a track."""
    with av.open(str(path)) as container:
        return [stream.type for stream in container.streams]


def _track(container: Any, extension: str, kind: str) -> list[av.Packet]:
    """Add a track, and return its packets."""
    codec, rate, sound_codec, subtitle_codec = CONTAINERS[extension]
    if kind == PICTURE:
        return _pictures(container, codec, rate)
    if kind == SOUND or (kind == DATA and extension == "avi"):
        return _sound(container, sound_codec)
    if kind == SUBTITLE:
        text = SUBTITLE_BYTES.get(str(subtitle_codec), b"hello")
        return _packets(container.add_mux_stream(subtitle_codec), text)
    if kind == DATA:
        return _packets(container.add_data_stream(), b"hello")
    if kind == COVER and extension != "mkv":
        stream = container.add_mux_stream("png", width=64, height=64)
        stream.disposition = av.stream.Disposition.attached_pic
        return _packets(stream, _cover())[:1]
    if kind == COVER:
        container.add_attachment("cover.png", "image/png", _cover())
    elif kind == TIMECODE:
        container.metadata["timecode"] = "01:00:00:00"
    elif kind == CHAPTERS:
        container.set_chapters([_chapter(number) for number in range(3)])
    elif kind == ATTACHMENT:
        container.add_attachment("notes.txt", "text/plain", b"a file of its own" * 20)
    return []


def _pictures(container: Any, codec: str, rate: int) -> list[av.Packet]:
    options = {"preset": "ultrafast", "bf": "2", "threads": "1"} if codec == "libx264" else {}
    stream = container.add_stream(codec, rate=rate, options=options)
    stream.width, stream.height = SIZE
    stream.pix_fmt = "yuv420p"
    stream.codec_context.gop_size = 12
    packets = []
    for index in range(NUM_FRAMES):
        picture = moving_picture(index, *SIZE)
        packets += stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
    return packets + stream.encode()


def _sound(container: Any, codec: str) -> list[av.Packet]:
    rate = 48_000
    stream = container.add_stream(codec, rate=rate, layout="mono")
    stream.codec_context.open()
    length = stream.codec_context.frame_size or 1024
    sample = {"s16": np.int16, "s32": np.int32, "flt": np.float32}[stream.format.name.rstrip("p")]
    packets = []
    for start in range(0, 2 * rate, length):
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, length), dtype=sample), format=stream.format.name, layout="mono"
        )
        frame.sample_rate, frame.pts = rate, start
        packets += stream.encode(frame)
    return packets + stream.encode()


def _packets(stream: Any, data: bytes) -> list[av.Packet]:
    """One packet a half second, over the length of the picture."""
    packets = []
    for number in range(4):
        packet = av.Packet(data)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = 500 * number
        packet.duration = 500
        packets.append(packet)
    return packets


def _chapter(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "start": 500 * number,
        "end": 500 * number + 500,
        "time_base": Fraction(1, 1000),
        "metadata": {"title": f"chapter {number}"},
    }


def _cover() -> bytes:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 90, 200)).save(picture, "png")
    return picture.getvalue()


def _declare_data(path: Path, number: int) -> None:
    """Say that the sound with this number, from 0, is text: FFmpeg's muxer takes none."""
    data = bytearray(path.read_bytes())
    place = -1
    for _ in range(number + 1):
        place = data.index(b"auds", place + 1)
    data[place : place + 4] = b"txts"
    path.write_bytes(data)
