"""Find the pictures at the start of a cut that cannot be decoded.

A cut without re-encoding starts at a keyframe. In an open group of pictures, pictures that are
shown before this keyframe follow it in the file, and refer to pictures that were cut off. The
decoder drops them without an error. A cut that starts between keyframes has more such pictures.
"""

from __future__ import annotations

import av

LONGEST_REORDER = 16  # pictures that can follow a keyframe and be shown before it (H.264, HEVC)


class LeadingPictures:
    """Collects the packets that come before, or are shown before, the first keyframe.

    Args:
        has_frame_times: whether packets say when they are shown. Where they do not (AVI), leading
            pictures are the packets that give no frame right after a keyframe with which the file
            begins: a frame has the pts of its packet.
    """

    def __init__(self, has_frame_times: bool) -> None:
        self._has_frame_times = has_frame_times
        self._keyframe_pts: int | None = None
        self._before: list[int | None] = []  # pts of packets before the keyframe
        self._after: list[int | None] = []  # those after it that may be leading
        self._shown: set[int] = set()

    def saw_packet(self, packet: av.Packet) -> None:
        """Note a packet that is about to be decoded."""
        if self._keyframe_pts is None:
            if packet.is_keyframe and packet.pts is not None:
                self._keyframe_pts = packet.pts
            elif not packet.is_discard:
                self._before.append(packet.pts)
        elif packet.is_discard:
            return
        elif not self._has_frame_times:
            if len(self._after) < LONGEST_REORDER:
                self._after.append(packet.pts)
        # Matroska has no time where it would be negative; FFmpeg may put that of the keyframe.
        elif packet.pts is None or packet.pts <= self._keyframe_pts:
            self._after.append(packet.pts)

    def saw_frame(self, pts: int | None) -> None:
        """Note the pts of a decoded frame."""
        if pts is not None and not self._has_frame_times:
            self._shown.add(pts)

    def undecodable(self) -> list[int | None]:
        """The pts of all packets that need not give a frame."""
        if self._keyframe_pts is None:
            return []
        if self._has_frame_times:
            before = [pts for pts in self._before if pts is None or pts < self._keyframe_pts]
            return before + self._after
        packets: list[int | None] = []
        for pts in self._after if not self._before else ():
            if pts in self._shown:
                break
            packets.append(pts)
        return packets
