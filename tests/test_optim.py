"""Parameter groups, learning rates, and how a step's clips are shared out."""

import math

import numpy as np
import pytest
import torch
from errors import refuses
from hypothesis import given
from hypothesis import strategies as st

from train.clips.sampler import BatchPlan
from train.network.autoencoder import MaskedAutoencoder, ModelConfig, VideoEncoder
from train.network.head import VideoClassifier, build_head
from train.network.head_config import HeadConfig
from train.options.config import OptimConfig
from train.running.optim import (
    layer_of,
    make_optimizer,
    make_schedule,
    scaled_learning_rate,
    warmup_steps,
)

TINY = ModelConfig(
    image_size=32, num_frames=4, width=24, depth=3, num_heads=2,
    decoder_width=12, decoder_depth=1, decoder_heads=2,
)  # fmt: skip


def optim(**changes) -> OptimConfig:
    fields = {"base_learning_rate": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.05}
    return OptimConfig(**{**fields, "warmup_epochs": 2.0, **changes})


def classifier() -> VideoClassifier:
    return VideoClassifier(VideoEncoder(TINY, False), build_head(HeadConfig(), 24), {"label": 4})


def group_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: group
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("make", [classifier, lambda: MaskedAutoencoder(TINY)])
def test_every_parameter_is_in_one_group_and_vectors_do_not_decay(make):
    model = make()
    groups = group_of(model, make_optimizer(model, optim(), 1e-3))
    assert set(groups) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        vector = parameter.ndim <= 1 or name == "mask_token"
        assert groups[name]["weight_decay"] == (0.0 if vector else 0.05), name


def test_layer_decay_falls_towards_the_input():
    model = classifier()
    groups = group_of(model, make_optimizer(model, optim(layer_decay=0.5), 1e-3))
    assert groups["classifiers.label.weight"]["lr_scale"] == 1.0
    assert groups["head.norm.weight"]["lr_scale"] == 1.0
    assert groups["encoder.blocks.2.mlp.fc1.weight"]["lr_scale"] == 0.5
    assert groups["encoder.blocks.0.attn.qkv.weight"]["lr_scale"] == 0.125
    assert groups["encoder.patch_embed.proj.weight"]["lr_scale"] == 0.0625


def test_without_layer_decay_there_are_two_groups():
    # DeepSpeed flattens and gathers each group by itself; a group a layer costs time for nothing.
    assert len(make_optimizer(classifier(), optim(), 1e-3).param_groups) == 2


def test_layers_are_recognised_by_name():
    assert layer_of("encoder.patch_embed.proj.weight", 12) == 0
    assert layer_of("encoder.blocks.11.norm1.weight", 12) == 12
    assert layer_of("decoder.blocks.0.norm1.weight", 12) == 13


def test_the_schedule_warms_up_and_ends_at_the_minimum():
    model = classifier()
    config = optim(warmup_epochs=2.0, min_learning_rate=5e-7, layer_decay=0.5)
    optimizer = make_optimizer(model, config, 1e-3)
    schedule = make_schedule(optimizer, config, 10, num_steps=100, effective_batch_size=512)
    rates = []
    for step in range(100):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[-1]["lr"])
        assert optimizer.param_groups[0]["lr"] == pytest.approx(
            rates[-1] * optimizer.param_groups[0]["lr_scale"]
        )
    assert rates[0] == 0.0 and rates[10] == pytest.approx(5e-4) and rates[20] == max(rates) == 1e-3
    middle = 1e-6 + 0.5 * (1e-3 - 1e-6) * (1 + math.cos(math.pi * 0.5))
    assert rates[60] == pytest.approx(middle)
    assert rates[99] == pytest.approx(1e-6, abs=1e-6) and all(np.diff(rates[20:]) < 0)


def test_warm_up_fits_into_a_short_run():
    optimizer = make_optimizer(classifier(), optim(warmup_epochs=40.0), 1e-3)
    schedule = make_schedule(optimizer, optim(warmup_epochs=40.0), 1, 8, effective_batch_size=256)
    schedule.step_update(4)
    assert optimizer.param_groups[-1]["lr"] == 1e-3
    assert warmup_steps(optim(warmup_epochs=40.0), 1, 8) == 4
    assert warmup_steps(optim(warmup_epochs=40.0), 10, 8000) == 400


def test_the_learning_rate_is_per_256_clips():
    assert scaled_learning_rate(1.5e-4, 2048) == pytest.approx(1.2e-3)


@given(share=st.integers(1, 500), world_size=st.sampled_from([1, 2, 3, 8]), most=st.integers(1, 64))
def test_a_batch_is_shared_evenly_with_few_accumulations(share, world_size, most):
    plan = BatchPlan.fit(share * world_size, world_size, most)
    assert plan.micro_size * plan.world_size * plan.accumulation == plan.batch_size
    assert plan.micro_size <= most
    fewer = [n for n in range(1, plan.accumulation) if share % n == 0]
    assert all(share // n > most for n in fewer)


def test_a_batch_that_cannot_be_shared_is_refused():
    with refuses("out-of-range", 8, 3):
        BatchPlan.fit(8, 3, 4)


def test_settings_out_of_range_are_refused():
    for changes in ({"layer_decay": 0.0}, {"betas": (0.9, 1.0)}, {"weight_decay": -1.0}):
        with refuses("out-of-range", *changes):
            optim(**changes)
