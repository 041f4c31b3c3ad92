"""Re-encode videos whose codec exports no motion vectors to H.264, in a scratch folder.

A copy is named by the content of its video, so that it is made once for all clips of the video.
`clear_scratch` removes all copies.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import av

from preprocess.video.errors import ClipError
from preprocess.video.frame_chunks import STEP_FRAMES
from preprocess.video.video_file import open_video, video_stream
from shared.errors import OF_THE_MACHINE, InputError
from shared.files import remove_leftovers, sync_folder
from shared.temporary_names import temporary_name

ENCODER: Final = "libx264"
# Without B-frames and with one reference, every vector spans exactly one frame. Keyframes have no
# vectors: few of them, and only as often as seeking to a clip in a long video needs.
# Against dense flow on five real clips, superfast's vectors are nearer than those of medium, at a
# sixth of its time: whole blocks follow motion more smoothly than small ones chosen for their bits.
ENCODER_OPTIONS = {
    "preset": "superfast",
    "crf": "18",
    "bf": "0",
    "refs": "1",
    "g": "120",
    "sc_threshold": "0",
    "x264-params": "weightp=0",
    "threads": "1",
}
COPY_NAME = re.compile(r"[0-9a-f]{32}\.mp4")


def transcode(video: Path, scratch: Path, max_pixels: int) -> Path:
    """Return the H.264 copy of a video, as `transcode_in_steps` makes it."""
    steps = transcode_in_steps(video, scratch, max_pixels)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def transcode_in_steps(video: Path, scratch: Path, max_pixels: int) -> Generator[None, None, Path]:
    """Return the H.264 copy of a video; make it if the scratch folder does not have it.

    It yields None after every STEP_FRAMES frames, because a long video takes long.

    The copy has the frames, order, times (from the first frame on) and size of the video. It has no
    rotation in its metadata, and no sound. A process that is killed at any moment leaves no partial
    copy under a final name.

    Args:
        video: any file that preprocess/video/decode.py would take.
        scratch: folder for the copies; it is created if it does not exist.
        max_pixels: largest width * height of a frame.

    Raises:
        ClipError: the video does not decode, or its codec or container is not allowed.
        InputError: this build of FFmpeg has no H.264 encoder.
        OSError: the disk is full, too many files are open, or the video cannot be read.
    """
    copy = Path(scratch) / f"{_content_key(video)}.mp4"
    if copy.is_file():
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(copy)
    try:
        yield from _encode(video, temporary, max_pixels)
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, copy)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(copy.parent)
    return copy


def clear_scratch(scratch: Path) -> None:
    """Remove all copies, including partial ones of killed runs. Other files stay."""
    if not Path(scratch).is_dir():
        return
    for path in list(Path(scratch).iterdir()):
        if COPY_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)
    remove_leftovers(scratch)
    if not any(Path(scratch).iterdir()):
        Path(scratch).rmdir()


def _content_key(video: Path) -> str:
    """A name that depends on the bytes of the video and on the encoder, not on the file name."""
    settings = [ENCODER, sorted(ENCODER_OPTIONS.items()), av.library_versions["libavcodec"]]
    hashed = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    with open(video, "rb") as stream:
        while block := stream.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()


def _encode(video: Path, target: Path, max_pixels: int) -> Iterator[None]:
    if ENCODER not in av.codecs_available:
        raise InputError(
            "missing-package",
            f"--transcode needs the encoder {ENCODER}, and this FFmpeg does not have it. Install "
            "the av wheels from PyPI, or choose another --source",
        )
    try:
        with (
            open_video(video, max_pixels) as source,
            av.open(str(target), "w", format="mp4") as output,
        ):
            yield from _copy_frames(source, video_stream(source, max_pixels), output)
    except av.error.FFmpegError as error:
        if error.errno in OF_THE_MACHINE:
            raise OSError(error.errno, error.strerror, str(target)) from None
        raise ClipError("not-supported", f"cannot be transcoded: {error.strerror}") from None


def _copy_frames(
    source: av.container.InputContainer,
    stream: av.VideoStream,
    output: av.container.OutputContainer,
) -> Iterator[None]:
    encoder: av.VideoStream | None = None
    time_base = stream.time_base or Fraction(1, 1000)
    first: int | None = None
    last: int | None = None
    for number, frame in enumerate(source.decode(stream), start=1):
        if encoder is None:
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            encoder = output.add_stream(ENCODER, rate=rate, options=ENCODER_OPTIONS)
            encoder.width, encoder.height = frame.width, frame.height
            # 4:2:0 needs even sides; a picture of another size would be another clip.
            is_even = frame.width % 2 == 0 and frame.height % 2 == 0
            encoder.pix_fmt = "yuv420p" if is_even else "yuv444p"
            encoder.codec_context.time_base = time_base
        time = last + 1 if frame.pts is None and last is not None else frame.pts or 0
        first = time if first is None else first
        last = time if last is None else max(time, last + 1)  # damaged files repeat times
        upright = frame.reformat(encoder.width, encoder.height, encoder.pix_fmt)
        upright.pts, upright.time_base = last - first, time_base
        upright.pict_type = av.video.frame.PictureType.NONE  # the encoder chooses
        output.mux(encoder.encode(upright))
        if number % STEP_FRAMES == 0:
            yield
    if encoder is None:
        raise ClipError("empty", "no frame could be decoded")
    output.mux(encoder.encode(None))
