"""Reads batches of clips in worker processes, and moves them to the device."""

from __future__ import annotations

import functools
import gc
import os
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
from train.samples.coded_views import CODED, decode_views
from train.samples.datasets import Sample

# A forked worker must not collect garbage of this process. Some destructors, such as those of
# PyAV's decoders, wait for threads that a fork does not copy, and the worker would hang.
os.register_at_fork(after_in_child=gc.freeze)

GRACE_SECONDS = 600  # a worker lives this long after SIGTERM, for the current step


def make_loader(
    dataset: Dataset, batches: Sampler | Iterable[list[Any]], loader: LoaderConfig, cuda: bool
) -> DataLoader:
    """A loader for lists of keys. Batches have the sampler's order for any number of workers."""
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
    """The batches of a loader. Closing the generator (`contextlib.closing`) ends the workers.

    Raises:
        InputError: a worker raised it; the traceback of the worker is left out.
    """
    batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, InputError):
                raise batch
            yield batch
    finally:
        # Without this, workers live as long as the traceback of an error that refers to them.
        if loader.num_workers:
            batches._shutdown_workers()  # type: ignore[attr-defined]  # PyTorch has no public way


def to_device(batch: Sample, device: torch.device) -> Sample:
    """Move a batch to the device; "pixels" become "clips".

    pixels are uint8 [B, T, S, S, 3] and clips float32 [B, 3, T, S, S]. The device receives bytes
    and standardises them with ImageNet's mean and standard deviation. Frames that no worker has
    decoded (samples/coded_views.py) are decoded on the device.

    Raises:
        InputError: the device cannot decode a frame.
    """
    moved = {
        name: values.to(device, non_blocking=True)
        for name, values in batch.items()
        if name not in CODED
    }
    whole = moved.pop("pixels") if "pixels" in moved else decode_views(batch, device)
    pixels = whole.permute(0, 4, 1, 2, 3)
    # Equal to `train.objectives.pixels.standardise(pixels / 255)` but without passes over strided
    # floats. On a CPU it takes a fifteenth of the time, which was half of a small model's step.
    clips = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    mean, deviation = _byte_statistics(device)
    moved["clips"] = clips.sub_(mean).div_(deviation)
    return moved


@functools.lru_cache(maxsize=8)
def _byte_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """ImageNet's mean and standard deviation of bytes, [3, 1, 1, 1]; cached, as a copy waits."""
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
    # Ctrl-C in a terminal and the SIGTERM of a batch system reach the workers too, but the training
    # process decides when to stop, and saves a checkpoint first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))
    # One thread per worker: the workers run in parallel.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
