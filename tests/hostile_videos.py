"""Videos made to harm: whole files that claim, or hold, what would fill memory."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
from video_fixtures import moving_picture, render_video, repeat_video

ENDLESS = 150_000_000  # samples; an index of 24 bytes each is 3.6 GB


def huge_frames(path: Path, side: int = 16_000) -> Path:
    """Two frames of side x side, really encoded: 400 MB each once decoded. FFmpeg makes no more."""
    return _of_one_grey(path, "mjpeg", (side, side), 2, "yuvj420p")


def huge_pictures_inside(path: Path) -> Path:
    """Motion JPEG whose container says 64x48 and whose pictures say 16384x16384."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for index in range(6):
            frame = av.VideoFrame.from_ndarray(moving_picture(index), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuvj420p")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    start = 0
    while (start := data.find(b"\xff\xc0\x00\x11\x08", start)) >= 0:  # SOF0, 8 bits a sample
        data[start + 5 : start + 9] = struct.pack(">HH", 16_384, 16_384)
        start += 9
    path.write_bytes(data)
    return path


def endless_index(path: Path, num_samples: int = ENDLESS) -> Path:
    """An MP4 of some KB whose tables claim very many frames of one byte, in one chunk."""
    data = bytearray(render_video(path, 6).read_bytes())
    _resized_table(data, b"stsz", struct.pack(">III", 0, 1, num_samples))
    _resized_table(data, b"stsc", struct.pack(">IIIII", 0, 1, 1, num_samples, 1))
    _resized_table(data, b"stts", struct.pack(">IIII", 0, 1, num_samples, 1))
    path.write_bytes(data)
    return path


def _resized_table(data: bytearray, name: bytes, content: bytes) -> None:
    """Put other content into an atom, as large as before: the rest is covered by a free atom."""
    start = data.find(name) - 4
    length = struct.unpack(">I", data[start : start + 4])[0]
    new = struct.pack(">I", 8 + len(content)) + name + content
    left = length - len(new)
    assert left == 0 or left >= 8, (name, length)
    free = struct.pack(">I", left) + b"free" + bytes(left - 8) if left else b""
    data[start : start + length] = new + free


def many_tiny_frames(path: Path, num_frames: int = 10_000_000) -> Path:
    """An MP4 with very many frames that are one and the same.

    A chunk offset each, all to the same bytes: the file has 8 bytes a frame and plays for days.
    """
    small = render_video(path, 2, size=(32, 32), codec="mpeg4", keyframe_every=1).read_bytes()
    with av.open(str(path)) as container:
        packet = next(container.demux(video=0))
        position, size = packet.pos, packet.size
    moov = small[small.find(b"moov") - 4 :]
    tables = {
        b"stsz": struct.pack(">III", 0, size, num_frames),
        b"stsc": struct.pack(">IIIII", 0, 1, 1, 1, 1),
        b"stts": struct.pack(">IIII", 0, 1, num_frames, 1),
        b"stco": struct.pack(">II", 0, num_frames) + np.full(num_frames, position, ">u4").tobytes(),
    }
    path.write_bytes(small[: small.find(b"moov") - 4] + _with_tables(moov, tables))
    return path


def _with_tables(atom: bytes, tables: dict[bytes, bytes]) -> bytes:
    """An atom and all below it, with the content of some replaced and sizes made to fit."""
    length, name = struct.unpack(">I4s", atom[:8])
    if name in tables:
        content = tables[name]
    elif name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        content, start = b"", 8
        while start < length:
            child = struct.unpack(">I", atom[start : start + 4])[0]
            content += _with_tables(atom[start : start + child], tables)
            start += child
    else:
        return atom[:length]
    return struct.pack(">I4s", 8 + len(content), name) + content


def decompression_bomb(path: Path, repeats: int = 200) -> Path:
    """4096 x 2176 of one grey: some KB a second, and 13 MB a decoded frame."""
    short = _of_one_grey(path.with_suffix(".short.mp4"), "libx264", (4096, 2176), 4, "yuv420p")
    return repeat_video(short, path, repeats)


def _of_one_grey(
    path: Path, codec: str, size: tuple[int, int], num_frames: int, pixel_format: str
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=12)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        if codec == "libx264":
            stream.options = {"preset": "ultrafast"}
        frame = av.VideoFrame(*size, pixel_format)
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        for index in range(num_frames):
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def no_streams(path: Path) -> Path:
    """A Matroska file of a header and nothing else."""
    data = render_video(path, 3).read_bytes()
    tracks = data.find(b"\x16\x54\xae\x6b")
    path.write_bytes(data[:tracks])
    return path
