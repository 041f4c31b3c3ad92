"""Seek to a keyframe before a span, check where decoding starts, and find the times of frames."""

from __future__ import annotations

import functools
import math
from collections import deque
from pathlib import Path

import av

from preprocess.video.completeness import TIME_TOLERANCE, Completeness
from preprocess.video.containers import traits_of
from preprocess.video.errors import ClipError, LandedLateError
from preprocess.video.orientation import Orientation
from preprocess.video.video_file import open_video, time_base_of, video_stream

CODECS_WITH_ORIENTATION = ("h264", "hevc")  # their streams state how a picture is turned
SECONDS_BACK = (0.0, 1.0, 4.0, 16.0, 64.0)  # tried one after another if a seek lands too late


def seek_before(
    container: av.container.InputContainer, stream: av.VideoStream, progress: Completeness
) -> bool:
    """Place the reader at a keyframe that is shown at or before the start of the span.

    Some containers seek by decoding times, or to any frame, and land too late. Then a place further
    back is tried.

    Returns:
        False if no seek helps, or if frames have other times after a seek: the file must then be
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
    """When the first keyframe after a seek is shown; infinite if there is none."""
    for packet in container.demux(stream):
        if packet.is_keyframe and packet.pts is not None:
            return progress.seconds(packet.pts)
    return math.inf


def first_orientation(path: Path, max_pixels: int) -> Orientation | None:
    """How the first keyframe of a file is turned, for a clip that is read from its middle.

    H.264 and HEVC state it in messages between frames (SEI), and some encoders write only one. None
    for another codec, for which the container states it, or if no frame can be decoded.
    """
    state = path.stat()
    return _first_orientation(path, max_pixels, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=16)  # clips of one video are decoded one after another
def _first_orientation(path: Path, max_pixels: int, *_state: int) -> Orientation | None:
    try:
        with open_video(path, max_pixels) as container:
            stream = video_stream(container, max_pixels)
            if stream.codec_context.name not in CODECS_WITH_ORIENTATION:
                return None
            packet = next(packet for packet in container.demux(stream) if packet.is_keyframe)
            frames = [*packet.decode(), *stream.codec_context.decode(None)]
            return Orientation.of(frames[0]) if frames else None
    except (av.error.FFmpegError, ClipError, StopIteration):
        return None


def check_landing(progress: Completeness, first_seconds: float) -> None:
    """Compare the time of the first frame, infinite if none came, with the start of the span.

    A decoder may drop frames after a keyframe that is not complete by itself: H.264 with intra
    refresh marks a frame from which the picture becomes complete step by step.

    Raises:
        LandedLateError: frames of the span may have been lost.
    """
    if progress.has_sought and first_seconds > progress.start + TIME_TOLERANCE:
        raise LandedLateError


class Clock:
    """When a frame is shown, in seconds from the start of the picture.

    AVI has only decoding times, and the times that FFmpeg derives from them are out of order with
    B-frames. Frames come in the order in which they are shown, and reading starts at the start of
    the file:

    - Each packet of H.264 and HEVC gives one frame. The first frame is therefore shown at the
      decoding time of the first packet, the second one at that of the second packet, and so on. The
      decoder may increase its delay meanwhile.
    - A packet of another codec may give no frame. Decoders of these codecs have a fixed delay: the
      first frame is shown at the decoding time of the first packet, and later frames keep their
      distances.
    """

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        progress: Completeness,
    ) -> None:
        self._progress = progress
        self._has_frame_times = traits_of(container).has_frame_times
        self._gives_all_frames = stream.codec_context.name in ("h264", "hevc")
        self._waiting: deque[float] = deque()  # decoding times of packets without a frame yet
        self._first_packet: float | None = None
        self._last_packet = -math.inf
        self._first_frame: float | None = None
        self._last = -progress.frame_seconds

    def saw_packet(self, packet: av.Packet) -> None:
        """Note a packet that is about to be decoded."""
        if self._has_frame_times or packet.dts is None:
            return
        self._last_packet = self._progress.seconds(packet.dts)
        if self._first_packet is None:
            self._first_packet = self._last_packet
        if self._gives_all_frames:
            self._waiting.append(self._last_packet)

    def seconds(self, frame: av.VideoFrame) -> float:
        """When the next frame of the decoder is shown."""
        self._last = self._next(frame)
        return self._last

    def _next(self, frame: av.VideoFrame) -> float:
        if frame.pts is not None and self._has_frame_times:
            return self._progress.seconds(frame.pts)
        if self._waiting:
            return self._waiting.popleft()
        if frame.dts is None or self._first_packet is None:  # at the end, or a stream without times
            step = self._progress.frame_seconds
            unshown = self._progress.num_undecodable * step  # their times are given to others
            return max(self._last + step, self._last_packet - unshown)
        decoded = self._progress.seconds(frame.dts)
        if self._first_frame is None:
            self._first_frame = decoded
        return self._first_packet + decoded - self._first_frame
