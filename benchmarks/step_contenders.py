"""The two contenders of benchmarks.step: this project's ViT-B and Hugging Face's VideoMAE."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.decoder_masks import running_cell
from shared.scene import Scene
from train.network.autoencoder import MaskedAutoencoder, VideoEncoder, named_config
from train.network.compiled import compile_blocks
from train.network.head import VideoClassifier, build_head
from train.network.head_config import HeadConfig
from train.network.model_config import ModelConfig
from train.objectives.pixels import masked_loss, masked_targets, normalised_pixels
from train.weights.huggingface import huggingface_config

MASK_RATIO = 0.9
NUM_CLASSES = 174
VIT_B = named_config("vit-b")

Step = Callable[[], None]


@dataclass(frozen=True)
class Contender:
    """A model and the loss of one batch."""

    model: nn.Module
    loss: Callable[[], Tensor]

    def step(self) -> Step:
        """A step of loss, backward pass and AdamW, with the same optimizer for both contenders."""
        parameters = self.model.parameters()
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.05, fused=True)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            self.loss().backward()
            optimizer.step()

        return step


def ours(
    task: str,
    batch_size: int,
    dtype: torch.dtype,
    device: torch.device,
    config: ModelConfig = VIT_B,
    decoded_share: float = 1.0,
    **changes: Any,
) -> Contender:
    """The computation of train.pretrain or train.finetune, without DeepSpeed.

    With a `decoded_share` below 1 pretraining decodes this share of the hidden tokens.
    """
    config = replace(config, **changes)
    clips, mask, num_masked = _inputs(config, batch_size, device)
    model: nn.Module
    if task == "pretraining":
        model = MaskedAutoencoder(config).to(device, dtype)
        decoded = mask if decoded_share == 1.0 else _decoded(config, mask, decoded_share)
        num_decoded = int(decoded[0].sum())
        chosen = None if decoded_share == 1.0 else decoded

        def loss() -> Tensor:
            target = masked_targets(normalised_pixels(clips, config), decoded, num_decoded)
            return masked_loss(model(clips, mask, num_masked, chosen, num_decoded), target)
    else:
        encoder = VideoEncoder(config, final_norm=False)
        head = build_head(HeadConfig("mean"), config.width, config.head_norm_eps)
        model = VideoClassifier(encoder, head, {"label": NUM_CLASSES}).to(device, dtype)
        labels = torch.arange(batch_size, device=device)
        inside = torch.zeros(batch_size, config.num_tokens, dtype=torch.bool, device=device)

        def loss() -> Tensor:
            return F.cross_entropy(model(clips, inside)["label"].float(), labels)

    if device.type == "cuda":
        compile_blocks(model)
    return Contender(model, loss)


def hugging_face(
    task: str,
    batch_size: int,
    dtype: torch.dtype,
    device: torch.device,
    config: ModelConfig = VIT_B,
) -> Contender:
    """The same with the unchanged models of Hugging Face, whose attention is PyTorch's SDPA."""
    from transformers import (
        VideoMAEConfig,
        VideoMAEForPreTraining,
        VideoMAEForVideoClassification,
    )

    clips, mask, _ = _inputs(config, batch_size, device)
    clips = clips.transpose(1, 2).contiguous()  # B, T, C, H, W
    # Their types leave out what every configuration takes, such as the number of labels.
    make_config: Any = VideoMAEConfig
    if task == "pretraining":
        table = huggingface_config(config, "VideoMAEForPreTraining", None)
        model: Any = VideoMAEForPreTraining(make_config(**table))
        model = model.to(device, dtype)

        def loss() -> Tensor:
            return model(clips.to(dtype), bool_masked_pos=mask).loss
    else:
        names = [str(number) for number in range(NUM_CLASSES)]
        table = huggingface_config(config, "VideoMAEForVideoClassification", names)
        model = VideoMAEForVideoClassification(make_config(**table))
        model = model.to(device, dtype)
        labels = torch.arange(batch_size, device=device)

        def loss() -> Tensor:
            return model(clips.to(dtype), labels=labels).loss

    return Contender(model.train(), loss)


def _inputs(
    config: ModelConfig, batch_size: int, device: torch.device
) -> tuple[Tensor, Tensor, int]:
    """Clips float32 [B, 3, T, S, S], tube masks bool [B, N], and the number of masked tokens."""
    torch.manual_seed(0)
    shape = (batch_size, 3, config.num_frames, config.image_size, config.image_size)
    positions = config.grid**2
    hidden = torch.zeros(positions, dtype=torch.bool)
    hidden[torch.randperm(positions)[: int(MASK_RATIO * positions + 0.5)]] = True
    mask = hidden.repeat(config.time_steps).expand(batch_size, -1).contiguous()
    return torch.randn(shape).to(device), mask.to(device), int(mask[0].sum())


def _decoded(config: ModelConfig, mask: Tensor, share: float) -> Tensor:
    """bool [B, N], True for the tokens that are decoded."""
    scene = Scene(config.time_steps, np.zeros((config.grid, config.grid), np.bool_))
    rows = [
        running_cell(scene, hidden, np.random.default_rng(row), share=share)
        for row, hidden in enumerate(mask.cpu().numpy())
    ]
    return torch.from_numpy(np.stack(rows)).to(mask.device)


def kept_gigabytes(contender: Contender) -> float:
    """Gigabytes of activations that autograd keeps after one forward pass."""
    weights = {each.untyped_storage().data_ptr() for each in contender.model.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = contender.loss()
    assert loss.requires_grad
    return sum(num_bytes for num_bytes, _ in kept.values()) / 1e9


def has_transformers() -> bool:
    return importlib.util.find_spec("transformers") is not None
