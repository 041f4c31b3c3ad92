"""Measures bytes per frame and box quality of motion maps, by size and number of levels.

    python -m benchmarks.map_storage --videos ../shared/samples/ssv2 \\
        --annotations ../shared/samples/ssv2/something_else_boxes.json \\
        --out benchmarks/results/map_storage.json

Maps of the annotated clips are computed once at the resolution of the flow. The row `exact` has the
boxes of these maps. Every other row reduces the maps, stores them with a number of levels,
compresses them as shards do, and computes boxes from the stored maps. The projected size is that of
220,847 clips with 45 frames (Something-Something V2).
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from tqdm import tqdm

from preprocess.annotated_boxes.formats import open_annotations
from preprocess.annotated_boxes.matching import ReadOptions
from preprocess.annotated_boxes.metrics import box_figures
from preprocess.flow.motion_maps import motion_map, reduce_maps
from preprocess.flow.tvl1 import tvl1_flow
from preprocess.flow_run.decode_step import grey_frames
from preprocess.motion_boxes.boxes import motion_boxes
from preprocess.motion_boxes.evidence import texture_maps
from preprocess.motion_boxes.presets import PRESETS
from preprocess.video.decode import decode_clip
from preprocess.video.frame_chunks import DecodeOptions, scaled_size
from shared.errors import user_errors
from shared.files import write_atomically
from shared.manifest import Clip
from shared.motion_maps import LEVELS, compand, expand
from shared.run_record import command_line, git_commit, versions
from shared.shard_writer import CHUNK_BYTES

SSV2_FRAMES = 220_847 * 45
FLOW_LINES = 240


@dataclass(frozen=True)
class Row:
    """One way to store maps; 0 lines and levels stand for the maps as computed."""

    lines: int
    levels: int
    bytes_a_frame: float
    projected_gb: float
    iou: float
    iou_difference: float


@click.command(
    help=__doc__.split("\n")[0],
    context_settings={"show_default": True, "max_content_width": 100},
)
@click.option("--videos", required=True, type=click.Path(path_type=Path), metavar="FOLDER",
              help="Folder with CLIP.mp4 of the annotated clips.")  # fmt: skip
@click.option("--annotations", required=True, type=click.Path(path_type=Path), metavar="FILE",
              help="Something-Else annotations (JSON).")  # fmt: skip
@click.option(
    "--motion-preset",
    "preset",
    default="default",
    type=click.Choice(list(PRESETS)),
    help="Preset of the boxes.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="JSON file to write.")
@user_errors
def main(videos: Path, annotations: Path, preset: str, out: Path | None) -> None:
    torch.set_num_threads(1)
    names = {path.stem for path in videos.glob("*.mp4")}
    known = open_annotations("something-else", annotations, names, ReadOptions())
    maps, grey, sizes = {}, {}, {}
    for name in tqdm(sorted(known.names), desc="flow", unit="clip"):
        maps[name], grey[name], sizes[name] = clip_maps(videos / f"{name}.mp4")
    boxes_of = {name: known.load(name) for name in maps}

    rows = [row_of(maps, grey, sizes, boxes_of, preset, 0, 0, exact=None)]
    print(
        f"lines levels  bytes a frame  projected    IoU  (difference to exact)\n{text_of(rows[0])}"
    )
    for lines in (64, 48, 32):
        for levels in (255, 63, 31, LEVELS, 15):
            rows.append(row_of(maps, grey, sizes, boxes_of, preset, lines, levels, rows[0].iou))
            print(text_of(rows[-1]))
    if out is not None:
        content = {
            "command": command_line(),
            "versions": versions(),
            "git_commit": git_commit(),
            "clips": sorted(maps),
            "rows": [asdict(row) for row in rows],
        }
        write_atomically(out, json.dumps(content, indent=1).encode() + b"\n")


def clip_maps(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Motion maps float32 [T, h, w] and grey frames uint8 [T, h, w] at the resolution of the flow,
    and (width, height) of the source."""
    chunks = list(decode_clip(Clip("clip", path.name), path.parent, DecodeOptions()))
    grey = torch.from_numpy(
        np.concatenate([grey_frames(chunk.rgb, FLOW_LINES) for chunk in chunks])
    )
    maps = motion_map(tvl1_flow(grey[:-1], grey[1:])).numpy()
    return np.concatenate([maps, maps[-1:]]), grey.numpy().astype(np.uint8), chunks[0].source_size


def row_of(
    maps: dict[str, np.ndarray],
    grey: dict[str, np.ndarray],
    sizes: dict[str, tuple[int, int]],
    boxes_of: dict[str, dict[int, np.ndarray]],
    preset: str,
    lines: int,
    levels: int,
    exact: float | None,
) -> Row:
    """Store the maps of all clips in one way, and evaluate the boxes of the stored maps."""
    num_bytes = num_frames = 0
    ious = []
    for name, clip in maps.items():
        stored = clip
        if lines:
            stored, clip_bytes = stored_maps(clip, lines, levels)
            num_bytes += clip_bytes
        num_frames += len(clip)
        textures = texture_maps(grey[name], stored.shape[1:])
        boxes, *_ = motion_boxes(stored, PRESETS[preset], textures)
        boxes = boxes * np.tile(np.array(sizes[name]) / stored.shape[:0:-1], 2)
        frames = [frame for frame in boxes_of[name] if frame < len(boxes)]
        each = [
            box_figures(boxes[None, frame], boxes_of[name][frame][None], sizes[name])["iou"][0]
            for frame in frames
        ]
        ious.append(np.mean(each))
    iou = float(np.mean(ious))
    mean_bytes = num_bytes / num_frames
    difference = 0.0 if exact is None else iou - exact
    return Row(lines, levels, mean_bytes, mean_bytes * SSV2_FRAMES / 1e9, iou, difference)


def stored_maps(maps: np.ndarray, lines: int, levels: int) -> tuple[np.ndarray, int]:
    """Maps as read from a shard, and the bytes that they take there."""
    width, height = scaled_size(maps.shape[2], maps.shape[1], lines)
    reduced = reduce_maps(torch.from_numpy(maps), (height, width)).numpy()
    values, scale = compand(reduced, levels)
    data = values.tobytes()
    blocks = (data[first : first + CHUNK_BYTES] for first in range(0, len(data), CHUNK_BYTES))
    return expand(values, scale), sum(len(zlib.compress(block, 1)) for block in blocks)


def text_of(row: Row) -> str:
    name = "exact       " if row.lines == 0 else f"{row.lines:5d} {row.levels:6d}"
    return (
        f"{name}  {row.bytes_a_frame:13.0f}  {row.projected_gb:6.1f} GB  {row.iou:.4f}  "
        f"({row.iou_difference:+.4f})"
    )


if __name__ == "__main__":
    main()
