"""What runs on a GPU stays there: shown with tensors that have a device and no values."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from preprocess.flow.boundaries import boundary_map, window_sums
from preprocess.flow.motion_maps import motion_map, reduce_maps
from preprocess.tvl1_solvers import eager
from preprocess.tvl1_solvers.presets import PRESETS
from train.network.autoencoder import MaskedAutoencoder, VideoEncoder
from train.network.head import VideoClassifier, build_head
from train.network.head_config import HeadConfig
from train.network.model_config import ModelConfig
from train.objectives.pixels import (
    _channel_statistics,
    masked_loss,
    masked_targets,
    mean_predictor_loss,
    normalised_pixels,
)
from train.samples.loading import _byte_statistics, to_device

GPU = torch.device("cuda", 0)
TINY = ModelConfig(
    image_size=32, num_frames=4, width=24, depth=2, num_heads=2,
    decoder_width=12, decoder_depth=1, decoder_heads=2,
)  # fmt: skip


@pytest.fixture
def fake():
    """A device cuda:0 for the shapes, devices and types of tensors, and for nothing else. A CPU
    tensor among those of the GPU is an error, as there; so is waiting for a value."""
    kept = (_byte_statistics, _channel_statistics)
    for cached in kept:
        cached.cache_clear()
    mode = FakeTensorMode()
    with mode:
        try:
            torch.zeros(2, 2, device=GPU)[:, :1]
        except RuntimeError as error:  # PyTorch 2.7 asks the driver for the device of a slice
            pytest.skip(f"this PyTorch needs a GPU here: {str(error).splitlines()[0]}")
    yield mode
    for cached in kept:
        cached.cache_clear()


def moved(model: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """The model in bf16 on the GPU, as DeepSpeed is given it."""

    def on_gpu(values: torch.Tensor) -> torch.Tensor:
        dtype = torch.bfloat16 if values.is_floating_point() else values.dtype
        return fake.from_tensor(values).detach().to(GPU, dtype)

    with fake:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(on_gpu(parameter))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = on_gpu(buffer)
    return model


def a_batch(config: ModelConfig) -> dict[str, torch.Tensor]:
    size = config.image_size
    pixels = torch.zeros(2, config.num_frames, size, size, 3, dtype=torch.uint8)
    tokens = torch.zeros(2, config.num_tokens, dtype=torch.bool)
    return {"pixels": pixels, "mask": tokens, "inside": tokens}


@pytest.mark.parametrize("attention", ["joint", "divided"])
def test_a_step_of_pretraining(fake, attention):
    config = ModelConfig(**{**TINY.to_dict(), "attention": attention})
    model = moved(MaskedAutoencoder(config), fake)
    with fake:
        batch = to_device(a_batch(config), GPU)
        num_masked = config.num_tokens // 2
        predicted = model(batch["clips"], batch["mask"], num_masked)
        target = masked_targets(
            normalised_pixels(batch["clips"], config), batch["mask"], num_masked
        )
        assert predicted.device == target.device == GPU and predicted.dtype == torch.bfloat16
        assert predicted.shape == target.shape
        assert masked_loss(predicted, target).device == mean_predictor_loss(target).device == GPU


@pytest.mark.parametrize("kind", ["mean", "mca"])
def test_a_step_of_finetuning(fake, kind):
    encoder = VideoEncoder(TINY, final_norm=False)
    head = build_head(HeadConfig(kind=kind), TINY.width)
    model = moved(VideoClassifier(encoder, head, {"verb": 3, "noun": 5}), fake)
    with fake:
        batch = to_device(a_batch(TINY), GPU)
        scores = model(batch["clips"], batch["inside"])
    assert {name: (each.device, tuple(each.shape)) for name, each in scores.items()} == {
        "verb": (GPU, (2, 3)),
        "noun": (GPU, (2, 5)),
    }


def test_flow_and_motion_maps(fake):
    with fake:
        frames = torch.zeros(5, 32, 40, dtype=torch.uint8, device=GPU)
        pairs = frames.float()
        flow = eager.solve(pairs[:-1], pairs[1:], None, PRESETS["fast"], eager.EAGER)
        assert flow.device == GPU and flow.shape == (4, 2, 32, 40)
        for maps in (motion_map(flow), boundary_map(window_sums(flow, 0, range(4)))):
            assert reduce_maps(maps, (16, 20)).device == GPU
