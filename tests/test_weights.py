"""Weights of others: against transformers' own VideoMAE, as .pth files, and out and back."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from errors import refuses
from torch import nn

from train.network.autoencoder import MaskedAutoencoder, ModelConfig, VideoEncoder, split_mask
from train.network.head import VideoClassifier, build_head
from train.network.head_config import HeadConfig
from train.objectives.pixels import masked_loss, masked_targets, normalised_pixels
from train.weights.exchange import (
    adopt_norms,
    export_safetensors,
    import_weights,
    load_autoencoder,
    load_encoder,
    load_strictly,
)
from train.weights.files import digest_of
from train.weights.huggingface import export_huggingface

CONFIG = ModelConfig(
    image_size=32,
    num_frames=4,
    patch_size=8,
    width=36,
    depth=2,
    num_heads=3,
    mlp_ratio=52 / 36,
    decoder_width=20,
    decoder_depth=2,
    decoder_heads=2,
    decoder_mlp_ratio=3.0,
)
SIZES = {"image_size": 32, "num_frames": 4, "num_heads": 3, "decoder_heads": 2}  # not in a .pth
TOLERANCE = 1e-4


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter moved off its start, so that none is zero, one or equal to another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def autoencoder() -> MaskedAutoencoder:
    return shaken(MaskedAutoencoder(CONFIG))


def classifier(head: HeadConfig | None = None, **num_classes: int) -> VideoClassifier:
    pooling = build_head(head or HeadConfig(), CONFIG.width, CONFIG.head_norm_eps)
    encoder = VideoEncoder(CONFIG, final_norm=False)
    return shaken(VideoClassifier(encoder, pooling, num_classes or {"label": 7}))


def clips_and_mask() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    clips = torch.randn(2, 3, 4, 32, 32, generator=generator)
    order = torch.rand(2, CONFIG.num_tokens, generator=generator).argsort(dim=1)
    return clips, order < 24


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key]) for key in expected
    )


# -- the real peer --------------------------------------------------------------------------------


def peer_config(**fields: object) -> object:
    transformers = pytest.importorskip("transformers")
    return transformers.VideoMAEConfig(
        image_size=32,
        patch_size=8,
        num_frames=4,
        tubelet_size=2,
        hidden_size=36,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=52,
        decoder_hidden_size=20,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=60,
        **fields,
    )


@pytest.mark.parametrize("eps", [1e-12, 1e-6, 1e-2])
def test_pretraining_peer(eps: float, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    peer_fields = peer_config(use_mean_pooling=False, layer_norm_eps=eps)
    peer = shaken(transformers.VideoMAEForPreTraining(peer_fields))
    peer.save_pretrained(tmp_path)
    imported = import_weights(tmp_path)
    assert imported.kind == "pretraining"
    assert (imported.config.layer_norm_eps, imported.config.head_norm_eps) == (eps, 1e-5)
    model = imported.build().eval()
    clips, mask = clips_and_mask()
    with torch.no_grad():
        theirs = peer(clips.transpose(1, 2), bool_masked_pos=mask)
        their_tokens = peer.videomae(clips.transpose(1, 2), bool_masked_pos=mask)
        tokens = model.encoder(clips, split_mask(mask)[0])
        predicted = model(clips, mask)
        target = masked_targets(normalised_pixels(clips, model.config), mask)
    assert (tokens - their_tokens.last_hidden_state).abs().max() <= TOLERANCE
    assert (predicted - theirs.logits).abs().max() <= TOLERANCE
    assert masked_loss(predicted, target).item() == pytest.approx(theirs.loss.item(), abs=TOLERANCE)


@pytest.mark.slow
def test_peers_at_full_size(tmp_path: Path) -> None:
    """ViT-B of 1,568 tokens, 90% hidden: positions, heads and tubelets as they are used."""
    transformers = pytest.importorskip("transformers")
    clips = torch.randn(1, 3, 16, 224, 224, generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(8, 196, dtype=torch.bool)
    mask[:, torch.randperm(196, generator=torch.Generator().manual_seed(5))[:176]] = True
    mask = mask.reshape(1, -1)
    theirs = transformers.VideoMAEForPreTraining(
        transformers.VideoMAEConfig(use_mean_pooling=False)
    ).eval()
    theirs.save_pretrained(tmp_path / "pretraining")
    model = import_weights(tmp_path / "pretraining").build().eval()
    with torch.no_grad():
        expected = theirs(clips.transpose(1, 2), bool_masked_pos=mask)
        predicted = model(clips, mask)
        target = masked_targets(normalised_pixels(clips, model.config), mask)
    assert predicted.shape == (1, 1408, 1536)
    assert (predicted - expected.logits).abs().max() <= TOLERANCE
    assert masked_loss(predicted, target).item() == pytest.approx(
        expected.loss.item(), abs=TOLERANCE
    )
    theirs = transformers.VideoMAEForVideoClassification(
        transformers.VideoMAEConfig(num_labels=174)
    )
    theirs.eval().save_pretrained(tmp_path / "classification")
    model = import_weights(tmp_path / "classification").build().eval()
    with torch.no_grad():
        expected = theirs(clips.transpose(1, 2)).logits
        assert (model(clips)["label"] - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("eps", [1e-12, 1e-2])
def test_classification_peer(eps: float, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    peer = transformers.VideoMAEForVideoClassification(
        peer_config(layer_norm_eps=eps, num_labels=7)
    )
    shaken(peer).save_pretrained(tmp_path)
    imported = import_weights(tmp_path)
    assert (imported.kind, imported.num_classes) == ("classification", {"label": 7})
    model = imported.build().eval()
    clips, _ = clips_and_mask()
    with torch.no_grad():
        theirs = peer(clips.transpose(1, 2)).logits
        scores = model(clips)["label"]
    assert theirs.abs().max() > 0.1
    assert (scores - theirs).abs().max() <= TOLERANCE


def test_bare_peer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    peer = shaken(transformers.VideoMAEModel(peer_config(use_mean_pooling=False)))
    peer.save_pretrained(tmp_path)
    imported = import_weights(tmp_path)
    assert imported.kind == "encoder"
    clips, _ = clips_and_mask()
    with torch.no_grad():
        theirs = peer(clips.transpose(1, 2)).last_hidden_state
        assert (imported.build().eval()(clips) - theirs).abs().max() <= TOLERANCE


def test_the_peer_reads_an_exported_autoencoder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = autoencoder()
    export_huggingface(tmp_path, model)
    peer, report = transformers.VideoMAEForPreTraining.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    clips, mask = clips_and_mask()
    with torch.no_grad():
        theirs = peer.eval()(clips.transpose(1, 2), bool_masked_pos=mask).logits
        assert (model(clips, mask) - theirs).abs().max() <= TOLERANCE


def test_the_peer_reads_an_exported_classifier(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = classifier()
    export_huggingface(tmp_path, model, class_names=list("abcdefg"))
    peer, report = transformers.VideoMAEForVideoClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert peer.config.id2label[6] == "g"
    clips, _ = clips_and_mask()
    with torch.no_grad():
        theirs = peer.eval()(clips.transpose(1, 2)).logits
        assert (model(clips)["label"] - theirs).abs().max() <= TOLERANCE


# -- out and back ---------------------------------------------------------------------------------


def test_huggingface_out_and_back_is_bit_equal(tmp_path: Path) -> None:
    for name, model in (("pretraining", autoencoder()), ("classification", classifier())):
        export_huggingface(tmp_path / name, model)
        imported = import_weights(tmp_path / name)
        assert imported.kind == name
        assert imported.config == CONFIG
        assert same(imported.state_dict, model.state_dict())


@pytest.mark.parametrize(
    "head", [HeadConfig(), HeadConfig("mca", num_heads=2, depth=2, residual=False)], ids=str
)
def test_safetensors_out_and_back_is_bit_equal(head: HeadConfig, tmp_path: Path) -> None:
    model = classifier(head, verb=3, noun=4)
    export_safetensors(tmp_path / "model.safetensors", model)
    imported = import_weights(tmp_path / "model.safetensors")
    assert (imported.kind, imported.config, imported.head) == ("classification", CONFIG, head)
    assert imported.num_classes == {"verb": 3, "noun": 4}
    assert same(imported.state_dict, model.state_dict())
    assert same(imported.build().state_dict(), model.state_dict())


def test_an_autoencoder_is_exported_and_imported_in_bfloat16(tmp_path: Path) -> None:
    model = autoencoder().bfloat16()
    export_safetensors(tmp_path / "model.safetensors", model)
    imported = import_weights(tmp_path / "model.safetensors")
    assert imported.kind == "pretraining"
    assert same(imported.state_dict, model.state_dict())


def test_what_videomae_has_no_place_for_is_not_exported(tmp_path: Path) -> None:
    factorised = ModelConfig.from_dict({**CONFIG.to_dict(), "positions": "sincos-3d"})
    trajectories = ModelConfig.from_dict({**CONFIG.to_dict(), "prediction_dim": 60})
    divided = ModelConfig.from_dict({**CONFIG.to_dict(), "attention": "divided"})
    bounded = ModelConfig.from_dict({**CONFIG.to_dict(), "decoder_output": "tanh"})
    for model, code, named in (
        (classifier(HeadConfig("mca")), "not-supported", ["mca"]),
        (classifier(verb=3, noun=4), "not-supported", ["verb, noun"]),
        (MaskedAutoencoder(factorised), "not-supported", ["sincos-3d", "sincos-1d"]),
        (MaskedAutoencoder(trajectories), "not-supported", [60, CONFIG.patch_dim]),
        (MaskedAutoencoder(divided), "not-supported", ["divided", "joint"]),
        (MaskedAutoencoder(bounded), "not-supported", ["tanh", "linear"]),
    ):
        with refuses(code, *named):
            export_huggingface(tmp_path, model)
    with refuses("other-classes", 2, 7):
        export_huggingface(tmp_path, classifier(), class_names=["a", "b"])
    with refuses("bad-name", tmp_path / "model.pth", ".safetensors"):
        export_safetensors(tmp_path / "model.pth", classifier())
    assert list(tmp_path.iterdir()) == []


# -- .pth files -----------------------------------------------------------------------------------


def videomae_names(model: VideoClassifier, prefix: str = "") -> dict[str, torch.Tensor]:
    """The state dict of a classifier as VideoMAE's finetuning code names it."""
    names = {"encoder.": prefix, "head.norm.": "fc_norm.", "classifiers.label.": "head."}
    renamed = {}
    for key, tensor in model.state_dict().items():
        ours = next(name for name in names if key.startswith(name))
        renamed[names[ours] + key.removeprefix(ours)] = tensor
    return renamed


