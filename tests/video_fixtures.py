"""Real videos, rendered where they are needed."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

CODECS = {  # encoder and a container that it is usual in
    "h264": ("libx264", "mp4"),
    "mpeg4": ("mpeg4", "avi"),
    "vp9": ("libvpx-vp9", "webm"),
    "hevc": ("libx265", "mkv"),
}


def moving_picture(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Frame `index`, uint8 [H, W, 3]: a bright square goes over a texture row by row, 2 px a
    frame."""
    picture = _texture(width, height).copy()
    row, left = divmod(2 * index, width - 16)
    top = 4 * row % (height - 16)
    picture[top : top + 16, left : left + 16] = 230
    return picture


@functools.cache
def _texture(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    texture = 100 + 40 * np.sin(x / 3) * np.cos(y / 4)
    return np.repeat(texture[..., None], 3, axis=2).astype(np.uint8)


def render_video(
    path: Path,
    num_frames: int = 24,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    rate: int | Fraction = 12,
    keyframe_every: int = 12,
    with_sound: bool | float = False,
    options: dict[str, str] | None = None,
    picture: Callable[[int, int, int], np.ndarray] = moving_picture,
) -> Path:
    """Encode `picture` 0 .. num_frames - 1; size is (width, height), even, above 16.

    `with_sound` may be how many seconds of it there are, else as many as of the picture. `options`
    are of the encoder, beside or instead of those that make it fast; `picture` is called with
    index, width and height.
    """
    encoder_options = {
        "libx264": {"preset": "ultrafast", "bf": "2", "threads": "1"},
        "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none"},
        "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    }
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no encoder {codec}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            codec, rate=Fraction(rate), options=encoder_options.get(codec, {}) | (options or {})
        )
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = keyframe_every
        if with_sound:
            _add_silence(container, num_frames / rate if with_sound is True else with_sound)
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def repeat_video(source: Path, path: Path, times: int) -> Path:
    """The video so many times one after another, without encoding it again."""
    with av.open(str(source)) as original, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(original.streams.video[0])
        length = original.streams.video[0].duration
        for repeat in range(times):
            original.seek(0)
            for packet in original.demux(video=0):
                if packet.size:
                    packet.pts += repeat * length
                    packet.dts += repeat * length
                    packet.stream = stream
                    container.mux(packet)
    return path


def remux(
    source: Path,
    path: Path,
    change: Callable[[int, av.Packet], bool | None] = lambda index, packet: None,
    options: dict[str, str] | None = None,
) -> Path:
    """Copy the packets of all streams, without encoding them again, into another container.

    `change` gets the number and the packet of each of the video stream, may give it other times,
    and leaves it out by returning False; `options` are of the container.
    """
    with (
        av.open(str(source)) as original,
        av.open(str(path), "w", options=options or {}) as container,
    ):
        streams = [container.add_stream_from_template(stream) for stream in original.streams]
        index = 0
        for packet in original.demux():
            if packet.dts is None:
                continue
            is_kept = True
            if packet.stream.type == "video":
                is_kept = change(index, packet) is not False
                index += 1
            if is_kept:
                packet.stream = streams[packet.stream.index]
                container.mux(packet)
    return path


def with_display_matrix(source: Path, path: Path, a: int, b: int, c: int, d: int) -> Path:
    """An MP4 whose pictures are to be shown at x' = a x + c y, y' = b x + d y."""
    data = bytearray(source.read_bytes())
    box = data.find(b"tkhd")
    assert box > 0 and data[box + 4] == 0, "a track header of version 0"
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    struct.pack_into(">9i", data, box + 44, *matrix)
    path.write_bytes(data)
    return path


def _add_silence(container: av.container.OutputContainer, seconds: float) -> None:
    stream = container.add_stream("aac", rate=44_100)
    for start in range(0, int(seconds * 44_100), 1024):
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 44_100
        frame.pts = start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def cut_at_keyframe(source: Path, path: Path, number: int = 2) -> Path:
    """Copy the video from a keyframe on (1 is the first), as a cut without encoding does.

    An AVI is cut as its entries lie; elsewhere the keyframe is shown at 0.
    """
    with av.open(str(source)) as original, av.open(str(path), "w") as container:
        old = original.streams.video[0]
        stream = container.add_stream_from_template(old)
        stream.time_base = old.time_base
        num_keyframes = num_packets = begin = 0
        for packet in original.demux(old):
            num_keyframes += packet.is_keyframe
            if packet.size == 0 or num_keyframes < number:
                continue
            if path.suffix == ".avi":
                packet.pts = packet.dts = num_packets
            else:
                begin = packet.pts if num_packets == 0 else begin
                packet.pts, packet.dts = packet.pts - begin, packet.dts - begin
            packet.stream = stream
            container.mux(packet)
            num_packets += 1
    return path


def with_orientation_message(source: Path, path: Path, quarter_turns: int) -> Path:
    """An H.264 MP4 whose first frame, and no other, has a message (SEI) that the picture is turned.

    Args:
        quarter_turns: counterclockwise.
    """
    # ISO/IEC 14496-10, D.1.26: not cancelled, no flips, 16 bits of angle, for this frame alone, no
    # extension; then the bits that fill the byte.
    bits = f"000{quarter_turns << 14:016b}10100"
    message = bytes([6, 47, 3, *int(bits, 2).to_bytes(3, "big"), 0x80])
    with av.open(str(source)) as original, av.open(str(path), "w") as container:
        old = original.streams.video[0]
        stream = container.add_stream_from_template(old)
        for index, packet in enumerate(original.demux(old)):
            if packet.size == 0:
                continue
            prefix = len(message).to_bytes(4, "big") + message if index == 0 else b""
            changed = av.Packet(prefix + bytes(packet))
            changed.pts, changed.dts, changed.duration = packet.pts, packet.dts, packet.duration
            changed.is_keyframe = packet.is_keyframe
            changed.time_base, changed.stream = packet.time_base, stream
            container.mux(changed)
    return path
