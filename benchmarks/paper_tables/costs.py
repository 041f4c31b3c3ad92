"""What a step costs, from the operations of its model (train/running/throughput.py)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from benchmarks.paper_tables.data import NUMBERS
from benchmarks.paper_tables.resolve import finetuning_config, pretraining_config
from benchmarks.paper_tables.steps import FULL, Evaluation, Finetuning, Pretraining, Probing, Step
from shared.masks import MASKS
from shared.scene import Scene
from train.options.config import PretrainConfig
from train.options.recipe import evaluate_config, read_recipe
from train.running.throughput import BACKWARD, finetuning_flops, pretraining_flops

GPUS = (1, 4, 8)


def operations(step: Step) -> float:
    """Floating-point operations of a step at full size: those of the matrix products."""
    numbers = NUMBERS[step.dataset]
    if isinstance(step, Pretraining):
        config = pretraining_config(step, FULL)
        clip = pretraining_flops(config.model, num_masked(config))
        return numbers.train * config.epochs * config.repeats * clip
    if isinstance(step, Finetuning):
        tuned = finetuning_config(step, FULL)
        clip = finetuning_flops(tuned.model, tuned.head)
        return numbers.train * tuned.epochs * tuned.repeats * clip
    if isinstance(step, Evaluation):
        tested = finetuning_config(step.finetuning, FULL)
        recipe = evaluate_config(read_recipe(step.dataset, None))
        segments, crops = step.views or (recipe.segments, recipe.crops)
        clips = NUMBERS[step.on or step.dataset].tested
        return clips * segments * crops * _forward(finetuning_flops(tested.model, tested.head))
    assert isinstance(step, Probing)
    model = finetuning_config(Finetuning(step.dataset, None), FULL).model
    return (numbers.train + numbers.tested) * _forward(finetuning_flops(model))


def hours(steps: Iterable[Step], flops: float) -> list[float]:
    """Hours of some steps on each number of GPUs, of which each reaches `flops` operations/s."""
    total = sum(operations(step) for step in steps)
    return [total / flops / gpus / 3600 for gpus in GPUS]


def num_masked(config: PretrainConfig) -> int:
    """How many tokens of a clip the mask hides; it is the same for every clip."""
    model = config.model
    scene = Scene(
        model.time_steps,
        np.zeros((model.grid, model.grid), np.bool_),
        np.zeros((model.time_steps, model.grid, model.grid)),
    )
    mask = MASKS[config.mask.kind].draw(scene, np.random.default_rng(0), **config.mask.options)
    return int(mask.sum())


def _forward(flops: float) -> float:
    """The operations of the forward pass alone."""
    return flops / (1 + BACKWARD)
