"""Cuts long videos into clips of equal length."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from preprocess.annotations.clip_rows import clip_id_of
from preprocess.video.headers import VideoHeader
from shared.errors import InputError
from shared.manifest import Clip

DECIMALS = 6  # of seconds; a time stamp of a video needs no more


@dataclass(frozen=True)
class CutRule:
    """How a video is cut.

    Attributes:
        seconds: length of a clip.
        stride_seconds: seconds from the start of a clip to the start of the next one. Clips overlap
            if it is smaller than `seconds`, and leave gaps if it is larger.
    """

    seconds: float
    stride_seconds: float


def cut_spans(start: float, stop: float, rule: CutRule) -> list[tuple[float, float]]:
    """The spans that a video is cut into, in seconds.

    A span that would be shorter than half of the length is no clip of its own. If the spans leave
    no gaps, the last one reaches to the end, so that every frame is in a clip.

    Args:
        start, stop: where the video starts and stops.
    """
    spans: list[tuple[float, float]] = []
    for number in range(max(1, math.ceil((stop - start) / rule.stride_seconds))):
        first = start + number * rule.stride_seconds
        last = min(first + rule.seconds, stop)
        if spans and (spans[-1][1] >= stop or last - first < rule.seconds / 2):
            break
        spans.append((first, last))
    if rule.stride_seconds <= rule.seconds:
        spans[-1] = (spans[-1][0], stop)
    return spans


def cut_clip(clip: Clip, header: VideoHeader | str, rule: CutRule) -> list[Clip] | None:
    """The clips that a clip is cut into, itself if it is short; None if its length is not known.

    Args:
        clip: a clip, with or without a span.
        header: the header of its video, or the reason why it cannot be read.
        rule: how it is cut.
    """
    start, stop = clip.span
    if not isinstance(header, str):
        header = header.at_rate(clip.frames_per_second)
        if header.seconds is not None:
            start = max(start, header.picture_start)
            stop = min(stop, header.picture_start + header.seconds)
    if math.isinf(stop):
        return None
    if stop <= start:  # the decoder says what is wrong
        return [clip]
    spans = cut_spans(start, stop, rule)
    if len(spans) == 1 and rule.stride_seconds <= rule.seconds:
        return [clip]
    clips = []
    for number, (first, last) in enumerate(spans):
        # The ends of a clip stay as they are: the end in a header is not exact.
        clips.append(
            replace(
                clip,
                clip_id=clip_id_of(f"{clip.clip_id}-{number:04d}"),
                start_seconds=clip.start_seconds if number == 0 else round(first, DECIMALS),
                stop_seconds=clip.stop_seconds if last == stop else round(last, DECIMALS),
            )
        )
    return clips


def cut_clips(
    clips: list[Clip], headers: dict[str, VideoHeader | str], rule: CutRule
) -> tuple[list[Clip], list[str]]:
    """Cut all clips.

    Args:
        clips: the clips.
        headers: header by video.
        rule: how they are cut.

    Returns:
        the clips, those of one video after another in order of their starts, and the ids of clips
        that stay whole because the length of their video is not known.

    Raises:
        InputError: a clip_id would be there twice.
    """
    cut: list[Clip] = []
    whole: list[str] = []
    for clip in clips:
        pieces = cut_clip(clip, headers[clip.video], rule)
        if pieces is None:
            whole.append(clip.clip_id)
            pieces = [clip]
        cut += pieces
    seen: dict[str, str] = {}
    for clip in cut:
        if clip.clip_id in seen:
            raise InputError(
                "duplicate",
                f"a clip cut out of {clip.video} would have the clip_id {clip.clip_id!r}, which a "
                f"clip of {seen[clip.clip_id]} has; rename one of the videos",
            )
        seen[clip.clip_id] = clip.video
    return cut, whole
