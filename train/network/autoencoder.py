"""A video transformer and its asymmetric masked autoencoder (VideoMAE, Tong et al. 2022, sec. 3).

Letters in shapes: B clips of a batch, C = 3 colour channels, T frames, H and W pixels,
N tokens of a clip (V visible + M masked), D channels of a token, P numbers of a tubelet.
Mask polarity everywhere: True is masked (hidden from the encoder), False is visible.
Of the M masked tokens the decoder predicts K: all, or a share of them (VideoMAE V2, Wang et al.
2023, sec. 3.2).
Parameter names are those of VideoMAE, so that its checkpoints need no renaming.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models.beit import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from train.network.attention import JointBlock
from train.network.divided_attention import DividedBlock, VisibleTokens, WholeClip
from train.network.model_config import NUM_CHANNELS, ModelConfig, named_config
from train.network.positions import position_table

__all__ = [
    "Decoder",
    "MaskedAutoencoder",
    "ModelConfig",
    "TubeletEmbedding",
    "VideoEncoder",
    "initialise",
    "named_config",
    "split_mask",
    "split_tubelets",
    "take_tokens",
]

# ---------------------------------------------------------------------------------------------
# Tokens
# ---------------------------------------------------------------------------------------------


def split_tubelets(clips: Tensor, config: ModelConfig) -> Tensor:
    """Cut clips [B, C, T, H, W] into tubelets [B, N, C, tubelet_size * patch_size**2].

    The order in a tubelet is frame, row, column, as in the kernel of Conv3d.
    """
    expected = (NUM_CHANNELS, config.num_frames, config.image_size, config.image_size)
    assert clips.shape[1:] == expected, f"clips {tuple(clips.shape)}, expected [B, *{expected}]"
    depth, side, grid = config.tubelet_size, config.patch_size, config.grid
    axes = clips.reshape(-1, NUM_CHANNELS, config.time_steps, depth, grid, side, grid, side)
    axes = axes.permute(0, 2, 4, 6, 1, 3, 5, 7)  # B, t, row, column, C, frame, y, x
    return axes.reshape(-1, config.num_tokens, NUM_CHANNELS, depth * side * side)


def split_mask(mask: Tensor, num_masked: int | None = None) -> tuple[Tensor, Tensor]:
    """Positions of the visible and of the masked tokens, both in increasing order.

    Args:
        mask: bool [B, N], True = masked, the same number in every row.
        num_masked: this number. If it is given, there is no wait for the device; it is checked only
            for masks on the CPU. None counts the first row.

    Returns:
        Indices int64 [B, V] and [B, M].
    """
    if num_masked is None:
        num_masked = int(mask[0].sum())
    if mask.device.type == "cpu":
        counts = mask.sum(dim=1)
        assert bool((counts == num_masked).all()), f"masked per clip {counts.tolist()}"
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    num_visible = mask.shape[1] - num_masked
    return order[:, :num_visible], order[:, num_visible:]


def take_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """Pick tokens [B or 1, N, ...] at indices [B, K] -> [B, K, ...]."""
    tokens = tokens.expand(indices.shape[0], *tokens.shape[1:])
    rows = torch.arange(indices.shape[0], device=indices.device)
    return tokens[rows[:, None], indices]


# ---------------------------------------------------------------------------------------------
# Encoder, decoder, masked autoencoder
# ---------------------------------------------------------------------------------------------


class TubeletEmbedding(nn.Module):
    """One linear map from the pixels of a tubelet to a token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        kernel = (config.tubelet_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(NUM_CHANNELS, config.width, kernel, stride=kernel)

    def forward(self, clips: Tensor, visible: Tensor | None = None) -> Tensor:
        """Embed clips [B, C, T, H, W] -> [B, N, D], or only the tubelets visible [B, V].

        A convolution with a stride equal to its kernel is a matrix product over tubelets. As such,
        it is computed only for visible tubelets.
        """
        tubelets = split_tubelets(clips.to(self.proj.weight.dtype), self.config)
        if visible is not None:
            tubelets = take_tokens(tubelets, visible)
        return F.linear(tubelets.flatten(2), self.proj.weight.flatten(1), self.proj.bias)


class VideoEncoder(nn.Module):
    """A ViT over the visible tokens of a clip.

    Args:
        config: the model.
        final_norm: whether there is a LayerNorm after the last block. True in pretraining; False in
            a classifier, which normalises after pooling (VideoMAE's fc_norm).
    """

    positions: Tensor  # [1, N, D]

    def __init__(self, config: ModelConfig, final_norm: bool) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = TubeletEmbedding(config)
        table = position_table(config.positions, config.time_steps, config.grid, config.width)
        self.register_buffer("positions", table[None], persistent=False)
        drop_path = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        block = DividedBlock if config.attention == "divided" else JointBlock
        sizes = (config.width, config.num_heads, config.mlp_ratio, config.layer_norm_eps)
        self.blocks = nn.ModuleList(_block(*sizes, rate, block) for rate in drop_path)
        norm = partial(nn.LayerNorm, config.width, eps=config.layer_norm_eps)
        self.norm = norm() if final_norm else nn.Identity()
        self.apply(initialise)

    def forward(self, clips: Tensor, visible: Tensor | None = None) -> Tensor:
        """Compute all tokens [B, N, D] of clips [B, C, T, H, W], or the visible ones [B, V, D].

        Args:
            clips: standardised RGB (`train.objectives.pixels.standardise`), any float type.
            visible: int64 [B, V], positions from `split_mask`; None for all tokens.
        """
        tokens = self.patch_embed(clips, visible)
        positions = self.positions.to(tokens.dtype)
        tokens = tokens + (positions if visible is None else take_tokens(positions, visible))
        groups = self._groups(visible, tokens.dtype)
        tokens = _run(self.blocks, tokens, self.config.activation_checkpointing, *groups)
        return self.norm(tokens)

    def _groups(self, visible: Tensor | None, dtype: torch.dtype) -> tuple[Any, ...]:
        """Further inputs of a block: none, or the groups of tokens that attend to each other."""
        if self.config.attention == "joint":
            return ()
        if visible is None:
            return (WholeClip(self.config.time_steps),)
        return (VisibleTokens(visible, self.config.grid**2, dtype),)


class Decoder(nn.Module):
    """A small ViT that predicts the masked tokens from the visible ones and mask tokens.

    Args:
        config: the model.
        numbers: how many numbers are predicted for a token.
    """

    def __init__(self, config: ModelConfig, numbers: int) -> None:
        super().__init__()
        self.config = config
        width = config.decoder_width
        self.blocks = nn.ModuleList(
            _block(width, config.decoder_heads, config.decoder_mlp_ratio, config.layer_norm_eps)
            for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(width, eps=config.head_norm_eps)
        self.head = nn.Linear(width, numbers)
        self.apply(initialise)

    def forward(self, tokens: Tensor, num_predicted: int) -> Tensor:
        """Tokens [B, V + K, D] with the masked tokens last -> predictions [B, P, numbers] for the
        last P = `num_predicted` tokens."""
        tokens = _run(self.blocks, tokens, self.config.activation_checkpointing)
        predicted = self.head(self.norm(tokens[:, tokens.shape[1] - num_predicted :]))
        return predicted.tanh() if self.config.decoder_output == "tanh" else predicted


class MaskedAutoencoder(nn.Module):
    """An encoder of the visible tokens, and a decoder that predicts masked tokens.

    With `predict_visible` the decoder predicts the visible tokens too.
    """

    decoder_positions: Tensor  # [1, N, decoder D]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = VideoEncoder(config, final_norm=True)
        self.encoder_to_decoder = nn.Linear(config.width, config.decoder_width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_width))
        table = position_table(
            config.positions, config.time_steps, config.grid, config.decoder_width
        )
        self.register_buffer("decoder_positions", table[None], persistent=False)
        second = config.second_prediction_dim or 0
        self.decoder = Decoder(config, config.output_dim - second)
        self.second_decoder = Decoder(config, second) if second else None
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(
        self,
        clips: Tensor,
        mask: Tensor,
        num_masked: int | None = None,
        decoded: Tensor | None = None,
        num_decoded: int | None = None,
    ) -> Tensor:
        """Predict the masked tokens of clips [B, C, T, H, W], or some of them.

        Args:
            clips: standardised RGB, any float type.
            mask: bool [B, N], True = masked, the same number in every row.
            num_masked: this number, which avoids a wait for the GPU (see `split_mask`).
            decoded: bool [B, N], True = masked and predicted, the same number in every row. The
                other masked tokens are left out of the decoder. None predicts all masked tokens.
            num_decoded: this number, K.

        Returns:
            [B, K, output_dim] of the decoded tokens in increasing order of position. With
            `predict_visible` [B, V + K, output_dim], with the visible tokens first, in increasing
            order too.
        """
        visible, masked = split_mask(mask, num_masked)
        if decoded is not None:
            masked = split_mask(decoded, num_decoded)[1]
        tokens = self.encoder_to_decoder(self.encoder(clips, visible))
        positions = self.decoder_positions.to(tokens.dtype)
        # Tokens stay in the order visible, masked; the position table is put into the same order.
        seen = tokens + take_tokens(positions, visible)
        hidden = self.mask_token.to(tokens.dtype) + take_tokens(positions, masked)
        tokens = torch.cat([seen, hidden], dim=1)
        num_predicted = masked.shape[1]
        if self.config.predict_visible:
            num_predicted += visible.shape[1]
        predicted = self.decoder(tokens, num_predicted)
        if self.second_decoder is None:
            return predicted
        return torch.cat([predicted, self.second_decoder(tokens, num_predicted)], dim=2)


def initialise(module: nn.Module) -> None:
    """Weights as in VideoMAE: Xavier-uniform linear maps, zero biases, unit norms.

    The tubelet embedding and the map between encoder and decoder keep PyTorch's initial weights, as
    in VideoMAE.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def _block(
    width: int,
    heads: int,
    mlp_ratio: float,
    eps: float,
    drop_path: float = 0.0,
    kind: type[Block] = JointBlock,
) -> Block:
    # timm truncates width * ratio, which loses one for some exact ratios (488 / 112 * 112).
    hidden = round(width * mlp_ratio)
    return kind(
        width,
        heads,
        qkv_bias=True,  # BEiT's form: query and value biases, no key bias
        mlp_ratio=(hidden + 0.5) / width,
        drop_path=drop_path,
        norm_layer=partial(nn.LayerNorm, eps=eps),  # type: ignore[arg-type]  # timm calls it only
    )


def _run(blocks: nn.ModuleList, tokens: Tensor, checkpointing: bool, *context: Any) -> Tensor:
    for block in blocks:
        if checkpointing and torch.is_grad_enabled():
            tokens = checkpoint(block, tokens, *context, use_reentrant=False)
        else:
            tokens = block(tokens, *context)
    return tokens
