"""Boxes of a dataset: one for each frame, one for the clip, and its tube-mask table.

    python -m preprocess.boxes --dataset toy --out out
    python -m preprocess.boxes --dataset ssv2 --out out --preset paper --name paper
    python -m preprocess.boxes --dataset ssv2 --out out --source dis --name dis
    python -m preprocess.boxes --dataset ssv2 --out out --name annotated \\
        --from-annotations boxes.json --format something-else

From motion it reads the maps of flows/NNNNN.h5 (or of another source) and the texture of frames/,
so thresholds are tuned without computing flow again: seconds for the toy dataset. From annotated
boxes it reads frames/ for what clips and frames there are. It writes boxes/NNNNN.h5 and their
dataset.json; with --name they lie beside, in boxes-NAME/, and training takes them with
--set box_source=NAME. A run that was stopped goes on where it was; one that is complete says so and
ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from preprocess.annotated_boxes.formats import FORMATS
from preprocess.box_run.inputs import read_inputs
from preprocess.box_run.run import make_box_shards, wanted_index
from preprocess.running.journal import complete_index, forget, remove_journal
from preprocess.running.options import dataset_options
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

MASK_RATIO, INSIDE_RATIO = 0.9, 0.75  # MOFO's, for what is printed


@click.command(
    help=__doc__.split("\n")[0], context_settings={"show_default": True, "max_content_width": 100}
)
@dataset_options("flows/")
@click.option("--name", metavar="NAME",
              help="Write boxes-NAME/ beside the other boxes.  [default: boxes/]")  # fmt: skip
# The recipe
@click.option("--source", metavar="NAME",
              help="Read the maps of this flow source, such as dis for flows-dis/.  "
              "[default: flows/]")  # fmt: skip
@click.option("--preset", metavar="NAME",
              help="Parameter preset: default, paper or mofo-code, whose numbers are in "
              "preprocess/motion_boxes/presets.py.  [default: default]")  # fmt: skip
@click.option("--set", "changes", multiple=True, metavar="NAME=NUMBER",
              help="Change one number of the preset, such as sigma=4; can be repeated."
              )  # fmt: skip
# Annotated boxes instead
@click.option("--from-annotations", type=click.Path(path_type=Path), metavar="PATH",
              help="Take annotated boxes instead of motion, from a file or a folder of files."
              )  # fmt: skip
@click.option("--format", "box_format", type=click.Choice(list(FORMATS)),
              help="Format of the annotations.")  # fmt: skip
@click.option("--min-score", type=click.FloatRange(0, 1), metavar="SCORE",
              help="Lowest score of a detection of epic-hand-objects.  [default: 0.5]"
              )  # fmt: skip
@click.option("--annotation-fps", type=click.FloatRange(0, min_open=True), metavar="RATE",
              help="Frames per second of the frame numbers of epic-*.  [default: as "
              "evaluate_boxes]")  # fmt: skip
# The run
@click.option("--workers", type=click.IntRange(1), metavar="PROCESSES",
              help="Number of processes.  [default: one a core]")  # fmt: skip
@click.option("--overwrite", is_flag=True,
              help="Make all shards again, also with other options.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print what would be done and stop.")
@user_errors
def main(**options: Any) -> None:
    layout = DatasetLayout(options["out"], options["dataset"])
    folder = layout.boxes if options["name"] is None else layout.boxes_of(options["name"])
    inputs = read_inputs(layout, options)
    wanted = wanted_index(layout, inputs)
    clips, shards = (
        counted(inputs.clips.num_clips, "clip"),
        counted(len(inputs.clips.shards), "shard"),
    )
    print(f"boxes: {clips} in {shards}, to {folder}")
    print(
        f"  {inputs.what}: " + ", ".join(f"{name} {value}" for name, value in inputs.config.items())
    )
    if options["dry_run"]:
        return
    with RunLock(layout.lock):
        if layout.manifest.is_file():  # else what is read was copied here without it
            digest = manifest_digest(read_manifest(layout.manifest))
            refuse_other_manifest(inputs.folder, inputs.clips.manifest_digest, digest)
        if options["overwrite"]:
            forget(folder)
        elif complete_index(folder, wanted) is not None:
            remove_journal(folder)  # of a run that was killed just before it would have
            print(f"reuse: {folder} is complete")
            return
        write_options(folder / "options.json", options)
        make_box_shards(folder, inputs, wanted, options["workers"])
    print_coverage(folder, wanted)


# --------------------------------------------------------------------------------------------------
# What is printed at the end


def print_coverage(folder: Path, index: DatasetIndex) -> None:
    """How much the boxes cover, and what the ratios of MOFO then mask inside and outside."""
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
    print(
        f"  without a position inside the box: {np.mean(inside == 0):.1%} of the clips; "
        f"without a box: {np.mean(~moving):.1%} of the frames"
    )
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
        f"  mask ratio {MASK_RATIO:.0%} with {INSIDE_RATIO:.0%} inside masks in effect "
        f"{masked_inside / max(1, inside.sum()):.1%} inside the boxes and "
        f"{(masked - masked_inside) / max(1, (TUBE_POSITIONS - inside).sum()):.1%} outside"
    )


if __name__ == "__main__":
    main()
