"""Measures how well a run of METHOD=descriptors predicts clips that it has not seen.

    python -m benchmarks.predicted_descriptors --dataset jhmdb-fold0 --out out/real \\
        --run pretrain-descriptors --split val

The run sees whole clips, without a mask and without augmentation. For each kind of histogram the
command prints the loss of its predictions as a percentage of the loss of the mean over all tokens
of split train, which needs no model: 100 % means that the run has learned nothing about this kind.
`python -m benchmarks.true_descriptors` says what each kind could be worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.descriptor_targets import plain_targets
from shared.errors import InputError, user_errors
from shared.layout import DatasetLayout
from shared.manifest import SPLITS
from train.clips.table import ClipTable, read_clip_table
from train.evaluation.features import frozen_predictor
from train.network.autoencoder import split_mask
from train.network.predicted_tokens import PredictedTokens
from train.objectives.descriptors import Descriptors
from train.options.config import PretrainConfig
from train.pictures.inputs import read_pretraining
from train.running.finetune_inputs import find_weights
from train.running.run_folder import RunFolder
from train.weights.exchange import import_weights

KINDS = ("HOF", "MBH", "HOG")


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--dataset", required=True, metavar="NAME", help="Dataset to read.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="Folder of all datasets.")  # fmt: skip
@click.option("--run", default="pretrain-descriptors", metavar="NAME", help="Run to measure.")
@click.option("--split", type=click.Choice(SPLITS), default="test", help="Split to predict.")
@user_errors
def main(dataset: str, out: Path, run: str, split: str) -> None:
    layout = DatasetLayout(out, dataset)
    folder = RunFolder(layout.runs / run)
    config = read_pretraining(folder)
    if not isinstance(config.target, Descriptors):
        raise InputError(
            "other-kind", f"{folder.path} predicts {config.target.words.target}, not descriptors"
        )
    weights = find_weights(layout, run)
    assert weights is not None, run
    model = frozen_predictor(config.model, import_weights(weights), seed=0)
    mean: np.ndarray | None = None
    print(f"{'loss, % of that of the mean':28}" + "".join(f"{name:>8}" for name in ("all", *KINDS)))
    for name in dict.fromkeys(("train", split)):
        table = read_clip_table(layout, [name], False, config.needed_motion)
        tokens = read_tokens(table, config, model)
        if mean is None:
            mean = tokens.mean()
        shares = shares_of_loss(tokens, mean, config.target.part_sizes(config.cut))
        print(f"{name:28}" + "".join(f"{100 * share:8.1f}" for share in shares), flush=True)


@dataclass(frozen=True)
class Tokens:
    """The tokens of some clips: targets, weights and predictions, float32 [n, D] each."""

    target: np.ndarray
    weight: np.ndarray
    predicted: np.ndarray

    def mean(self) -> np.ndarray:
        """The mean of the known targets, float32 [D]."""
        known = np.maximum(self.weight.sum(axis=0), 1e-6)
        found: np.ndarray = (self.target * self.weight).sum(axis=0) / known
        return found


def read_tokens(table: ClipTable, config: PretrainConfig, model: PredictedTokens) -> Tokens:
    """The tokens of one window of each clip."""
    found: list[tuple[np.ndarray, ...]] = []
    for batch, target, weight in plain_targets(table, config):
        with torch.no_grad():
            predicted = model(batch["clips"])
        # The model sees all tokens and predicts them in order of position.
        order = torch.cat(split_mask(batch["mask"]), dim=1)[0]
        found.append((target[0].numpy(), weight[0].numpy(), predicted[0, order].numpy()))
    return Tokens(*(np.concatenate(each) for each in zip(*found, strict=True)))


def shares_of_loss(tokens: Tokens, mean: np.ndarray, sizes: tuple[int, ...]) -> list[float]:
    """The loss of the predictions as a share of that of `mean`: of all numbers, and of each part of
    these sizes (NaN for one without numbers)."""
    losses = [
        (np.square(tokens.target - each) * tokens.weight).sum(axis=0)
        for each in (tokens.predicted, mean)
    ]
    borders = list(pairwise(np.cumsum([0, *sizes]).tolist()))
    found = []
    for begin, end in ((0, sum(sizes)), *borders):
        ours, of_mean = (float(each[begin:end].sum()) for each in losses)
        found.append(ours / of_mean if of_mean else float("nan"))
    return found


if __name__ == "__main__":
    main()
