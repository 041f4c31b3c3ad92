"""Decoded frames to RGB of the kept size, upright, handed over a chunk at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from preprocess.video.clip_vectors import ClipVectors
from preprocess.video.errors import ClipError
from preprocess.video.orientation import Orientation

SMALLEST_SIDE = 16  # pixels; TV-L1 needs that much, and a patch is as large
LONGEST_KEPT_SIDE = 65_500  # pixels; a JPEG cannot be longer


@dataclass(frozen=True)
class DecodeOptions:
    """How frames are kept, and what is refused.

    Attributes:
        short_side: of the kept frames, pixels; smaller videos are never enlarged.
        max_pixels: of a frame of the source, width * height.
        max_frames: of a clip.
        max_seconds: of a clip.
        chunk_frames: frames handed over at a time, fewer where they exceed chunk_bytes. Content
            does not depend on it, but flow is computed chunk by chunk.
        chunk_bytes: of the RGB frames of a chunk.
        vectors: whether chunks come with the flow of the codec's motion vectors.
        scratch: folder for copies of videos whose codec has none (preprocess/video/transcode.py);
            None: such a clip is refused.
    """

    short_side: int = 256
    max_pixels: int = 8192 * 4320
    max_frames: int = 216_000  # an hour at 60 frames/s
    max_seconds: float = 3600.0
    chunk_frames: int = 64
    chunk_bytes: int = 32 << 20
    vectors: bool = False
    scratch: Path | None = None


@dataclass(frozen=True)
class FrameChunk:
    """Consecutive frames of a clip.

    Attributes:
        first_index: number of the first frame, counted from 0 in the clip.
        pts_seconds: float64 [T], presentation times from the start of the video's stream.
        rgb: uint8 [T, H, W, 3], upright, of the kept size.
        source_size: width, height of the source in pixels, upright.
        is_last: whether the clip ends with it.
        vectors: flows of motion vectors, float32 [2, h, w] each, upright, pixels of the source per
            frame; those between the last frames of a chunk may come with the next.
    """

    first_index: int
    pts_seconds: np.ndarray
    rgb: np.ndarray
    source_size: tuple[int, int]
    is_last: bool
    vectors: list[np.ndarray]


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height with the short side at most `short_side`, never enlarged.

    The long side is rounded half up and may be odd: 427x240 at 64 lines is 114x64.
    """
    short = min(width, height)
    if short <= short_side:
        return width, height
    return (
        math.floor(width * short_side / short + 0.5),
        math.floor(height * short_side / short + 0.5),
    )


@dataclass(frozen=True)
class Picture:
    """A frame as it is kept.

    Attributes:
        rgb: uint8 [H, W, 3], upright, of the kept size.
        coded_size: width, height of the source as it is coded.
        source_size: the same upright.
        orientation: from coded to upright.
    """

    rgb: np.ndarray
    coded_size: tuple[int, int]
    source_size: tuple[int, int]
    orientation: Orientation


class Scaler:
    """Makes pictures of the frames of one video.

    Raises:
        ClipError: frames are too small, or too long for a JPEG.
    """

    def __init__(self, short_side: int) -> None:
        self._short_side = short_side
        self._reformatter = VideoReformatter()
        self._orientation: Orientation | None = None

    def picture(self, frame: av.VideoFrame) -> Picture:
        if self._orientation is None:
            self._orientation = Orientation.of(frame)
        coded = (frame.width, frame.height)
        upright = self._orientation.upright_size(coded)
        kept = _checked_kept_size(upright, self._short_side)
        width, height = self._orientation.upright_size(kept)
        scaled = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.AREA
        )
        rgb = self._orientation.turn_picture(scaled.to_ndarray())
        return Picture(rgb, coded, upright, self._orientation)


def _checked_kept_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    width, height = size
    if min(size) < SMALLEST_SIDE:
        raise ClipError(
            "decode", f"frames of {width}x{height}; {SMALLEST_SIDE} px a side are the least"
        )
    kept = scaled_size(width, height, short_side)
    if max(kept) > LONGEST_KEPT_SIDE:
        raise ClipError("decode", f"frames of {width}x{height} are too long for a JPEG")
    return kept


class Chunker:
    """Gathers the pictures of one clip into chunks.

    Args:
        options: how long a chunk is.
        vectors: of the clip, where they are asked for.
    """

    def __init__(self, options: DecodeOptions, vectors: ClipVectors | None = None) -> None:
        self._options = options
        self._vectors = vectors
        self._first: Picture | None = None
        self._first_index = 0
        self._length = options.chunk_frames
        self._rgb: list[np.ndarray] = []
        self._times: list[float] = []

    def add(self, seconds: float, picture: Picture) -> FrameChunk | None:
        """Take the next picture; the chunk before it, where that is full.

        Raises:
            ClipError: it is of another size than the first.
        """
        if self._first is None:
            self._first = picture
            most = max(2, self._options.chunk_bytes // picture.rgb.nbytes)
            self._length = min(self._length, most)
        if picture.coded_size != self._first.coded_size:
            old, new = (f"{w}x{h}" for w, h in (self._first.coded_size, picture.coded_size))
            where = self._first_index + len(self._rgb)
            raise ClipError(
                "decode", f"the frame size changes from {old} to {new} at frame {where}"
            )
        full = None
        if len(self._rgb) == self._length:  # and another has come, so that it is not the last
            full = self._chunk(is_last=False)
            self._first_index += len(self._rgb)
            self._rgb, self._times = [], []
        self._rgb.append(picture.rgb)
        self._times.append(seconds)
        return full

    def finish(self) -> FrameChunk | None:
        """What is left when no picture follows; None of a clip without any."""
        return self._chunk(is_last=True) if self._rgb else None

    def _chunk(self, is_last: bool) -> FrameChunk:
        assert self._first is not None
        ready = self._vectors.take() if self._vectors is not None else []
        return FrameChunk(
            self._first_index,
            np.array(self._times),
            np.stack(self._rgb),
            self._first.source_size,
            is_last,
            [self._first.orientation.turn_flow(flow) for flow in ready],
        )
