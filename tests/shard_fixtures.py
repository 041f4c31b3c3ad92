"""A small dataset of moving squares, written as shards: for tests that need frames, maps and boxes.

A square crosses a still, noisy background; the label is its direction. Nothing is decoded and no
flow is computed: the motion maps and boxes are drawn from where the square is known to be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np

from preprocess.box_run.moving_tables import MovingTables
from shared.grid import canonical_view, positions_inside, window_box
from shared.layout import DatasetLayout
from shared.manifest import ClassList, Clip, manifest_digest, write_classes, write_manifest
from shared.randomness import counter_generator
from shared.schema import Field
from shared.shard_index import DatasetIndex, ShardEntry, read_index, shard_name, write_index
from shared.shard_writer import write_shard

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SIDES = (12, 14, 16, 20, 24)  # pixels
SPLIT_CYCLE = ("train", "train", "train", "val", "test")


def write_moving_squares(
    out: Path,
    dataset: str = "squares",
    num_clips: int = 20,
    num_frames: int = 16,
    size: tuple[int, int] = (64, 64),
    clips_per_shard: int = 8,
    still: tuple[int, ...] = (),
    names: list[str] | None = None,
) -> DatasetLayout:
    """Write manifest, classes and frames/ flows/ boxes/ shards of moving squares.

    Args:
        out, dataset: where.
        size: (width, height) of the frames in pixels.
        still: numbers of clips in which nothing moves (NaN boxes, empty maps).
        names: of the four classes instead of the directions, such as hostile ones.

    Returns:
        the layout of what was written.
    """
    layout = DatasetLayout(Path(out), dataset)
    clips = [
        Clip(f"square-{i:03d}", f"square-{i:03d}.mp4", None, None, SPLIT_CYCLE[i % 5], label=i % 4)
        for i in range(num_clips)
    ]
    write_manifest(layout.manifest, clips)
    write_classes(layout.classes, ClassList(label=names or list(DIRECTIONS), flip_x=[1, 0, 2, 3]))
    drawn = [_draw(clip, i in still, num_frames, size) for i, clip in enumerate(clips)]
    configs = {
        "frames": {"short_side": 256, "jpeg_quality": 95},
        "flows": {"flow_short_side": min(size), "source": "tvl1"},
        "boxes": {"threshold": 0.5},
    }
    for kind, config in configs.items():
        folder = getattr(layout, kind)
        if kind == "boxes":  # each names the flows that it was made from
            flows = read_index(layout.flows)
            config["flows"] = flows.digest
        entries = []
        for number, first in enumerate(range(0, num_clips, clips_per_shard)):
            arrays = _arrays(kind, drawn[first : first + clips_per_shard], size)
            attributes = {"dataset": dataset, **config}
            if kind == "boxes":
                attributes["flows"] = flows.shards[number].sha256
            written = write_shard(folder / shard_name(number), kind, arrays, attributes)
            entries.append(ShardEntry(shard_name(number), *written, len(arrays["/clip/id"])))
        index = DatasetIndex(
            kind, dataset, config, clips_per_shard, manifest_digest(clips), entries
        )
        write_index(folder, index)
    return layout


def _draw(clip: Clip, still: bool, num_frames: int, size: tuple[int, int]) -> dict:
    """Frames uint8 [T, H, W, 3], maps uint8 [T, H, W] (companded), boxes float32 [T, 4] of one
    clip."""
    width, height = size
    rng = counter_generator("squares", clip.clip_id)
    side = int(rng.choice(SIDES))
    background = rng.integers(60, 120, (height // 4, width // 4, 1), dtype=np.uint8)
    background = np.repeat(cv2.resize(background, size)[..., None], 3, axis=2)
    texture = rng.integers(0, 2, (4, 4, 1)) * np.array([200, -120, -60]) + np.array([40, 180, 90])
    texture = cv2.resize(texture.astype(np.uint8), (side, side), interpolation=0)
    step = np.array(list(DIRECTIONS.values())[clip.label]) * (0 if still else 2)
    centre = np.array([width, height]) / 2 + rng.integers(-8, 9, 2)
    frames, maps, boxes = [], [], []
    for t in range(num_frames):
        x, y = (centre + step * (t - num_frames / 2) - side / 2).astype(int)
        x, y = int(np.clip(x, 0, width - side)), int(np.clip(y, 0, height - side))
        frame = background.copy()
        frame[y : y + side, x : x + side] = texture
        frames.append(frame)
        edges = np.zeros((height, width), np.float32)
        cv2.rectangle(edges, (x, y), (x + side - 1, y + side - 1), 255.0, 2)
        maps.append((cv2.GaussianBlur(edges, (0, 0), 1.5) * (not still)).astype(np.uint8))
        boxes.append([np.nan] * 4 if still else [x, y, x + side, y + side])
    return {"clip": clip, "frames": frames, "maps": maps, "boxes": np.array(boxes, np.float32)}


def _arrays(kind: str, drawn: list[dict], size: tuple[int, int]) -> dict[str, np.ndarray]:
    lengths = [len(clip["frames"]) for clip in drawn]
    ends = np.cumsum(lengths)
    sizes = np.tile(np.array(size, np.int32), (len(drawn), 1))
    arrays = {
        "/clip/id": np.array([clip["clip"].clip_id.encode() for clip in drawn], "S64"),
        "/clip/frames": np.stack([ends - lengths, ends], axis=1).astype(np.int64),
        "/clip/size": sizes,
        "/frame/pts_seconds": np.concatenate([np.arange(n) / 12 for n in lengths]),
    }
    if kind == "frames":
        files = [_jpeg(frame) for clip in drawn for frame in clip["frames"]]
        return arrays | {"/clip/stored_size": sizes} | _ragged("/jpeg", files)
    if kind == "flows":
        maps = [values.ravel() for clip in drawn for values in clip["maps"]]
        scale = np.full(len(maps), 0.5 / 255**2, np.float32)
        ragged = _ragged("/motion", maps)
        return arrays | {"/clip/map_size": sizes, "/motion/scale": scale} | ragged
    boxes = np.concatenate([clip["boxes"] for clip in drawn])
    unions = np.stack([window_box(clip["boxes"]) for clip in drawn])
    tubes = [_tube(box, size) for box in unions]
    moves = ~np.isnan(boxes[:, 0])
    moving = MovingTables()
    for clip in drawn:
        moving.add(_areas(clip["boxes"], size), np.array(size))
    return arrays | {
        "/clip/box": unions,
        "/box/xyxy": boxes,
        "/box/score": np.where(moves, 0.9, 0.0).astype(np.float32),
        "/contour/offsets": np.cumsum([0, *(4 * moves)]).astype(np.int64),
        "/contour/vertices": _outlines(boxes[moves]),
        "/tube/offsets": _offsets(tubes),
        "/tube/index": np.concatenate(tubes).astype(np.int16),
        **moving.arrays(),
    }


def _areas(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool [T, H, W]: the left half of the square of each frame, whose box is the whole square."""
    areas = np.zeros((len(boxes), size[1], size[0]), dtype=np.bool_)
    for area, box in zip(areas, boxes, strict=True):
        if not np.isnan(box).any():
            x1, y1, x2, y2 = box.astype(int)
            area[y1:y2, x1 : (x1 + x2) // 2] = True
    return areas


def _outlines(boxes: np.ndarray) -> np.ndarray:
    """The corners of boxes float32[n, 4] as vertices of one contour each: int16[4 * n, 3]."""
    x1, y1, x2, y2 = boxes.T
    corners = np.stack([x1, y1, x2, y1, x2, y2, x1, y2], axis=1).reshape(-1, 2)
    return np.insert(corners, 0, 0, axis=1).astype(np.int16)


def _tube(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    view = canonical_view(*size)
    return np.flatnonzero(positions_inside(view.apply(box), view.size))


def _jpeg(frame: np.ndarray) -> np.ndarray:
    return cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].ravel()


def _ragged(path: str, items: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{path}/offsets": _offsets(items), f"{path}/values": np.concatenate(items)}


def _offsets(items: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(item) for item in items])]).astype(np.int64)


def without_fields(path: Path, fields: Iterable[Field]) -> None:
    """Take optional datasets out of a shard, as if an earlier version had made it."""
    with h5py.File(path, "a") as shard:
        for field in fields:
            del shard[field.path]
    folder = path.parent
    index = read_index(folder)
    sizes = [replace(e, bytes=(folder / e.name).stat().st_size) for e in index.shards]
    write_index(folder, replace(index, shards=sizes))
