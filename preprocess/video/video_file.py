"""Open a video from the internet and read its packets: what is let in, and how damage is told.

Local regular files below the video root only, containers and codecs by allow-list, sound never
decoded. Whatever is wrong is a ClipError with a reason in words.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from preprocess.video.completeness import TIME_TOLERANCE, Completeness, kind_of
from shared.errors import InputError
from shared.manifest import check_relative_path

FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf"  # demuxers of FFmpeg
CODECS = (  # decoders of FFmpeg
    "h264,hevc,vp8,libvpx,vp9,libvpx-vp9,libdav1d,av1,mpeg4,mpeg2video,mpeg1video,mjpeg,"
    "msmpeg4,msmpeg4v2,msmpeg4v1,wmv1,wmv2,wmv3,vc1,h263,flv,ffv1"
)
# After a seek AVI does not tell how far its frames are shown after their decoding times, nor a
# program stream when those are shown that have no time of their own.
READ_FROM_THE_START = ("avi", "mpeg")
# Where only the packets of all streams together tell whether the file is whole (demuxer.py).
READ_WITH_SOUND = ("matroska", "flv", "avi")
HARMLESS_COMPLAINTS = ("Referenced QT chapter track not found",)  # of cuts that left it out


class ClipError(Exception):
    """One clip cannot be used; the run goes on without it.

    Attributes:
        stage: "decode" or "flow".
        reason: in words, for `failures.jsonl`.
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(stage, reason)  # both, so that it survives pickling
        self.stage = stage
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.stage}: {self.reason}"


class LandedLateError(Exception):
    """Decoding after a seek gives no frame at the start of the span: read from the file's start."""


def find_video(video: str, video_root: Path) -> Path:
    """The resolved path of a clip's video.

    Raises:
        ClipError: no such file, not a regular file (a FIFO, a device, a folder), or the path or a
            link in it leads out of the video root.
    """
    try:
        check_relative_path(video)
        root = Path(video_root).resolve()
        path = (root / video).resolve(strict=True)
        mode = path.stat().st_mode
    except InputError as error:
        raise ClipError("decode", str(error)) from None
    except FileNotFoundError:
        raise ClipError("decode", f"no file {video} below the video root") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise ClipError("decode", f"{video} cannot be opened: {error}") from None
    if not path.is_relative_to(root):
        raise ClipError("decode", f"{video} is a link that leads out of the video root")
    if not stat.S_ISREG(mode):
        raise ClipError("decode", f"{video} is not a regular file")
    return path


@contextmanager
def opened(path: Path, max_pixels: int) -> Iterator[av.container.InputContainer]:
    """Open a file found by `find_video`.

    Raises:
        av.error.FFmpegError: not a container that is allowed.
        ClipError: damage in its header.
    """
    with complaints() as found:
        container = av.open(
            str(path),  # absolute, so that no part of a name is taken for a protocol
            mode="r",
            metadata_errors="ignore",  # AVI files of HMDB51 carry Latin-1
            options={"max_pixels": str(max_pixels)},  # also while probing
            container_options={
                "protocol_whitelist": "file",
                "format_whitelist": FORMATS,
                "codec_whitelist": CODECS,  # so audio and subtitles are not even probed
                "max_streams": "64",
            },
        )
    try:
        if found:
            raise ClipError("decode", found[0])
        yield container
    finally:
        container.close()


@contextmanager
def complaints() -> Iterator[list[str]]:
    """Gather what demuxers only log as errors, in words.

    A demuxer that meets damage skips to where it finds its way again: Matroska files lose seconds
    without any other sign.
    """
    found: list[str] = []
    # Else a repeated message is held back and comes with that of the next file.
    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as logged:
            yield found
    finally:
        av.logging.set_level(None)  # PyAV's default; what decoders log is noise
    for _, who, message in logged:
        is_harmless = message.startswith(HARMLESS_COMPLAINTS)
        if set(who.split(",")) & set(FORMATS.split(",")) and not is_harmless:
            found.append(f"damaged container: {message.strip()}")


