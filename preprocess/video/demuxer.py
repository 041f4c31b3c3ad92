"""Read the packets of a video in the order of the file, and find signs of lost packets."""

from __future__ import annotations

import math
from collections.abc import Iterator

import av

from preprocess.video.containers import traits_of
from preprocess.video.errors import ClipError
from preprocess.video.leading_pictures import LeadingPictures
from preprocess.video.video_file import complaints

PASSED_BYTES = 128  # largest gap between packets of a contiguous format; 60 were seen


class Demuxer:
    """Iterates over the packets of one stream; the last one is empty and flushes the decoder.

    Attributes:
        others_end: when the packets of all other streams end that were read so far, in seconds on
            the clock of the container; minus infinity before the first one.
        is_after_loss: whether packets before the last one were lost; None if the format does not
            show it.
        leading: finds the pictures that cannot be decoded at the place where reading started.

    Raises:
        ClipError: the container is damaged, including damage that FFmpeg only logs and skips.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self.others_end = -math.inf
        self._traits = traits_of(container)
        tells_loss = self._traits.is_contiguous or self._traits.numbers_packets
        self.is_after_loss = False if tells_loss else None
        self.leading = LeadingPictures(self._traits.has_frame_times)
        self._position: int | None = None  # of the last packet, bytes from the start of the file
        self._end_position = 0
        self._container = container
        self._stream = stream

    def __iter__(self) -> Iterator[av.Packet]:
        packets = self._container.demux()
        lost = False  # since the last packet of the stream
        while True:
            with complaints() as found:
                packet = self._next(packets)
            if found:
                raise ClipError("damaged-file", found[0])
            if packet is None:
                return
            passed = self._passed_over(packet)
            # Not `stream_index`, which is 0 for the packets that flush the decoders at the end.
            if packet.stream.index == self._stream.index:
                if self._traits.numbers_packets:
                    self.is_after_loss = packet.is_corrupt
                elif self._traits.is_contiguous:
                    self.is_after_loss = lost or passed > PASSED_BYTES
                lost = False
                if packet.size:
                    self.leading.saw_packet(packet)
                yield packet
                continue
            lost = lost or passed > PASSED_BYTES
            if packet.pts is not None:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                self.others_end = max(self.others_end, end)

    def _next(self, packets: Iterator[av.Packet]) -> av.Packet | None:
        try:
            return next(packets, None)
        except IndexError:  # PyAV knows only the streams that exist at the start
            raise ClipError(
                "damaged-file", "damaged container: a stream begins in the middle"
            ) from None

    def _passed_over(self, packet: av.Packet) -> int:
        """Bytes of the file between this packet and the one before it, whatever its stream."""
        if packet.pos is None or packet.pos < 0:  # a cover picture, the flush at the end
            return 0
        if packet.pos == self._position:  # several in one block
            self._end_position += packet.size
            return 0
        passed = packet.pos - self._end_position if self._position is not None else 0
        self._position, self._end_position = packet.pos, packet.pos + packet.size
        return passed
