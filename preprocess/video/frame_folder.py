"""Decode a folder of pictures, one for each frame, as if it were a video (Pillow).

The same limits hold as for videos: only regular files below the video root are opened, formats
must be on a list, and pixels, frames and seconds are limited.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

from preprocess.video.completeness import TIME_TOLERANCE
from preprocess.video.errors import ClipError
from preprocess.video.frame_chunks import Chunker, DecodeOptions, FrameChunk, Scaler
from preprocess.video.frame_names import frame_series
from preprocess.video.limits import refuse_too_long, refuse_too_many
from preprocess.video.orientation import Orientation
from shared.errors import InputError
from shared.manifest import Clip, check_relative_path

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # Pillow's names
FRAMES_PER_SECOND = 25.0  # where nothing is said; FFmpeg takes the same for pictures
UNREADABLE = (  # what Pillow raises for damaged files
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    EOFError,
    struct.error,
    MemoryError,
    Image.DecompressionBombError,
)


def find_frame_folder(video: str, video_root: Path) -> list[Path]:
    """The resolved paths of the frames of a folder, in natural order.

    Raises:
        ClipError: the folder does not exist, leads out of the video root, or is no series of
            frames; or a frame is not a regular file below the video root.
    """
    try:
        check_relative_path(video)
        root = Path(video_root).resolve()
        folder = (root / video).resolve(strict=True)
        names = frame_series(os.listdir(folder))
        paths = [(folder / name).resolve(strict=True) for name in names]
    except InputError as error:
        raise ClipError(error.code, str(error)) from None
    except FileNotFoundError as error:
        name = Path(error.filename or video).name
        raise ClipError("missing-file", f"no folder of frames {video}: {name} is missing") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise ClipError("file-system", f"{video} cannot be opened: {error}") from None
    for path in [folder, *paths]:
        if not path.is_relative_to(root):
            raise ClipError("unsafe-path", f"{video}: {path.name} leads out of the video root")
    for path in paths:
        if not path.is_file():
            raise ClipError("unsafe-path", f"{video}: {path.name} is not a regular file")
    if not paths:
        raise ClipError(
            "other-kind",
            f"{video} holds no series of frames: pictures whose names differ only in a number",
        )
    return paths


def decode_frame_folder(
    clip: Clip, video_root: Path, options: DecodeOptions
) -> Iterator[FrameChunk]:
    """Read the pictures of a clip in natural order, at the rate of the clip.

    Frame i of the folder, counted from 0, is shown i / frames_per_second after the first one. A
    span takes the frames with start <= time < stop (to a millisecond).

    Raises:
        ClipError: the clip cannot be used. The caller must discard the chunks that were yielded
            before.
    """
    if options.vectors:
        raise ClipError(
            "missing-data",
            f"{clip.video} is a folder of frames, which has no motion vectors of a codec",
        )
    rate = clip.frames_per_second or FRAMES_PER_SECOND
    start, stop = clip.span
    timed = [
        (index / rate, path)
        for index, path in enumerate(find_frame_folder(clip.video, video_root))
        if start - TIME_TOLERANCE <= index / rate < stop - TIME_TOLERANCE
    ]
    _refuse_length(clip, len(timed), len(timed) / rate, options)
    chunker, scaler = Chunker(options), Scaler(options.short_side)
    for seconds, path in timed:
        frame = av.VideoFrame.from_ndarray(_read(path, options.max_pixels), format="rgb24")
        full = chunker.add(seconds, scaler.picture(frame, Orientation()))
        if full is not None:
            yield full
    last = chunker.finish()
    assert last is not None, "there are two frames or more"
    yield last


def _refuse_length(clip: Clip, num_frames: int, seconds: float, options: DecodeOptions) -> None:
    """Refuse a clip of too few or too many frames.

    Raises:
        ClipError: it is such a clip.
    """
    if num_frames < 2:
        found = "one frame" if num_frames else "no frame"
        start, stop = clip.span
        raise ClipError(
            "out-of-range",
            f"{found} of {clip.video} from {start:g} to {stop:g} s; motion needs two",
        )
    refuse_too_many(num_frames, options)
    refuse_too_long(seconds, options)


def _read(path: Path, max_pixels: int) -> np.ndarray:
    """A picture, upright: uint8 [H, W, 3], RGB.

    Raises:
        ClipError: the file is damaged or of another format, or the picture is too large.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ClipError(
                    "out-of-range",
                    f"{path.name} is {width}x{height}; up to {max_pixels} pixels are allowed "
                    "(--max-pixels)",
                )
            return _rgb(ImageOps.exif_transpose(image))
    except UNREADABLE as error:
        raise ClipError(
            "damaged-file", f"{path.name} is damaged or not a picture: {error}"
        ) from None


def _rgb(image: Image.Image) -> np.ndarray:
    """The pixels of a picture: uint8 [H, W, 3]; 0..65535 of 16-bit grey becomes 0..255.

    Pillow's own conversion of 16-bit grey cuts at 255, which makes such pictures white. It opens
    them in mode I or in one of I;16, by its version.
    """
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return np.asarray(image.convert("RGB"))
    grey = (np.asarray(image).astype(np.int32) + 128) // 257  # rounded
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
