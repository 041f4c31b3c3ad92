"""The work of benchmarks/real_video.py: methods, pretrainings of equal compute, and cells.

A cell is one figure: a fold, a method, a seed, a number of labels and a measure. The cells of a
method share its pretraining.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.real_boxes import ANNOTATED, OTHERS
from benchmarks.real_clips import TRACKS_NAME
from shared.masks import MASKS
from shared.scene import Scene
from train.options.config import PretrainConfig
from train.options.recipe import finetune_config, parse_changes, pretrain_config, read_recipe
from train.running.throughput import finetuning_flops, pretraining_flops

RECIPE = Path(__file__).with_name("real_video.toml")
PROBES = {
    "probe": ("--pool", "clip"),
    "fisher": ("--pool", "fisher"),
    "predictions": ("--features", "predictions", "--pool", "fisher"),
}
"""The linear probes on frozen features, and the options of train.probe that each has."""
MEASURES = (*PROBES, "finetune")
ALL = 0  # labels per class: all of them


@dataclass(frozen=True)
class Method:
    """One line of the table.

    Attributes:
        name: name in the table.
        method: the table of the recipe that pretrains; None for random weights.
        head: pooling head of finetuning.
        settings: further settings of the pretraining, such as {"box_source": "annotated"}.
        boxes: the boxes of benchmarks/real_boxes.py that it needs; "" for none of these.
        needs_tracks: whether it needs the tracks and motion vectors of benchmarks/real_clips.py.
    """

    name: str
    method: str | None
    head: str = "mean"
    settings: Mapping[str, object] = field(default_factory=dict)
    needs_tracks: bool = False
    boxes: str = ""


METHODS = {
    "random": Method("random weights", None),
    "videomae": Method("VideoMAE", "videomae"),
    "mofo": Method("MOFO", "mofo"),
    "mofo-annotated": Method(
        "MOFO, annotated boxes", "mofo", settings={"box_source": ANNOTATED}, boxes=ANNOTATED
    ),
    "mofo-others": Method(
        "MOFO, boxes of other clips", "mofo", settings={"box_source": OTHERS}, boxes=OTHERS
    ),
    "mofo-mca": Method("MOFO, cross attention", "mofo", head="mca"),
    "smm": Method("SMM", "smm"),
    "mgm": Method("MGM", "mgm", needs_tracks=True),
    "mme": Method("MME", "mme", settings={"motion_source": TRACKS_NAME}, needs_tracks=True),
    "velocity": Method("velocities", "velocity"),
    "descriptors": Method("motion descriptors", "descriptors"),
    "velocity-shape": Method("velocities and shape", "velocity", settings={"target.shape": "true"}),
}


@dataclass(frozen=True)
class Pretraining:
    """A pretraining on the clips of one fold with one seed.

    Attributes:
        key: the method, a key of METHODS.
        epochs: as many as the budget of compute allows.
        clip_flops: operations of one clip, forward and backward.
        clips: number of clips that an epoch sees.
    """

    key: str
    fold: int
    seed: int
    epochs: int
    clip_flops: float
    clips: int

    @property
    def run(self) -> str:
        """Name of the run. Rows that differ only after pretraining share it."""
        method = METHODS[self.key]
        words = ["pretrain", method.method, *map(_slug, method.settings.items())]
        return f"{'-'.join(map(str, words))}-{self.epochs}epochs-seed{self.seed}"

    @property
    def clips_seen(self) -> int:
        return self.clips * self.epochs

    @property
    def flops(self) -> float:
        return self.clips_seen * self.clip_flops


def _slug(setting: tuple[str, object]) -> str:
    key, value = setting
    return f"{key.rpartition('.')[2]}_{value}"


@dataclass(frozen=True)
class Cell:
    """One figure.

    Attributes:
        labels: labelled clips of each class that are learned from; ALL for all.
        measure: finetune, or a linear probe on frozen features, which is a key of PROBES.
        pretraining: None for random weights.
        draw: number of the draw of the labelled clips; 0 where all are used.
    """

    fold: int
    key: str
    seed: int
    labels: int
    measure: str
    pretraining: Pretraining | None
    draw: int = 0

    @property
    def label_seed(self) -> int:
        """Seed of the choice of labelled clips; another draw has other ones."""
        return self.seed + 1000 * self.draw

    @property
    def is_probe(self) -> bool:
        return self.measure in PROBES

    @property
    def run(self) -> str:
        source = self.pretraining.run.removeprefix("pretrain-") if self.pretraining else "random"
        source = source.removesuffix(f"-seed{self.seed}")
        head = "" if self.is_probe else f"-{METHODS[self.key].head}"
        draw = f"-draw{self.draw}" if self.draw else ""
        return f"{self.measure}-{source}{head}-{self.labels or 'all'}labels-seed{self.seed}{draw}"


def pretraining_config(key: str) -> PretrainConfig:
    """The configuration of the pretraining of a method that has one."""
    method = METHODS[key]
    assert method.method is not None, key
    changes = parse_changes(tuple(f"{name}={value}" for name, value in method.settings.items()))
    return pretrain_config(read_recipe("", RECIPE), method.method, changes)


@functools.cache
def flops_of_clip(key: str) -> float:
    """Operations of a clip in the pretraining of a method, forward and backward."""
    config = pretraining_config(key)
    model = config.model
    grid = (model.grid, model.grid)
    scene = Scene(model.time_steps, np.zeros(grid, np.bool_), np.zeros((model.time_steps, *grid)))
    mask = MASKS[config.mask.kind].draw(scene, np.random.default_rng(0), **config.mask.options)
    return pretraining_flops(model, int(mask.sum()))


def usual_methods() -> tuple[str, ...]:
    """The methods that need no annotated boxes."""
    return tuple(key for key, method in METHODS.items() if not method.boxes)


def needs_boxes(key: str) -> bool:
    """Whether a method masks or pools with the boxes that motion gives."""
    method = METHODS[key]
    if method.boxes or method.method is None:
        return False
    return method.head == "mca" or pretraining_config(key).needs_boxes


def plan_pretraining(key: str, fold: int, seed: int, clips: int, flops: float) -> Pretraining:
    """The pretraining of a method on `clips` clips that takes `flops` operations, in whole epochs.

    An epoch leaves out the clips that do not fill a batch.
    """
    batch = min(pretraining_config(key).batch_size, clips)
    seen, each = clips // batch * batch, flops_of_clip(key)
    return Pretraining(key, fold, seed, max(1, round(flops / (each * seen))), each, seen)


def plan_cells(
    keys: tuple[str, ...],
    folds: tuple[int, ...],
    seeds: tuple[int, ...],
    labels: tuple[int, ...],
    measures: tuple[str, ...],
    clips_of: Mapping[int, int],
    flops: float,
    draws: int = 1,
) -> Iterator[Cell]:
    """All cells, in the order in which they are computed.

    A method comes on every fold before the next method, so that a stopped benchmark has whole rows.

    Args:
        draws: how often the labelled clips of a probe are drawn. A finetuning takes too long for
            more than one draw.
    """
    for seed in seeds:
        for key in keys:
            for fold in folds:
                pretraining = None
                if METHODS[key].method is not None:
                    pretraining = plan_pretraining(key, fold, seed, clips_of[fold], flops)
                for measure in measures:
                    if measure in PROBES and METHODS[key].head != "mean":
                        continue  # a probe has no head, so this is another row's figure
                    for count in labels:
                        for draw in range(draws if measure in PROBES and count != ALL else 1):
                            yield Cell(fold, key, seed, count, measure, pretraining, draw)


def finetuning_flops_of(cell: Cell, labelled: int, tables: Mapping[str, Any]) -> float:
    """Operations of the finetuning of a cell on `labelled` clips of split train."""
    config = finetune_config(tables, METHODS[cell.key].head)
    return config.epochs * labelled * finetuning_flops(config.model, config.head)
