"""Collect the motion vectors of one clip while its frames are decoded."""

from __future__ import annotations

from collections import deque

import av
import numpy as np

from preprocess.video.motion_vectors import VectorFlows, export_vectors, fill_holes


class ClipVectors:
    """Collects the flows between the frames of a clip: F frames give F - 1 flows.

    Frames between the keyframe and the clip are needed too: they show how far back the first
    vectors of the clip refer.

    Args:
        stream: the video stream before its first frame is decoded; it is made to export vectors.

    Raises:
        InputError: the codec exports no vectors.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        export_vectors(stream)
        self._flows = VectorFlows(stream)
        self._is_shown: deque[bool] = deque()  # for the frames whose flows are not ready
        self._has_first_frame = False
        self._before: np.ndarray | None = None
        self._ready: list[np.ndarray] = []

    def saw_packet(self, packet: av.Packet) -> None:
        """Note a packet that is about to be decoded."""
        self._flows.note(packet)

    def saw_frame(self, frame: av.VideoFrame, is_shown: bool) -> None:
        """Take the next decoded frame; `is_shown` says whether it belongs to the clip."""
        self._is_shown.append(is_shown)
        self._collect(self._flows.add(frame))

    def saw_end(self) -> None:
        """Finish: no frame follows."""
        self._collect(self._flows.finish())

    def take(self) -> list[np.ndarray]:
        """Flows that have become ready, in order: float32 [2, h, w] without holes, as coded.

        Values are pixels of the source per frame. Flows of B-frames become ready with the P-frame
        that follows them.
        """
        ready, self._ready = self._ready, []
        return ready

    def _collect(self, maps: list[np.ndarray]) -> None:
        for flow in maps:
            if not self._is_shown.popleft():
                continue
            if self._has_first_frame:
                self._before = fill_holes(flow, self._before)
                self._ready.append(self._before)
            self._has_first_frame = True
