"""Open a video from the internet: which files are accepted, and which stream is decoded.

Only local regular files below the video root are opened. Containers and codecs must be on a list,
and sound is never decoded. Every problem of a video is a ClipError with its code and reason.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av

from preprocess.video.containers import FORMATS, traits_of
from preprocess.video.errors import ClipError
from shared.errors import InputError
from shared.manifest import check_relative_path

CODECS = (  # decoders of FFmpeg
    "h264,hevc,vp8,libvpx,vp9,libvpx-vp9,libdav1d,av1,mpeg4,mpeg2video,mpeg1video,mjpeg,"
    "msmpeg4,msmpeg4v2,msmpeg4v1,wmv1,wmv2,wmv3,vc1,h263,flv,ffv1,theora"
)
HARMLESS_COMPLAINTS = ("Referenced QT chapter track not found",)  # a cut dropped that track


def find_video(video: str, video_root: Path) -> Path:
    """The resolved path of a clip's video.

    Raises:
        ClipError: the file does not exist, is not a regular file (but a FIFO, a device or a
            folder), or the path or a link in it leads out of the video root.
    """
    try:
        check_relative_path(video)
        root = Path(video_root).resolve()
        path = (root / video).resolve(strict=True)
        mode = path.stat().st_mode
    except InputError as error:
        raise ClipError(error.code, str(error)) from None
    except FileNotFoundError:
        raise ClipError("missing-file", f"no file {video} below the video root") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise ClipError("file-system", f"{video} cannot be opened: {error}") from None
    if not path.is_relative_to(root):
        raise ClipError("unsafe-path", f"{video} is a link that leads out of the video root")
    if not stat.S_ISREG(mode):
        raise ClipError("unsafe-path", f"{video} is not a regular file")
    return path


@contextmanager
def open_video(path: Path, max_pixels: int) -> Iterator[av.container.InputContainer]:
    """Open a file found by `find_video`.

    Raises:
        av.error.FFmpegError: the container is not allowed.
        ClipError: the header is damaged.
    """
    with complaints() as found:
        container = av.open(
            str(path),  # absolute, so that FFmpeg sees no protocol in a file name
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
            raise ClipError("damaged-file", found[0])
        yield container
    finally:
        container.close()


@contextmanager
def complaints() -> Iterator[list[str]]:
    """Collect the errors that demuxers only log, as text.

    A demuxer that meets damage skips to the next place that it can read. Matroska files lose
    seconds in this way without any other sign.
    """
    found: list[str] = []
    # Otherwise FFmpeg delays a repeated message, and prints it with messages of the next file.
    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as logged:
            yield found
    finally:
        av.logging.set_level(None)  # PyAV's default; messages of decoders are noise
    for _, who, message in logged:
        is_harmless = message.startswith(HARMLESS_COMPLAINTS)
        if set(who.split(",")) & set(FORMATS.split(",")) and not is_harmless:
            found.append(f"damaged container: {message.strip()}")


def pictures_of(container: av.container.InputContainer) -> list[av.VideoStream]:
    """The video streams that are not cover pictures or thumbnails, in the order of the file."""
    covers = av.stream.Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & covers]


def main_video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is flagged as default, or else the first video stream.

    Raises:
        ClipError: there is no video stream, or its codec is not allowed.
    """
    streams = pictures_of(container)
    if not streams:
        raise ClipError("other-kind", "no video stream")
    stream = next((s for s in streams if is_default(s)), streams[0])
    codec = stream.codec_context
    if codec is None or codec.name not in CODECS.split(","):
        name = codec.name if codec is not None else "unknown"
        raise ClipError("not-supported", f"codec {name} is not among those allowed ({CODECS})")
    return stream


def is_default(stream: av.VideoStream) -> bool:
    """Whether the file flags a stream as the one to play."""
    return bool(stream.disposition & av.stream.Disposition.default)


def picture_start_of(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """When the picture starts, in seconds from the start of the file as players count it.

    The file starts with its first picture or sound. Players do not play anything before 0.
    """
    if stream.start_time is None:
        return 0.0
    own = float(stream.start_time * time_base_of(stream))
    sounds = [
        max(float(sound.start_time * sound.time_base), 0.0)
        for sound in container.streams.audio
        if sound.start_time is not None and sound.time_base is not None
    ]
    return max(own - min(sounds, default=own), 0.0)


def video_stream(container: av.container.InputContainer, max_pixels: int) -> av.VideoStream:
    """The stream that is decoded, set up to be decoded alone, by one thread.

    Raises:
        ClipError: there is no video stream, its codec is not allowed, or its frames are too large.
    """
    stream = main_video_stream(container)
    codec = stream.codec_context
    if not traits_of(container).needs_all_streams:
        for other in container.streams:
            if other.index != stream.index:
                other.discard = av.stream.Discard.all
    codec.thread_count = 1
    codec.options = {"max_pixels": str(max_pixels)}
    pixels = codec.width * codec.height
    if pixels > max_pixels:
        raise ClipError(
            "out-of-range",
            f"frames of {codec.width}x{codec.height} have {pixels} pixels; "
            f"up to {max_pixels} are allowed (--max-pixels)",
        )
    return stream


def time_base_of(stream: av.VideoStream) -> Fraction:
    """Seconds of one tick of the times of a stream."""
    assert stream.time_base is not None, "every demuxer sets it"
    return stream.time_base
