"""Computes the features of a frozen encoder: one vector for each clip.

Pool `clip` averages all tokens of a clip. The order of the time steps is then lost, except for what
each token holds about other times. Pool `steps` averages the tokens of each time step and puts
these means one after another. This keeps the order, which matters where classes are motions, and
makes the vector longer by the number of time steps. Pool `tokens` averages nothing; an attentive
probe learns how to pool, and Fisher vectors are made of all tokens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from shared.errors import InputError
from train.clips.table import ClipTable
from train.evaluation.h5_files import atomic_h5
from train.evaluation.scoring import mean_over_views
from train.extractors.extractor import Extractor
from train.network.autoencoder import VideoEncoder
from train.network.model_config import ModelConfig
from train.network.predicted_tokens import PredictedTokens
from train.options.config import EvaluateConfig, FinetuneConfig, LoaderConfig
from train.running.engine import Processes
from train.running.run_folder import RunFolder
from train.samples.datasets import EvaluateDataset, Sample
from train.tables.typed import Choice
from train.weights.exchange import (
    ImportedWeights,
    adopt_shape,
    build_encoder,
    load_autoencoder,
)

FeatureModel = VideoEncoder | PredictedTokens | Extractor


def frozen_encoder(
    config: ModelConfig, imported: ImportedWeights | None, seed: int
) -> VideoEncoder:
    """Build an encoder in evaluation mode, with imported weights or with random ones.

    A pretrained encoder keeps the norm after its last block. Imported weights decide the shape of
    the encoder and the size of its clips; without them `config` does.
    """
    if imported is not None:
        return build_encoder(adopt_shape(config, imported), imported).eval()
    torch.manual_seed(seed)
    return VideoEncoder(config, final_norm=True).eval()


def frozen_predictor(
    config: ModelConfig, imported: ImportedWeights | None, seed: int
) -> PredictedTokens:
    """Build a model whose features are the predictions of a pretraining, in evaluation mode.

    Imported weights decide its shape; without them `config` does, and the weights are random.

    Raises:
        InputError: the weights are not those of a pretraining.
    """
    if imported is None:
        torch.manual_seed(seed)
        return PredictedTokens(config).eval()
    model = PredictedTokens(imported.config)
    load_autoencoder(model.autoencoder, imported)
    return model.eval()


def clip_features(
    folder: RunFolder,
    split: str,
    encoder: FeatureModel,
    table: ClipTable,
    config: FinetuneConfig,
    views: EvaluateConfig,
    loader: LoaderConfig,
    processes: Processes,
    pool: str = "clip",
) -> np.ndarray:
    """Return the features of the clips of a table, averaged over the views of each clip.

    They are float32 [n, D]. D is the width of a token for pool `clip`, and time steps * width for
    pool `steps`. Pool `tokens` gives all tokens, float16 [n, tokens, width]. The width is that of
    the encoder, or for predictions the number of predicted values.

    The features are kept in features-<split>.h5 of the folder (/clip/id S64 [n], /feature [n, D]),
    and all tokens in features-<split>-tokens.h5. If the file exists, they are read from it. All
    processes must call this function.

    Raises:
        InputError: the file is damaged, or holds other clips.
    """
    path = features_file(folder, split, pool)
    if processes.from_first(path.is_file()):
        return _read(path, table)

    found = compute_features(encoder, table, config.frames, views, loader, processes, pool, split)
    if processes.is_first:
        write_features(path, table.ids, found)
    return found


def features_file(folder: RunFolder, split: str, pool: str) -> Path:
    """The file of the features of a split in the folder of a probe."""
    return folder.path / f"features-{split}{'-tokens' if pool == 'tokens' else ''}.h5"


def write_features(path: Path, ids: np.ndarray, features: np.ndarray) -> None:
    """Write features [n, ...] of the clips `ids`, S64 [n]."""
    with atomic_h5(path) as file:
        file.create_dataset("/clip/id", data=ids, track_times=False)
        file.create_dataset("/feature", data=features, track_times=False)


def read_features(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read ids S64 [n] and features [n, ...].

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with h5py.File(path, "r") as file:
            return file["/clip/id"][:], file["/feature"][:]
    except (OSError, KeyError) as error:
        raise InputError(
            "damaged-file", f"{path} cannot be read ({error!r}); delete it and run again"
        ) from None


def compute_features(
    encoder: FeatureModel,
    table: ClipTable,
    frames: Choice,
    views: EvaluateConfig,
    loader: LoaderConfig,
    processes: Processes,
    pool: str,
    name: str,
) -> np.ndarray:
    """Compute the features of the clips of a table; see `clip_features`.

    Args:
        frames: the frame rule.
        name: of the clips, for the progress bar.
    """
    config = encoder.config

    def features(batch: Sample) -> dict[str, Tensor]:
        return {"feature": pooled(encoder(batch["clips"]), pool, config.time_steps)}

    loader = replace(loader, cache_megabytes=0)  # each clip is read once
    dataset = EvaluateDataset(table, config, frames, views, loader)
    dtype = np.float16 if pool == "tokens" else np.float32
    found = mean_over_views(
        features, encoder, dataset, loader, processes, f"features of {name}", dtype
    )["feature"]
    return found.reshape(len(found), config.num_tokens, -1) if pool == "tokens" else found


def pooled(tokens: Tensor, pool: str, time_steps: int) -> Tensor:
    """Pool tokens [B, N, D]: [B, D] for clip, [B, T' * D] for steps, [B, N * D] for tokens."""
    if pool == "tokens":
        return tokens.flatten(1)
    if pool == "clip":
        return tokens.mean(dim=1)
    return tokens.unflatten(1, (time_steps, -1)).mean(dim=2).flatten(1)


def _read(path: Path, table: ClipTable) -> np.ndarray:
    ids, features = read_features(path)
    if not np.array_equal(ids, table.ids):
        raise InputError(
            "other-clips",
            f"{path} holds features of other clips than the dataset has now; give --overwrite to "
            "compute them again",
        )
    return features
