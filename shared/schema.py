"""The datasets of each kind of shard: the table that writer and reader share.

Letters of dimensions: N clips, F frames of all clips, B bytes of all JPEG files or tables of what
moves, M values of all motion maps, K and J positions of all tube tables, P vertices of all
contours, R tracks, D and H values of their displacements and HOG, C and E coefficients of the same.
The rows of a clip in every per-frame dataset are `first:last` of `/clip/frames`. Ragged data is
stored as `offsets` and `values`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

FORMAT_VERSIONS = (1, 2)
"""The versions that are read. A shard has the lowest that its datasets need (`format_version`)."""
LARGEST_VERTEX = 32767
"""Largest x and y in `/contour/vertices`, which are int16. In larger frames, vertices beyond it are
moved here. Boxes are float32 and keep their place."""


@dataclass(frozen=True)
class Field:
    """One dataset of a shard.

    Attributes:
        path: path in the file.
        dtype: numpy type string, little-endian.
        dims: letters or numbers, such as `F+1` for offsets.
        units: units of the values; "" if there are none.
        description: one sentence for people who read the file with other programs.
        gzip: level of compression, 0 for none. Every dataset has fletcher32.
        optional: whether it exists only if it was asked for; then in all shards of a folder or in
            none.
        since: the format version that brought it; programs that read only older ones refuse a
            shard that has it.
    """

    path: str
    dtype: str
    dims: tuple[str, ...]
    units: str
    description: str
    gzip: int = 0
    optional: bool = False
    since: int = 1


CLIP_FIELDS = (
    Field("/clip/id", "S64", ("N",), "", "clip_id of the manifest, UTF-8"),
    Field("/clip/frames", "<i8", ("N", "2"), "frame", "rows first:last of per-frame datasets"),
    Field("/clip/size", "<i4", ("N", "2"), "pixel", "width, height of the source, upright"),
    Field("/frame/pts_seconds", "<f8", ("F",), "second", "presentation time in the source video"),
)
CLIP_PATHS = tuple(field.path for field in CLIP_FIELDS)  # the same in all kinds of shard

# With --stabilise: the motion of the camera. The last frame repeats the last pair.
CAMERA_FIELDS = (
    Field(
        "/camera/homography",
        "<f8",
        ("F", "9"),
        "pixel",
        "3x3 by rows, from the frame to the next, pixel centres at whole numbers, on frames of "
        "flow_short_side; the identity where too few matches agree",
        gzip=1,
        optional=True,
    ),
    Field(
        "/camera/inliers",
        "<i4",
        ("F",),
        "match",
        "that agree on the homography, also where it was refused",
        gzip=1,
        optional=True,
    ),
)

# Unless --no-residual: what motion boxes are made of by default (preprocess/flow/residual.py).
RESIDUAL_FIELDS = (
    Field(
        "/residual/values",
        "|u1",
        ("M",),
        "",
        "length of the flow without the camera's part, stored like the motion maps and with their "
        "offsets: length = scale * values**2",
        gzip=1,
        optional=True,
    ),
    Field(
        "/residual/scale",
        "<f4",
        ("F",),
        "pixel/frame",
        "of each map of residual lengths; at the resolution of the flow",
        optional=True,
    ),
)

# With --trajectories: points tracked from every frame (preprocess/flow/tracks.py).
TRACK_FIELDS = (
    Field(
        "/clip/track_grid",
        "<i4",
        ("N", "2"),
        "point",
        "rows, columns of the grid that every frame's tracks start from, in the middle of equal "
        "cells that fill the frame",
        optional=True,
    ),
    Field(
        "/clip/track_size",
        "<i4",
        ("N", "2"),
        "pixel",
        "width, height of the frames that points are tracked on",
        optional=True,
    ),
    Field(
        "/track/offsets",
        "<i8",
        ("F+1",),
        "track",
        "tracks that start at frame i, by rows of the grid, are offsets[i]:offsets[i+1]; with "
        "track_window only some frames have any",
        optional=True,
    ),
    Field(
        "/track/steps",
        "|u1",
        ("R",),
        "step",
        "before the track leaves the frame or the clip ends; track_length for a whole track",
        gzip=1,
        optional=True,
    ),
    Field(
        "/track/displacements",
        "<i2",
        ("D",),
        "track_displacement_unit pixels",
        "x, y of each of track_length steps of each track; 0 after its end",
        gzip=1,
        optional=True,
    ),
    Field(
        "/track/hog",
        "|u1",
        ("H",),
        "",
        "9 orientations at the position that each step of each track starts from: mean gradient = "
        "track_hog_unit * value**2 grey values per pixel; with attributes track_channels (rgb) or "
        "track_cells n, 9 for each channel, row and column of n x n cells, in this order",
        gzip=1,
        optional=True,
    ),
    # With --track-window, in place of the last two (shared/packed_tracks.py). It pays to compress
    # them well: they are written once, and level 6 is read as fast as level 1.
    Field(
        "/track/moves",
        "|i1",
        ("C",),
        "track_move_step gains",
        "of each frame with tracks: gains of its tracks, then for each step and x, y one cosine "
        "coefficient of every track; gain = track_move_floor * 2**(value/2) pixels",
        gzip=6,
        optional=True,
        since=2,
    ),
    Field(
        "/track/shape",
        "|i1",
        ("E",),
        "track_hog_step gains",
        "the same of HOG, for each step and 9 orientations; gain = track_hog_floor * 2**(value/2) "
        "grey values per pixel",
        gzip=6,
        optional=True,
        since=2,
    ),
)

# What moves in each frame: masks and heads with `inside = "positions"` (shared/moving_areas.py).
# Shards that were made before it existed lack it.
MOVING_FIELDS = (
    Field(
        "/clip/moving_size",
        "<i4",
        ("N", "2"),
        "cell",
        "width, height of the clip's tables of what moves; their cells fill the whole frame",
        optional=True,
    ),
    Field(
        "/moving/offsets",
        "<i8",
        ("F+1",),
        "byte",
        "table of frame i is bits[offsets[i]:offsets[i+1]]",
        gzip=1,
        optional=True,
    ),
    Field(
        "/moving/bits",
        "|u1",
        ("B",),
        "",
        "1 where a cell of the frame moves; row by row, 8 cells a byte, the first in the highest "
        "bit (numpy.packbits)",
        gzip=1,
        optional=True,
    ),
    Field(
        "/moving/tube_offsets",
        "<i8",
        ("N+1",),
        "value",
        "clip i is tube_index[tube_offsets[i]:tube_offsets[i+1]]",
        optional=True,
    ),
    Field(
        "/moving/tube_index",
        "<i2",
        ("J",),
        "",
        "sorted grid positions row*14+column of which a quarter moves in 15 % of the clip's moving "
        "frames or more, in the canonical view (short side to 224, centre crop)",
        optional=True,
    ),
)

SCHEMAS: dict[str, tuple[Field, ...]] = {
    "frames": CLIP_FIELDS
    + (
        Field("/clip/stored_size", "<i4", ("N", "2"), "pixel", "width, height of the JPEG frames"),
        Field(
            "/jpeg/offsets", "<i8", ("F+1",), "byte", "frame i is values[offsets[i]:offsets[i+1]]"
        ),
        Field("/jpeg/values", "|u1", ("B",), "", "JPEG files of all frames, one after another"),
    ),
    "flows": CLIP_FIELDS
    + (
        Field("/clip/map_size", "<i4", ("N", "2"), "pixel", "width, height of the motion maps"),
        Field(
            "/motion/offsets", "<i8", ("F+1",), "value", "map i is values[offsets[i]:offsets[i+1]]"
        ),
        Field(
            "/motion/values",
            "|u1",
            ("M",),
            "",
            "motion maps, row by row: map = scale * values**2 (square-root companding)",
            gzip=1,
        ),
        Field(
            "/motion/scale",
            "<f4",
            ("F",),
            "pixel/frame per pixel",
            "of each map; motion at the resolution of the flow (attribute flow_short_side)",
        ),
    )
    + RESIDUAL_FIELDS
    + CAMERA_FIELDS
    + TRACK_FIELDS,
    "boxes": CLIP_FIELDS
    + (
        Field(
            "/clip/box",
            "<f4",
            ("N", "4"),
            "pixel",
            "x1 y1 x2 y2 of the clip's motion area, source; each edge is a quartile of that edge "
            "of the frames' boxes",
        ),
        Field(
            "/box/xyxy",
            "<f4",
            ("F", "4"),
            "pixel",
            "x1 y1 x2 y2 of the frame's motion, source, half-open; NaN where nothing moves",
        ),
        Field(
            "/box/score",
            "<f4",
            ("F",),
            "share",
            "of the frame's motion energy inside its box; NaN for annotated boxes",
        ),
        Field(
            "/contour/offsets",
            "<i8",
            ("F+1",),
            "vertex",
            "contours of frame i are vertices[offsets[i]:offsets[i+1]]",
        ),
        Field(
            "/contour/vertices",
            "<i2",
            ("P", "3"),
            "pixel",
            "contours of what moves in the frame: number of the contour in its frame, x, y, source",
            gzip=1,
        ),
        Field(
            "/tube/offsets", "<i8", ("N+1",), "value", "clip i is index[offsets[i]:offsets[i+1]]"
        ),
        Field(
            "/tube/index",
            "<i2",
            ("K",),
            "",
            "sorted grid positions row*14+column whose patch centre lies in the clip's box, in the "
            "canonical view (short side to 224, centre crop)",
        ),
    )
    + MOVING_FIELDS,
}


def format_version(fields: Collection[Field]) -> int:
    """The version of a shard that has these datasets."""
    return max(field.since for field in fields)


def sizes_of(fields: Collection[Field], shapes: dict[str, tuple[int, ...]]) -> dict[str, int] | str:
    """The number of each letter of the dims, or a message on the first contradiction."""
    sizes: dict[str, int] = {}
    for field in fields:
        shape = shapes[field.path]
        if len(shape) != len(field.dims):
            return f"{field.path} has shape {shape}, not [{', '.join(field.dims)}]"
        for length, dim in zip(shape, field.dims, strict=True):
            letter, plus, more = dim.partition("+")
            length -= int(more) if plus else 0
            expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, length)
            if length != expected or length < 0:
                return f"{field.path} has shape {shape}, not [{', '.join(field.dims)}] ({sizes})"
    return sizes
