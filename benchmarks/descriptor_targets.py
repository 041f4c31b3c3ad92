"""The targets of METHOD=descriptors for stored clips, one window of each without augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from shared.progress import bar_options
from train.clips.table import ClipTable
from train.options.config import LoaderConfig, PretrainConfig
from train.samples.datasets import PretrainDataset, Sample
from train.samples.loading import to_device
from train.tables.typed import Choice


def plain_targets(
    table: ClipTable, config: PretrainConfig
) -> Iterator[tuple[Sample, Tensor, Tensor]]:
    """The batch of each clip alone, and its target and weight float32 [1, N, D].

    Tokens have the order of pretraining: visible ones first.
    """
    plain = replace(config, crop=Choice("centre", {}), flips=(), repeats=1)
    dataset = PretrainDataset(table, plain, LoaderConfig(), 0)
    for index in tqdm(range(len(table)), "clips", unit="clip", **bar_options()):
        batch = to_device(dict(dataset[0, index]), torch.device("cpu"))
        target, weight = config.target.of_batch(batch, config.model.num_tokens, config.cut)
        assert weight is not None
        yield batch, target, weight
