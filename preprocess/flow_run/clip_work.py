"""What a decoder makes of the chunks of one clip: JPEG frames, grey frames, maps of vectors."""

from __future__ import annotations

import cv2
import numpy as np

from preprocess.flow_run.messages import (
    ClipDecoded,
    ClipFailed,
    EncodedFrames,
    GreyFrames,
    Job,
    Maps,
    WorkOptions,
)
from preprocess.video.errors import ClipError
from preprocess.video.frame_chunks import FrameChunk, scaled_size

DecodeEvent = EncodedFrames | Maps | ClipDecoded | ClipFailed
DecodeStep = tuple[list[DecodeEvent], GreyFrames | None]


class ClipWork:
    """Takes the chunks of a clip in order.

    Args:
        job: the clip.
        options: sizes and quality.
        with_vectors: whether chunks come with flows of motion vectors.
    """

    def __init__(self, job: Job, options: WorkOptions, with_vectors: bool) -> None:
        self._job = job
        self._options = options
        self._with_vectors = with_vectors
        self._before: np.ndarray | None = None  # the last grey frames of the chunk before
        self._num_frames = self._num_vectors = 0

    def parts(self, chunk: FrameChunk) -> DecodeStep:
        """Frames encoded, maps of motion vectors; frames in grey for a flow worker."""
        events: list[DecodeEvent] = [self._encoded(chunk)]
        if chunk.vectors:
            events += self._vector_maps(chunk)
        self._num_vectors += len(chunk.vectors)
        self._num_frames += len(chunk.rgb)
        return events, self._grey(chunk) if self._options.flow.pictured else None

    def end(self) -> ClipDecoded:
        """All chunks have come.

        Raises:
            ClipError: there are not as many flows of motion vectors as pairs of frames.
        """
        if self._with_vectors and self._num_vectors != self._num_frames - 1:
            counts = f"{self._num_vectors} flows from vectors of {self._num_frames} frames"
            raise ClipError("flow", counts)
        return ClipDecoded(self._job.place, self._job.attempt, self._num_frames)

    def _grey(self, chunk: FrameChunk) -> GreyFrames | None:
        grey = grey_frames(chunk.rgb, self._options.flow_short_side)
        if self._before is not None:
            grey = np.concatenate([self._before, grey])
        self._before = grey[-self._options.flow.frames_before :]
        if len(grey) < 2:
            return None
        num_before = len(grey) - len(chunk.rgb)
        first = chunk.first_index - num_before
        place, attempt = self._job.place, self._job.attempt
        return GreyFrames(place, attempt, first, grey, num_before, chunk.is_last)

    def _vector_maps(self, chunk: FrameChunk) -> list[Maps]:
        from preprocess.flow.maker import vector_maps  # torch, which other decoders do without

        return vector_maps(self._job, self._num_vectors, chunk.vectors, self._options)

    def _encoded(self, chunk: FrameChunk) -> EncodedFrames:
        jpegs = jpeg_frames(chunk.rgb, self._options.jpeg_quality)
        height, width = chunk.rgb.shape[1:3]
        return EncodedFrames(
            self._job.place,
            self._job.attempt,
            chunk.first_index,
            chunk.pts_seconds,
            np.concatenate(jpegs),
            np.array([len(jpeg) for jpeg in jpegs], dtype=np.int64),
            chunk.source_size,
            (width, height),
        )


def jpeg_frames(rgb: np.ndarray, quality: int) -> list[np.ndarray]:
    """Frames uint8 [T, H, W, 3] as they are stored: a JPEG file uint8 [bytes] each, quality
    1..100."""
    files = []
    for frame in rgb:
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        encoded, file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert encoded, frame.shape
        files.append(file.reshape(-1))
    return files


def grey_frames(rgb: np.ndarray, short_side: int) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] as grey uint8 [T, h, w] of the size that flow is computed on."""
    height, width = rgb.shape[1:3]
    size = scaled_size(width, height, short_side)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb]
    if size != (width, height):
        greys = [cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for grey in greys]
    return np.stack(greys)