@pytest.mark.parametrize("key", ["model", "module"])
def test_pretraining_pth(key: str, tmp_path: Path) -> None:
    model = autoencoder()
    training = {"optimizer": {}, "epoch": 799, "args": argparse.Namespace(model="base", lr=1e-3)}
    torch.save({key: model.state_dict(), **training}, tmp_path / "checkpoint.pth")
    imported = import_weights(tmp_path / "checkpoint.pth", **SIZES)
    assert imported.kind == "pretraining"
    assert imported.config == CONFIG
    assert same(imported.state_dict, model.state_dict())
    clips, mask = clips_and_mask()
    with torch.no_grad():
        assert torch.equal(imported.build().eval()(clips, mask), model(clips, mask))


@pytest.mark.parametrize("prefix", ["", "backbone.", "encoder."])
def test_classification_pth(prefix: str, tmp_path: Path) -> None:
    model = classifier()
    torch.save({"module": videomae_names(model, prefix)}, tmp_path / "checkpoint.pth")
    imported = import_weights(tmp_path / "checkpoint.pth", **SIZES)
    assert (imported.kind, imported.num_classes) == ("classification", {"label": 7})
    assert same(imported.state_dict, model.state_dict())


@pytest.mark.parametrize("final_norm", [True, False])
def test_encoder_only_pth(final_norm: bool, tmp_path: Path) -> None:
    encoder = shaken(VideoEncoder(CONFIG, final_norm))
    state = {f"backbone.{key}": tensor for key, tensor in encoder.state_dict().items()}
    torch.save({"model": state}, tmp_path / "checkpoint.pth")
    imported = import_weights(tmp_path / "checkpoint.pth", **SIZES)
    assert imported.kind == "encoder"
    assert same(imported.build().state_dict(), encoder.state_dict())


