"""Builds the output of `preprocess.show`: frames as panels, in a video and on a contact sheet."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np

from preprocess.drawing.frames import (
    DARK,
    STORED_RGB,
    Ground,
    caption,
    captioned,
    draw_contours,
    draw_mask,
    draw_positions,
    flow_colours,
    flow_wheel,
    in_grid,
    map_colours,
    resized,
)
from preprocess.drawing.masks import ShownMasks
from preprocess.drawing.sheet import Line, Sheet
from shared.drawing import ANNOTATION_RGB, BOX_RGB, LEFT_OUT_RGB, draw_box
from shared.grid import View

VIDEO_PANEL_HEIGHT = 240  # pixels
VIDEO_COLUMNS = 4
SHEET_PANEL_HEIGHT = 150
SHEET_COLUMNS = 6
KEY_HEIGHT = 112
NARROWEST_PANEL = 200  # pixels: captions need that


@dataclass(frozen=True)
class FoundMotion:
    """The motion that was found in a clip of T frames. All boxes are in source pixels.

    Attributes:
        name: name of the video.
        source_size: width and height of the source in pixels.
        pts_seconds: float64 [T].
        frames: uint8 [T, H, W, 3], RGB, at the size at which frames are stored.
        flow: float32 [T, 2, h, w], pixels per frame at the size of the flow. The last flow repeats
            the one before it.
        maps: float32 [T, m, n], motion maps.
        contours: for each frame its contours, each float32 [k, 2] of x, y in pixels of the maps.
        boxes: float32 [T, 4], NaN = no motion.
        score: float32 [T], 0..1, share of the motion inside the box.
        view: the crop that a model sees.
        masks: masks of each method for every frame.
        stored, annotated: boxes to compare with, float32 [K, 4] for each frame; None = not given.
        longest_flow: length of the flow with full colour, pixels per frame; 0 takes the 98th
            percentile of the clip.
    """

    name: str
    source_size: tuple[int, int]
    pts_seconds: np.ndarray
    frames: np.ndarray
    flow: np.ndarray
    maps: np.ndarray
    contours: list[list[np.ndarray]]
    boxes: np.ndarray
    score: np.ndarray
    view: View
    masks: ShownMasks
    stored: list[np.ndarray] | None = None
    annotated: list[np.ndarray] | None = None
    longest_flow: float = 0.0
    brightest: float = field(init=False)

    def __post_init__(self) -> None:
        # Computed over the whole clip, so that colours can be compared between frames.
        if self.longest_flow == 0:
            length = np.hypot(self.flow[:, 0, ::2, ::2], self.flow[:, 1, ::2, ::2])
            object.__setattr__(self, "longest_flow", max(0.5, float(np.percentile(length, 98))))
        object.__setattr__(self, "brightest", float(np.percentile(self.maps, 99.7)))

    @property
    def frames_per_second(self) -> Fraction:
        """Frame rate of the clip, from the median time between frames."""
        step = float(np.median(np.diff(self.pts_seconds)))
        return Fraction(1 / step if step > 0 else 25).limit_denominator(1001)


def panels(found: FoundMotion, t: int, height: int, ground: Ground = DARK) -> dict[str, np.ndarray]:
    """Draw the panels of frame t: caption -> uint8 [height, width, 3]."""
    width = round(height * found.source_size[0] / found.source_size[1])
    size = (max(2, width), height)
    frame = resized(found.frames[t], size)
    scale = np.array(size) / np.array(found.source_size)

    boxed = frame.copy()
    map_scale = np.array(size) / np.array(found.maps.shape[:0:-1])
    draw_contours(boxed, [contour * map_scale for contour in found.contours[t]])
    motion = resized(map_colours(found.maps[t], found.brightest), size)
    of_frame = [(box, ANNOTATION_RGB) for box in found.annotated[t]] if found.annotated else []
    of_frame += [(box, STORED_RGB) for box in found.stored[t]] if found.stored else []
    for box, rgb in [*of_frame, (found.boxes[t], BOX_RGB)]:
        draw_box(boxed, box * np.tile(scale, 2), rgb)
        draw_box(motion, box * np.tile(scale, 2), rgb)
    drawn = {
        "contours and motion box": boxed,
        "flow": resized(flow_colours(found.flow[t], found.longest_flow), size),
        "motion map": motion,
    }
    for method, mask in found.masks.by_caption.items():
        masked = frame.copy()
        crop = np.array(found.view.crop) * np.tile(scale, 2)
        decoded = found.masks.decoded.get(method)
        draw_mask(masked, mask[t], crop, None if decoded is None else decoded[t])
        if method in found.masks.moving:
            draw_positions(masked, found.masks.moving[method][t], crop)
        else:
            draw_box(masked, found.masks.boxes[t] * np.tile(scale, 2), BOX_RGB)
        drawn[method] = masked
    return {text: _widened(picture, ground) for text, picture in drawn.items()}


def video_frames(found: FoundMotion, ground: Ground = DARK) -> Iterator[np.ndarray]:
    """Yield every frame as a grid of panels, uint8 [H, W, 3] with even sides."""
    key = None
    for t in range(len(found.frames)):
        drawn = panels(found, t, VIDEO_PANEL_HEIGHT, ground)
        if key is None:
            height, width = next(iter(drawn.values())).shape[:2]
            empty = Sheet(width, height, ground)
            _add_key(empty, found)
            key = empty.pixels()
        last = key.copy()
        when = f"frame {t} of {len(found.frames)}, {found.pts_seconds[t]:.2f} s"
        for i, text in enumerate((when, _box_text(found, t))):
            last[4 + 24 * i : 28 + 24 * i] = caption(text, last.shape[1], 24, i == 0, ground)
        tiles = [captioned(picture, text, ground) for text, picture in drawn.items()]
        tiles.append(captioned(last, found.name, ground))
        grid = in_grid(tiles, columns=VIDEO_COLUMNS, ground=ground)
        yield grid[: grid.shape[0] // 2 * 2, : grid.shape[1] // 2 * 2]


def encode_mp4(pictures: Iterator[np.ndarray], frames_per_second: Fraction) -> bytes:
    """Encode frames as an H.264 video with 4:2:0 colour, which all players support."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        video = None
        for picture in pictures:
            if video is None:
                video = container.add_stream("libx264", rate=frames_per_second)
                video.height, video.width = picture.shape[:2]
                video.pix_fmt = "yuv420p"
                video.options = {"crf": "20", "preset": "veryfast"}
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        assert video is not None, "a clip has frames"
        container.mux(video.encode(None))
    return stream.getvalue()


