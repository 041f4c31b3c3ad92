"""The network of finetuning, with random weights."""

from __future__ import annotations

from train.network.autoencoder import VideoEncoder
from train.network.head import VideoClassifier, build_head
from train.options.config import FinetuneConfig


def build_classifier(config: FinetuneConfig, num_classes: dict[str, int]) -> VideoClassifier:
    """Build encoder, pooling head and classifiers; `num_classes` has a number for each kind of
    label."""
    encoder = VideoEncoder(config.model, final_norm=False)
    head = build_head(config.head, config.model.width, config.model.head_norm_eps)
    return VideoClassifier(
        encoder, head, num_classes, config.dropout, config.init_scale, config.token_share
    )
