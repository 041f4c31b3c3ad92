"""Weights of others: wrapped names, biases of keys, VideoMAE V2's Hub layout, other parts."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from errors import refuses
from hypothesis import given
from hypothesis import strategies as st
from shard_fixtures import write_moving_squares
from test_weights import (
    CONFIG,
    SIZES,
    autoencoder,
    classifier,
    clips_and_mask,
    peer_config,
    same,
    shaken,
    videomae_names,
)
from training_fixtures import tiny_run

from train.checkpoint import main
from train.finetune import finetune
from train.network.autoencoder import MaskedAutoencoder, VideoEncoder
from train.options.recipe import finetune_config
from train.pretrain import pretrain
from train.weights.exchange import (
    ImportedWeights,
    build_encoder,
    import_weights,
    write_safetensors,
)
from train.weights.names import WRAPPERS, plain_names

HUB = {
    "model_type": "VideoMAEv2_Base",
    "architectures": ["VideoMAEv2_Base"],
    "auto_map": {"AutoModel": "modeling_videomaev2.VideoMAEv2"},
    "model_config": {
        "img_size": 32, "patch_size": 8, "in_chans": 3, "num_classes": 0, "embed_dim": 36,
        "depth": 2, "num_heads": 3, "mlp_ratio": 52 / 36, "qkv_bias": True, "qk_scale": None,
        "drop_rate": 0.0, "attn_drop_rate": 0.0, "drop_path_rate": 0.0,
        "norm_layer": "nn.LayerNorm", "layer_norm_eps": 1e-6, "init_values": 0.0,
        "use_learnable_pos_emb": False, "tubelet_size": 2, "use_mean_pooling": True,
        "with_cp": False, "num_frames": 4, "cos_attn": False,
    },
}  # fmt: skip
ENCODER_SIZES = {name: SIZES[name] for name in ("image_size", "num_frames", "num_heads")}


def saved(path: Path, state: dict, key: str | None = None) -> Path:
    torch.save(state if key is None else {key: state, "epoch": 3}, path)
    return path


# -- wrappers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["model", "module", "state_dict", "model_state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_weights_of_frameworks_and_wrappers(key, prefix, tmp_path):
    model = autoencoder()
    state = OrderedDict((f"{prefix}{name}", each) for name, each in model.state_dict().items())
    imported = import_weights(saved(tmp_path / "a.pth", state, key), **SIZES)
    assert imported.config == CONFIG and same(imported.state_dict, model.state_dict())


def test_a_compiled_part_within_a_model(tmp_path):
    model = autoencoder()
    state = {
        name.replace("encoder.", "encoder._orig_mod."): each
        for name, each in model.state_dict().items()
    }
    imported = import_weights(saved(tmp_path / "a.pth", state), **SIZES)
    assert same(imported.state_dict, model.state_dict())


@given(st.lists(st.sampled_from(WRAPPERS), max_size=3), st.sampled_from(["blocks.0.x", "norm.y"]))
def test_any_nesting_of_wrappers_is_taken_off(prefixes, name):
    tensor = torch.zeros(1)
    assert plain_names({"".join(prefixes) + name: tensor}, "file") == {name: tensor}


def test_two_models_in_one_file_are_refused(tmp_path):
    state = {"module.norm.weight": torch.zeros(1), "norm.weight": torch.ones(1)}
    path = saved(tmp_path / "a.pth", state)
    with refuses("duplicate", path, "module.norm.weight"):
        import_weights(path)


# -- biases ---------------------------------------------------------------------------------------


def test_a_bias_of_keys_changes_nothing_and_is_dropped(tmp_path):
    """Any value of it gives the same output."""
    transformers = pytest.importorskip("transformers")
    peer = shaken(transformers.VideoMAEForPreTraining(peer_config(use_mean_pooling=False)))
    peer.save_pretrained(tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    for layer in range(2):
        name = f"videomae.encoder.layer.{layer}.attention.attention.key.bias"
        tensors[name] = torch.randn(36)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    clips, mask = clips_and_mask()
    with torch.no_grad():
        theirs = peer(clips.transpose(1, 2), bool_masked_pos=mask).logits
        ours = import_weights(tmp_path).build().eval()(clips, mask)
    assert (ours - theirs).abs().max() <= 1e-4


def test_one_bias_of_queries_keys_and_values_is_taken_apart(tmp_path):
    model = classifier(label=4)
    state = videomae_names(model)
    for block in range(CONFIG.depth):
        name = f"blocks.{block}.attn."
        query, value = state.pop(f"{name}q_bias"), state.pop(f"{name}v_bias")
        state[f"{name}qkv.bias"] = torch.cat([query, torch.randn(len(query)), value])
        state[f"{name}k_bias"] = torch.zeros(len(query))
    imported = import_weights(saved(tmp_path / "a.pth", state), **ENCODER_SIZES)
    assert same(imported.state_dict, model.state_dict())


# -- VideoMAE V2 on the Hub -----------------------------------------------------------------------


def write_hub_folder(folder: Path, **changes: object) -> VideoEncoder:
    encoder = shaken(VideoEncoder(CONFIG, final_norm=False))
    state = {f"model.{name}": each for name, each in encoder.state_dict().items()}
    state |= {f"model.fc_norm.{name}": torch.ones(36) for name in ("weight", "bias")}
    folder.mkdir()
    safetensors.torch.save_file(state, folder / "model.safetensors", {"format": "pt"})
    fields = {**HUB, "model_config": {**HUB["model_config"], **changes}}
    (folder / "config.json").write_text(json.dumps(fields))
    return encoder


def test_the_hub_layout_of_videomae_v2(tmp_path):
    encoder = write_hub_folder(tmp_path / "v2")
    for source in (tmp_path / "v2", tmp_path / "v2" / "model.safetensors"):
        imported = import_weights(source)
        assert imported.kind == "encoder"
        without_decoder = {name: getattr(CONFIG, name) for name in ("image_size", "num_frames")}
        assert imported.config == replace(imported.config, **without_decoder)
        assert (imported.config.num_heads, imported.config.layer_norm_eps) == (3, 1e-6)
        clips, _ = clips_and_mask()
        with torch.no_grad():
            assert torch.equal(imported.build().eval()(clips), encoder(clips))


@pytest.mark.parametrize(
    ("name", "value"), [("cos_attn", True), ("use_learnable_pos_emb", True), ("in_chans", 1)]
)
def test_what_this_project_does_not_have_is_named(name, value, tmp_path):
    write_hub_folder(tmp_path / "v2", **{name: value})
    with refuses("not-supported", tmp_path / "v2", name, value):
        import_weights(tmp_path / "v2")
    (tmp_path / "v2" / "config.json").write_text(json.dumps({"model_type": "VideoMAEv2_Base"}))
    with refuses("damaged-file", "model_config"):
        import_weights(tmp_path / "v2")


# -- strict on what is needed ---------------------------------------------------------------------


def test_an_encoder_is_taken_from_a_file_with_other_damaged_parts(tmp_path):
    model = autoencoder()
    state = model.state_dict()
    del state["decoder.blocks.0.mlp.fc1.weight"]
    state |= {"decoder.extra": torch.zeros(1), "projector.0.weight": torch.zeros(2, 2)}
    path = saved(tmp_path / "a.pth", state, "model")
    with refuses("wrong-format", "decoder.blocks.0.mlp.fc1.weight"):
        import_weights(path, **SIZES)
    imported = import_weights(path, "encoder", **ENCODER_SIZES)
    clips, _ = clips_and_mask()
    with torch.no_grad():
        ours = build_encoder(imported.config, imported).eval()(clips)
        assert torch.equal(ours, model.encoder(clips))
    del state["encoder.blocks.1.norm1.bias"]
    state["encoder.blocks.0.gamma_1"] = torch.zeros(36)
    with refuses("other-model", "encoder.blocks.1.norm1.bias", "encoder.blocks.0.gamma_1"):
        import_weights(saved(path, state, "model"), "encoder", **ENCODER_SIZES)


def test_finetuning_needs_only_the_encoder(tmp_path):
    write_moving_squares(tmp_path, num_clips=10)
    common = tiny_run(tmp_path, dry_run=True)
    model = finetune_config(common.read_recipe(), "mean").model
    state = MaskedAutoencoder(model).state_dict()
    del state["decoder.norm.bias"]
    weights = ImportedWeights("pretraining", model, {**state, "aux.bias": torch.zeros(3)}, "here")
    path = tmp_path / "theirs.safetensors"
    write_safetensors(path, weights)
    finetune(common, "mean", str(path))
    with refuses("other-model", path, "decoder.norm.bias", "aux.bias"):
        pretrain(common, "mofo", path)


def test_long_lists_of_tensors_end_after_ten(tmp_path):
    model = autoencoder()
    state = {f"{name}.other": each for name, each in model.state_dict().items()}
    state |= {name: each for name, each in model.state_dict().items() if "blocks.0" in name}
    kept = ("encoder.patch_embed.proj.weight", "decoder.head.weight")
    state |= {name: model.state_dict()[name] for name in kept}
    with refuses("other-model", "missing: ", "left over: ", " more") as caught:
        import_weights(saved(tmp_path / "a.pth", state), **SIZES)
    assert len(caught.value.message) < 1500


# -- refused pickles ------------------------------------------------------------------------------


class Config:
    """What training code stores beside its weights."""


def test_the_object_of_a_refused_pickle_is_named(tmp_path):
    torch.save({"model": autoencoder().state_dict(), "config": Config()}, tmp_path / "a.pth")
    with refuses("unsafe-file", tmp_path / "a.pth", f"{Config.__module__}.Config") as caught:
        import_weights(tmp_path / "a.pth")
    assert "weights_only" not in caught.value.message
    done = CliRunner().invoke(main, ["import", str(tmp_path / "a.pth"), str(tmp_path / "b")])
    assert "test_foreign_names.Config" in done.stderr
