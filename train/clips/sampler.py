"""Which clips make up which batch: a function of seed and step, whoever computes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from shared.errors import InputError
from shared.randomness import counter_generator


def epoch_order(shard: np.ndarray, seed: int, epoch: int, window_shards: int) -> np.ndarray:
    """A random order of all clips that reads few shards at a time.

    Shards are put into random order and taken in windows of `window_shards`; the clips of a window
    are shuffled together. A clip's neighbours in a batch thus come from the window's shards only,
    newly drawn each epoch; a window of all shards is a uniform shuffle.

    Args:
        shard: int [n] shard number of each clip.

    Returns:
        int64 [n], a permutation.
    """
    numbers = np.unique(shard)
    order = counter_generator(seed, epoch, "shards").permutation(numbers)
    place = np.empty(int(numbers.max()) + 1, dtype=np.int64)
    place[order] = np.arange(len(order)) // window_shards
    windows = place[shard]
    ties = counter_generator(seed, epoch, "clips").random(len(shard))
    return np.lexsort((ties, windows))


@dataclass(frozen=True)
class BatchPlan:
    """How one optimiser step's clips are shared out.

    A step takes `batch_size` clips. They are cut into `accumulation * world_size` equal parts of
    `micro_size` clips; in turn each process runs one part forward and backward. So the clips of a
    step do not depend on how many processes share the work.
    """

    batch_size: int
    world_size: int
    accumulation: int

    @property
    def micro_size(self) -> int:
        return self.batch_size // (self.world_size * self.accumulation)

    @classmethod
    def fit(cls, batch_size: int, world_size: int, most_per_process: int) -> BatchPlan:
        """The fewest accumulation steps such that no process holds over `most_per_process` clips.

        Raises:
            InputError: the batch cannot be shared evenly.
        """
        if batch_size % world_size:
            raise InputError(
                "out-of-range",
                f"batch size {batch_size} cannot be shared by {world_size} processes; give a "
                f"multiple of {world_size}",
            )
        share = batch_size // world_size
        divisors = (n for n in range(1, share + 1) if share % n == 0)
        parts = next(n for n in divisors if share // n <= most_per_process)
        return cls(batch_size, world_size, parts)


class StepSampler(Sampler[list[tuple[int, int]]]):
    """For a DataLoader: the (epoch, clip) keys of one process, a list per micro-batch.

    Args:
        shard: int [n] shard number of each clip.
        plan: of the batches.
        rank: of this process.
        first_step, last_step: optimiser steps first:last; a resumed run begins in the middle.
        seed, window_shards: see `epoch_order`.

    The clips left over when n is no multiple of the batch size are left out of that epoch, others
    in each.
    """

    def __init__(
        self,
        shard: np.ndarray,
        plan: BatchPlan,
        rank: int,
        first_step: int,
        last_step: int,
        seed: int,
        window_shards: int,
    ) -> None:
        self._shard = shard
        self._plan = plan
        self._rank = rank
        self._steps = range(first_step, last_step)
        self._seed = seed
        self._window_shards = window_shards
        self.steps_per_epoch = steps_per_epoch(len(shard), plan.batch_size)

    def __len__(self) -> int:
        return len(self._steps) * self._plan.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        plan, order, of_epoch = self._plan, np.empty(0, np.int64), -1
        for step in self._steps:
            epoch, place = divmod(step, self.steps_per_epoch)
            if epoch != of_epoch:
                order = epoch_order(self._shard, self._seed, epoch, self._window_shards)
                of_epoch = epoch
            batch = order[place * plan.batch_size : (place + 1) * plan.batch_size]
            parts = batch.reshape(plan.accumulation, plan.world_size, plan.micro_size)
            for part in parts[:, self._rank]:
                yield [(epoch, int(index)) for index in part]


def steps_per_epoch(num_clips: int, batch_size: int) -> int:
    """Whole batches in an epoch.

    Raises:
        InputError: fewer clips than a batch.
    """
    if num_clips < batch_size:
        raise InputError(
            "too-few-clips",
            f"{num_clips} clips are fewer than a batch of {batch_size}; give --batch-size "
            f"{num_clips} or less",
        )
    return num_clips // batch_size