def contact_sheet(found: FoundMotion, ground: Ground = DARK) -> Sheet:
    """Draw six frames of the clip with their motion, one column each."""
    times = np.unique(np.linspace(0, len(found.frames) - 1, SHEET_COLUMNS + 2).round().astype(int))
    times = times[1:-1] if len(times) > 2 else times
    drawn = [panels(found, int(t), SHEET_PANEL_HEIGHT, ground) for t in times]
    column = next(iter(drawn[0].values())).shape[1]
    sheet = Sheet(width=len(times) * (column + 6) + 6, ground=ground)
    sheet.add_line(found.name, 34, strong=True)
    moving = float((~np.isnan(found.boxes[:, 0])).mean())
    seconds = found.pts_seconds[-1] - found.pts_seconds[0]
    source = "{} x {}".format(*found.source_size)
    sheet.add_line(
        f"{source} px, {len(found.frames)} frames in {seconds:.1f} s; motion boxes in "
        f"{100 * moving:.0f} % of the frames, {100 * found.score.mean():.0f} % of the motion inside"
    )
    sheet.add_row([f"frame {t}, {found.pts_seconds[t]:.2f} s" for t in times], column)
    for text in drawn[0]:
        sheet.add_line(text)
        sheet.add_row([each[text] for each in drawn], column)
    sheet.height += KEY_HEIGHT
    _add_key(sheet, found)
    return sheet


def _box_text(found: FoundMotion, t: int) -> str:
    if np.isnan(found.boxes[t]).any():
        return "no motion"
    x1, y1, x2, y2 = np.round(found.boxes[t]).astype(int)
    return f"box {x1},{y1} to {x2},{y2}: {100 * found.score[t]:.0f} % of the motion"


def _add_key(sheet: Sheet, found: FoundMotion) -> None:
    """Add the key at the bottom: the colour wheel of the flow and the colours of the boxes."""
    side = 84
    top = sheet.height - side - 4
    sheet.pictures.append((8, top, flow_wheel(side, sheet.ground)))
    texts = [
        (f"flow: edge = {found.longest_flow:.1f} px/frame at {found.flow.shape[2]} lines", None),
        ("motion box", BOX_RGB),
    ]
    if found.masks.decoded:
        texts.append(("hidden and not decoded", LEFT_OUT_RGB))
    if found.stored is not None:
        texts.append(("stored box", STORED_RGB))
    if found.annotated is not None:
        texts.append(("annotated box", ANNOTATION_RGB))
    first = min(top, sheet.height - 4 - 21 * len(texts))
    for i, (text, rgb) in enumerate(texts):
        y, x = first + 21 * i, side + 16
        if rgb is not None:
            sheet.pictures.append((x + 4, y + 6, np.full((10, 10, 3), rgb, np.uint8)))
            x += 16
        sheet.lines.append(Line(x, y, min(360, sheet.width - x), 21, text, False))


def _widened(picture: np.ndarray, ground: Ground) -> np.ndarray:
    """Add margins to narrow images, so that captions fit above them."""
    height, width = picture.shape[:2]
    if width >= NARROWEST_PANEL:
        return picture
    wide = np.full((height, NARROWEST_PANEL, 3), ground.paper, np.uint8)
    left = (NARROWEST_PANEL - width) // 2
    wide[:, left : left + width] = picture
    return wide