def test_the_heads_of_videomae_are_known_and_others_must_be_given(tmp_path: Path) -> None:
    fields = {"width": 384, "num_heads": 6, "decoder_width": 192, "decoder_heads": 3}
    small = ModelConfig.from_dict({**CONFIG.to_dict(), **fields})
    torch.save({"model": MaskedAutoencoder(small).state_dict()}, tmp_path / "small.pth")
    config = import_weights(tmp_path / "small.pth").config
    assert (config.num_heads, config.decoder_heads) == (6, 3)
    assert (config.num_frames, config.image_size) == (16, 224)
    torch.save({"model": autoencoder().state_dict()}, tmp_path / "odd.pth")
    with refuses("missing-option", 36, "num_heads"):
        import_weights(tmp_path / "odd.pth")


class Malicious:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("was-run"),))


def test_a_pth_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"mask_token": Malicious()}}, "bad.pth")
    with refuses("unsafe-file", "bad.pth"):
        import_weights(Path("bad.pth"))
    assert not Path("was-run").exists()


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    for content, named in (
        ({"state": {}, "epoch": 3}, ["state, epoch"]),
        ({"model": {"a": 3}}, ["'model'", "found: model"]),
        ([1, 2], ["list"]),
        ({"model": {"conv.weight": torch.zeros(2)}}, ["patch_embed.proj.weight", "conv.weight"]),
    ):
        torch.save(content, path)
        with refuses("wrong-format", *named):
            import_weights(path)
    path.write_bytes(b"not a checkpoint")
    with refuses("unsafe-file", path):
        import_weights(path)
    (tmp_path / "weights.npz").touch()
    with refuses("wrong-format", tmp_path / "weights.npz", ".pth", ".safetensors"):
        import_weights(tmp_path / "weights.npz")


