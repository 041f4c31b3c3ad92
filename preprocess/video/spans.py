"""Decode several spans of one long video in one pass, so that shared frames are decoded once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocess.video.completeness import TIME_TOLERANCE, Completeness
from preprocess.video.containers import traits_of
from preprocess.video.decode import (
    OpenedVideo,
    Tally,
    TimedFrame,
    check_caps,
    check_length,
    decode_steps,
    note_remarks,
    open_at_span,
    orientation_of,
)
from preprocess.video.demuxer import Demuxer
from preprocess.video.errors import ClipError, LandedLateError
from preprocess.video.frame_chunks import (
    STEP_FRAMES,
    Chunker,
    DecodeOptions,
    FrameChunk,
    Picture,
    Scaler,
)
from preprocess.video.seeking import check_landing
from preprocess.video.video_file import find_video, picture_start_of
from shared.manifest import Clip

Step = tuple[int, FrameChunk | ClipError | None] | None


@dataclass
class _Span:
    """One of the clips that are decoded together.

    Attributes:
        index: index of the clip among those that are decoded together.
        progress: counts the frames of the clip.
        chunker: collects the pictures of the clip.
    """

    index: int
    progress: Completeness
    chunker: Chunker


def decode_together(
    clips: Sequence[Clip], video_root: Path, options: DecodeOptions, tally: Tally
) -> Iterator[Step]:
    """Decode clips of one video in one pass, from the keyframe before the first to the last stop.

    A frame that several clips share is decoded and scaled once. Each clip has the frames that
    `decode_clip` gives. If that is in doubt, an error is raised, and the caller decodes each clip
    alone.

    Args:
        clips: sorted by start, without gaps between their spans.

    Yields:
        (index of the clip, chunk), and at the end of each clip (index, None) or (index, error).
        None stands for STEP_FRAMES frames that belong to no clip, as before a late first span.

    Raises:
        Exception: anything stops the pass. Clips that have not ended must be decoded alone.
    """
    assert not options.vectors, "vectors depend on the keyframe at which decoding starts"
    if clips[0].is_frame_folder:  # its frames are files, which are read in any order
        yield from _one_by_one(clips, video_root, options, tally)
        return
    try:
        yield from _together(clips, video_root, options, tally, from_the_start=False)
    except LandedLateError:  # before the first step
        yield from _together(clips, video_root, options, tally, from_the_start=True)


def _one_by_one(
    clips: Sequence[Clip], video_root: Path, options: DecodeOptions, tally: Tally
) -> Iterator[Step]:
    for index, clip in enumerate(clips):
        try:
            for chunk in decode_steps(clip, video_root, options, tally):
                yield None if chunk is None else (index, chunk)
            yield index, None
        except ClipError as error:
            yield index, error


def _together(
    clips: Sequence[Clip],
    video_root: Path,
    options: DecodeOptions,
    tally: Tally,
    from_the_start: bool,
) -> Iterator[Step]:
    path = find_video(clips[0].video, video_root)
    with open_at_span(clips[0], path, options, from_the_start) as video:
        note_remarks(clips[0], video, tally)
        if not traits_of(video.container).has_frame_times:
            raise ClipError(
                "not-supported", "AVI has no presentation times, which tell clips apart"
            )
        waiting: deque[_Span] = deque()
        unfit: list[Step] = []
        picture_start = picture_start_of(video.container, video.stream)
        for index, clip in enumerate(clips):
            progress = Completeness(clip, video.container, video.stream, picture_start)
            try:
                check_length(progress, video.stream, options)
                waiting.append(_Span(index, progress, Chunker(options)))
            except ClipError as error:
                unfit.append((index, error))
        yield from _shared_pass(video, waiting, options, tally)
        yield from unfit


def _shared_pass(
    video: OpenedVideo, waiting: deque[_Span], options: DecodeOptions, tally: Tally
) -> Iterator[Step]:
    first = video.progress
    scaler = Scaler(options.short_side)
    running: list[_Span] = []
    last: TimedFrame | None = None
    demuxer = Demuxer(video.container, video.stream)
    for packet in demuxer:
        if packet.size or packet.dts is not None:  # the packet at the end flushes the decoder
            running += _starting(waiting, first.seconds(_known(packet.pts)), last)
        for span in running:
            span.progress.saw_packet(packet, demuxer)
        for frame in packet.decode():
            tally.num_frames += 1
            seconds = first.seconds(_known(frame.pts))
            if last is None:
                check_landing(first, seconds)
            last = seconds, frame
            orientation = orientation_of(video, frame)
            shown = [span for span in running if span.progress.saw_frame(seconds, frame)]
            if shown:
                yield from _add(shown, seconds, scaler.picture(frame, orientation), options)
            if not shown and tally.num_frames % STEP_FRAMES == 0:
                yield None
            for span in [span for span in running if span.progress.is_past]:
                running.remove(span)
                yield from _end_of(span)
        if not waiting and not running:
            return
    if last is None:
        check_landing(first, math.inf)
    for span in [*running, *waiting]:
        yield from _end_of(span)


def _starting(waiting: deque[_Span], seconds: float, last: TimedFrame | None) -> Iterator[_Span]:
    """Take the spans from `waiting` that start at or before the time of a packet.

    Packets come before their frames, and never after a frame that is shown later.
    """
    while waiting and waiting[0].progress.start - TIME_TOLERANCE <= seconds:
        span = waiting.popleft()
        if last is not None:
            span.progress.saw_frame(*last)
        yield span


def _add(
    shown: list[_Span], seconds: float, picture: Picture, options: DecodeOptions
) -> Iterator[Step]:
    """Add a picture to the spans that show it; yields the chunks that become full."""
    for span in shown:
        check_caps(span.progress, seconds, options)
        full = span.chunker.add(seconds, picture)
        if full is not None:
            yield span.index, full


def _known(pts: int | None) -> int:
    if pts is None:
        raise ClipError(
            "not-supported", "packets without presentation times, which tell clips apart"
        )
    return pts


def _end_of(span: _Span) -> Iterator[Step]:
    last = span.chunker.finish()
    if last is not None:
        yield span.index, last
    yield span.index, span.progress.error()
