"""The motion vectors of one clip, out of a stream that is being decoded for its frames."""

from __future__ import annotations

from collections import deque

import av
import numpy as np

from preprocess.video.motion_vectors import VectorFlows, export_vectors, fill_holes


class ClipVectors:
    """Collects the flows between the frames of a clip: F frames give F - 1.

    Frames before the clip, decoded from the keyframe on, are needed too: they tell how far back the
    first vectors of the clip reach.

    Args:
        stream: of the decoder, before its first frame; made to export vectors.

    Raises:
        InputError: the codec exports no vectors.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        export_vectors(stream)
        self._flows = VectorFlows(stream)
        self._is_shown: deque[bool] = deque()  # of the frames whose maps are not ready
        self._has_begun = False
        self._before: np.ndarray | None = None
        self._ready: list[np.ndarray] = []

    def saw_packet(self, packet: av.Packet) -> None:
        """A packet about to be decoded."""
        self._flows.note(packet)

    def saw_frame(self, frame: av.VideoFrame, is_shown: bool) -> None:
        """The next frame, and whether it belongs to the clip."""
        self._is_shown.append(is_shown)
        self._collect(self._flows.add(frame))

    def saw_end(self) -> None:
        """No frame follows."""
        self._collect(self._flows.finish())

    def take(self) -> list[np.ndarray]:
        """Flows that became ready, in order: float32 [2, h, w] without holes, as the frames are
        stored.

        Pixels of the source per frame; those of B-frames come after the P-frame that follows them.
        """
        ready, self._ready = self._ready, []
        return ready

    def _collect(self, maps: list[np.ndarray]) -> None:
        for flow in maps:
            if not self._is_shown.popleft():
                continue
            if self._has_begun:
                self._before = fill_holes(flow, self._before)
                self._ready.append(self._before)
            self._has_begun = True