def test_a_damaged_pth_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    torch.save({"model": autoencoder().state_dict()}, path)
    path.write_bytes(path.read_bytes()[:5000])
    with refuses("damaged-file", path) as caught:
        import_weights(path)
    assert "\n" not in str(caught.value)


# -- strictness -----------------------------------------------------------------------------------


def test_missing_left_over_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    state = dict(autoencoder().state_dict())
    del state["encoder.blocks.1.attn.q_bias"], state["decoder.norm.bias"]
    state["encoder.pos_embed"] = torch.zeros(1)
    state["encoder.norm.bias"] = torch.zeros(5)
    torch.save({"model": state}, tmp_path / "odd.pth")
    with refuses("other-model", tmp_path / "odd.pth") as caught:
        import_weights(tmp_path / "odd.pth", **SIZES)
    message = str(caught.value)
    assert "missing: encoder.blocks.1.attn.q_bias, decoder.norm.bias;" in message
    assert "left over: encoder.pos_embed;" in message
    assert "of another shape: encoder.norm.bias [5] instead of [36]" in message


def test_a_huggingface_folder_is_read_strictly(tmp_path: Path) -> None:
    export_huggingface(tmp_path, classifier())
    path = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["videomae.encoder.layer.0.attention.attention.key.weight"]
    safetensors.torch.save_file(tensors, path)
    with refuses("other-model", tmp_path, "missing: encoder.blocks.0.attn.qkv.weight"):
        import_weights(tmp_path)


def test_a_huggingface_folder_in_parts(tmp_path: Path) -> None:
    model = classifier()
    export_huggingface(tmp_path, model)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    keys = sorted(tensors)
    parts = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
    for name, part in parts.items():
        safetensors.torch.save_file({key: tensors[key] for key in part}, tmp_path / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(import_weights(tmp_path).state_dict, model.state_dict())


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"model_type": "vit"}, "not-supported", ["model_type", "'vit'", "'videomae'"]),
        ({"hidden_act": "relu"}, "not-supported", ["hidden_act", "'relu'", "'gelu'"]),
        ({"qv_bias": False}, "not-supported", ["qv_bias", False]),
        ({"image_size": [32, 64]}, "not-supported", ["image_size", "[32, 64]"]),
        ({"num_attention_heads": 5}, "out-of-range", ["width 36", "num_heads 5"]),
    ],
)
def test_other_huggingface_models_are_refused(
    fields: dict, code: str, named: list, tmp_path: Path
) -> None:
    export_huggingface(tmp_path, classifier())
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with refuses(code, *named):
        import_weights(tmp_path)


def test_incomplete_folders_and_foreign_safetensors(tmp_path: Path) -> None:
    with refuses("missing-file", tmp_path / "config.json"):
        import_weights(tmp_path)
    export_huggingface(tmp_path, classifier())
    imported = import_weights(tmp_path / "model.safetensors")  # with the config.json beside it
    assert imported.config.num_heads == CONFIG.num_heads
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 64)
    with refuses("damaged-file", tmp_path / "model.safetensors"):
        import_weights(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with refuses("missing-file", tmp_path / "model.safetensors"):
        import_weights(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    metadata = {"format": "mofo", "format_version": "2", "kind": "encoder"}
    metadata |= {"config": "{}", "head": "{}", "num_classes": "{}"}
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata)
    with refuses("other-version", path, 2, 1):
        import_weights(path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"format": "mofo"})
    with refuses("damaged-file", path, "format_version"):
        import_weights(path)


# -- from pretraining to finetuning ---------------------------------------------------------------


