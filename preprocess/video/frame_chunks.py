"""Turn decoded frames into upright RGB pictures of the stored size, and collect them in chunks."""

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
STEP_FRAMES = 64
"""After so many frames without a chunk, decoding says that it goes on; see `decode_steps`."""
LONGEST_KEPT_SIDE = 65_500  # pixels; the limit of JPEG


@dataclass(frozen=True)
class DecodeOptions:
    """How frames are stored, and which clips are refused.

    Attributes:
        short_side: pixels of the short side of kept frames; smaller videos are not enlarged.
        max_pixels: largest width * height of a frame of the source.
        max_frames: largest number of frames of a clip.
        max_seconds: longest duration of a clip, seconds.
        chunk_frames: number of frames of a chunk; fewer if they exceed chunk_bytes. It does not
            change the frames, but flow is computed chunk by chunk.
        chunk_bytes: largest size of the RGB frames of a chunk, bytes.
        vectors: whether chunks come with the flow of the codec's motion vectors.
        scratch: folder for copies of videos whose codec has no motion vectors
            (preprocess/video/transcode.py); None = such a clip is refused.
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
        first_index: index of its first frame in the clip, from 0.
        pts_seconds: float64 [T], presentation times from the first picture of the video.
        rgb: uint8 [T, H, W, 3], upright, of the kept size.
        source_size: width, height of the source in pixels, upright.
        is_last: whether it is the last chunk of the clip.
        vectors: flows by motion vectors, float32 [2, h, w] each, upright, in pixels of the source
            per frame; those between the last frames of a chunk may come with the next chunk.
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
    """A frame as it is kept in the shard.

    Attributes:
        rgb: uint8 [H, W, 3], upright, of the kept size.
        coded_size: (width, height) of the source as it is coded.
        source_size: (width, height) of the source, upright.
        orientation: how the coded picture becomes upright.
    """

    rgb: np.ndarray
    coded_size: tuple[int, int]
    source_size: tuple[int, int]
    orientation: Orientation


class Scaler:
    """Makes the pictures that are kept from the frames of one video.

    Raises:
        ClipError: frames are too small, or too long for a JPEG.
    """

    def __init__(self, short_side: int) -> None:
        self._short_side = short_side
        self._reformatter = VideoReformatter()

    def picture(self, frame: av.VideoFrame, orientation: Orientation) -> Picture:
        """Scale a decoded frame and turn it upright."""
        coded = (frame.width, frame.height)
        upright = orientation.upright_size(coded)
        kept = _checked_kept_size(upright, self._short_side)
        width, height = orientation.upright_size(kept)
        scaled = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.AREA
        )
        rgb = orientation.turn_picture(scaled.to_ndarray())
        return Picture(rgb, coded, upright, orientation)


def _checked_kept_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    width, height = size
    if min(size) < SMALLEST_SIDE:
        raise ClipError(
            "out-of-range", f"frames of {width}x{height}; {SMALLEST_SIDE} px a side are the least"
        )
    kept = scaled_size(width, height, short_side)
    if max(kept) > LONGEST_KEPT_SIDE:
        raise ClipError("out-of-range", f"frames of {width}x{height} are too long for a JPEG")
    return kept


class Chunker:
    """Collects the pictures of one clip in chunks.

    Args:
        options: have the length of a chunk.
        vectors: collects the motion vectors of the clip; None if they are not needed.
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
        """Add the next picture; returns the chunk before it if that chunk is full.

        Raises:
            ClipError: the picture has another size than the first.
        """
        if self._first is None:
            self._first = picture
            most = max(2, self._options.chunk_bytes // picture.rgb.nbytes)
            self._length = min(self._length, most)
        if picture.coded_size != self._first.coded_size:
            old, new = (f"{w}x{h}" for w, h in (self._first.coded_size, picture.coded_size))
            where = self._first_index + len(self._rgb)
            raise ClipError(
                "not-supported", f"the frame size changes from {old} to {new} at frame {where}"
            )
        full = None
        if len(self._rgb) == self._length:  # and another picture has come, so it is not the last
            full = self._chunk(is_last=False)
            self._first_index += len(self._rgb)
            self._rgb, self._times = [], []
        self._rgb.append(picture.rgb)
        self._times.append(seconds)
        return full

    def finish(self) -> FrameChunk | None:
        """The last chunk; None for a clip without pictures."""
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
