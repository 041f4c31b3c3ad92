"""What workers do: a Decoder turns clips into JPEG and grey frames, a FlowWorker those into maps.

Plain objects that know nothing of processes; preprocess/pool.py runs them in this process or as Ray
actors. A chunk is computed alone and cut by the clip alone, so results do not depend on which
worker computed what beside what.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from preprocess.decode import ClipError, FrameChunk, decode_clip, scaled_size
from preprocess.flow_sources import MOTION_VECTORS
from preprocess.messages import (
    ClipDecoded,
    ClipFailed,
    Decoded,
    EncodedFrames,
    Flowed,
    GreyFrames,
    Job,
    Maps,
    TracksOfFrames,
    WorkOptions,
)
from preprocess.transcode import clear_scratch
from shared.errors import InputError

# Chunks of short clips are handed on together, so that a call costs little beside the work. A batch
# is full with one of these; the chunk that fills it may exceed them.
BATCH_FRAMES = 256
BATCH_BYTES = 8 << 20  # of grey frames
BATCH_CLIPS = 16


class Decoder:
    """Decodes the clips it is given, a bounded batch a call."""

    def __init__(self, options: WorkOptions) -> None:
        cv2.setNumThreads(1)
        self.options = options
        self._decode = replace(options.decode, vectors=MOTION_VECTORS in options.flow.sources)
        if options.decode.scratch is not None:  # its own, to be cleared whatever others do
            scratch = options.decode.scratch / f"decoder-{os.getpid()}"
            self._decode = replace(self._decode, scratch=scratch)
        self._video = ""
        self._running: Job | None = None
        self._chunks: Iterator[tuple[list[EncodedFrames | Maps], GreyFrames | None]] = iter(())
        self._num_frames = 0

    def next_batch(self, jobs: list[Job]) -> tuple[Decoded, list[GreyFrames]]:
        """Go on with the clip begun, then with `jobs`, until a batch is full or nothing is left.

        Returns:
            what is for the driver, and the batch of grey frames for a flow worker.
        """
        began = time.perf_counter()
        decoded = Decoded()
        batch: list[GreyFrames] = []
        num_frames = num_bytes = 0
        while num_frames < BATCH_FRAMES and num_bytes < BATCH_BYTES:
            if self._running is None:
                if decoded.num_taken == len(jobs):
                    break
                self._begin(jobs[decoded.num_taken])
                decoded.num_taken += 1
            before = self._num_frames
            grey = self._advance(decoded)
            num_frames += self._num_frames - before
            if grey is not None:
                batch.append(grey)
                num_bytes += grey.frames.nbytes
        decoded.running = self._running
        decoded.batch_places = [grey.place for grey in batch]
        decoded.busy_seconds = time.perf_counter() - began
        return decoded, batch

    def _begin(self, job: Job) -> None:
        if self._decode.scratch is not None and job.clip.video != self._video:
            clear_scratch(self._decode.scratch)
        self._video = job.clip.video
        self._running = job
        self._chunks = self.chunks(job)
        self._num_frames = 0

    def _advance(self, decoded: Decoded) -> GreyFrames | None:
        """One chunk further in the running clip."""
        job = self._running
        assert job is not None
        try:
            events, grey = next(self._chunks)
        except StopIteration:
            decoded.events.append(ClipDecoded(job.place, job.attempt, self._num_frames))
        except ClipError as error:
            decoded.events.append(ClipFailed(job.place, error.stage, error.reason))
        except Exception as error:  # one clip, whatever it is, must not stop the run
            reason = f"{type(error).__name__}: {error}"
            decoded.events.append(ClipFailed(job.place, "decode", reason))
        else:
            decoded.events += events
            self._num_frames += len(events[0].pts_seconds)
            return grey
        self._running = None
        return None

    def chunks(self, job: Job) -> Iterator[tuple[list[EncodedFrames | Maps], GreyFrames | None]]:
        """The chunks of one clip: frames encoded, maps of motion vectors; frames in grey."""
        tracks = self.options.flow.tracks
        most_before = tracks.length if tracks else 1
        before: np.ndarray | None = None
        num_frames = num_vectors = 0
        for chunk in decode_clip(job.clip, self.options.video_root, self._decode):
            events: list[EncodedFrames | Maps] = [self._encoded(job, chunk)]
            if chunk.vectors:
                events.append(self._vector_maps(job, num_vectors, chunk))
            num_vectors += len(chunk.vectors)
            num_frames += len(chunk.rgb)
            grey = (
                grey_frames(chunk.rgb, self.options.flow_short_side)
                if self.options.flow.pictured
                else None
            )
            if grey is not None and before is not None:
                grey = np.concatenate([before, grey])
            before = None if grey is None else grey[-most_before:]
            if grey is None or len(grey) < 2:
                yield events, None
                continue
            num_before = len(grey) - len(chunk.rgb)
            first = chunk.first_index - num_before
            yield (
                events,
                GreyFrames(job.place, job.attempt, first, grey, num_before, chunk.is_last),
            )
        if self._decode.vectors and num_vectors != num_frames - 1:
            raise ClipError("flow", f"{num_vectors} flows from vectors of {num_frames} frames")

    def _vector_maps(self, job: Job, first_index: int, chunk: FrameChunk) -> Maps:
        from preprocess.flow_maker import vector_maps  # torch, which other decoders do without

        return vector_maps(job, first_index, chunk.vectors, self.options)

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


def grey_frames(rgb: np.ndarray, short_side: int) -> np.ndarray:
    """Frames u1 [T, H, W, 3] as grey u1 [T, h, w] of the size that flow is computed on."""
    height, width = rgb.shape[1:3]
    size = scaled_size(width, height, short_side)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb]
    if size != (width, height):
        greys = [cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for grey in greys]
    return np.stack(greys)


class FlowWorker:
    """Computes the motion maps of batches of grey frames."""

    def __init__(self, options: WorkOptions) -> None:
        import torch

        from preprocess.flow_maker import FlowMaker

        cv2.setNumThreads(1)
        if options.device == "cpu":
            torch.set_num_threads(1)
        self.options = options
        self._maker = FlowMaker(options)

    def run(self, batch: list[GreyFrames], wanted: list[int] | None = None) -> Flowed:
        """Maps of every chunk of the batch, or of those numbered in `wanted`."""
        began = time.perf_counter()
        flowed = Flowed()
        for index in range(len(batch)) if wanted is None else wanted:
            flowed.events += self._maps_or_failure(batch[index])
        flowed.busy_seconds = time.perf_counter() - began
        return flowed

    def _maps_or_failure(self, grey: GreyFrames) -> list[Maps | TracksOfFrames | ClipFailed]:
        try:
            return self.maps(grey)
        except ClipError as error:
            return [ClipFailed(grey.place, error.stage, error.reason)]
        except InputError as error:
            return [ClipFailed(grey.place, "flow", str(error))]
        except Exception as error:  # one clip, whatever it is, must not stop the run
            return [ClipFailed(grey.place, "flow", f"{type(error).__name__}: {error}")]

    def maps(self, grey: GreyFrames) -> list[Maps | TracksOfFrames]:
        """The maps of each output, and the tracks."""
        return self._maker.parts(grey)