def test_the_encoder_moves_into_a_classifier(tmp_path: Path) -> None:
    pretrained = autoencoder()
    export_safetensors(tmp_path / "model.safetensors", pretrained)
    imported = import_weights(tmp_path / "model.safetensors")
    model = classifier(HeadConfig("mca"))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    load_encoder(model, imported)
    state, source = model.state_dict(), pretrained.state_dict()
    moved = {key for key in source if key.startswith("encoder.") and "encoder.norm." not in key}
    fresh = set(state) - moved
    assert fresh and all(name.startswith(("head.", "classifiers.")) for name in fresh)
    assert all(torch.equal(state[key], source[key]) for key in moved)
    assert all(torch.equal(state[key], before[key]) for key in fresh)


def test_the_encoder_of_a_longer_larger_classifier(tmp_path: Path) -> None:
    export_safetensors(tmp_path / "model.safetensors", autoencoder())
    larger = ModelConfig.from_dict({**CONFIG.to_dict(), "image_size": 48, "num_frames": 8})
    encoder = VideoEncoder(larger, final_norm=False)
    model = VideoClassifier(encoder, build_head(HeadConfig(), 36), {"label": 2})
    load_encoder(model, import_weights(tmp_path / "model.safetensors"))
    assert model(torch.zeros(1, 3, 8, 48, 48))["label"].shape == (1, 2)


def test_another_encoder_is_refused_even_where_shapes_agree(tmp_path: Path) -> None:
    export_safetensors(tmp_path / "model.safetensors", autoencoder())
    imported = import_weights(tmp_path / "model.safetensors")
    other = ModelConfig.from_dict({**CONFIG.to_dict(), "num_heads": 4, "positions": "sincos-3d"})
    encoder = VideoEncoder(other, final_norm=False)
    model = VideoClassifier(encoder, build_head(HeadConfig(), 36), {"label": 2})
    named = (
        "num_heads 3 in the weights, 4 here",
        "positions sincos-1d in the weights, sincos-3d here",
    )
    with refuses("other-model", imported.source, *named):
        load_encoder(model, imported)


def test_norms_are_adopted_from_the_weights(tmp_path: Path) -> None:
    theirs = ModelConfig.from_dict({**CONFIG.to_dict(), "layer_norm_eps": 1e-12, "num_frames": 8})
    export_huggingface(tmp_path, MaskedAutoencoder(theirs))
    imported = import_weights(tmp_path)
    with refuses("other-model", "layer_norm_eps", "1e-12", "1e-06"):
        load_encoder(classifier(), imported)
    adopted = adopt_norms(CONFIG, imported)
    assert adopted == ModelConfig.from_dict({**CONFIG.to_dict(), "layer_norm_eps": 1e-12})
    encoder = VideoEncoder(adopted, final_norm=False)
    load_encoder(VideoClassifier(encoder, build_head(HeadConfig(), 36), {"label": 2}), imported)


def test_pretraining_starts_from_a_pretraining_of_the_same_model(tmp_path: Path) -> None:
    source, model = autoencoder(), MaskedAutoencoder(CONFIG)
    export_safetensors(tmp_path / "a.safetensors", source)
    load_autoencoder(model, import_weights(tmp_path / "a.safetensors"))
    assert same(model.state_dict(), source.state_dict())
    other = ModelConfig.from_dict({**CONFIG.to_dict(), "decoder_heads": 5})
    with refuses("other-model", "decoder_heads", 2, 5):
        load_autoencoder(MaskedAutoencoder(other), import_weights(tmp_path / "a.safetensors"))
    export_safetensors(tmp_path / "b.safetensors", classifier())
    with refuses("other-kind", tmp_path / "b.safetensors", "classification"):
        load_autoencoder(model, import_weights(tmp_path / "b.safetensors"))


def test_load_strictly_changes_nothing_on_error() -> None:
    model, state = classifier(), dict(shaken(classifier(), seed=1).state_dict())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    del state["head.norm.bias"]
    with refuses("other-model", "here", "missing: head.norm.bias"):
        load_strictly(model, state, "here")
    assert same(model.state_dict(), before)


def test_of_a_folder_only_what_is_read_tells_its_weights_apart(tmp_path):
    """A download leaves a cache and a page of text beside the weights."""
    torch.manual_seed(0)
    folder = tmp_path / "videomae"
    export_huggingface(folder, autoencoder())
    digest = digest_of(folder)
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / "README.md").write_text("a model card")
    assert digest_of(folder) == digest
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert digest_of(folder) != digest
