"""Attention maps of an encoder. Reads shards and the weights of a run.

A map holds the attention weights of one block from a query token to all tokens of the clip,
averaged over the heads. The encoder gets the whole clip, although the encoder of a pretraining run
was trained on visible tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from timm.models.beit import Attention, Block
from torch import Tensor
from torch.nn import functional as F

from shared.errors import InputError
from shared.layout import DatasetLayout
from train.network.autoencoder import VideoEncoder
from train.network.divided_attention import DividedBlock
from train.network.model_config import ModelConfig
from train.options.config import FinetuneConfig, PretrainConfig
from train.pictures.clips import (
    enlarge_for_tokens,
    mark_token,
    overlay_tokens,
    spread_times,
)
from train.pictures.inputs import (
    ClipViews,
    SeenClip,
    choose_block,
    chosen_clips,
    read_autoencoder,
    read_classifier,
    read_finetuning,
    read_held_out,
    read_pretraining,
)
from train.running.run_folder import RunFolder

Query = tuple[int, int, int]  # time step, row, column of a token


@dataclass(frozen=True)
class AttentionMap:
    """The attention of one token of a clip.

    Attributes:
        clip_id, split, label: the clip; label is its class number or None.
        frames: uint8 [T, S, S, 3].
        query: the query token.
        weights: float32 [T', rows, columns], averaged over the heads; they sum to 1.
        block: number of the encoder block, from 1.
    """

    clip_id: str
    split: str
    label: int | None
    frames: np.ndarray
    query: Query
    weights: np.ndarray
    block: int

    def rows(self, num_times: int) -> list[tuple[str, list[np.ndarray]]]:
        """(caption, frames uint8 [H, W, 3]) of the clip with its query, and of the weights."""
        times = spread_times(len(self.frames), num_times)
        depth, grid = len(self.frames) // len(self.weights), self.weights.shape[1]
        largest = float(self.weights.max())
        step, row, column = self.query
        plain = [enlarge_for_tokens(self.frames[t], grid) for t in times]
        drawn = [overlay_tokens(self.frames[t], self.weights[t // depth] / largest) for t in times]
        for pictures in (plain, drawn):
            for t, picture in zip(times, pictures, strict=True):
                if t // depth == step:
                    mark_token(picture, row, column, grid)
        times_uniform = largest * self.weights.size
        return [
            (f"query: step {step}, row {row}, column {column}", plain),
            (f"attention of block {self.block}, at most {times_uniform:.1f} x uniform", drawn),
        ]


def attention_maps(
    layout: DatasetLayout,
    folder: RunFolder,
    shown: int | Sequence[str],
    block: int | None = None,
    query: Query | None = None,
) -> list[AttentionMap]:
    """Compute attention maps of a run's encoder for held-out clips.

    Args:
        folder: a pretraining or finetuned run.
        shown: number or ids of clips, as for `chosen_clips`.
        block: number of the encoder block, from 1; None is the fifth, or the last if there are
            fewer.
        query: the query token; None is the token in the middle of the motion box, half-way through
            the clip. Without a box it is the middle of the frame.

    Raises:
        InputError: the run has no weights, there is no such block or token, or there are no clips.
    """
    config: PretrainConfig | FinetuneConfig
    if folder.read_options().get("command") == "pretrain":
        config, encoder = read_pretraining(folder), read_autoencoder(folder).encoder
    else:
        config, encoder = read_finetuning(folder), read_classifier(folder).encoder
    number = choose_block(encoder, block)
    if query is not None:
        _check_query(query, config.model)
    table, split = read_held_out(layout)
    views = ClipViews(table, config)
    found = []
    for index in chosen_clips(table, shown):
        clip = views[index]
        asks = query or _middle_of_motion(clip, config.model)
        weights = attention_from(encoder, clip.clips, number, asks)
        found.append(
            AttentionMap(clip.clip_id, split, clip.label, clip.frames, asks, weights, number)
        )
    return found


@torch.inference_mode()
def attention_from(encoder: VideoEncoder, clips: Tensor, block: int, query: Query) -> np.ndarray:
    """Compute the attention weights of one token of a clip in one block, averaged over the heads.

    A divided block attends over time and then over space. The weight of token (t, p) is then the
    weight of p in space times the weight of t in time at p.

    Args:
        encoder: the encoder, in evaluation mode.
        clips: standardised RGB [1, 3, T, S, S].
        block: number of the block, from 1.
        query: the query token.

    Returns:
        float32 [T', rows, columns], summing to 1.
    """
    config, asked = encoder.config, encoder.blocks[block - 1]
    step, row, column = query
    place = row * config.grid + column
    assert isinstance(asked, Block)
    parts = [asked.attn] + ([asked.temporal_attn] if isinstance(asked, DividedBlock) else [])
    arrived: dict[int, Tensor] = {}
    handles = [
        part.register_forward_pre_hook(
            lambda module, arguments, number=number: arrived.update({number: arguments[0]})
        )
        for number, part in enumerate(parts)
    ]
    try:
        encoder(clips)
    finally:
        for handle in handles:
            handle.remove()
    if config.attention == "joint":
        weights = head_weights(parts[0], arrived[0])[0, :, step * config.grid**2 + place].mean(0)
    else:
        in_space = head_weights(parts[0], arrived[0])[step, :, place].mean(0)  # [P]
        in_time = head_weights(parts[1], arrived[1])[:, :, step].mean(1)  # [P, T']
        weights = (in_space[:, None] * in_time).T
    return weights.reshape(config.time_steps, config.grid, config.grid).float().numpy()


def head_weights(attention: Attention, tokens: Tensor) -> Tensor:
    """Attention weights [B, heads, K, K] (query, key) of timm's BEiT attention on [B, K, D]."""
    biases = (attention.q_bias, attention.k_bias, attention.v_bias)
    bias = torch.cat([each for each in biases if each is not None])
    mixed = F.linear(tokens, attention.qkv.weight, bias)
    mixed = mixed.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    queries, keys = mixed[0], mixed[1]  # [B, heads, K, d]
    return (attention.scale * queries @ keys.transpose(2, 3)).softmax(dim=3)


def _middle_of_motion(clip: SeenClip, config: ModelConfig) -> Query:
    step = config.time_steps // 2
    inside = clip.inside.reshape(config.time_steps, config.grid, config.grid)[step].numpy()
    if not inside.any():
        return step, config.grid // 2, config.grid // 2
    row, column = (int(np.median(numbers)) for numbers in np.nonzero(inside))
    return step, row, column


def _check_query(query: Query, config: ModelConfig) -> None:
    sizes = (config.time_steps, config.grid, config.grid)
    if not all(0 <= number < size for number, size in zip(query, sizes, strict=True)):
        raise InputError(
            "out-of-range",
            f"--query {' '.join(map(str, query))}: STEP ROW COLUMN go from 0 to "
            f"{' '.join(str(size - 1) for size in sizes)}",
        )
