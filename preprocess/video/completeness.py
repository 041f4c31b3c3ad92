"""Check whether all of a clip was decoded: FFmpeg often stops early without an error.

The decoded frames are compared with everything that the container states: the number of frames,
the number of packets, and the duration.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from preprocess.video.asf import announced_bytes
from preprocess.video.avi_entries import EmptyEntries, count_empty_entries
from preprocess.video.containers import traits_of
from preprocess.video.demuxer import Demuxer
from preprocess.video.errors import ClipError
from preprocess.video.ogg import has_end
from preprocess.video.video_file import time_base_of
from shared.manifest import Clip

TIME_TOLERANCE = 1e-3  # seconds; manifests give three decimals, presentation times are exact
FRAMES_TOLERANCE = 1  # headers of HMDB51 claim one frame too many
END_TOLERANCE_FRAMES = FRAMES_TOLERANCE + 0.5  # a whole video may end this much too early
SOUND_TOLERANCE = 0.25  # seconds; packets of sound may not have a duration
HOLES_TOLERANCE = 0.1  # share of frames that a live recording may have dropped
HIDING_CODECS = ("vp8", "libvpx")  # their packets may hold a frame that is never shown
SKIPPING_CODECS = ("mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "h263", "flv")
SKIPPED_BYTES = 8  # largest packet of these codecs that only repeats a frame, and may give none


class Completeness:
    """What the container states about a clip, and how much of the clip has been decoded.

    Times are seconds from the start of the picture. Only the times of the clip itself count from
    the start of the file, as in players.

    Args:
        clip: the clip.
        container, stream: the video of the clip.
        picture_start: when the picture starts, in seconds from the start of the file.

    Attributes:
        start, stop: the span of the clip, stop exclusive; infinite for the end of the video.
        is_whole_video: whether the clip has no span.
        frame_seconds: average time between frames.
        duration: seconds of the picture, as the container states them; None if it does not.
        num_frames: decoded frames so far that belong to the span.
        has_sought: whether reading started in the middle of the file, after a seek.
    """

    def __init__(
        self,
        clip: Clip,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        picture_start: float = 0.0,
    ) -> None:
        start, stop = clip.span
        self.is_whole_video = start == 0.0 and stop == math.inf
        self.start, self.stop = start - picture_start, stop - picture_start
        self._picture_start = picture_start
        self.num_frames = 0
        self.has_sought = False
        self._stream = stream
        rate = stream.average_rate or stream.guessed_rate
        self.frame_seconds = float(1 / rate) if rate else 0.04
        self._time_base = time_base_of(stream)
        self._stream_start = float((stream.start_time or 0) * self._time_base)
        self._traits = traits_of(container)
        self.duration = self._announced_duration(container)
        self._path = Path(container.name)
        self._missing_bytes = 0
        if self._traits.has_file_size:
            self._missing_bytes = (announced_bytes(self._path) or 0) - container.size
        self._end_of_all = self._announced_end_of_all(container)
        self._others_end = -math.inf
        self._num_packets = 0
        self._num_skipped = 0
        self._demuxer: Demuxer | None = None
        self._may_have_holes = False
        self._discarded: list[float] = []
        self._step_back: tuple[float, float] | None = None
        self._last = -math.inf
        self._end = 0.0
        self._times: list[float] = []  # of the frames shown in the span, and of one before it
        self._reached_stop = False

    def contains(self, seconds: float) -> bool:
        """Whether a frame that is shown at this time belongs to the clip."""
        return self.start - TIME_TOLERANCE <= seconds < self.stop - TIME_TOLERANCE

    def seconds(self, pts: int) -> float:
        """Seconds from the start of the picture of a presentation time stamp of the stream."""
        return float((pts - (self._stream.start_time or 0)) * self._time_base)

    def saw_packet(self, packet: av.Packet, demuxer: Demuxer) -> None:
        """Count a packet that the demuxer has just returned, before it is decoded."""
        self._demuxer = demuxer
        if packet.size == 0 and packet.dts is None:  # the flush at the end
            self._others_end = demuxer.others_end - self._stream_start
            return
        is_late_enough = packet.pts is None or self.seconds(packet.pts) >= self.start
        if is_late_enough and demuxer.is_after_loss is not False:
            self._may_have_holes = True
        codec = self._stream.codec_context.name
        if packet.is_discard and packet.pts is not None:
            self._discarded.append(self.seconds(packet.pts))
        elif packet.size <= (SKIPPED_BYTES if codec in SKIPPING_CODECS else 0):
            self._num_skipped += 1
        elif packet.pts is None or self.contains(self.seconds(packet.pts)):
            self._num_packets += 1

    def saw_frame(self, seconds: float, frame: av.VideoFrame) -> bool:
        """Count a decoded frame that is shown at this time; returns whether it is in the clip."""
        if self._demuxer is not None:
            self._demuxer.leading.saw_frame(frame.pts)
        if seconds >= self.stop - TIME_TOLERANCE:
            self._reached_stop = True
            return False
        if seconds < self._last and self._step_back is None:
            self._step_back = (self._last, seconds)
        self._last = seconds
        is_shown = self.contains(seconds)
        if self.num_frames == 0:
            self._times.clear()
            self._end = 0.0
        self._times.append(seconds)
        shown_for = max(self.frame_seconds, float((frame.duration or 0) * self._time_base))
        self._end = max(self._end, seconds + shown_for)
        self.num_frames += is_shown
        return is_shown

    @property
    def is_past(self) -> bool:
        """Whether a frame after the span has been decoded, so that decoding can stop."""
        return self._reached_stop

    @property
    def end(self) -> float:
        """When the last frame ends, in seconds from the start of the picture."""
        return max(self._end, max(self._times, default=-math.inf) + self._usual_seconds())

    def _usual_seconds(self) -> float:
        """For how long a frame is shown whose duration the file does not state.

        At a rate that varies, frames lie further apart than the nominal rate says.
        """
        if self._traits.has_frame_durations or len(self._times) < 2:
            return self.frame_seconds
        return max(self.frame_seconds, float(np.median(np.diff(np.sort(self._times)))))

    def error(self) -> ClipError | None:
        """Why the clip is not complete; None if it is complete."""
        reason = self._shortfall()
        if reason is None:
            return None
        if self.num_frames < 2:
            return ClipError("empty" if self.is_whole_video else "out-of-range", reason)
        return ClipError("damaged-file", reason)

    def _shortfall(self) -> str | None:
        """What is missing, as text; None if the clip is complete."""
        if self.num_frames == 0:
            return self._no_frame()
        if self.num_frames == 1:
            return "the clip has one frame; motion needs two"
        if self._step_back is not None:  # the rule of `verify`: times may repeat, no more
            before, after = self._step_back
            return f"times go back, from {before:.3f} to {after:.3f} s: several videos in one file?"
        if not np.median(np.diff(self._times)) > 0:
            return "most frames have the time of the frame before them"
        for expected, how in self._expected_frames():
            if self.num_frames < expected - FRAMES_TOLERANCE:
                return f"ended early: {self.num_frames} frames decoded of {expected} {how}"
        expected_end = min(self.stop, self.duration or 0.0)
        tolerance = END_TOLERANCE_FRAMES * self._usual_seconds()
        if not self._reached_stop and self.end < expected_end - tolerance - self._unshown():
            return (
                f"ended early: the last frame is shown until {self.end:.3f} s "
                f"of {expected_end:.3f} s"
            )
        if not self._reached_stop and self._traits.marks_end and not has_end(self._path):
            return "ended early: the file has no last page"
        if not self._reached_stop and self._missing_bytes > 0:
            return f"ended early: {self._missing_bytes} bytes of the file are missing"
        end_of_all = min(self.stop, self._end_of_all or 0.0)
        latest = max(self.end, self._others_end)
        if not self._reached_stop and latest < end_of_all - tolerance - SOUND_TOLERANCE:
            return f"ended early: the last stream ends at {latest:.3f} s of {end_of_all:.3f} s"
        allowed = max(FRAMES_TOLERANCE, HOLES_TOLERANCE * len(self._times))
        is_suspect = self._stream.frames == 0 and self._may_have_holes
        if is_suspect and self._num_holes() > allowed:
            return f"frames are missing: {self._num_holes()} between the {self.num_frames} decoded"
        return None

    def _no_frame(self) -> str:
        """The reason for a span without frames, with times on the clock of the span."""
        late = self._picture_start
        end = max(self.end, self.duration or 0.0)
        reason = f"no frame from {self.start + late:g} s"
        if self.stop < math.inf or self.start < end:
            stop = self.stop if self.start >= end else min(self.stop, end)
            reason = f"no frame between {self.start + late:g} and {stop + late:g} s"
        if self.start < 0 < late:
            return f"{reason}; the picture starts at {late:.3f} s"
        return f"{reason}; the picture ends at {end + late:.3f} s" if self.start >= end else reason

    def _expected_frames(self) -> Iterator[tuple[int, str]]:
        undecodable = self._undecodable()
        if self._traits.packets_are_frames and self._stream.codec_context.name not in HIDING_CODECS:
            inside = [pts is None or self.contains(self.seconds(pts)) for pts in undecodable]
            yield self._num_packets - sum(inside), "in the file"
        if self.is_whole_video:
            announced = self._announced_frames() - self._num_skipped - len(undecodable)
            if self._traits.lists_empty_frames and self.num_frames < announced:
                announced -= self._empty_entries.total
            # An edit list hides frames before or after what it shows. Between them it is damage,
            # and so is a hidden end where as many are missing from the middle.
            first, last = min(self._times), max(self._times)
            before = sum(seconds < first for seconds in self._discarded)
            after = sum(seconds > last for seconds in self._discarded)
            hidden = before + (after if self._num_holes() <= FRAMES_TOLERANCE else 0)
            yield announced - hidden, "announced"

    def _unshown(self) -> float:
        """Seconds of the duration for which the file has no frame of its own."""
        num_frames = 0
        if not self._traits.has_frame_times:  # those that are shown are timed without gaps
            num_frames += self.num_undecodable
        if self._traits.lists_empty_frames:
            num_frames += self._empty_entries.at_end
        return num_frames * self.frame_seconds

    @functools.cached_property
    def _empty_entries(self) -> EmptyEntries:
        return count_empty_entries(self._path, self._stream.index)

    @property
    def num_undecodable(self) -> int:
        """Number of packets so far whose pictures cannot be decoded after a cut."""
        return len(self._undecodable())

    def _undecodable(self) -> list[int | None]:
        return self._demuxer.leading.undecodable() if self._demuxer is not None else []

    def _announced_frames(self) -> int:
        """The number of frames in the header; 0 if it has none.

        If the edit list of an MP4 hides whole groups of pictures, FFmpeg drops these from its
        index. The index is trusted if the duration, which must agree with it, can be read.
        """
        num_frames = self._stream.frames
        if num_frames and self._traits.has_edit_lists and self.duration is not None:
            return len(self._stream.index_entries) or num_frames
        return num_frames

    def _num_holes(self) -> int:
        """Number of frames that fit into the gaps between frames, by their median distance."""
        distances = np.diff(np.sort(self._times))
        usual = np.median(distances)
        return int(np.rint(distances / usual - 1).clip(min=0).sum()) if usual > 0 else 0

    def _announced_duration(self, container: av.container.InputContainer) -> float | None:
        traits = self._traits
        is_alone = len(container.streams) == 1
        if self._stream.duration and (is_alone or traits.has_stream_duration):
            seconds = float(self._stream.duration * self._time_base)
            # In a fragmented MP4 the value may be a duration or the time of the end.
            is_end = traits.fragments_tell_end and self._stream.frames == 0
            return self._from_the_start(seconds) if is_end else seconds
        try:  # a tag of Matroska, "00:00:02.040000000"
            hours, minutes, rest = self._stream.metadata.get("DURATION", "").split(":")
            return self._from_the_start(int(hours) * 3600 + int(minutes) * 60 + float(rest))
        except ValueError:
            pass
        if container.duration and is_alone:
            seconds = container.duration / av.time_base
            return self._from_the_start(seconds) if traits.duration_is_end else seconds
        return None

    def _announced_end_of_all(self, container: av.container.InputContainer) -> float | None:
        """When the longest stream ends, if the picture has no duration; sound may be longer."""
        is_end = self._traits.duration_is_end
        if self.duration is not None or not container.duration or not is_end:
            return None
        return container.duration / av.time_base - self._stream_start

    def _from_the_start(self, end: float) -> float:
        """The duration, from a value that is the time of the end in some containers."""
        return end - self._stream_start if 0 < self._stream_start < end else end
