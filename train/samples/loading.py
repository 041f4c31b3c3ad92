"""Batches of clips from worker processes, and their way to the device."""

from __future__ import annotations

import functools
import signal
from collections.abc import Generator, Iterable
from typing import Any

import cv2
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from shared.errors import InputError
from train.options.config import LoaderConfig
from train.samples.datasets import Sample

GRACE_SECONDS = 600  # that a worker lives on after SIGTERM, for the step in work


def make_loader(
    dataset: Dataset, batches: Sampler | Iterable[list[Any]], loader: LoaderConfig, cuda: bool
) -> DataLoader:
    """A loader over lists of keys. Batches come in the sampler's order for any worker count."""
    return DataLoader(
        _ErrorsAsSamples(dataset),
        batch_sampler=batches,
        num_workers=loader.workers,
        collate_fn=_join,
        pin_memory=cuda,
        worker_init_fn=_quiet_worker if loader.workers else None,
        prefetch_factor=loader.prefetch if loader.workers else None,
    )


def read_batches(loader: DataLoader) -> Generator[Sample, None, None]:
    """The batches of a loader; to be closed (`contextlib.closing`), which ends its workers.

    Raises:
        InputError: as a worker raised it, without the worker's traceback.
    """
    batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, InputError):
                raise batch
            yield batch
    finally:
        # Workers would otherwise live as long as the traceback of an error that names them.
        if loader.num_workers:
            batches._shutdown_workers()  # type: ignore[attr-defined]  # PyTorch has no public way


def to_device(batch: Sample, device: torch.device) -> Sample:
    """Move a batch; "pixels" uint8 [B, T, S, S, 3] become "clips" float32 [B, 3, T, S, S].

    Bytes travel, and are standardised there by ImageNet's mean and deviation.
    """
    moved = {name: values.to(device, non_blocking=True) for name, values in batch.items()}
    pixels = moved.pop("pixels").permute(0, 4, 1, 2, 3)
    # `train.objectives.pixels.standardise` of pixels / 255, without passes over strided floats: a
    # fifteenth of the time on a CPU, where it was half of a small model's step.
    clips = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    mean, deviation = _byte_statistics(device)
    moved["clips"] = clips.sub_(mean).div_(deviation)
    return moved


@functools.lru_cache(maxsize=8)
def _byte_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and deviation of bytes, [3, 1, 1, 1]; kept, as copying to a GPU waits."""
    mean, deviation = (
        255 * torch.tensor(values, device=device).view(3, 1, 1, 1)
        for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return mean, deviation


class _ErrorsAsSamples(Dataset):
    """A dataset that returns an InputError instead of raising it.

    PyTorch would raise a worker's error again with the traceback as its only text, without the
    code.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, key: Any) -> Sample | InputError:
        try:
            return self._dataset[key]
        except InputError as error:
            return error


def _join(samples: list[Sample | InputError]) -> Sample | InputError:
    """One batch of samples; the first error, if there is one."""
    whole: list[Sample] = []
    for sample in samples:
        if isinstance(sample, InputError):
            return sample
        whole.append(sample)
    return {name: torch.cat([sample[name] for sample in whole]) for name in whole[0]}


def _quiet_worker(worker: int) -> None:
    # The training process decides when to stop, and saves first; Ctrl-C in a terminal, and the
    # SIGTERM of a batch system, reach its workers too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))
    # One thread each: the workers themselves are the parallelism.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
