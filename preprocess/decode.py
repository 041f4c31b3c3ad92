"""Decode a clip, or a span of a long video, into RGB frames of the kept size (PyAV).

Input comes from the internet: local regular files below the video root only, containers and codecs
by allow-list, caps on pixels, frames and seconds, and no clip that ended early passes for a whole
one. Whatever is wrong with a video is a ClipError with a reason in words.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from shared.errors import InputError
from shared.manifest import Clip, check_relative_path

SMALLEST_SIDE = 16  # pixels; TV-L1 needs that much, and a patch is as large
LONGEST_KEPT_SIDE = 65_500  # pixels; a JPEG cannot be longer
TIME_TOLERANCE = 1e-3  # seconds; manifests give three decimals, presentation times are exact

FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf"  # demuxers of FFmpeg
CODECS = (  # decoders of FFmpeg
    "h264,hevc,vp8,libvpx,vp9,libvpx-vp9,libdav1d,av1,mpeg4,mpeg2video,mpeg1video,mjpeg,"
    "msmpeg4,msmpeg4v2,msmpeg4v1,wmv1,wmv2,wmv3,vc1,h263,flv,ffv1"
)


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
    """

    short_side: int = 256
    max_pixels: int = 8192 * 4320
    max_frames: int = 216_000  # an hour at 60 frames/s
    max_seconds: float = 3600.0
    chunk_frames: int = 64
    chunk_bytes: int = 32 << 20


@dataclass(frozen=True)
class FrameChunk:
    """Consecutive frames of a clip.

    Attributes:
        first_index: number of the first frame, counted from 0 in the clip.
        pts_seconds: f8 [T], presentation times from the start of the video's stream.
        rgb: u1 [T, H, W, 3], upright, of the kept size.
        source_size: width, height of the source in pixels, upright.
    """

    first_index: int
    pts_seconds: np.ndarray
    rgb: np.ndarray
    source_size: tuple[int, int]


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
    count = 0
    try:
        with _opened(path, options) as container:
            stream = _video_stream(container, options)
            progress = _Progress(clip, container, stream)
            _check_length(progress, options)
            for chunk in _chunks(_frames(container, stream, progress), options):
                count += len(chunk.rgb)
                if count > options.max_frames:
                    raise ClipError("decode", f"more than {options.max_frames} frames (the cap)")
                yield chunk
            progress.check_complete(count)
    except av.error.FFmpegError as error:
        where = f" after {count} frames" if count else ""
        raise ClipError("decode", f"damaged or not a video{where}: {error.strerror}") from None
    except (MemoryError, OverflowError, UnicodeError) as error:
        raise ClipError("decode", f"cannot be decoded: {error!r}") from None


@contextmanager
def _opened(path: Path, options: DecodeOptions) -> Iterator[av.container.InputContainer]:
    container = av.open(
        str(path),  # absolute, so that no part of a name is taken for a protocol
        mode="r",
        metadata_errors="ignore",  # AVI files of HMDB51 carry Latin-1
        options={"max_pixels": str(options.max_pixels)},  # also while probing
        container_options={
            "protocol_whitelist": "file",
            "format_whitelist": FORMATS,
            "codec_whitelist": CODECS,  # so audio and subtitles are not even probed
            "max_streams": "64",
        },
    )
    try:
        yield container
    finally:
        container.close()


def _video_stream(
    container: av.container.InputContainer, options: DecodeOptions
) -> av.VideoStream:
    covers = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & covers]
    if not streams:
        raise ClipError("decode", "no video stream")
    stream = streams[0]
    codec = stream.codec_context
    if codec is None or codec.name not in CODECS.split(","):
        name = codec.name if codec is not None else "unknown"
        raise ClipError("decode", f"codec {name} is not among those allowed ({CODECS})")
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all
    codec.thread_count = 1
    codec.options = {"max_pixels": str(options.max_pixels)}
    pixels = codec.width * codec.height
    if pixels > options.max_pixels:
        raise ClipError(
            "decode",
            f"frames of {codec.width}x{codec.height} have {pixels} pixels; "
            f"up to {options.max_pixels} are allowed (--max-pixels)",
        )
    return stream


