"""Refuses clips that are longer than the options of decoding allow."""

from __future__ import annotations

from preprocess.video.completeness import TIME_TOLERANCE
from preprocess.video.errors import ClipError
from preprocess.video.frame_chunks import DecodeOptions


def refuse_too_long(seconds: float, options: DecodeOptions) -> None:
    """Raise ClipError if a clip has more seconds than the options allow."""
    if seconds > options.max_seconds + TIME_TOLERANCE:  # 2.2 - 1.2 is more than 1
        raise ClipError(
            "out-of-range",
            f"{seconds:.0f} s long; up to {options.max_seconds:g} s are allowed (--max-seconds)",
        )


def refuse_too_many(num_frames: int, options: DecodeOptions, found: str | None = None) -> None:
    """Raise ClipError if a clip has more frames than the options allow.

    Args:
        found: what was found, for the message; None = the number of frames.
    """
    if num_frames > options.max_frames:
        raise ClipError(
            "out-of-range",
            f"{found or f'{num_frames} frames'}; up to {options.max_frames} are allowed "
            "(--max-frames)",
        )
