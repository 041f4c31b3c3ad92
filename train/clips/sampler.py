"""Which clips are in which batch: a function of seed and step, the same in every process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from shared.errors import InputError
from shared.randomness import counter_generator


def epoch_order(shard: np.ndarray, seed: int, epoch: int, window_shards: int) -> np.ndarray:
    """A random order of all clips that reads few shards at a time.

    The shards are shuffled and divided into windows of `window_shards` shards. The clips of a
    window are shuffled together, so that the clips of a batch come from few shards. Each epoch
    draws other windows. One window of all shards is a uniform shuffle.

    Args:
        shard: int [n], the number of the shard of each clip.

    Returns:
        int64 [n], a permutation.
    """
    numbers = np.unique(shard)
    order = counter_generator(seed, epoch, "shards").permutation(numbers)
    window_of_shard = np.empty(int(numbers.max()) + 1, dtype=np.int64)
    window_of_shard[order] = np.arange(len(order)) // window_shards
    windows = window_of_shard[shard]
    ties = counter_generator(seed, epoch, "clips").random(len(shard))
    return np.lexsort((ties, windows))


@dataclass(frozen=True)
class BatchPlan:
    """How the clips of an optimiser step are divided over processes and micro-batches.

    A step has `batch_size` clips in `accumulation * world_size` micro-batches of `micro_size`
    clips. Each process computes `accumulation` of them, one after another. The clips of a step do
    not depend on the number of processes.
    """

    batch_size: int
    world_size: int
    accumulation: int

    @property
    def micro_size(self) -> int:
        return self.batch_size // (self.world_size * self.accumulation)

    @classmethod
    def fit(cls, batch_size: int, world_size: int, most_per_process: int) -> BatchPlan:
        """The plan with the fewest micro-batches of at most `most_per_process` clips.

        Raises:
            InputError: the batch cannot be divided evenly.
        """
        if batch_size % world_size:
            raise InputError(
                "out-of-range",
                f"the batch size {batch_size} cannot be divided over {world_size} processes; give "
                f"a multiple of {world_size}",
            )
        share = batch_size // world_size
        divisors = (n for n in range(1, share + 1) if share % n == 0)
        accumulation = next(n for n in divisors if share // n <= most_per_process)
        return cls(batch_size, world_size, accumulation)


class StepSampler(Sampler[list[tuple[int, int]]]):
    """A sampler for a DataLoader: the (epoch, clip) keys of one process, a list per micro-batch.

    If n is not a multiple of the batch size, the remaining clips are left out of the epoch. Each
    epoch leaves out other clips.

    Args:
        shard: int [n], the number of the shard of each clip.
        plan: how batches are divided.
        rank: rank of this process.
        first_step, last_step: optimiser steps first:last; a resumed run starts in the middle.
        seed, window_shards: see `epoch_order`.
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
        plan, order, order_epoch = self._plan, np.empty(0, np.int64), -1
        for step in self._steps:
            epoch, number = divmod(step, self.steps_per_epoch)
            if epoch != order_epoch:
                order = epoch_order(self._shard, self._seed, epoch, self._window_shards)
                order_epoch = epoch
            batch = order[number * plan.batch_size : (number + 1) * plan.batch_size]
            micro_batches = batch.reshape(plan.accumulation, plan.world_size, plan.micro_size)
            for micro_batch in micro_batches[:, self._rank]:
                yield [(epoch, int(index)) for index in micro_batch]


def steps_per_epoch(num_clips: int, batch_size: int) -> int:
    """The number of whole batches in an epoch.

    Raises:
        InputError: there are fewer clips than a batch has.
    """
    if num_clips < batch_size:
        raise InputError(
            "too-few-clips",
            f"{num_clips} clips are fewer than a batch of {batch_size}; give --batch-size "
            f"{num_clips} or less",
        )
    return num_clips // batch_size
