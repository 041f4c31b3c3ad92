"""Runs all steps of a table at toy size, on two cores in minutes."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

from benchmarks.ablation import prepare
from benchmarks.paper_tables.resolve import whole_command
from benchmarks.paper_tables.rows import PaperTable
from benchmarks.paper_tables.steps import Scale
from benchmarks.training_runs import ROOT
from shared.errors import InputError
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import read_classes
from shared.progress import bar_options
from train.evaluation.class_map import COLUMNS

DATASET = "toy"
ALL_LABELS = ("--labels-per-class", "0")  # the recipe has few


def toy_scale(out: Path, pretrain_epochs: int, finetune_epochs: int) -> Scale:
    """The scale of a toy run; rows that differ only in sizes of the paper are the same run then."""
    return Scale(
        DATASET,
        ("--epochs", str(pretrain_epochs)),
        ("--epochs", str(finetune_epochs), *ALL_LABELS),
        out / "toy-half.csv",
    )


def run_toy(table: PaperTable, out: Path, scale: Scale, clips: int) -> None:
    """Render the toy dataset and run each step of a table; finished runs are used again.

    Raises:
        InputError: a command failed; the message has its last line.
    """
    layout = DatasetLayout(out, DATASET)
    prepare(layout, clips)
    assert scale.class_map
    write_atomically(scale.class_map, half_of_the_classes(layout))
    commands = [whole_command(step, out.resolve(), scale) for step in table.steps()]
    distinct = [each for n, each in enumerate(commands) if each not in commands[:n]]
    for command in tqdm(distinct, "steps", unit="step", **bar_options()):
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().rpartition("\n")[2]
            raise InputError(
                "not-finished",
                f"`python {' '.join(command)}` ended with status {done.returncode}: {said}",
            )


def half_of_the_classes(layout: DatasetLayout) -> bytes:
    """A class map of every second class, in place of two datasets that share some classes."""
    names = read_classes(layout.classes).label
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *((n, n) for n in names[::2])])
    return text.getvalue().encode()
