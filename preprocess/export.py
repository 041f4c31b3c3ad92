"""Export the boxes of a dataset as COCO JSON, Something-Else JSON and CSV, for other tools.

    python -m preprocess.export --dataset toy
    python -m preprocess.export --boxes /data/copy/boxes --formats coco --to /data/ssv2-boxes
    python -m preprocess.export --dataset ssv2 --formats coco --images

The command reads only boxes/, which may be a copy on another machine. It writes to export/ beside
it: boxes.coco.json, boxes.something-else.json, and boxes-csv/ with <clip_id>.boxes.csv. Each output
is written completely or not at all, and replaces an earlier one of the same name. Numbers have all
their decimals, so `preprocess.boxes --from-annotations` makes exactly the same boxes from them.

--images also writes the frames, from frames/ beside the boxes, to boxes.coco-images/. This folder
and the COCO JSON are what torchvision's CocoDetection and FiftyOne open. The boxes of the JSON are
then in pixels of these images, whose short side is that of the stored frames.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from preprocess.annotated_boxes.writers import WRITERS, ExportedClip, write_images
from preprocess.running.options import boxes_options
from shared.errors import InputError, user_errors
from shared.make_commands import make_around
from shared.manifest import manifest_digest, read_manifest
from shared.progress import bar_options
from shared.shard_index import DatasetIndex, read_index
from shared.shards import ShardReader
from shared.wording import counted


@click.command(
    help=__doc__.split("\n")[0],
    context_settings={"show_default": True, "max_content_width": 100},
)
@click.option("--formats", default=",".join(WRITERS), metavar="NAMES",
              help="Formats of the files that are written, separated by commas.")  # fmt: skip
@click.option("--to", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Folder for the files.  [default: export/ beside the boxes]")  # fmt: skip
@click.option("--images", is_flag=True,
              help="With the format coco, also write the frames as JPEG files, for tools that open "
              "COCO.")  # fmt: skip
@user_errors
@boxes_options
def main(boxes: Path, formats: str, to: Path | None, images: bool) -> None:
    names = [name.strip() for name in formats.split(",")]
    for name in names:
        if name not in WRITERS:
            raise InputError(
                "unknown-name",
                f"--formats {formats}: unknown format {name!r}; known: {', '.join(WRITERS)}",
            )
    index = read_index(boxes)
    if index is None:
        made = make_around(boxes, "boxes")
        raise InputError("not-finished", f"no finished boxes at {boxes}; make them with {made}")
    if index.kind != "boxes":
        raise InputError("other-kind", f"{boxes} holds {index.kind}, not boxes")
    if images and "coco" not in names:
        raise InputError(
            "option-needs-another",
            f"--images has an effect only with the format coco, and --formats is {formats}; add it",
        )
    frames = _frames_folder(boxes, index) if images else None
    videos = _videos(boxes, index)
    folder = boxes.parent / "export" if to is None else to
    for name in dict.fromkeys(names):
        of_images = frames if name == "coco" else None
        if of_images is not None:
            written = write_images(folder, boxes.name, _jpegs(of_images, index))
            print(f"{written}: {counted(index.num_clips, 'clip')}")
        clips = partial(_clips, boxes, index, name, videos, of_images)
        written = WRITERS[name](folder, boxes.name, clips)
        print(f"{written}: {counted(index.num_clips, 'clip')}")
        print(f"  import: {_import_command(boxes, index, name, written)}")


def _import_command(boxes: Path, index: DatasetIndex, name: str, written: Path) -> str:
    """The command that makes boxes from an export, beside the other boxes of the dataset.

    The command needs the frames of the dataset. If the folder of boxes is a copy outside of its
    dataset, `OUT` stands for the folder that is not known.
    """
    out = str(boxes.parent.parent) if boxes.parent.name == index.dataset else "OUT"
    return (
        f"python -m preprocess.boxes --dataset {index.dataset} --out {shlex.quote(out)} "
        f"--name {name} --from-annotations {shlex.quote(str(written))} --format {name}"
    )


def _frames_folder(boxes: Path, index: DatasetIndex) -> Path:
    """The folder of the frames beside the boxes.

    Raises:
        InputError: there are none, or they are frames of other clips.
    """
    folder = boxes.parent / "frames"
    frames = read_index(folder)
    if frames is None:
        made = make_around(boxes, "flows")
        raise InputError(
            "not-finished",
            f"--images needs the frames, and there are no finished ones at {folder}; make them "
            f"with {made}, or leave --images out",
        )
    clips = [
        (each.manifest_digest, [(entry.name, entry.clips) for entry in each.shards])
        for each in (frames, index)
    ]
    if clips[0] != clips[1]:
        raise InputError(
            "other-clips",
            f"{folder} and {boxes} do not hold the same clips; make the older one again, or leave "
            "--images out",
        )
    return folder


def _videos(boxes: Path, index: DatasetIndex) -> dict[str, str]:
    """The path of the video of each clip, where the manifest of the boxes lies beside them."""
    path = boxes.parent / "manifest.csv"
    if not path.is_file():
        return {}
    clips = read_manifest(path)
    if manifest_digest(clips) != index.manifest_digest:
        return {}
    return {clip.clip_id: clip.video for clip in clips}


def _jpegs(frames: Path, index: DatasetIndex) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield the id and the JPEG files of every clip, in the order of the shards."""
    with tqdm(total=index.num_clips, desc="images", unit="clip", **bar_options(1)) as progress:
        for shard in index.shards:
            with ShardReader(frames / shard.name, "frames") as reader:
                for number, clip_id in enumerate(reader.clip_ids()):
                    first, last = reader.pair("/clip/frames", number)
                    yield clip_id, reader.ragged("/jpeg/offsets", "/jpeg/values", first, last)
                    progress.update()


def _clips(
    boxes: Path,
    index: DatasetIndex,
    what: str,
    videos: dict[str, str],
    frames: Path | None,
) -> Iterator[ExportedClip]:
    """Yield every clip in the order of the shards.

    Args:
        videos: path of the video by clip id.
        frames: folder of the frames that are written as images; None for no images.
    """
    with tqdm(total=index.num_clips, desc=what, unit="clip", **bar_options(1)) as progress:
        for shard in index.shards:
            stored = None
            if frames is not None:
                with ShardReader(frames / shard.name, "frames") as reader:
                    stored = reader["/clip/stored_size"].tolist()
            with ShardReader(boxes / shard.name, "boxes") as reader:
                rows, sizes = reader["/clip/frames"], reader["/clip/size"]
                found, scores = reader["/box/xyxy"], reader["/box/score"]
                times = reader["/frame/pts_seconds"]
                for number, clip_id in enumerate(reader.clip_ids()):
                    first, last = rows[number]
                    width, height = (int(side) for side in sizes[number])
                    yield ExportedClip(
                        clip_id,
                        (width, height),
                        times[first:last],
                        found[first:last],
                        scores[first:last],
                        videos.get(clip_id),
                        None if stored is None else tuple(stored[number]),
                    )
                    progress.update()


if __name__ == "__main__":
    main()
