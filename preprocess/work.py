"""What workers do: a Decoder turns clips into JPEG and grey frames, a FlowWorker those into maps.

Plain objects that know nothing of processes; preprocess/pool.py runs them in this process or as Ray
actors. All that they exchange is below. A chunk is computed alone and cut by the clip alone, so
results do not depend on which worker computed what beside what.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from preprocess.decode import ClipError, DecodeOptions, FrameChunk, decode_clip, scaled_size
from preprocess.motion import compand, motion_map, reduce_maps
from shared.errors import InputError
from shared.manifest import Clip

# Chunks of short clips are handed on together, so that a call costs little beside the work. A batch
# is full with one of these; the chunk that fills it may exceed them.
BATCH_FRAMES = 256
BATCH_BYTES = 8 << 20  # of grey frames
BATCH_CLIPS = 16


@dataclass(frozen=True)
class WorkOptions:
    """What every worker must know.

    Attributes:
        video_root: folder that the manifest's paths are relative to.
        decode: see DecodeOptions.
        jpeg_quality: of the kept frames, 1..100.
        flow_short_side: of the frames that flow is computed on, pixels; never enlarged.
        map_short_side: of the stored motion maps, pixels; never enlarged.
        preset: of `tvl1_flow`.
        device: "cpu" or "cuda".
    """

    video_root: Path
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    jpeg_quality: int = 90
    flow_short_side: int = 240
    map_short_side: int = 64
    preset: str = "fast"
    device: str = "cpu"


@dataclass(frozen=True)
class Job:
    """A clip to be worked on: its place in the manifest, and which try this is (from 0)."""

    place: int
    clip: Clip
    attempt: int = 0


@dataclass(frozen=True)
class EncodedFrames:
    """JPEG frames of a chunk: u1 [B] one after another, and i8 [T] bytes of each."""

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
    """Frames of a chunk for flow: u1 [T, h, w]; the first is the one before the chunk, if any.

    first_index counts the pair of the first two frames, and so the first map, in the clip.
    """

    place: int
    attempt: int
    first_index: int
    frames: np.ndarray


@dataclass(frozen=True)
class Maps:
    """Companded motion maps of a chunk: u1 [T, h, w], f4 [T]."""

    place: int
    attempt: int
    first_index: int
    values: np.ndarray
    scale: np.ndarray


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


@dataclass
class Decoded:
    """What a decoder hands to the driver after one call.

    Attributes:
        events: in order.
        num_taken: how many of the jobs given were begun; the rest are the driver's again.
        running: the job to be gone on with in the next call.
        batch_places: of each chunk of the batch for a flow worker, the place of its clip.
    """

    events: list[EncodedFrames | ClipDecoded | ClipFailed] = field(default_factory=list)
    num_taken: int = 0
    running: Job | None = None
    batch_places: list[int] = field(default_factory=list)
    busy_seconds: float = 0.0


@dataclass
class Flowed:
    """What a flow worker hands to the driver after one call."""

    events: list[Maps | ClipFailed] = field(default_factory=list)
    busy_seconds: float = 0.0


class Decoder:
    """Decodes the clips it is given, a bounded batch a call."""

    def __init__(self, options: WorkOptions) -> None:
        cv2.setNumThreads(1)
        self.options = options
        self._running: Job | None = None
        self._chunks: Iterator[tuple[EncodedFrames, GreyFrames | None]] = iter(())
        self._num_frames = 0

    def next_batch(self, jobs: list[Job]) -> tuple[Decoded, list[GreyFrames]]:
        """Go on with the clip begun, then with `jobs`, until a batch is full or nothing is left.

        Returns:
            what is for the driver, and the batch of grey frames for a flow worker.
        """
        began = time.perf_counter()
        decoded = Decoded()
        batch: list[GreyFrames] = []
        while sum(len(grey.frames) for grey in batch) < BATCH_FRAMES and (
            sum(grey.frames.nbytes for grey in batch) < BATCH_BYTES
        ):
            if self._running is None:
                if decoded.num_taken == len(jobs):
                    break
                self._begin(jobs[decoded.num_taken])
                decoded.num_taken += 1
            grey = self._advance(decoded)
            if grey is not None:
                batch.append(grey)
        decoded.running = self._running
        decoded.batch_places = [grey.place for grey in batch]
        decoded.busy_seconds = time.perf_counter() - began
        return decoded, batch

    def _begin(self, job: Job) -> None:
        self._running = job
        self._chunks = self.chunks(job)
        self._num_frames = 0

    def _advance(self, decoded: Decoded) -> GreyFrames | None:
        """One chunk further in the running clip."""
        job = self._running
        assert job is not None
        try:
            encoded, grey = next(self._chunks)
        except StopIteration:
            decoded.events.append(ClipDecoded(job.place, job.attempt, self._num_frames))
        except ClipError as error:
            decoded.events.append(ClipFailed(job.place, error.stage, error.reason))
        except Exception as error:  # one clip, whatever it is, must not stop the run
            reason = f"{type(error).__name__}: {error}"
            decoded.events.append(ClipFailed(job.place, "decode", reason))
        else:
            decoded.events.append(encoded)
            self._num_frames += len(encoded.pts_seconds)
            return grey
        self._running = None
        return None

    def chunks(self, job: Job) -> Iterator[tuple[EncodedFrames, GreyFrames | None]]:
        """The chunks of one clip, encoded and in grey."""
        before: np.ndarray | None = None
        for chunk in decode_clip(job.clip, self.options.video_root, self.options.decode):
            grey = self._grey(chunk.rgb)
            first = chunk.first_index
            if before is not None:
                grey = np.concatenate([before, grey])
                first -= 1
            before = grey[-1:]
            has_pair = len(grey) > 1
            yield (
                self._encoded(job, chunk),
                GreyFrames(job.place, job.attempt, first, grey) if has_pair else None,
            )

    def _grey(self, rgb: np.ndarray) -> np.ndarray:
        height, width = rgb.shape[1:3]
        size = scaled_size(width, height, self.options.flow_short_side)
        greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb]
        if size != (width, height):
            greys = [cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for grey in greys]
        return np.stack(greys)

    def _encoded(self, job: Job, chunk: FrameChunk) -> EncodedFrames:
        quality = [cv2.IMWRITE_JPEG_QUALITY, self.options.jpeg_quality]
        jpegs = []
        for frame in chunk.rgb:
            encoded, jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), quality)
            assert encoded, frame.shape
            jpegs.append(jpeg.reshape(-1))
        height, width = chunk.rgb.shape[1:3]
        return EncodedFrames(
            job.place,
            job.attempt,
            chunk.first_index,
            chunk.pts_seconds,
            np.concatenate(jpegs),
            np.array([len(jpeg) for jpeg in jpegs], dtype=np.int64),
            chunk.source_size,
            (width, height),
        )


class FlowWorker:
    """Computes the motion maps of batches of grey frames."""

    def __init__(self, options: WorkOptions) -> None:
        import torch

        cv2.setNumThreads(1)
        if options.device == "cpu":
            torch.set_num_threads(1)
        self.options = options
        # Whatever compiles on first use does so now, while the pool waits for a worker to start.
        FlowWorker.maps(self, GreyFrames(0, 0, 0, np.zeros((2, 32, 32), dtype=np.uint8)))

    def run(self, batch: list[GreyFrames], wanted: list[int] | None = None) -> Flowed:
        """Maps of every chunk of the batch, or of those numbered in `wanted`."""
        began = time.perf_counter()
        flowed = Flowed()
        for index in range(len(batch)) if wanted is None else wanted:
            flowed.events.append(self._maps_or_failure(batch[index]))
        flowed.busy_seconds = time.perf_counter() - began
        return flowed

    def _maps_or_failure(self, grey: GreyFrames) -> Maps | ClipFailed:
        try:
            return self.maps(grey)
        except ClipError as error:
            return ClipFailed(grey.place, error.stage, error.reason)
        except InputError as error:
            return ClipFailed(grey.place, "flow", str(error))
        except Exception as error:  # one clip, whatever it is, must not stop the run
            return ClipFailed(grey.place, "flow", f"{type(error).__name__}: {error}")

    def maps(self, grey: GreyFrames) -> Maps:
        """Flow of all pairs in one call, its maps, reduced and companded."""
        import torch

        from preprocess.tvl1 import tvl1_flow

        # A copy: frames from the object store are read-only, and torch warns of that.
        frames = torch.from_numpy(grey.frames.copy()).to(self.options.device)
        flow = tvl1_flow(frames[:-1], frames[1:], preset=self.options.preset)
        height, width = grey.frames.shape[1:]
        map_width, map_height = scaled_size(width, height, self.options.map_short_side)
        maps = reduce_maps(motion_map(flow), (map_height, map_width)).cpu().numpy()
        if not np.isfinite(maps).all():
            raise ClipError("flow", "the flow holds NaN or infinite values")
        values, scale = compand(maps)
        assert len(values) == len(grey.frames) - 1, "F frames must give F-1 flows"
        return Maps(grey.place, grey.attempt, grey.first_index, values, scale)
