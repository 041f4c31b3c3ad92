"""Seek to a keyframe before a span, check where decoding began, and time the frames."""

from __future__ import annotations

import math

import av

from preprocess.video.completeness import TIME_TOLERANCE, Completeness
from preprocess.video.containers import traits_of
from preprocess.video.errors import LandedLateError
from preprocess.video.video_file import time_base_of

SECONDS_BACK = (0.0, 1.0, 4.0, 16.0, 64.0)  # tried in turn, where a seek lands too late


def seek_before(
    container: av.container.InputContainer, stream: av.VideoStream, progress: Completeness
) -> bool:
    """Place the reader at a keyframe that is shown at or before the start of the span.

    Some containers seek by decoding times, or to any frame, and land too late; then a place further
    back is tried.

    Returns:
        False where no seek helps, or where frames have other times after a seek: the file must be
        opened again and read from its start.
    """
    if not traits_of(container).can_seek:
        return False
    for back in SECONDS_BACK:
        target = progress.start - back
        if target <= 0:
            return False
        offset = math.floor(target / time_base_of(stream)) + (stream.start_time or 0)
        try:
            container.seek(offset, stream=stream, backward=True)
            if _first_keyframe_seconds(container, stream, progress) <= (
                progress.start + TIME_TOLERANCE
            ):
                container.seek(offset, stream=stream, backward=True)
                progress.has_sought = True
                return True
        except av.error.FFmpegError:
            return False  # no index
    return False


def _first_keyframe_seconds(
    container: av.container.InputContainer, stream: av.VideoStream, progress: Completeness
) -> float:
    """When the first keyframe after a seek is shown; infinite where there is none."""
    for packet in container.demux(stream):
        if packet.is_keyframe and packet.pts is not None:
            return progress.seconds(packet.pts)
    return math.inf


def check_landing(progress: Completeness, first_seconds: float) -> None:
    """Compare the time of the first frame, infinite where none came, with the start of the span.

    A decoder may keep back frames after a keyframe that is not complete by itself: H.264 with intra
    refresh marks one from which the picture becomes whole bit by bit.

    Raises:
        LandedLateError: frames of the span may have been lost.
    """
    if progress.has_sought and first_seconds > progress.start + TIME_TOLERANCE:
        raise LandedLateError


class Clock:
    """When a frame is shown, in seconds from the start of the stream.

    AVI has decoding times only, and what FFmpeg derives from them is out of order with B-frames.
    Frames come out in the order they are shown, so the first one gets the decoding time of the
    first packet, and those after it keep their distances: that holds from the start of the file.
    """

    def __init__(self, container: av.container.InputContainer, progress: Completeness) -> None:
        self._progress = progress
        self._has_frame_times = traits_of(container).has_frame_times
        self._first_packet: float | None = None
        self._first_frame: float | None = None
        self._last = -progress.frame_seconds

    def saw_packet(self, packet: av.Packet) -> None:
        """Note a packet that is about to be decoded."""
        if self._first_packet is None and packet.dts is not None:
            self._first_packet = self._progress.seconds(packet.dts)

    def seconds(self, frame: av.VideoFrame) -> float:
        """When the next frame of the decoder is shown."""
        if frame.pts is not None and self._has_frame_times:
            self._last = self._progress.seconds(frame.pts)
            return self._last
        if frame.dts is None or self._first_packet is None:  # at the end, or a stream without times
            self._last += self._progress.frame_seconds
            return self._last
        decoded = self._progress.seconds(frame.dts)
        if self._first_frame is None:
            self._first_frame = decoded
        self._last = self._first_packet + decoded - self._first_frame
        return self._last
