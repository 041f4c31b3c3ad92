"""Export the boxes of a dataset as COCO JSON, Something-Else JSON and CSV, for other tools.

    python -m preprocess.export --dataset toy
    python -m preprocess.export --boxes /data/copy/boxes --formats coco --to /data/ssv2-boxes

The command reads only boxes/, which may be a copy on another machine. It writes to export/ beside
it: boxes.coco.json, boxes.something-else.json, and boxes-csv/ with <clip_id>.boxes.csv. Each output
is written completely or not at all, and replaces an earlier one of the same name. Numbers have all
their decimals, so `preprocess.boxes --from-annotations` makes exactly the same boxes from them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click
from tqdm import tqdm

from preprocess.annotated_boxes.writers import WRITERS, ExportedClip
from preprocess.running.options import boxes_options
from shared.errors import InputError, user_errors
from shared.make_commands import make_around
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
@user_errors
@boxes_options
def main(boxes: Path, formats: str, to: Path | None) -> None:
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
    folder = boxes.parent / "export" if to is None else to
    for name in dict.fromkeys(names):
        written = WRITERS[name](folder, boxes.name, partial(_clips, boxes, index, name))
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


def _clips(boxes: Path, index: DatasetIndex, what: str) -> Iterator[ExportedClip]:
    """Yield every clip in the order of the shards."""
    with tqdm(total=index.num_clips, desc=what, unit="clip", **bar_options(1)) as progress:
        for shard in index.shards:
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
                    )
                    progress.update()


if __name__ == "__main__":
    main()
