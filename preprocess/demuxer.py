"""The packets of a video in the order of the file, and what is seen of the file on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator

import av

from preprocess.video_file import ClipError, complaints


class Demuxer:
    """Iterates over the packets of one stream, the last one empty.

    Attributes:
        others_end: until when the packets of all other streams that came so far last, seconds by
            the clock of the container; minus infinity before the first.

    Raises:
        ClipError: the container is damaged, also where FFmpeg would only log that and skip it.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self.others_end = -math.inf
        self._container = container
        self._stream = stream

    def __iter__(self) -> Iterator[av.Packet]:
        packets = self._container.demux()
        while True:
            with complaints() as found:
                packet = self._next(packets)
            if found:
                raise ClipError("decode", found[0])
            if packet is None:
                return
            if packet.stream_index == self._stream.index:
                yield packet
            elif packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self.others_end = max(self.others_end, end)

    def _next(self, packets: Iterator[av.Packet]) -> av.Packet | None:
        try:
            return next(packets, None)
        except IndexError:  # PyAV knows the streams that were there at the start
            raise ClipError("decode", "damaged container: a stream begins in the middle") from None
