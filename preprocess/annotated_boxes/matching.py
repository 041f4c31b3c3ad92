"""Annotated boxes, and how they are matched with the frames of a clip."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import InputError

Frames = dict[int, np.ndarray]  # frame number -> float32[K,4]


@dataclass(frozen=True)
class ClipFrames:
    """The frames of a clip.

    Attributes:
        clip_id: id in the manifest.
        size: width and height of the source in pixels.
        pts_seconds: float64 [T], presentation times in the source video.
    """

    clip_id: str
    size: tuple[int, int]
    pts_seconds: np.ndarray


@dataclass(frozen=True)
class BoxAnnotations:
    """Annotated boxes of a dataset.

    Attributes:
        names: ids of the annotated clips, or of the annotated videos.
        load: name -> boxes by frame number.
        of_videos: whether the names are videos. Frame numbers are then times, (number - 1) / rate,
            and a clip belongs to the video whose id is the clip id without its last `_N`.
        rate: frames per second of the frame numbers, by video; None = frame rate of the video.
        annotated_size: width and height that the boxes refer to, by name; None = those of the clip,
            of all clips or of the one that it is called for.
        others: some annotated names that were not wanted, for messages.
    """

    names: Collection[str]
    load: Callable[[str], Frames]
    of_videos: bool = False
    rate: Callable[[str], float] | None = None
    annotated_size: Callable[[str], tuple[float, float] | None] | None = None
    others: Collection[str] = ()

    @property
    def examples(self) -> str:
        """Up to three annotated names, for messages."""
        return ", ".join([*sorted(self.names), *sorted(self.others)][:3]) or "none"

    def name_of(self, clip_id: str) -> str | None:
        """The annotated name that a clip belongs to; None if the clip is not annotated."""
        video = clip_id.rpartition("_")[0]
        for name in (clip_id, video) if self.of_videos else (clip_id,):
            if name in self.names:
                return name
        return None

    def of(self, clip: ClipFrames) -> Frames:
        """The boxes of a clip in source pixels, by frame index; frames without a box are left out.

        If frames are numbered by clip, frames after the end of the clip are kept.
        """
        name = self.name_of(clip.clip_id)
        if name is None:
            return {}
        frames = self.load(name)
        if self.of_videos:
            frames = _nearest_frames(frames, self._rate(name, clip), clip.pts_seconds)
        if (size := self.annotated_size and self.annotated_size(name)) is not None:
            width, height = size
            scale = np.array([clip.size[0] / width, clip.size[1] / height] * 2, np.float32)
            frames = {index: boxes * scale for index, boxes in frames.items()}
        return {index: boxes for index, boxes in frames.items() if len(boxes)}

    def _rate(self, name: str, clip: ClipFrames) -> float:
        if self.rate is not None:
            return self.rate(name)
        return 1.0 / _frame_seconds(clip.pts_seconds)


@dataclass(frozen=True)
class ReadOptions:
    """Options of the command for reading annotations; None = not given.

    Attributes:
        min_score: detections with a lower score are ignored, 0..1.
        rate: frames per second of the frame numbers.
    """

    min_score: float | None = None
    rate: float | None = None


def box_array(boxes: list, where: str) -> np.ndarray:
    """float32 [K, 4], x1 y1 x2 y2; boxes without area are left out.

    Raises:
        InputError: a coordinate is infinite or NaN.
    """
    array = np.array(boxes, np.float32).reshape(-1, 4)
    if not np.isfinite(array).all():
        raise InputError(
            "not-finite", f"{where}: a box has a coordinate that is not a finite number"
        )
    return array[(array[:, 2] > array[:, 0]) & (array[:, 3] > array[:, 1])]


def find_files(path: Path, pattern: str) -> list[Path]:
    """The file itself, or the files of a folder that match.

    Raises:
        InputError: no file matches.
    """
    if path.is_file():
        return [path]
    found = sorted(file for file in path.glob(pattern) if file.is_file())
    if not found:
        raise InputError("missing-file", f"no {pattern} in {path}")
    return found


def _frame_seconds(pts_seconds: np.ndarray) -> float:
    """The duration of a frame."""
    return float(np.median(np.diff(pts_seconds)))


def _nearest_frames(frames: Frames, rate: float, pts_seconds: np.ndarray) -> Frames:
    """Match the annotated frames of a video, numbered from 1, with the frames of a clip.

    An annotated frame belongs to the frame nearest in time, at most half a frame away. If several
    belong to one frame, the nearest is kept.
    """
    if not frames or len(pts_seconds) < 2:
        return {}
    numbers = np.array(sorted(frames))
    seconds = (numbers - 1) / rate
    after = np.clip(np.searchsorted(pts_seconds, seconds), 1, len(pts_seconds) - 1)
    closer = seconds - pts_seconds[after - 1] < pts_seconds[after] - seconds
    indices = after - closer
    away = np.abs(seconds - pts_seconds[indices])
    found: dict[int, tuple[float, int]] = {}
    limit = 0.5 * _frame_seconds(pts_seconds) + 1e-6
    for number, index, distance in zip(numbers, indices, away, strict=True):
        if distance <= limit:
            found[int(index)] = min(found.get(int(index), (np.inf, 0)), (distance, int(number)))
    return {index: frames[number] for index, (_, number) in found.items()}
