"""What workers do: a Decoder turns clips into JPEG and grey frames, a FlowWorker those into maps.

Plain objects that know nothing of processes; preprocess/flow_run/pool.py runs them in this process
or as Ray actors. A chunk is computed alone and cut by the clip alone, so results do not depend on
which worker computed what beside what.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

import cv2

from preprocess.flow.sources import MOTION_VECTORS
from preprocess.flow_run.clip_work import ClipWork, DecodeEvent, DecodeStep
from preprocess.flow_run.messages import (
    ClipDecoded,
    ClipFailed,
    Decoded,
    EncodedFrames,
    Flowed,
    GreyFrames,
    Job,
    Maps,
    Reading,
    TracksOfFrames,
    WorkOptions,
)
from preprocess.video.decode import Tally, decode_clip
from preprocess.video.errors import ClipError
from preprocess.video.spans import decode_together
from preprocess.video.transcode import clear_scratch
from shared.errors import InputError

# Chunks of short clips are handed on together, so that a call costs little beside the work. A batch
# is full with one of these; the chunk that fills it may exceed them.
BATCH_FRAMES = 256
BATCH_BYTES = 8 << 20  # of grey frames
BATCH_READINGS = 16


class Decoder:
    """Decodes the readings it is given, a bounded batch a call."""

    def __init__(self, options: WorkOptions) -> None:
        cv2.setNumThreads(1)
        self.options = options
        self._decode = replace(options.decode, vectors=MOTION_VECTORS in options.flow.sources)
        if options.decode.scratch is not None:  # its own, to be cleared whatever others do
            scratch = options.decode.scratch / f"decoder-{os.getpid()}"
            self._decode = replace(self._decode, scratch=scratch)
        self._video = ""
        self._reading = Reading(())  # the one begun, those of its clips that have not ended
        self._is_shared = False  # whether it began with several
        self._steps: Iterator[DecodeStep] = iter(())
        self._tally = Tally()

    def next_batch(self, readings: list[Reading]) -> tuple[Decoded, list[GreyFrames]]:
        """Go on with what is begun, then with `readings`, until a batch is full or nothing is left.

        Returns:
            what is for the driver, and the batch of grey frames for a flow worker.
        """
        began, before = time.perf_counter(), self._tally.num_frames
        decoded = Decoded()
        batch: list[GreyFrames] = []
        num_frames = num_bytes = 0
        while num_frames < BATCH_FRAMES and num_bytes < BATCH_BYTES:
            if not self._reading.jobs:
                if decoded.num_taken == len(readings):
                    break
                self._begin(readings[decoded.num_taken])
                decoded.num_taken += 1
            events, grey = self._next_step()
            self._settle(events, decoded)
            num_frames += sum(len(e.pts_seconds) for e in events if isinstance(e, EncodedFrames))
            if grey is not None:
                batch.append(grey)
                num_bytes += grey.frames.nbytes
        decoded.running = self._reading if self._reading.jobs else None
        decoded.batch_places = [grey.place for grey in batch]
        decoded.num_frames = self._tally.num_frames - before
        decoded.busy_seconds = time.perf_counter() - began
        return decoded, batch

    def _begin(self, reading: Reading) -> None:
        video = reading.jobs[0].clip.video
        if self._decode.scratch is not None and video != self._video:
            clear_scratch(self._decode.scratch)
        self._video = video
        self._reading = reading
        self._is_shared = len(reading.jobs) > 1
        self._steps = self.steps(reading)

    def _next_step(self) -> DecodeStep:
        """One chunk further, or to the end of a clip; of all clips where something stops them."""
        try:
            return next(self._steps)
        except Exception as error:  # one clip, whatever it is, must not stop the run
            return [_failed(job, error) for job in self._reading.jobs], None

    def _settle(self, events: list[DecodeEvent], decoded: Decoded) -> None:
        """Note clips that have ended; what failed together with others is tried by itself."""
        for event in events:
            if isinstance(event, ClipFailed) and self._is_shared:
                decoded.again.append(self._reading.alone(event.place))
            else:
                decoded.events.append(event)
            if isinstance(event, ClipDecoded | ClipFailed):
                self._reading = self._reading.without(event.place)

    def steps(self, reading: Reading) -> Iterator[DecodeStep]:
        """The chunks of all clips of a reading, and how each ends."""
        works = [ClipWork(job, self.options, self._decode.vectors) for job in reading.jobs]
        root = self.options.video_root
        if len(works) == 1:
            for chunk in decode_clip(reading.jobs[0].clip, root, self._decode, self._tally):
                yield works[0].parts(chunk)
            yield [works[0].end()], None
            return
        clips = [job.clip for job in reading.jobs]
        for index, step in decode_together(clips, root, self._decode, self._tally):
            if step is None:
                yield [works[index].end()], None
            elif isinstance(step, ClipError):
                yield [_failed(reading.jobs[index], step)], None
            else:
                yield works[index].parts(step)


def _failed(job: Job, error: Exception) -> ClipFailed:
    if isinstance(error, ClipError):
        return ClipFailed(job.place, error.stage, error.reason)
    return ClipFailed(job.place, "decode", f"{type(error).__name__}: {error}")


class FlowWorker:
    """Computes the motion maps of batches of grey frames."""

    def __init__(self, options: WorkOptions) -> None:
        import torch

        from preprocess.flow.maker import FlowMaker

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
            if self.options.device != "cpu":
                import torch

                # A GPU whose context is broken raises again here, and every later clip would fail:
                # the worker ends, another takes its place and the clip is tried once more.
                torch.cuda.synchronize()
            return [ClipFailed(grey.place, "flow", f"{type(error).__name__}: {error}")]

    def maps(self, grey: GreyFrames) -> list[Maps | TracksOfFrames]:
        """The maps of each output, and the tracks."""
        return self._maker.parts(grey)