def first_video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is no cover picture.

    Raises:
        ClipError: there is none, or its codec is not allowed.
    """
    covers = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & covers]
    if not streams:
        raise ClipError("decode", "no video stream")
    stream = streams[0]
    codec = stream.codec_context
    if codec is None or codec.name not in CODECS.split(","):
        name = codec.name if codec is not None else "unknown"
        raise ClipError("decode", f"codec {name} is not among those allowed ({CODECS})")
    return stream


def video_stream(container: av.container.InputContainer, max_pixels: int) -> av.VideoStream:
    """The stream that is looked at, set up to be decoded alone, by one thread.

    Raises:
        ClipError: there is none, its codec is not allowed, or its frames are too large.
    """
    stream = first_video_stream(container)
    codec = stream.codec_context
    if kind_of(container) not in READ_WITH_SOUND:
        for other in container.streams:
            if other.index != stream.index:
                other.discard = av.stream.Discard.all
    codec.thread_count = 1
    codec.options = {"max_pixels": str(max_pixels)}
    pixels = codec.width * codec.height
    if pixels > max_pixels:
        raise ClipError(
            "decode",
            f"frames of {codec.width}x{codec.height} have {pixels} pixels; "
            f"up to {max_pixels} are allowed (--max-pixels)",
        )
    return stream


def seek_before(
    container: av.container.InputContainer, stream: av.VideoStream, progress: Completeness
) -> bool:
    """Place the reader where a keyframe comes that is shown at or before the start of the span.

    Some containers seek by decoding times, or to any frame, and land too late; then further back is
    tried. False where none of that helped, and where frames have other times after a seek: the file
    is to be opened anew and read from its start.
    """
    if kind_of(container) in READ_FROM_THE_START:
        return False
    for back in (0.0, 1.0, 4.0, 16.0, 64.0):
        target = progress.start - back
        if target <= 0:
            return False
        offset = math.floor(target / stream.time_base) + (stream.start_time or 0)
        try:
            container.seek(offset, stream=stream, backward=True)
            if _first_shown(container, stream, progress) <= progress.start + TIME_TOLERANCE:
                container.seek(offset, stream=stream, backward=True)
                progress.has_sought = True
                return True
        except av.error.FFmpegError:
            return False  # no index
    return False


def _first_shown(
    container: av.container.InputContainer, stream: av.VideoStream, progress: Completeness
) -> float:
    """When the first keyframe after a seek is shown; infinite where there is none."""
    for packet in container.demux(stream):
        if packet.is_keyframe and packet.pts is not None:
            return progress.seconds(packet.pts)
    return math.inf


def check_landing(progress: Completeness, first_seconds: float) -> None:
    """Hold the time of the first frame, infinite where none came, against the start of the span.

    A decoder may keep back frames after a keyframe that is none by itself: H.264 with intra refresh
    marks one from which the picture becomes whole bit by bit.

    Raises:
        LandedLateError: frames of the span may have been lost.
    """
    if progress.has_sought and first_seconds > progress.start + TIME_TOLERANCE:
        raise LandedLateError


class Clock:
    """When a frame is shown, in seconds from the start of the stream.

    AVI has decoding times only, and what FFmpeg makes of them is out of order with B-frames. Frames
    come out in the order they are shown, so the first one gets the decoding time of the first
    packet, and those after it keep their distances: that holds from the start of the file.
    """

    def __init__(self, container: av.container.InputContainer, progress: Completeness) -> None:
        self._progress = progress
        self._has_presentation_times = kind_of(container) != "avi"
        self._first_packet: float | None = None
        self._first_frame: float | None = None
        self._last = -progress.frame_seconds

    def saw_packet(self, packet: av.Packet) -> None:
        if self._first_packet is None and packet.dts is not None:
            self._first_packet = self._progress.seconds(packet.dts)

    def seconds(self, frame: av.VideoFrame) -> float:
        if frame.pts is not None and self._has_presentation_times:
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
