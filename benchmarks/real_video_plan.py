"""The cost of benchmarks/real_video.py before it runs: operations and hours of each training.

The hours come from the speed of the finished trainings of the same kind. Before the first one has
finished, they come from RATE, the slowest that was measured on one core with bf16 instructions:
methods that predict pixels are four times as slow as velocities for the same operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.real_clips import count_labelled
from benchmarks.real_video_cells import METHODS, RECIPE, Cell, Pretraining, finetuning_flops_of
from benchmarks.real_video_scores import hours_of
from shared.layout import DatasetLayout
from train.options.recipe import read_recipe
from train.running.run_folder import RunFolder

RATE = 10e9  # operations per second


@dataclass(frozen=True)
class Training:
    """One training of the plan.

    Attributes:
        kind: trainings of one kind have the same speed.
        hours: that it took; None if it is not finished.
    """

    kind: str
    flops: float
    hours: float | None


def plan_text(
    cells: Sequence[Cell], waiting: Sequence[Cell], layouts: Mapping[int, DatasetLayout]
) -> str:
    """A table of the trainings that are left: how many, what each costs, and what remains.

    Args:
        cells: all cells that were asked for.
        waiting: those that are not finished.
    """
    trainings = list_trainings(waiting, layouts)
    known = list_trainings(cells, layouts)
    lines = [
        f"{'training':34} {'runs':>5} {'TFLOP each':>11} {'hours each':>11} {'finished':>9} "
        f"{'hours left':>11}"
    ]
    left = 0.0
    for kind in dict.fromkeys(training.kind for training in trainings):
        those = [training for training in trainings if training.kind == kind]
        each = sum(training.flops for training in those) / len(those)
        rate = _rate([training for training in known if training.kind == kind])
        hours = each / rate / 3600
        undone = sum(training.flops for training in those if training.hours is None)
        remaining = undone / rate / 3600
        left += remaining
        finished = sum(training.hours is not None for training in those)
        lines.append(
            f"{kind:34} {len(those):5} {each / 1e12:11.2f} {hours:11.2f} {finished:9} "
            f"{remaining:11.2f}"
        )
    done = len(cells) - len(waiting)
    lines.append(f"{len(cells)} figures, {done} of them finished; {left:.1f} hours left")
    return "\n".join(lines)


def list_trainings(cells: Sequence[Cell], layouts: Mapping[int, DatasetLayout]) -> list[Training]:
    """Every training that the cells need, once."""
    tables = read_recipe("", RECIPE)
    found: dict[tuple[int, str], Training] = {}
    for cell in cells:
        runs = layouts[cell.fold].runs
        if (pretraining := cell.pretraining) is not None:
            folder = RunFolder(runs / pretraining.run)
            kind = _kind(pretraining)
            found[cell.fold, pretraining.run] = Training(kind, pretraining.flops, _hours(folder))
        if cell.measure == "finetune":
            labelled = count_labelled(layouts[cell.fold], cell.labels)
            flops = finetuning_flops_of(cell, labelled, tables)
            kind = f"finetune {cell.labels or 'all'} labels, head {METHODS[cell.key].head}"
            found[cell.fold, cell.run] = Training(kind, flops, _hours(RunFolder(runs / cell.run)))
    return list(found.values())


def _kind(pretraining: Pretraining) -> str:
    return f"pretrain {pretraining.key}, {pretraining.epochs} epochs"


def _hours(folder: RunFolder) -> float | None:
    return hours_of(folder) if folder.is_finished else None


def _rate(trainings: Sequence[Training]) -> float:
    """Operations per second of the finished ones, or RATE."""
    flops = sum(training.flops for training in trainings if training.hours is not None)
    seconds = 3600 * sum(training.hours or 0.0 for training in trainings)
    return flops / seconds if seconds else RATE
