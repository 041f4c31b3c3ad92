"""Decode a clip, or a span of a long video, into RGB frames (PyAV).

Videos come from the internet. Therefore only local regular files below the video root are opened,
containers and codecs must be on a list, pixels, frames and seconds are limited, and a clip that
ends early is refused. Every problem of a video is a ClipError with its code and reason.
preprocess/video/spans.py decodes several spans of one video in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av

from preprocess.video.clip_vectors import ClipVectors
from preprocess.video.completeness import Completeness
from preprocess.video.demuxer import Demuxer
from preprocess.video.errors import ClipError, LandedLateError
from preprocess.video.frame_chunks import STEP_FRAMES, Chunker, DecodeOptions, FrameChunk, Scaler
from preprocess.video.frame_folder import decode_frame_folder
from preprocess.video.limits import refuse_too_long, refuse_too_many
from preprocess.video.motion_vectors import CODECS as VECTOR_CODECS
from preprocess.video.orientation import Orientation
from preprocess.video.remarks import LATE, Remark, remarks_on
from preprocess.video.seeking import Clock, check_landing, first_orientation, seek_before
from preprocess.video.transcode import transcode_in_steps
from preprocess.video.video_file import find_video, open_video, picture_start_of, video_stream
from shared.errors import InputError
from shared.manifest import Clip

TimedFrame = tuple[float, av.VideoFrame]  # seconds from the start of the picture, frame
Frames = Iterator[TimedFrame | None]  # None: no frame of the clip has come for STEP_FRAMES frames


@dataclass
class OpenedVideo:
    """A video whose next packet is a keyframe before a clip, or the first packet of the file.

    Attributes:
        container: the file, opened by PyAV.
        stream: the stream of the picture.
        progress: counts the frames of the clip.
        orientation: orientation of all frames of the video; None until the first one is decoded.
    """

    container: av.container.InputContainer
    stream: av.VideoStream
    progress: Completeness
    orientation: Orientation | None


@dataclass
class Tally:
    """Counts and remarks from decoding, including clips that fail.

    Attributes:
        num_frames: number of decoded frames, including frames that no clip keeps.
        remarks: (video, remark) for each video that was opened.
    """

    num_frames: int = 0
    remarks: list[tuple[str, Remark]] = field(default_factory=list)


def decode_clip(
    clip: Clip, video_root: Path, options: DecodeOptions, tally: Tally | None = None
) -> Iterator[FrameChunk]:
    """Decode every frame of a clip, in order, once.

    A clip with a span takes the frames with start <= time < stop (to a millisecond), decoded from
    the keyframe before. The span counts from the start of the file, as annotators' players do; the
    times of the frames count from the first picture.
    A folder of frames is read as preprocess/video/frame_folder.py says.
    One decoding thread: decoders run side by side as processes, and damaged files then decode the
    same from run to run.

    Raises:
        ClipError: the clip cannot be used (see the module). The caller must discard the chunks
            that were yielded before.
    """
    for chunk in decode_steps(clip, video_root, options, tally):
        if chunk is not None:
            yield chunk


def decode_steps(
    clip: Clip, video_root: Path, options: DecodeOptions, tally: Tally | None = None
) -> Iterator[FrameChunk | None]:
    """Decode a clip as `decode_clip` does, and also yield None while there is no chunk for long.

    That is the case before a span late in a file that must be read from its start, and while a long
    video is transcoded. A caller that is watched, as decoders are, so shows that it has not hung.

    Raises:
        ClipError: see `decode_clip`.
    """
    tally = tally or Tally()
    if clip.is_frame_folder:
        for chunk in decode_frame_folder(clip, video_root, options):
            tally.num_frames += len(chunk.rgb)
            yield chunk
        return
    path = find_video(clip.video, video_root)
    try:
        yield from _chunks(clip, path, options, tally, from_the_start=False)
    except LandedLateError:  # before the first chunk
        yield from _chunks(clip, path, options, tally, from_the_start=True)


def _chunks(
    clip: Clip, path: Path, options: DecodeOptions, tally: Tally, from_the_start: bool
) -> Iterator[FrameChunk | None]:
    progress: Completeness | None = None
    try:
        with ExitStack() as opened:
            video = opened.enter_context(open_at_span(clip, path, options, from_the_start))
            progress = video.progress
            note_remarks(clip, video, tally)
            frames, vectors = yield from _frames_and_vectors(
                clip, path, video, options, tally, from_the_start, opened
            )
            chunker, scaler = Chunker(options, vectors), Scaler(options.short_side)
            for timed in frames:
                if timed is None:
                    yield None
                    continue
                seconds, frame = timed
                full = chunker.add(seconds, scaler.picture(frame, orientation_of(video, frame)))
                if full is not None:
                    yield full
            last = chunker.finish()
            if last is not None:
                yield last
            error = progress.error()
            if error is not None:
                raise error
    except InputError as error:
        raise ClipError(error.code, str(error)) from None
    except av.error.FFmpegError as error:
        where = f" after {progress.num_frames} frames" if progress else ""
        if isinstance(error, av.error.ArgumentError):  # FFmpeg raises it for too many pixels
            where += f", or of more than {options.max_pixels} pixels a frame (--max-pixels)"
        raise ClipError(
            "damaged-file", f"damaged or not a video{where}: {error.strerror}"
        ) from None
    except (MemoryError, OverflowError, UnicodeError) as error:
        raise ClipError("damaged-file", f"cannot be decoded: {error!r}") from None


def _frames_and_vectors(
    clip: Clip,
    path: Path,
    video: OpenedVideo,
    options: DecodeOptions,
    tally: Tally,
    from_the_start: bool,
    opened: ExitStack,
) -> Generator[None, None, tuple[Frames, ClipVectors | None]]:
    """The frames of the clip, and the object that collects their motion vectors.

    It yields None while the video is transcoded. The copy is closed with `opened`.
    """
    if not options.vectors:
        return _frames(video, options, None, tally), None
    if video.stream.codec_context.name in VECTOR_CODECS or options.scratch is None:
        vectors = ClipVectors(video.stream)
        return _frames(video, options, vectors, tally), vectors
    copy = yield from transcode_in_steps(path, options.scratch, options.max_pixels)
    late = picture_start_of(video.container, video.stream)  # the copy has no sound
    copied = opened.enter_context(open_at_span(clip, copy, options, from_the_start, late))
    vectors = ClipVectors(copied.stream)
    others = _frames(copied, options, vectors, Tally())
    return _matching(_frames(video, options, None, tally), others), vectors


def note_remarks(clip: Clip, video: OpenedVideo, tally: Tally) -> None:
    """Note what a user should know about a video; a late picture matters only to spans."""
    for remark in remarks_on(video.container):
        if remark.code != LATE or not video.progress.is_whole_video:
            tally.remarks.append((clip.video, remark))


def _matching(frames: Frames, others: Frames) -> Frames:
    """Read a video and its copy, and yield frames of the video: both must have the same frames."""
    while True:
        frame = yield from _next_frame(frames)
        other = yield from _next_frame(others)
        if frame is None and other is None:
            return
        if frame is None or other is None:
            raise ClipError(
                "damaged-file", "the copy re-encoded for motion vectors has other frames"
            )
        yield frame


def _next_frame(frames: Frames) -> Generator[None, None, TimedFrame | None]:
    """The next frame of the clip, None at its end; yields None where it takes long to come."""
    for frame in frames:
        if frame is not None:
            return frame
        yield None
    return None


@contextmanager
def open_at_span(
    clip: Clip,
    path: Path,
    options: DecodeOptions,
    from_the_start: bool,
    picture_start: float | None = None,
) -> Iterator[OpenedVideo]:
    """Open the video, with the reader at the keyframe before the clip or at the start of the file.

    Args:
        picture_start: when the picture starts, in seconds on the clock of the span; None = as the
            file states it.

    Raises:
        ClipError: the video must not be opened, or the clip is longer than the options allow.
        LandedLateError: no keyframe before the clip can be reached by a seek.
    """
    with open_video(path, options.max_pixels) as container:
        stream = video_stream(container, options.max_pixels)
        if picture_start is None:
            picture_start = picture_start_of(container, stream)
        progress = Completeness(clip, container, stream, picture_start)
        check_length(progress, stream, options)
        if from_the_start or progress.start <= 0:
            yield OpenedVideo(container, stream, progress, None)
            return
        if not seek_before(container, stream, progress):
            raise LandedLateError
        yield OpenedVideo(container, stream, progress, first_orientation(path, options.max_pixels))


def orientation_of(video: OpenedVideo, frame: av.VideoFrame) -> Orientation:
    """The orientation of all frames of a video, given the first frame that is decoded."""
    if video.orientation is None:
        video.orientation = Orientation.of(frame)
    return video.orientation


def check_length(progress: Completeness, stream: av.VideoStream, options: DecodeOptions) -> None:
    """Refuse a clip that is too long according to the header, before any frame is decoded.

    Raises:
        ClipError: the clip has more seconds or frames than the options allow.
    """
    seconds = min(progress.stop, progress.duration or 0.0) - max(progress.start, 0.0)
    refuse_too_long(seconds, options)
    if progress.is_whole_video:
        refuse_too_many(stream.frames, options)


def _frames(
    video: OpenedVideo, options: DecodeOptions, vectors: ClipVectors | None, tally: Tally
) -> Frames:
    """Yield (seconds, frame) for the frames of the clip, in the order in which they are shown.

    It yields None once in STEP_FRAMES frames while frames do not belong to the clip.
    """
    progress = video.progress
    clock = Clock(video.container, video.stream, progress)
    num_before = tally.num_frames
    demuxer = Demuxer(video.container, video.stream)
    for packet in demuxer:
        progress.saw_packet(packet, demuxer)
        clock.saw_packet(packet)
        if vectors is not None:
            vectors.saw_packet(packet)
        for frame in packet.decode():
            seconds = clock.seconds(frame)
            if tally.num_frames == num_before:
                check_landing(progress, seconds)
            tally.num_frames += 1
            orientation_of(video, frame)
            is_shown = progress.saw_frame(seconds, frame)
            if is_shown:  # a frame after the span does not make it longer
                check_caps(progress, seconds, options)
                yield seconds, frame
            if vectors is not None:
                vectors.saw_frame(frame, is_shown)
            if not is_shown and tally.num_frames % STEP_FRAMES == 0:
                yield None
        if progress.is_past:
            break
    if tally.num_frames == num_before:
        check_landing(progress, math.inf)
    if vectors is not None:
        vectors.saw_end()


def check_caps(progress: Completeness, seconds: float, options: DecodeOptions) -> None:
    """Refuse a clip that turns out to be too long, whatever the header says.

    Args:
        seconds: time of the last frame, in seconds from the start of the picture.

    Raises:
        ClipError: the clip has more seconds or frames than the options allow.
    """
    refuse_too_many(progress.num_frames, options, "more frames than announced")
    if seconds - max(progress.start, 0.0) > options.max_seconds:
        raise ClipError("out-of-range", f"longer than {options.max_seconds:g} s (--max-seconds)")