@dataclass
class _Progress:
    """What the container promises of a clip, and what came."""

    clip: Clip
    container: av.container.InputContainer
    stream: av.VideoStream
    num_packets: int = 0
    num_discarded: int = 0
    end_seconds: float = 0.0
    reached_stop: bool = False
    frame_seconds: float = field(init=False)
    duration: float | None = field(init=False)
    tolerance: float = field(init=False)

    def __post_init__(self) -> None:
        rate = self.stream.average_rate or self.stream.guessed_rate
        self.frame_seconds = float(1 / rate) if rate else 0.04
        self.duration, self.tolerance = self._duration()

    @property
    def start(self) -> float | None:
        return self.clip.start_seconds or None

    @property
    def stop(self) -> float:
        stop = self.clip.stop_seconds
        return math.inf if stop is None else stop

    @property
    def is_whole_video(self) -> bool:
        return self.start is None and self.clip.stop_seconds is None

    def _duration(self) -> tuple[float | None, float]:
        """Seconds of video by the container, and how far that may be off."""
        tolerance = 2.5 * self.frame_seconds
        if self.stream.duration and self.stream.time_base:
            return float(self.stream.duration * self.stream.time_base), tolerance
        tagged = self.stream.metadata.get("DURATION", "")  # Matroska, per stream
        try:
            hours, minutes, seconds = tagged.split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds), tolerance
        except ValueError:
            pass
        if self.container.duration:
            # Of the longest stream, and sound often ends later than the picture.
            alone = len(self.container.streams) == 1
            return self.container.duration / av.time_base, tolerance if alone else 1.0 + tolerance
        return None, tolerance

    def contains(self, seconds: float) -> bool:
        return (self.start or -math.inf) - TIME_TOLERANCE <= seconds < self.stop - TIME_TOLERANCE

    def check_complete(self, num_frames: int) -> None:
        """FFmpeg often stops short without an error; compare with what was announced."""
        if num_frames == 0:
            raise ClipError("decode", f"no frame between {self.start or 0} and {self.stop} s")
        if num_frames == 1:
            raise ClipError("decode", "the clip has one frame; motion needs two")
        self._check_count(num_frames)
        self._check_end()

    def _check_count(self, num_frames: int) -> None:
        # A VP8 packet may hold a frame that is never shown; elsewhere a packet is a frame. One may
        # be missing: XviD packs two frames and adds an empty one, HMDB51 headers claim one more.
        container_format = self.container.format.name
        counts = [("demuxed", self.num_packets)]
        if self.stream.codec_context.name in ("vp8", "libvpx") or "mp" in container_format[:4]:
            counts = []
        if self.is_whole_video:
            counts.append(("announced", self.stream.frames - self.num_discarded))
        for how, expected in counts:
            if num_frames < expected - 1:
                raise ClipError(
                    "decode", f"ended early: {num_frames} frames decoded of {expected} {how}"
                )

    def _check_end(self) -> None:
        if self.reached_stop or self.duration is None:
            return
        expected = min(self.stop, self.duration)
        if self.end_seconds < expected - self.tolerance:
            raise ClipError(
                "decode",
                f"ended early: the last frame is shown until {self.end_seconds:.3f} s, "
                f"{expected:.3f} s were expected",
            )


def _check_length(progress: _Progress, options: DecodeOptions) -> None:
    """Refuse by what the header says, before any frame is decoded."""
    seconds = min(progress.stop, progress.duration or math.inf) - (progress.start or 0.0)
    if math.isfinite(seconds) and seconds > options.max_seconds:
        raise ClipError(
            "decode", f"{seconds:.0f} s long; up to {options.max_seconds:.0f} s are allowed"
        )
    if progress.is_whole_video and progress.stream.frames > options.max_frames:
        raise ClipError(
            "decode",
            f"{progress.stream.frames} frames; up to {options.max_frames} are allowed",
        )


def _frames(
    container: av.container.InputContainer, stream: av.VideoStream, progress: _Progress
) -> Iterator[tuple[float, av.VideoFrame]]:
    """(seconds, frame) of the span, in the order they are shown."""
    if progress.start is not None:
        _seek_before(container, stream, progress.start)
    index = 0
    for packet in container.demux(stream):
        if packet.size and packet.is_discard:  # outside the edit list: decoded but not shown
            progress.num_discarded += 1
        elif packet.size and (packet.pts is None or progress.contains(_seconds(stream, packet.pts))):
            progress.num_packets += 1
        for frame in packet.decode():
            pts = frame.pts
            seconds = index * progress.frame_seconds if pts is None else _seconds(stream, pts)
            index += 1
            if seconds >= progress.stop - TIME_TOLERANCE:
                progress.reached_stop = True
                return
            progress.end_seconds = max(progress.end_seconds, seconds + progress.frame_seconds)
            if progress.contains(seconds):
                yield seconds, frame


def _seconds(stream: av.VideoStream, pts: int) -> float:
    return float((pts - (stream.start_time or 0)) * stream.time_base)


def _seek_before(
    container: av.container.InputContainer, stream: av.VideoStream, start: float
) -> None:
    """Place the reader at a keyframe that is shown at or before `start`.

    Some containers seek by decoding times and land one keyframe late; then further back is tried,
    and at last the beginning.
    """
    for back in (0.0, 1.0, 4.0, 16.0, 64.0):
        target = start - back
        if target <= 0:
            break
        offset = math.floor(target / stream.time_base) + (stream.start_time or 0)
        try:
            container.seek(offset, stream=stream, backward=True)
        except av.error.FFmpegError:
            break  # no index: read from the beginning
        if _first_shown(container, stream) <= start + TIME_TOLERANCE:
            container.seek(offset, stream=stream, backward=True)
            return
    container.seek(stream.start_time or 0, stream=stream, backward=True)


def _first_shown(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Presentation time of the packet that a seek landed on; infinite at the end of the file."""
    for packet in container.demux(stream):
        if packet.size and packet.pts is not None:
            return _seconds(stream, packet.pts)
    return math.inf


def _chunks(
    frames: Iterator[tuple[float, av.VideoFrame]], options: DecodeOptions
) -> Iterator[FrameChunk]:
    reformatter = VideoReformatter()
    rgb: list[np.ndarray] = []
    times: list[float] = []
    first_index = 0
    coded_size = upright_size = None
    length = options.chunk_frames
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
        rgb.append(_upright_rgb(reformatter, frame, kept, quarter_turns))
        times.append(seconds)
        if len(rgb) == length:
            yield FrameChunk(first_index, np.array(times), np.stack(rgb), upright_size)
            first_index += len(rgb)
            rgb, times = [], []
    if rgb:
        yield FrameChunk(first_index, np.array(times), np.stack(rgb), upright_size)


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
