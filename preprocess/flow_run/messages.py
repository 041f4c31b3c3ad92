"""What the driver, decoders and flow workers tell each other: plain data, small enough to send."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from preprocess.flow.options import FlowOptions
from preprocess.video.frame_chunks import DecodeOptions
from shared.manifest import Clip


@dataclass(frozen=True)
class WorkOptions:
    """What every worker must know.

    Attributes:
        video_root: folder that the manifest's paths are relative to.
        decode: see DecodeOptions.
        jpeg_quality: of the kept frames, 1..100.
        flow_short_side: of the frames that flow is computed on, pixels; never enlarged.
        map_short_side: of the stored motion maps, pixels; never enlarged.
        device: "cpu" or "cuda".
        flow: which flows are made.
    """

    video_root: Path
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    jpeg_quality: int = 90
    flow_short_side: int = 240
    map_short_side: int = 64
    device: str = "cpu"
    flow: FlowOptions = FlowOptions()


@dataclass(frozen=True)
class Job:
    """A clip to be worked on: its place in the manifest, and which try this is (from 0)."""

    place: int
    clip: Clip
    attempt: int = 0


@dataclass(frozen=True)
class Reading:
    """Clips of one video that are decoded in one pass, by their starts; most often a single one.

    Attributes:
        jobs: without gaps between their spans.
        is_suspect: whether a decoder was lost with it before.
    """

    jobs: tuple[Job, ...]
    is_suspect: bool = False

    def without(self, place: int) -> Reading:
        """The other clips."""
        return Reading(tuple(job for job in self.jobs if job.place != place), self.is_suspect)

    def alone(self, place: int, is_suspect: bool = False) -> Reading:
        """One of the clips by itself, one try further."""
        (job,) = (job for job in self.jobs if job.place == place)
        return Reading((Job(place, job.clip, job.attempt + 1),), is_suspect)


@dataclass(frozen=True)
class EncodedFrames:
    """JPEG frames of a chunk: uint8 [B] one after another, and int64 [T] bytes of each."""

    place: int
    attempt: int
    first_index: int
    pts_seconds: np.ndarray
    jpegs: np.ndarray
    jpeg_bytes: np.ndarray
    source_size: tuple[int, int]
    stored_size: tuple[int, int]


@dataclass(frozen=True)
class GreyFrames:
    """Frames of a chunk for flow: uint8 [T, h, w], the first of them number first_index in the
    clip.

    Attributes:
        num_before: how many of the frames are from before the chunk: see `frames_before` of
            FlowOptions.
        is_last: whether the clip ends with it.
    """

    place: int
    attempt: int
    first_index: int
    frames: np.ndarray
    num_before: int = 0
    is_last: bool = True


@dataclass(frozen=True)
class Maps:
    """Companded motion maps of consecutive pairs: uint8 [T, h, w], float32 [T].

    Attributes:
        output: of FlowOptions, which of the flows.
        homography, inliers: float64 [T, 9] and int32 [T], the camera's motion; None where not asked
            for.
    """

    place: int
    attempt: int
    first_index: int
    values: np.ndarray
    scale: np.ndarray
    output: str = "tvl1"
    homography: np.ndarray | None = None
    inliers: np.ndarray | None = None


@dataclass(frozen=True)
class TracksOfFrames:
    """Tracks that start at T consecutive frames, on each from the points of a grid.

    Attributes:
        grid: rows, columns.
        size: width, height of the frames.
        displacements, steps, hog: as `quantised` gives them (preprocess/flow/tracks.py).
    """

    place: int
    attempt: int
    first_index: int
    grid: tuple[int, int]
    size: tuple[int, int]
    displacements: np.ndarray
    steps: np.ndarray
    hog: np.ndarray


@dataclass(frozen=True)
class ClipDecoded:
    """All frames of a clip have been handed over."""

    place: int
    attempt: int
    num_frames: int


@dataclass(frozen=True)
class ClipFailed:
    """A clip is set aside; stage is "decode" or "flow", reason in words."""

    place: int
    stage: str
    reason: str


Event = EncodedFrames | Maps | TracksOfFrames | ClipDecoded | ClipFailed


@dataclass
class Decoded:
    """What a decoder hands to the driver after one call.

    Attributes:
        events: in order.
        num_taken: how many of the readings given were begun; the rest are the driver's again.
        running: the reading to be gone on with in the next call, those of its clips that have not
            ended.
        again: clips that could not be decoded together with others, to be decoded by themselves.
        batch_places: of each chunk of the batch for a flow worker, the place of its clip.
        num_frames: that came out of the decoder, also those that no clip keeps.
    """

    events: list[EncodedFrames | Maps | ClipDecoded | ClipFailed] = field(default_factory=list)
    num_taken: int = 0
    running: Reading | None = None
    again: list[Reading] = field(default_factory=list)
    batch_places: list[int] = field(default_factory=list)
    num_frames: int = 0
    busy_seconds: float = 0.0


@dataclass
class Flowed:
    """What a flow worker hands to the driver after one call."""

    events: list[Maps | TracksOfFrames | ClipFailed] = field(default_factory=list)
    busy_seconds: float = 0.0
