"""Measures how long training waits for data, in a pretraining on rendered clips.

    python -m benchmarks.data_wait

A GPU trains ViT-B at 224 pixels with eight loader processes. A CPU trains the model of the toy
recipe at 64 pixels with one. The share is `data_wait_share` of the log of the run, averaged over
all lines except the first one, during which workers start and blocks are compiled.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.datasets import make_dataset, run
from benchmarks.record import NOT_ON_GPU, Figure, text_of
from shared.errors import InputError, user_errors
from shared.layout import DatasetLayout
from shared.run_record import read_jsonl
from train.running.run_folder import RunFolder

LIMIT = 5.0  # percent
BATCH = 32  # clips
NAME = "data wait of pretraining"
VIT_B = (
    *("model.size=vit-b", "model.image_size=224", "model.tubelet_size=2"),
    *("model.decoder_width=384", "model.decoder_depth=4", "model.decoder_heads=6"),
    *("loader.workers=8", "loader.micro_batch_size=32"),
    "crop={kind='multi_scale', scales=[1.0, 0.875, 0.75, 0.66]}",
)


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--steps", type=click.IntRange(20), default=100, metavar="STEPS",
              help="Number of optimiser steps.")  # fmt: skip
@user_errors
def main(steps: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for figure in measure(Path(scratch), steps):
            print(f"{figure.name}  {text_of(figure)}")


def measure(scratch: Path, steps: int = 100) -> list[Figure]:
    """The share of the time that training waits for data, in percent, beside the limit."""
    layout = make_dataset(scratch, "toy", scratch)
    if torch.cuda.is_available():
        return [figure_of(f"{NAME}, ViT-B, 224 px, 8 cores a GPU", layout, steps, VIT_B)]
    return [
        figure_of(f"{NAME}, toy recipe, CPU", layout, steps, ()),
        Figure(f"{NAME}, ViT-B, 224 px, 8 cores a GPU", "%", None, note=NOT_ON_GPU),
    ]


def figure_of(name: str, layout: DatasetLayout, steps: int, settings: tuple[str, ...]) -> Figure:
    """Pretrain for a number of steps with 32 clips; clips are not cached."""
    lines = pretrain(layout, "data-wait", steps, settings)
    return Figure(
        name,
        "% of the time",
        100 * statistics.mean(line["data_wait_share"] for line in lines),
        "the project's own limit",
        LIMIT,
        more_is_better=False,
        target=1.0,
        note=f"{len(lines)} lines of 10 steps, {BATCH} clips a step",
    )


def pretrain(
    layout: DatasetLayout, name: str, steps: int, settings: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Pretrain as run `name`; returns the lines of its log except the first, in which it starts."""
    place = ("--dataset", layout.dataset, "--out", str(layout.out), "--run", name)
    # Split train has fewer than two batches of clips, so each epoch is one step.
    asked = ("--method", "videomae", "--batch-size", str(BATCH), "--epochs", str(steps))
    every_time = ("loader.cache_megabytes=0", "loader.log_steps=10", *settings)
    run(
        "train.pretrain", *place, *asked, *(part for each in every_time for part in ("--set", each))
    )
    events = read_jsonl(RunFolder(layout.runs / name).log)
    lines = [event for event in events if event["event"] == "train"][1:]
    if not lines:
        raise InputError(
            "out-of-range",
            f"{steps} steps give fewer than two lines in the log; give at least --steps 20",
        )
    return lines


if __name__ == "__main__":
    main()
