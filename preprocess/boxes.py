"""Compute motion boxes of frames and clips, and the table of tube-mask positions.

    python -m preprocess.boxes --dataset toy --out out
    python -m preprocess.boxes --dataset ssv2 --out out --motion-preset paper --name paper
    python -m preprocess.boxes --dataset ssv2 --out out --source dis --name dis
    python -m preprocess.boxes --dataset ssv2 --out out --name annotated \\
        --from-annotations boxes.json --format something-else

The command reads the motion maps of flows/NNNNN.h5 (or of another source) and the texture of
frames/. It computes no flow, so other thresholds can be tried quickly: the toy dataset takes
seconds. With --from-annotations it takes annotated boxes for the clips of frames/ instead. It
writes boxes/NNNNN.h5 and their dataset.json, or boxes-NAME/ with --name; training uses that folder
with --set box_source=NAME. A run that was stopped continues where it stopped. If all boxes exist
already, the command says so and ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from preprocess.annotated_boxes.formats import FORMATS
from preprocess.box_run.inputs import read_inputs
from preprocess.box_run.like import options_like
from preprocess.box_run.run import make_box_shards, wanted_index
from preprocess.running.journal import complete_index, remove_journal
from preprocess.running.like_option import like_option
from preprocess.running.options import dataset_options, former_name
from preprocess.running.same_options import refuse_other_manifest
from shared.errors import user_errors
from shared.grid import TUBE_POSITIONS
from shared.layout import DatasetLayout
from shared.manifest import manifest_digest, read_manifest
from shared.run_record import RunLock, write_options
from shared.scene import masked_counts
from shared.shard_index import DatasetIndex
from shared.shards import ShardReader
from shared.wording import counted

MASK_RATIO, INSIDE_RATIO = 0.9, 0.75  # the ratios of MOFO, for the summary
DIGESTS = ("flows", "frames", "annotations")
"""Keys of the config that identify the inputs. They are in dataset.json, not on the screen."""


@click.command(
    help=__doc__.split("\n")[0], context_settings={"show_default": True, "max_content_width": 100}
)
@dataset_options("flows/, or frames/ for --from-annotations")
@click.option("--name", metavar="NAME",
              help="Write to the folder boxes-NAME/ instead of boxes/.")  # fmt: skip
# The recipe
@like_option("boxes", options_like)
@click.option("--source", metavar="NAME",
              help="Flow source whose motion maps are read. For dis, the command reads "
              "flows-dis/.  "
              "[default: the source of flows/]")  # fmt: skip
@click.option("--motion-preset", "preset", metavar="NAME",
              help="Preset of the box parameters: default, paper or mofo-code. The numbers are in "
              "preprocess/motion_boxes/presets.py.  [default: default]")  # fmt: skip
@click.option("--set", "changes", multiple=True, metavar="NAME=NUMBER",
              help="Change one number of the preset, such as sigma=4. May be repeated."
              )  # fmt: skip
# Annotated boxes instead
@click.option("--from-annotations", type=click.Path(path_type=Path), metavar="PATH",
              help="Take annotated boxes from this file, or folder of files, instead of computing "
              "boxes from motion maps. Needs --format."
              )  # fmt: skip
@click.option("--format", "box_format", type=click.Choice(list(FORMATS)),
              help="Format of the annotation files of --from-annotations.")  # fmt: skip
@click.option("--min-score", type=click.FloatRange(0, 1), metavar="SCORE",
              help="Ignore detections whose score is below this value. Only for "
              "epic-hand-objects.  [default: 0.5]"
              )  # fmt: skip
@click.option("--annotation-fps", type=click.FloatRange(0, min_open=True), metavar="RATE",
              help="Frame rate, in frames per second, of the frame numbers in the formats "
              "epic-hand-objects and epic55.  [default: "
              "see preprocess.evaluate_boxes]")  # fmt: skip
# The run
@click.option("--workers", type=click.IntRange(1), metavar="PROCESSES",
              help="Number of processes that make shards.  "
              "[default: one for each core]")  # fmt: skip
@click.option("--overwrite", is_flag=True,
              help="Make all shards again. The options may differ from those of the existing "
              "shards.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the plan of the run, and write nothing.")
@user_errors
@former_name("--preset", "--motion-preset", "preset", metavar="NAME")
def main(**options: Any) -> None:
    layout = DatasetLayout(options["out"], options["dataset"])
    folder = layout.boxes if options["name"] is None else layout.boxes_of(options["name"])
    inputs = read_inputs(layout, options)
    wanted = wanted_index(layout, inputs)
    clips = counted(inputs.clips.num_clips, "clip")
    shards = counted(len(inputs.clips.shards), "shard")
    shown = {name: value for name, value in inputs.config.items() if name not in DIGESTS}
    print(f"boxes: {clips} in {shards}, to {folder}")
    print(f"  input: {inputs.what}")
    print("  options: " + ", ".join(f"{name} {value}" for name, value in shown.items()))
    if options["dry_run"]:
        return
    with RunLock(layout.lock):
        if layout.manifest.is_file():  # shards may have been copied here without it
            digest = manifest_digest(read_manifest(layout.manifest))
            refuse_other_manifest(inputs.folder, inputs.clips.manifest_digest, digest)
        if not options["overwrite"] and complete_index(folder, wanted) is not None:
            remove_journal(folder)  # left by a run that was killed before its last step
            print(f"reuse: {folder} is complete")
            return
        make_box_shards(
            folder,
            inputs,
            wanted,
            options["workers"],
            options["overwrite"],
            lambda: write_options(folder / "options.json", options),
        )
    print_coverage(folder, wanted)


# --------------------------------------------------------------------------------------------------
# The summary at the end


def print_coverage(folder: Path, index: DatasetIndex) -> None:
    """Print how much the boxes cover, and what MOFO's ratios mask inside and outside of them."""
    num_inside, has_motion = [np.empty(0, np.int64)], [np.empty(0, np.bool_)]
    for shard in index.shards:
        with ShardReader(folder / shard.name, "boxes") as reader:
            num_inside.append(np.diff(reader["/tube/offsets"]))
            has_motion.append(~np.isnan(reader["/box/xyxy"]).any(axis=1))
    inside, moving = np.concatenate(num_inside), np.concatenate(has_motion)
    megabytes = sum(shard.bytes for shard in index.shards) / 1e6
    print(f"{folder}: {counted(len(inside), 'clip')}, {megabytes:.1f} MB")
    if len(inside) == 0:
        return
    print(f"  clips without a position inside their box: {np.mean(inside == 0):.1%}")
    print(f"  frames without a box: {np.mean(~moving):.1%}")
    print(f"  positions inside the clip's box, of {TUBE_POSITIONS}, and number of clips:")
    edges = [0, 1, *range(20, TUBE_POSITIONS, 20), TUBE_POSITIONS, TUBE_POSITIONS + 1]
    histogram = np.histogram(inside, bins=edges)[0]
    for first, last, count in zip(edges[:-1], edges[1:], histogram, strict=True):
        name = str(first) if last == first + 1 else f"{first}-{last - 1}"
        print(f"  {name:>8} {count:8d} {'#' * round(40 * count / histogram.max())}")
    masked, masked_inside = np.sum(
        [masked_counts(TUBE_POSITIONS, int(m), MASK_RATIO, INSIDE_RATIO) for m in inside], axis=0
    )
    print(
        f"  a mask ratio of {MASK_RATIO:.0%} with {INSIDE_RATIO:.0%} inside masks "
        f"{masked_inside / max(1, inside.sum()):.1%} of the positions inside the boxes and "
        f"{(masked - masked_inside) / max(1, (TUBE_POSITIONS - inside).sum()):.1%} of those outside"
    )


if __name__ == "__main__":
    main()
