"""Counts how often masks of the ablation are equal on the few patches of toy clips.

    make ablation                                   # makes the dataset; it may be unfinished
    python -m benchmarks.mask_overlap

A toy clip has 16 positions, so similar ratios often give the same mask, and then nearly the same
training. For each row of a part with masks of one method, the command prints the percentage of
clips whose mask in the first epoch equals that of the reference row of the part.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from benchmarks.ablation_rows import PARTS, Row
from shared.errors import user_errors
from shared.layout import DatasetLayout
from train.clips.table import read_clip_table
from train.options.recipe import loader_config, parse_changes, pretrain_config, read_recipe
from train.samples.datasets import PretrainDataset

REFERENCES = {"inside-ratio": "MOFO, 75% inside the box", "mgm": "MGM, mask ratio 75%"}


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/ablation"),
              metavar="FOLDER", help="Folder of the dataset of `make ablation`.")  # fmt: skip
@click.option("--clips", type=click.IntRange(1), default=400, metavar="CLIPS",
              help="Largest number of clips of split train.")  # fmt: skip
@user_errors
def main(out: Path, clips: int) -> None:
    layout = DatasetLayout(out, "toy")
    for part, reference in REFERENCES.items():
        rows = {row.name: row for row in PARTS[part] if row.method != "none"}
        masks = {name: masks_of(layout, row, clips) for name, row in rows.items()}
        print(f"{part}: masks equal to those of '{reference}', percent of clips")
        for name, found in masks.items():
            print(f"  {name:<40}  {same_masks(found, masks[reference]):.0f}")


def masks_of(layout: DatasetLayout, row: Row, clips: int) -> np.ndarray:
    """Masks bool [n, N] of the first clips of split train, in the first epoch of seed 0."""
    tables = read_recipe("toy", None)
    settings = tuple(f"{key}={value}" for key, value in row.pretraining.items())
    config = pretrain_config(tables, row.method, parse_changes(settings))
    table = read_clip_table(
        layout, ["train"], config.needs_boxes, config.needed_motion, config.box_source
    )
    dataset = PretrainDataset(table, config, loader_config(tables), seed=0)
    chosen = range(min(clips, len(table)))
    return np.stack([dataset[0, index]["mask"][0].numpy() for index in chosen])


def same_masks(masks: np.ndarray, others: np.ndarray) -> float:
    """Percentage of rows of bool [n, N] that are equal in both."""
    return 100 * float((masks == others).all(axis=1).mean())


if __name__ == "__main__":
    main()
