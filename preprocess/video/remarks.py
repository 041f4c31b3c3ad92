"""What a user should know about a video whose frames are all decoded; printed once in a run."""

from __future__ import annotations

from dataclasses import dataclass

import av

from preprocess.video.video_file import is_default, main_video_stream, picture_start_of, pictures_of
from shared.wording import counted

NOTICED_SECONDS = 0.1  # delay of a picture that is reported; sound encoders cause hundredths

SEVERAL, ANAMORPHIC, LATE = "several-pictures", "anamorphic", "late-picture"
MEANINGS = {  # meaning of the code of a remark, worded for many videos
    SEVERAL: "several video streams; the first that is flagged as default is decoded, or else the "
    "first one",
    ANAMORPHIC: "pixels that are not square; frames are kept as they are coded, not stretched",
    LATE: "a picture that starts after the sound; spans count from the start of the file, as in "
    "players",
}


@dataclass(frozen=True)
class Remark:
    """One thing about one video.

    Attributes:
        code: a key of MEANINGS.
        text: the details.
    """

    code: str
    text: str


class Remarks:
    """Collects the remarks of a run, each of a video once."""

    def __init__(self) -> None:
        self._texts: dict[str, dict[str, str]] = {}  # text by code and video

    def add(self, video: str, remark: Remark) -> None:
        """Note a remark, however often it is made."""
        self._texts.setdefault(remark.code, {}).setdefault(video, remark.text)

    def lines(self) -> list[str]:
        """One line for each code: how many videos have it, and the details of the first one."""
        return [
            f"note: {counted(len(texts), 'video')} with {MEANINGS[code]} "
            f"(first: {min(texts)}, {texts[min(texts)]})"
            for code, texts in sorted(self._texts.items())
        ]


def remarks_on(container: av.container.InputContainer) -> tuple[Remark, ...]:
    """All remarks on an open video.

    Raises:
        ClipError: the video has no picture that can be decoded.
    """
    stream = main_video_stream(container)
    remarks = []
    pictures = pictures_of(container)
    if len(pictures) > 1:
        flag = "flagged as default" if is_default(stream) else "none is flagged as default"
        size = f"{stream.codec_context.width}x{stream.codec_context.height}"
        text = f"{len(pictures)} streams, number {stream.index} of {size} is decoded: {flag}"
        remarks.append(Remark(SEVERAL, text))
    aspect = stream.sample_aspect_ratio
    if aspect and aspect != 1:
        text = f"pixels of {aspect.numerator}:{aspect.denominator}"
        remarks.append(Remark(ANAMORPHIC, text))
    seconds = picture_start_of(container, stream)
    if seconds >= NOTICED_SECONDS:
        remarks.append(Remark(LATE, f"after {seconds:.3f} s"))
    return tuple(remarks)
