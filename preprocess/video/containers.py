"""What each container format states about its video, and how it must be read: one table."""

from __future__ import annotations

from dataclasses import dataclass

import av


@dataclass(frozen=True)
class Traits:
    """Properties of a container format, as FFmpeg's demuxer for it behaves.

    Attributes:
        packets_are_frames: every packet of the picture holds one frame, so packets can be counted.
        duration_is_end: the duration in the header is the time at which the last frame ends.
        fragments_tell_end: the same holds for files in fragments, which have no frame count.
        has_edit_lists: the file may hide frames that it holds.
        has_stream_duration: each stream has a duration of its own, also if there are several.
        has_frame_times: packets have presentation times. Without them there are only decoding
            times, which count the packets.
        has_frame_durations: the file says for how long each frame is shown, or all are shown for as
            long. Without this, FFmpeg gives each the same time, also where the rate varies.
        can_seek: frames have the same times after a seek as in a pass from the start.
        needs_all_streams: the packets of all streams are needed to see whether the file is whole.
        is_contiguous: packets follow one another with small headers between them.
        numbers_packets: packets carry a counter, so the demuxer marks a packet after a loss.
        lists_empty_frames: an entry of the index without data repeats the frame before it.
        indexes_starts: the start of each stream is known without decoding a frame.
        marks_end: the last page of the file is marked as the last one.
        has_file_size: the header holds the size of the whole file.
    """

    packets_are_frames: bool = False
    duration_is_end: bool = False
    fragments_tell_end: bool = False
    has_edit_lists: bool = False
    has_stream_duration: bool = True
    has_frame_times: bool = True
    has_frame_durations: bool = True
    can_seek: bool = True
    needs_all_streams: bool = False
    is_contiguous: bool = False
    numbers_packets: bool = False
    lists_empty_frames: bool = False
    indexes_starts: bool = False
    marks_end: bool = False
    has_file_size: bool = False


CONTAINERS = {  # by FFmpeg's name of the demuxer, or the first of its names
    "mov": Traits(
        packets_are_frames=True, fragments_tell_end=True, has_edit_lists=True, indexes_starts=True
    ),
    "matroska": Traits(
        packets_are_frames=True, duration_is_end=True, needs_all_streams=True, is_contiguous=True
    ),
    # After a seek, AVI does not tell how far frames are shown after their decoding times.
    "avi": Traits(
        packets_are_frames=True,
        has_frame_times=False,
        can_seek=False,
        lists_empty_frames=True,
        indexes_starts=True,
    ),
    "mpegts": Traits(numbers_packets=True),
    # After a seek, a program stream does not tell when frames are shown that have no time of their
    # own.
    "mpeg": Traits(can_seek=False),
    "flv": Traits(
        duration_is_end=True,
        has_frame_durations=False,
        needs_all_streams=True,
        is_contiguous=True,
    ),
    # Few pages of the file have a time, so a seek may land anywhere.
    "ogg": Traits(packets_are_frames=True, can_seek=False, marks_end=True),
    "asf": Traits(has_stream_duration=False, has_file_size=True),
}
FORMATS = ",".join(CONTAINERS)  # FFmpeg's list of the demuxers that may open a file


def kind_of(container: av.container.InputContainer) -> str:
    """FFmpeg's first name of the container's format, a key of `CONTAINERS`."""
    return container.format.name.split(",")[0]


def traits_of(container: av.container.InputContainer) -> Traits:
    """The row of the table for a container; a file opened by other means may have any format."""
    return CONTAINERS.get(kind_of(container), Traits())
