"""Messages between the driver, decoders and flow workers: plain data, small enough to send."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from preprocess.flow.chunks import Maps, TracksOfFrames
from preprocess.flow.options import FlowOptions
from preprocess.flow_run.decode_groups import DecodeGroup
from preprocess.running.failures import INTERNAL_STAGE
from preprocess.video.frame_chunks import DecodeOptions
from preprocess.video.remarks import Remark, Remarks
from shared.shard_index import ShardEntry


@dataclass(frozen=True)
class WorkerOptions:
    """Options of every worker.

    Attributes:
        video_root: folder that the paths of the manifest are relative to.
        decode: see DecodeOptions.
        jpeg_quality: JPEG quality of the stored frames, 1..100.
        flow_short_side: short side of the frames that flow is computed on, pixels; smaller frames
            are not enlarged.
        map_short_side: short side of the stored motion maps, pixels; smaller maps are not enlarged.
        device: "cpu" or "cuda".
        flow: which flows are made.
    """

    video_root: Path
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    jpeg_quality: int = 90
    flow_short_side: int = 240
    map_short_side: int = 64
    device: str = "cpu"
    flow: FlowOptions = field(default_factory=FlowOptions)


# --------------------------------------------------------------------------------------------------
# Events of clips. They reach the driver in any order.


@dataclass(frozen=True)
class EncodedFrames:
    """JPEG frames of one chunk of a clip.

    Attributes:
        clip_index: row of the clip in the manifest, from 0.
        attempt: how many times the clip was started before.
        first_index: number of the chunk's first frame in the clip, from 0.
        pts_seconds: float64 [T], presentation times, seconds.
        jpegs: uint8 [B], the JPEG files one after another.
        jpeg_bytes: int64 [T], bytes of each JPEG file.
        source_size, stored_size: width and height in pixels.
    """

    clip_index: int
    attempt: int
    first_index: int
    pts_seconds: np.ndarray
    jpegs: np.ndarray
    jpeg_bytes: np.ndarray
    source_size: tuple[int, int]
    stored_size: tuple[int, int]


@dataclass(frozen=True)
class ClipDecoded:
    """All frames of a clip have been sent."""

    clip_index: int
    attempt: int
    num_frames: int


@dataclass(frozen=True)
class ClipFailed:
    """A clip is set aside.

    Attributes:
        clip_index: row of the clip in the manifest, from 0.
        stage: "decode" or "flow"; "internal" for a fault of this program.
        reason: the reason as text.
        code: the kind of reason, a key of CODES in shared/errors.py; empty for a clip that an older
            version set aside.
        traceback: the traceback of a fault of this program.
    """

    clip_index: int
    stage: str
    reason: str
    code: str = ""
    traceback: str = ""

    @classmethod
    def by_fault(cls, clip_index: int, error: Exception) -> ClipFailed:
        """A clip that met an exception that is no property of its video, with the traceback."""
        reason = f"{type(error).__name__}: {error}"
        text = "".join(traceback.format_exception(error))
        return cls(clip_index, INTERNAL_STAGE, reason, "program-fault", text)


@dataclass(frozen=True)
class ClipEnd:
    """A clip of a shard that a worker assembles is complete, or has failed."""

    clip_index: int
    failed: ClipFailed | None = None


@dataclass(frozen=True)
class WrittenShard:
    """A worker has written a shard: every folder's file of its number is whole.

    Attributes:
        number: number of the shard.
        lease: folder with a folder of the same name for each folder of the run.
        entries: the entries for dataset.json, by name of the folder.
        failures: the clips that are not in it, by their index.
    """

    number: int
    lease: Path
    entries: dict[str, ShardEntry]
    failures: dict[int, ClipFailed]


DecodeEvent = EncodedFrames | Maps | ClipDecoded | ClipFailed
FlowEvent = Maps | TracksOfFrames | ClipFailed
Event = DecodeEvent | FlowEvent
PoolEvent = Event | ClipEnd | WrittenShard
"""What a pool yields: events of clips, or what workers made of them."""


# --------------------------------------------------------------------------------------------------
# Results of one call of a worker


@dataclass
class DecodeResult:
    """The result of one call of a decoder.

    Attributes:
        events: events of clips, in order.
        num_started: how many of the given groups were started; the driver takes the others back.
        running: the group that the next call continues, without the clips that have ended.
        retries: clips that failed together with others, to be decoded one by one.
        batch_clip_indexes: the clip of each chunk of the batch for a flow worker.
        num_frames: number of decoded frames, including frames that no clip keeps.
        remarks: (video, remark) for the videos that were opened.
        busy_seconds: how long the call took.
        event_clips: the clips of the events, where the events travel apart from this result.
    """

    events: list[DecodeEvent] = field(default_factory=list)
    num_started: int = 0
    running: DecodeGroup | None = None
    retries: list[DecodeGroup] = field(default_factory=list)
    batch_clip_indexes: list[int] = field(default_factory=list)
    num_frames: int = 0
    remarks: list[tuple[str, Remark]] = field(default_factory=list)
    busy_seconds: float = 0.0
    event_clips: list[int] = field(default_factory=list)


@dataclass
class FlowResult:
    """The result of one call of a flow worker; `event_clips` is as in DecodeResult."""

    events: list[FlowEvent] = field(default_factory=list)
    busy_seconds: float = 0.0
    event_clips: list[int] = field(default_factory=list)


@dataclass
class StageTimes:
    """Busy seconds, summed over the workers of each stage, and the number of decoded frames.

    Attributes:
        remarks: remarks on the videos that were decoded.
    """

    num_decoders: int = 1
    num_flow_workers: int = 1
    decode_busy: float = 0.0
    flow_busy: float = 0.0
    num_frames: int = 0
    remarks: Remarks = field(default_factory=Remarks)

    def add_decoding(self, result: DecodeResult) -> None:
        """Add what one call of a decoder took and found."""
        self.decode_busy += result.busy_seconds
        self.num_frames += result.num_frames
        for video, remark in result.remarks:
            self.remarks.add(video, remark)

    @property
    def decode_seconds(self) -> float:
        """Seconds that decoding alone would have taken with these workers."""
        return self.decode_busy / self.num_decoders

    @property
    def flow_seconds(self) -> float:
        """Seconds that flow alone would have taken with these workers."""
        return self.flow_busy / self.num_flow_workers
