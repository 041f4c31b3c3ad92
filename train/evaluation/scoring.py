"""Computes scores or features of every clip of a split, shared among all processes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from shared.progress import bar_options
from train.options.config import LoaderConfig
from train.running.engine import Processes, wants_bf16
from train.samples.datasets import EvaluateDataset, Sample
from train.samples.loading import make_loader, read_batches, to_device
from train.samples.prefetch import with_prefetching


def score_clips(
    model: nn.Module,
    dataset: EvaluateDataset,
    loader: LoaderConfig,
    processes: Processes,
    name: str,
) -> dict[str, np.ndarray]:
    """Return the class probabilities of each clip: the mean of the softmax over its views.

    Args:
        model: a VideoClassifier on the device of the processes. Its training mode is restored
            afterwards.
        name: label of the progress bar.

    Returns:
        float32 [n, classes] by kind of label, in the order of the dataset's table. Every process
        gets all clips.
    """

    def probabilities(batch: Sample) -> dict[str, Tensor]:
        scores = model(batch["clips"], batch["inside"])
        return {kind: values.float().softmax(1) for kind, values in scores.items()}

    return mean_over_views(probabilities, model, dataset, loader, processes, name)


@torch.inference_mode()
def mean_over_views(
    compute: Callable[[Sample], dict[str, Tensor]],
    model: nn.Module,
    dataset: EvaluateDataset,
    loader: LoaderConfig,
    processes: Processes,
    name: str,
    dtype: type[np.floating] = np.float32,
) -> dict[str, np.ndarray]:
    """Return what `compute` gives for each clip, averaged over the views of the clip.

    Args:
        compute: takes a batch of B views on the device (see `to_device`) and returns float [B, K]
            by name.
        model: the model that `compute` uses, on the device of the processes. Its training mode is
            restored afterwards.
        name: label of the progress bar.
        dtype: of what is returned. Nothing larger is kept of a batch.

    Returns:
        [n, K] by name, in the order of the dataset's table. Every process gets all clips.
    """
    views = dataset.config.segments * dataset.config.crops
    indices = np.arange(processes.rank, len(dataset.table), processes.world_size).tolist()
    size = max(1, loader.micro_batch_size // views)
    batches = [indices[first : first + size] for first in range(0, len(indices), size)]
    # Under DeepSpeed the weights are bf16 already. Weights that were read from a file are float32.
    casts = processes.uses_cuda and wants_bf16(loader.precision, uses_cuda=True)
    cast = torch.autocast("cuda", torch.bfloat16) if casts else nullcontext()
    was_training = model.training
    model.eval()
    own: dict[str, np.ndarray] = {}  # a row for each clip of this process
    counted = np.zeros(len(indices), dtype=np.int64)
    bar = tqdm(
        total=len(indices),
        desc=name,
        unit="clip",
        leave=False,
        disable=not processes.is_first,
        **bar_options(),
    )
    order = with_prefetching(dataset.table, batches)
    stream = read_batches(make_loader(dataset, order, loader, processes.uses_cuda))
    with closing(stream), closing(bar):
        for batch in stream:
            batch = to_device(batch, processes.device)
            with cast:
                computed = compute(batch)
            rows = batch["index"].cpu().numpy() // processes.world_size
            counted[rows] += 1
            for kind, values in computed.items():
                means = values.float().unflatten(0, (-1, views)).mean(1).cpu().numpy()
                if kind not in own:
                    own[kind] = np.empty((len(indices), means.shape[1]), dtype)
                own[kind][rows] = means
            bar.update(len(batch["index"]))
    model.train(was_training)
    assert np.all(counted == 1), "a clip was computed twice or not at all"
    return _together(processes.gather(own), len(dataset.table))


def _together(by_process: list[dict[str, np.ndarray]], num_clips: int) -> dict[str, np.ndarray]:
    """Of P processes, process p has the clips p, p + P, p + 2 P and so on."""
    if len(by_process) == 1:
        return by_process[0]  # without a copy: all tokens of many clips fill the memory
    together = {
        kind: np.empty((num_clips, values.shape[1]), values.dtype)
        for kind, values in by_process[0].items()
    }
    for rank, own in enumerate(by_process):
        for kind, values in own.items():
            together[kind][rank :: len(by_process)] = values
    return together
