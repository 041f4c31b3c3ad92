"""Decode a clip, or a span of a long video, into RGB frames of the kept size (PyAV).

Input comes from the internet: local regular files below the video root only, containers and codecs
by allow-list, caps on pixels, frames and seconds, and no clip that ended early passes for a whole
one. Whatever is wrong with a video is a ClipError with a reason in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from preprocess.clip_vectors import ClipVectors
from preprocess.completeness import Completeness
from preprocess.motion_vectors import CODECS as VECTOR_CODECS
from preprocess.motion_vectors import turn_upright
from preprocess.transcode import transcode
from preprocess.video_file import (
    ClipError,
    Clock,
    demuxed,
    find_video,
    opened,
    seek_before,
    video_stream,
)
from shared.errors import InputError
from shared.manifest import Clip

Frames = Iterator[tuple[float, av.VideoFrame]]  # seconds from the start of the stream, frame

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
        scratch: folder for copies of videos whose codec has none (preprocess/transcode.py); None:
            such a clip is refused.
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
        pts_seconds: f8 [T], presentation times from the start of the video's stream.
        rgb: u1 [T, H, W, 3], upright, of the kept size.
        source_size: width, height of the source in pixels, upright.
        is_last: whether the clip ends with it.
        vectors: flows of motion vectors, f4 [2, h, w] each, upright, pixels of the source per
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


def decode_clip(clip: Clip, video_root: Path, options: DecodeOptions) -> Iterator[FrameChunk]:
    """Decode every frame of a clip, in order, once.

    A clip with a span takes the frames with start <= time < stop (to a millisecond), decoded from
    the keyframe before; times count from the start of the video stream, as annotators' players do.
    One decoding thread: decoders run side by side as processes, and damaged files then decode the
    same from run to run.

    Raises:
        ClipError: anything that makes the clip unfit: see the module. Chunks handed out before it
            must be thrown away.
    """
    path = find_video(clip.video, video_root)
    progress: Completeness | None = None
    try:
        with _reading(clip, path, options) as (progress, frames, vectors):
            yield from _chunks(frames, vectors, options)
            shortfall = progress.shortfall()
            if shortfall:
                raise ClipError("decode", shortfall)
    except InputError as error:
        raise ClipError("decode", str(error)) from None
    except av.error.FFmpegError as error:
        where = f" after {progress.num_frames} frames" if progress else ""
        if isinstance(error, av.error.ArgumentError):  # what FFmpeg says of too many pixels
            where += f", or of more than {options.max_pixels} pixels a frame (--max-pixels)"
        raise ClipError("decode", f"damaged or not a video{where}: {error.strerror}") from None
    except (MemoryError, OverflowError, UnicodeError) as error:
        raise ClipError("decode", f"cannot be decoded: {error!r}") from None


@contextmanager
def _reading(
    clip: Clip, path: Path, options: DecodeOptions
) -> Iterator[tuple[Completeness, Frames, ClipVectors | None]]:
    """The frames of the clip, and where their motion vectors gather as they are read."""
    with _placed(clip, path, options) as video:
        _, stream, progress = video
        if not options.vectors:
            yield progress, _frames(*video, options, None), None
        elif stream.codec_context.name in VECTOR_CODECS or options.scratch is None:
            vectors = ClipVectors(stream)
            yield progress, _frames(*video, options, vectors), vectors
        else:
            copy = transcode(path, options.scratch, options.max_pixels)
            with _placed(clip, copy, options) as copied:
                vectors = ClipVectors(copied[1])
                others = _frames(*copied, options, vectors)
                yield progress, _beside(_frames(*video, options, None), others), vectors


def _beside(frames: Frames, others: Frames) -> Frames:
    """Read both, give the first: a video and its copy must have the same frames."""
    for frame, other in zip_longest(frames, others):
        if frame is None or other is None:
            raise ClipError("decode", "the copy re-encoded for motion vectors has other frames")
        yield frame


@contextmanager
def _placed(
    clip: Clip, path: Path, options: DecodeOptions
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream, Completeness]]:
    """The video, read up to the keyframe before the clip."""
    for from_the_start in (False, True):
        with opened(path, options.max_pixels) as container:
            stream = video_stream(container, options.max_pixels)
            progress = Completeness(clip, container, stream)
            _check_length(progress, stream, options)
            if from_the_start or progress.start == 0 or seek_before(container, stream, progress):
                yield container, stream, progress
                return


def _check_length(progress: Completeness, stream: av.VideoStream, options: DecodeOptions) -> None:
    """Refuse by what the header says, before any frame is decoded."""
    seconds = min(progress.stop, progress.duration or 0.0) - progress.start
    if seconds > options.max_seconds:
        raise ClipError(
            "decode",
            f"{seconds:.0f} s long; up to {options.max_seconds:g} s are allowed (--max-seconds)",
        )
    if progress.is_whole_video and stream.frames > options.max_frames:
        raise ClipError("decode", f"{stream.frames} frames; {_frames_allowed(options)}")


def _frames_allowed(options: DecodeOptions) -> str:
    return f"up to {options.max_frames} are allowed (--max-frames)"


def _frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    progress: Completeness,
    options: DecodeOptions,
    vectors: ClipVectors | None,
) -> Frames:
    """(seconds, frame) of the clip, in the order they are shown."""
    clock = Clock(container, progress)
    for packet in demuxed(container, stream):
        progress.saw_packet(packet)
        clock.saw_packet(packet)
        if vectors is not None:
            vectors.saw_packet(packet)
        for frame in packet.decode():
            seconds = clock.seconds(frame)
            is_shown = progress.saw_frame(seconds)
            if is_shown:
                yield seconds, frame
            if vectors is not None:
                vectors.saw_frame(frame, is_shown)
            if progress.num_frames > options.max_frames:
                raise ClipError("decode", f"more frames than announced; {_frames_allowed(options)}")
            if seconds - progress.start > options.max_seconds:
                raise ClipError("decode", f"longer than {options.max_seconds:g} s (--max-seconds)")
        if progress.is_past:
            break
    if vectors is not None:
        vectors.saw_end()


def _chunks(
    frames: Frames, vectors: ClipVectors | None, options: DecodeOptions
) -> Iterator[FrameChunk]:
    reformatter = VideoReformatter()
    rgb: list[np.ndarray] = []
    times: list[float] = []
    first_index = 0
    coded_size = upright_size = None
    quarter_turns = 0
    length = options.chunk_frames

    def chunk(is_last: bool) -> FrameChunk:
        ready = vectors.take() if vectors is not None else []
        upright = [turn_upright(flow, quarter_turns) for flow in ready]
        return FrameChunk(
            first_index, np.array(times), np.stack(rgb), upright_size, is_last, upright
        )

    for seconds, frame in frames:
        if coded_size is None:
            coded_size = (frame.width, frame.height)
            quarter_turns = round(frame.rotation / 90) % 4
            upright_size = coded_size[::-1] if quarter_turns % 2 else coded_size
            kept = _checked_kept_size(upright_size, options)
            length = min(length, max(2, options.chunk_bytes // (3 * kept[0] * kept[1])))
        if (frame.width, frame.height) != coded_size:
            raise ClipError(
                "decode",
                f"the frame size changes from {coded_size[0]}x{coded_size[1]} to "
                f"{frame.width}x{frame.height} at frame {first_index + len(rgb)}",
            )
        if len(rgb) == length:  # and another frame has come, so that this chunk is not the last
            yield chunk(is_last=False)
            first_index += len(rgb)
            rgb, times = [], []
        rgb.append(_upright_rgb(reformatter, frame, kept, quarter_turns))
        times.append(seconds)
    if rgb:
        yield chunk(is_last=True)


def _checked_kept_size(size: tuple[int, int], options: DecodeOptions) -> tuple[int, int]:
    width, height = size
    if min(size) < SMALLEST_SIDE:
        raise ClipError(
            "decode", f"frames of {width}x{height}; {SMALLEST_SIDE} px a side are the least"
        )
    kept = scaled_size(width, height, options.short_side)
    if max(kept) > LONGEST_KEPT_SIDE:
        raise ClipError("decode", f"frames of {width}x{height} are too long for a JPEG")
    return kept


def _upright_rgb(
    reformatter: VideoReformatter,
    frame: av.VideoFrame,
    kept: tuple[int, int],
    quarter_turns: int,
) -> np.ndarray:
    """Scale, convert and turn one frame: u1 [H, W, 3]."""
    width, height = kept[::-1] if quarter_turns % 2 else kept
    scaled = reformatter.reformat(
        frame, width=width, height=height, format="rgb24", interpolation=Interpolation.AREA
    )
    # Display rotation counts counterclockwise, as rot90 does.
    return np.ascontiguousarray(np.rot90(scaled.to_ndarray(), quarter_turns))
