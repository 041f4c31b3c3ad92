"""Frozen models of others as feature extractors, with random weights."""

import json

import pytest
import timm
import torch
from click.testing import CliRunner
from errors import refused, refuses
from safetensors.torch import save_file
from shard_fixtures import write_moving_squares
from training_fixtures import TINY_RECIPE

import train.probe
from train.extractors.extractor import FrameExtractor, shape_of_frames
from train.extractors.sources import find_extractor
from train.extractors.timm_models import read_timm

transformers = pytest.importorskip("transformers")
SMALL_VIT = "test_vit"  # timm has it for tests: 160 px, 16 px a patch, one class token


@pytest.fixture(scope="module")
def vjepa2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vjepa2-tiny")
    torch.manual_seed(0)
    if not hasattr(transformers, "VJEPA2Config"):
        pytest.skip(f"transformers {transformers.__version__} has no V-JEPA 2")
    config = transformers.VJEPA2Config(
        crop_size=32, frames_per_clip=4, hidden_size=24, num_attention_heads=2,
        num_hidden_layers=2, pred_hidden_size=12, pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
    )  # fmt: skip
    transformers.VJEPA2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hiera(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hiera-tiny")
    torch.manual_seed(0)
    config = transformers.HieraConfig(
        embed_dim=8, image_size=[64, 64], depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]
    )
    transformers.HieraModel(config).save_pretrained(folder)
    return folder


def test_tokens_of_vjepa2_are_those_of_its_encoder(vjepa2):
    extractor = find_extractor(str(vjepa2)).read(seed=0, num_frames=16)
    shape = extractor.config
    assert (shape.num_frames, shape.image_size, shape.num_tokens, shape.width) == (4, 32, 8, 24)
    clips = torch.randn(2, 3, 4, 32, 32)
    model = transformers.VJEPA2Model.from_pretrained(vjepa2).eval()
    with torch.no_grad():
        expected = model.get_vision_features(clips.transpose(1, 2))
        torch.testing.assert_close(extractor(clips), expected)
    assert not any(parameter.requires_grad for parameter in extractor.parameters())


def test_hiera_is_given_each_frame_alone(hiera):
    extractor = find_extractor(str(hiera)).read(seed=0, num_frames=3)
    shape = extractor.config
    assert (shape.time_steps, shape.grid, shape.patch_size, shape.width) == (3, 2, 32, 64)
    clips = torch.randn(2, 3, 3, 64, 64)
    changed = clips.clone()
    changed[:, :, 1] += 1
    with torch.no_grad():
        before, after = (extractor(each).unflatten(1, (3, -1)) for each in (clips, changed))
        alone = extractor.model(clips[1, :, 2][None]).last_hidden_state[0]
    torch.testing.assert_close(before[1, 2], alone)
    torch.testing.assert_close(before[:, [0, 2]], after[:, [0, 2]])
    assert (before[:, 1] - after[:, 1]).abs().max() > 1e-3


def test_timm_models_get_their_weights_and_their_own_standardisation(tmp_path):
    torch.manual_seed(1)
    model = timm.create_model(SMALL_VIT, num_classes=7).eval()
    weights = tmp_path / "vit.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    extractor = find_extractor(f"timm:{SMALL_VIT}={weights}").read(seed=0, num_frames=2)
    assert (extractor.config.grid, extractor.config.time_steps) == (10, 2)
    pixels = torch.rand(1, 3, 2, 160, 160)
    mean, deviation = (
        torch.tensor(each).view(3, 1, 1, 1)
        for each in (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    )
    own_mean, own_deviation = (
        torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std")
    )
    with torch.no_grad():
        found = extractor((pixels - mean) / deviation)[0, 100:]
        frame = (pixels[0, :, 1] - own_mean) / own_deviation
        expected = model.forward_features(frame[None])[0, 1:]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_networks_with_maps_have_a_token_a_place(name):
    extractor = read_timm(name, None, seed=3, num_frames=2)
    side = extractor.config.image_size
    with torch.no_grad():
        tokens = extractor(torch.randn(1, 3, 2, side, side))
    assert tokens.shape == (1, extractor.config.num_tokens, extractor.config.width)
    assert isinstance(extractor, FrameExtractor)


def test_what_is_no_extractor_is_left_to_the_others_and_mistakes_are_named(tmp_path):
    assert find_extractor("pretrain-mofo") is None and find_extractor("none") is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "videomae"}))
    assert find_extractor(str(tmp_path)) is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hiera"}))
    with refuses("wrong-format", tmp_path, "hiera"):
        find_extractor(str(tmp_path)).read(0, 4)
    with refuses("unknown-name", "'test_vitt'", "test_vit"):
        find_extractor("timm:test_vitt").read(0, 4)
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with refuses("other-kind", "other.safetensors", "test_vit"):
        read_timm(SMALL_VIT, tmp_path / "other.safetensors", 0, 4)
    with refuses("other-kind", 5, 224):
        shape_of_frames(224, 5, 16, 4)


def test_a_probe_tests_the_features_of_an_extractor(tmp_path, vjepa2):
    write_moving_squares(tmp_path, num_clips=40)
    (tmp_path / "tiny.toml").write_text(TINY_RECIPE)
    common = [
        *("--dataset", "squares", "--out", str(tmp_path), "--device", "cpu", "--workers", "0"),
        *("--recipe", str(tmp_path / "tiny.toml"), "--from", str(vjepa2)),
    ]
    done = CliRunner().invoke(train.probe.main, [*common, "--pool", "steps", "--probe", "linear"])
    assert done.exit_code == 0, done.output
    assert "linear probe: test top-1" in done.stdout
    folder = tmp_path / "squares" / "runs" / f"probe-vjepa2-{vjepa2.name}"
    record = json.loads((folder / "options.json").read_text())["options"]
    assert record["from"] == str(vjepa2) and record["config"]["model"]["num_frames"] == 4
    assert record["from_digest"]
    done = CliRunner().invoke(train.probe.main, [*common, "--seed", "1"])
    refused(done, "option-unused", "--seed 1", str(vjepa2))
