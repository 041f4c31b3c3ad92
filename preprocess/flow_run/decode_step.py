"""The decode step: a Decoder turns clips into JPEG frames, grey frames and maps of motion vectors.

A Decoder is a plain object. preprocess/flow_run/pool.py runs it in this process, or as a Ray actor.
Each chunk is computed alone, and only the clip decides where its chunks end. Results therefore do
not depend on which worker computed which chunk.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from preprocess.flow.chunks import GreyFrames, Maps
from preprocess.flow.sources import MOTION_VECTORS
from preprocess.flow_run.decode_groups import ClipTask, DecodeGroup
from preprocess.flow_run.messages import (
    ClipDecoded,
    ClipFailed,
    DecodeEvent,
    DecodeResult,
    EncodedFrames,
    WorkerOptions,
)
from preprocess.video.decode import Tally, decode_steps
from preprocess.video.errors import ClipError
from preprocess.video.frame_chunks import STEP_FRAMES, FrameChunk, scaled_size
from preprocess.video.spans import decode_together
from preprocess.video.transcode import clear_scratch
from shared.errors import is_of_the_machine

# Chunks of short clips are sent together, so that the cost of a call is small compared to the work.
# A batch is full when it reaches one of these limits; its last chunk may exceed them.
BATCH_FRAMES = 256
BATCH_BYTES = 8 << 20  # of the frames for flow workers
BATCH_GROUPS = 16

DecodeStep = tuple[list[DecodeEvent], GreyFrames | None]
"""Events for the driver, and frames for a flow worker."""
NOTHING_YET: DecodeStep = ([], None)
"""STEP_FRAMES frames were decoded or transcoded, and no chunk is full yet."""


class Decoder:
    """Decodes groups of clips; each call returns a batch of bounded size."""

    def __init__(self, options: WorkerOptions) -> None:
        cv2.setNumThreads(1)
        self.options = options
        self._decode = replace(options.decode, vectors=MOTION_VECTORS in options.flow.sources)
        if (
            options.decode.scratch is not None
        ):  # a folder of its own, which it may clear at any time
            # On several machines two decoders may have the same process id.
            scratch = options.decode.scratch / f"decoder-{os.getpid()}-{secrets.token_hex(4)}"
            self._decode = replace(self._decode, scratch=scratch)
        self._video = ""
        self._group = DecodeGroup(())  # the running group, without the clips that have ended
        self._has_several = False  # whether the running group started with several clips
        self._steps: Iterator[DecodeStep] = iter(())
        self._tally = Tally()

    def next_batch(self, groups: list[DecodeGroup]) -> tuple[DecodeResult, list[GreyFrames]]:
        """Continue the running group, then start `groups`, until a batch is full or all are done.

        Frames that no clip keeps, and frames that are transcoded, count as well. The driver kills a
        decoder that does not return for long.

        Returns:
            the result for the driver, and the batch of grey frames for a flow worker.

        Raises:
            OSError: the machine lacks something. This ends the run; no clip is to blame.
        """
        began, before = time.perf_counter(), self._tally.num_frames
        result = DecodeResult()
        batch: list[GreyFrames] = []
        num_frames = num_bytes = 0
        while num_frames < BATCH_FRAMES and num_bytes < BATCH_BYTES:
            if not self._group.tasks:
                if result.num_started == len(groups):
                    break
                self._start(groups[result.num_started])
                result.num_started += 1
            events, grey = self._next_step()
            self._record(events, result)
            num_frames += sum(len(e.pts_seconds) for e in events if isinstance(e, EncodedFrames))
            if not events:
                num_frames += STEP_FRAMES
            if grey is not None:
                batch.append(grey)
                num_bytes += grey.frames.nbytes
                num_bytes += 0 if grey.colour is None else grey.colour.nbytes
        result.running = self._group if self._group.tasks else None
        result.batch_clip_indexes = [grey.clip_index for grey in batch]
        result.num_frames = self._tally.num_frames - before
        result.remarks, self._tally.remarks = self._tally.remarks, []
        result.busy_seconds = time.perf_counter() - began
        return result, batch

    def _start(self, group: DecodeGroup) -> None:
        video = group.tasks[0].clip.video
        if self._decode.scratch is not None and video != self._video:
            clear_scratch(self._decode.scratch)
        self._video = video
        self._group = group
        self._has_several = len(group.tasks) > 1
        self._steps = self.steps(group)

    def _next_step(self) -> DecodeStep:
        """Decode one chunk, or end a clip; an error fails all clips of the group.

        Raises:
            OSError: the machine lacks something, such as space for the copies of videos.
        """
        try:
            return next(self._steps)
        except Exception as error:  # one clip must not stop the run, whatever its error
            if is_of_the_machine(error):
                raise
            return [_failed(task, error) for task in self._group.tasks], None

    def _record(self, events: list[DecodeEvent], result: DecodeResult) -> None:
        """Add events to the result. A clip that failed beside others is tried again alone."""
        for event in events:
            if isinstance(event, ClipFailed) and self._has_several:
                result.retries.append(self._group.retry_of(event.clip_index))
            else:
                result.events.append(event)
            if isinstance(event, ClipDecoded | ClipFailed):
                self._group = self._group.remaining(event.clip_index)

    def steps(self, group: DecodeGroup) -> Iterator[DecodeStep]:
        """Yield the chunks of all clips of a group, and the event that ends each clip."""
        encoders = [ClipEncoder(task, self.options, self._decode.vectors) for task in group.tasks]
        root = self.options.video_root
        if len(encoders) == 1:
            for chunk in decode_steps(group.tasks[0].clip, root, self._decode, self._tally):
                yield encoders[0].encode(chunk) if chunk is not None else NOTHING_YET
            yield [encoders[0].finish()], None
            return
        clips = [task.clip for task in group.tasks]
        for found in decode_together(clips, root, self._decode, self._tally):
            if found is None:
                yield NOTHING_YET
                continue
            index, step = found
            if step is None:
                yield [encoders[index].finish()], None
            elif isinstance(step, ClipError):
                yield [_failed(group.tasks[index], step)], None
            else:
                yield encoders[index].encode(step)


def _failed(task: ClipTask, error: Exception) -> ClipFailed:
    if isinstance(error, ClipError):
        return ClipFailed(task.clip_index, error.stage, error.reason, error.code)
    return ClipFailed.by_fault(task.clip_index, error)


class ClipEncoder:
    """Turns the chunks of one clip, in order, into frames to store and frames to compute flow on.

    Args:
        task: the clip.
        options: sizes and quality.
        with_vectors: whether chunks have flows of motion vectors.
    """

    def __init__(self, task: ClipTask, options: WorkerOptions, with_vectors: bool) -> None:
        self._task = task
        self._options = options
        self._with_vectors = with_vectors
        # The last frames of the previous chunk, grey and in colour.
        self._before: np.ndarray | None = None
        self._colour_before: np.ndarray | None = None
        self._num_frames = self._num_vectors = 0

    def encode(self, chunk: FrameChunk) -> DecodeStep:
        """JPEG frames and maps of motion vectors of a chunk, and grey frames for a flow worker."""
        events: list[DecodeEvent] = [self._jpegs(chunk)]
        if chunk.vectors:
            events += self._vector_maps(chunk)
        self._num_vectors += len(chunk.vectors)
        self._num_frames += len(chunk.rgb)
        return events, self._grey(chunk) if self._options.flow.pictured else None

    def finish(self) -> ClipDecoded:
        """Check the counts after the last chunk.

        Raises:
            ClipError: the number of flows of motion vectors is not the number of pairs of frames.
        """
        if self._with_vectors and self._num_vectors != self._num_frames - 1:
            counts = f"{self._num_vectors} flows from vectors of {self._num_frames} frames"
            raise ClipError("damaged-file", counts, "flow")
        return ClipDecoded(self._task.clip_index, self._task.attempt, self._num_frames)

    def _grey(self, chunk: FrameChunk) -> GreyFrames | None:
        flow = self._options.flow
        grey = grey_frames(chunk.rgb, self._options.flow_short_side)
        colour = None
        if flow.needs_colour:
            colour = scaled_frames(chunk.rgb, self._options.flow_short_side)
        if self._before is not None:
            grey = np.concatenate([self._before, grey])
        if colour is not None and self._colour_before is not None:
            colour = np.concatenate([self._colour_before, colour])
        self._before = grey[-flow.frames_before :]
        self._colour_before = None if colour is None else colour[-flow.frames_before :]
        if len(grey) < 2:
            return None
        num_before = len(grey) - len(chunk.rgb)
        first = chunk.first_index - num_before
        clip_index, attempt = self._task.clip_index, self._task.attempt
        return GreyFrames(clip_index, attempt, first, grey, num_before, chunk.is_last, colour)

    def _vector_maps(self, chunk: FrameChunk) -> list[Maps]:
        from preprocess.flow.pipeline import (
            vector_maps,
        )  # imports torch; not every decoder needs it

        return vector_maps(
            self._task.clip_index,
            self._task.attempt,
            self._num_vectors,
            chunk.vectors,
            self._options.flow,
            self._options.map_short_side,
        )

    def _jpegs(self, chunk: FrameChunk) -> EncodedFrames:
        jpegs = jpeg_frames(chunk.rgb, self._options.jpeg_quality)
        height, width = chunk.rgb.shape[1:3]
        return EncodedFrames(
            self._task.clip_index,
            self._task.attempt,
            chunk.first_index,
            chunk.pts_seconds,
            np.concatenate(jpegs),
            np.array([len(jpeg) for jpeg in jpegs], dtype=np.int64),
            chunk.source_size,
            (width, height),
        )


def jpeg_frames(rgb: np.ndarray, quality: int) -> list[np.ndarray]:
    """Encode frames uint8 [T, H, W, 3] as JPEG files uint8 [bytes] of quality 1..100."""
    files = []
    for frame in rgb:
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        encoded, file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert encoded, frame.shape
        files.append(file.reshape(-1))
    return files


def grey_frames(rgb: np.ndarray, short_side: int) -> np.ndarray:
    """Convert frames uint8 [T, H, W, 3] to grey uint8 [T, h, w] of the size for computing flow."""
    height, width = rgb.shape[1:3]
    size = scaled_size(width, height, short_side)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb]
    if size != (width, height):
        greys = [cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for grey in greys]
    return np.stack(greys)


def scaled_frames(rgb: np.ndarray, short_side: int) -> np.ndarray:
    """Scale frames uint8 [T, H, W, 3] to the size for computing flow, uint8 [T, h, w, 3]."""
    height, width = rgb.shape[1:3]
    size = scaled_size(width, height, short_side)
    if size == (width, height):
        return rgb
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in rgb])
