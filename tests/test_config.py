"""Recipes: every key known and of its type, nothing ignored."""

import copy
import dataclasses
import inspect
import json
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest
from errors import refuses
from training_fixtures import TINY_RECIPE

from shared.decoder_masks import DECODER_MASKS
from shared.masks import MASKS
from train.clips.view_rules import CROPS, FRAME_RULES
from train.objectives.registry import TARGETS
from train.options import config as options_config
from train.options.config import (
    EvaluateConfig,
    FinetuneConfig,
    LoaderConfig,
    OptimConfig,
    PretrainConfig,
)
from train.options.merging import merge
from train.options.recipe import (
    RECIPES,
    evaluate_config,
    finetune_config,
    loader_config,
    parse_changes,
    pretrain_config,
    read_recipe,
    recorded_finetune_config,
    recorded_pretrain_config,
)
from train.running.optim import effective_batch, scaled_learning_rate
from train.running.run_folder import ADDED_LATER, RunFolder
from train.tables.nested import flatten
from train.tables.typed import Choice, convert, to_table

DATASETS = sorted(path.stem for path in RECIPES.glob("*.toml"))


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE)
    return read_recipe("squares", path)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("method", ["mofo", "videomae"])
def test_every_recipe_pretrains_by_every_method(dataset, method):
    tables = read_recipe(dataset, None)
    config = pretrain_config(tables, method)
    assert config.needs_boxes == (method == "mofo")
    assert loader_config(tables).micro_batch_size >= 1


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("head", ["mean", "mca"])
def test_every_recipe_finetunes_with_every_head(dataset, head):
    tables = read_recipe(dataset, None)
    config = finetune_config(tables, head)
    assert config.head.kind == head and config.needs_boxes == (head == "mca")
    pretraining = pretrain_config(tables, "mofo").model
    for name in ("width", "depth", "num_heads", "patch_size", "tubelet_size", "positions"):
        assert getattr(config.model, name) == getattr(pretraining, name)
    assert evaluate_config(tables).segments >= 1


def test_a_recipe_survives_the_record_of_a_run(tiny):
    pretraining, finetuning = pretrain_config(tiny, "mofo"), finetune_config(tiny, "mca")
    for config, read in (
        (pretraining, recorded_pretrain_config),
        (finetuning, recorded_finetune_config),
    ):
        assert read(json.loads(json.dumps(to_table(config)))) == config


def test_every_field_says_what_it_is():
    for cls in (PretrainConfig, FinetuneConfig, LoaderConfig, OptimConfig, EvaluateConfig):
        source = inspect.getsource(options_config)
        for field in dataclasses.fields(cls):
            line = source.split(f"class {cls.__name__}")[1].split(f"    {field.name}: ")[1]
            assert line.split("\n")[1].strip().startswith('"""'), f"{cls.__name__}.{field.name}"


def test_the_command_line_goes_last(tiny):
    changes = parse_changes(("optim.weight_decay=0.2", "mask.inside_ratio=0.5", "flips=[]"))
    config = pretrain_config(tiny, "mofo", {**changes, "epochs": 7})
    assert config.optim.weight_decay == 0.2 and config.optim.base_learning_rate == 0.1
    options = {"mask_ratio": 0.5, "inside_ratio": 0.5, "inside": "box"}
    assert config.mask == Choice("motion_tube", options)
    assert config.flips == () and config.epochs == 7


def test_a_bare_word_is_a_text(tiny):
    changes = parse_changes(("crop.kind=centre",))
    assert pretrain_config(tiny, "mofo", changes).crop == Choice("centre", {})


def test_loader_settings_do_not_reach_training():
    assert parse_changes(("loader.workers=3",)) == {"loader": {"workers": 3}}


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (
            {"mask": {"kind": "tube", "mask_ratio": 0.9, "inside_ratio": 0.5}},
            "unknown-key",
            ["inside_ratio"],
        ),
        ({"mask": {"kind": "mosaic"}}, "unknown-name", ["mask.kind", "'mosaic'", "motion_tube"]),
        ({"mask": {"mask_ratio": 1.5}}, "out-of-range", ["[mask]", "mask_ratio", 1.5]),
        ({"crop": {"kind": "centre", "pixels": 4}}, "unknown-key", ["crop", "centre", "pixels"]),
        ({"crop": {"scales": [2.0]}}, "out-of-range", ["[crop]", "scales", "(2.0,)"]),
        ({"frames": {"stride": 0}}, "out-of-range", ["[frames]", "stride", 0]),
        ({"epoch": 3}, "unknown-key", ["[pretrain]", "epoch", "epochs"]),
        ({"epochs": 0}, "out-of-range", ["[pretrain]", "epochs", 0]),
        ({"epochs": "three"}, "wrong-type", ["pretrain.epochs", "'three'", "int"]),
        ({"flips": ["z"]}, "unknown-name", ["flips", "'z'", "x, y, time"]),
        ({"flips": "x"}, "wrong-type", ["pretrain.flips", "'x'", "list"]),
        ({"optim": {"betas": [0.9]}}, "wrong-type", ["pretrain.optim.betas", 1, 2]),
        ({"optim": {"layer_decay": 0.5}}, "option-unused", ["optim.layer_decay"]),
        ({"model": {"image_size": 33}}, "out-of-range", ["image_size 33", "patch_size"]),
        ({"model": {"size": "vit-xxl"}}, "unknown-name", ["vit-xxl", "vit-s, vit-b, vit-l"]),
        ({"target": "hog"}, "unknown-name", ["target", "'hog'", "normalised_pixels"]),
        ({"model": "vit-s"}, "wrong-type", ["model", "'vit-s'", "--set model.size="]),
    ],
)
def test_wrong_values_are_named(tiny, change, code, named):
    with refuses(code, *named):
        pretrain_config(tiny, "mofo", change)


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"model": {"decoder_depth": 2}}, "option-unused", ["decoder_depth"]),
        (
            {"augment": {"rand_layers": 0, "rand_magnitude": 9}},
            "option-unused",
            ["rand_magnitude", 9, "rand_layers"],
        ),
        ({"head": {"depth": 2}}, "option-unused", ["--mca-depth", "--head mca"]),
        ({"head": {"mlp_ratio": 2.0}}, "option-unused", ["head.mlp_ratio", "--head mca"]),
        (
            {"head": {"deepth": 2}},
            "unknown-key",
            ["finetune.head", "deepth", "kind, num_heads, depth"],
        ),
        ({"box_source": "annotated"}, "option-unused", ["box_source", "annotated", "mean", "mca"]),
        ({"mask": {"kind": "tube"}}, "unknown-key", ["finetune", "mask"]),
        ({"model": 5}, "wrong-type", ["model", 5, "--set model.size="]),
        ({"head": "mca"}, "wrong-type", ["head", "'mca'", "--set head.kind="]),
    ],
)
def test_what_finetuning_does_not_use_is_refused(tiny, change, code, named):
    with refuses(code, *named):
        finetune_config(tiny, "mean", change)


PUBLISHED = {
    # base rate, epochs, batch, stride, flips of pretraining
    "ssv2": (1.5e-4, 800, 2048, 2, ()),
    "epic100": (1.5e-4, 800, 2048, 2, ("x",)),
    "k400": (1.5e-4, 800, 2048, 4, ("x",)),
    "ucf101": (3e-4, 3200, 192, 4, ("x",)),
}
FINETUNED = {
    # rate at 512 or, of UCF101 and HMDB51, 128 clips; epochs, frames, flips, layer decay, drop path
    "ssv2": (1e-3, 50, "segments", (), 0.75, 0.1),
    "k400": (2e-3, 100, "dense", ("x",), 0.75, 0.1),
    "epic100": (1e-3, 100, "segments", (), 0.75, 0.1),
    "ucf101": (2.5e-4, 100, "dense", ("x",), 0.7, 0.2),
    "hmdb51": (5e-4, 100, "dense", ("x",), 0.7, 0.2),
}


SCRIPTS = {
    # encoder and decoder width, decoder depth, pretraining epochs and batch; finetuning epochs,
    # batch, rate of the script at its batch, layer decay
    "ssv2-2400": (768, 384, 4, 2400, 2048, 30, 384, 5e-4, 0.75),
    "ssv2-vit-s": (384, 192, 4, 2400, 2048, 40, 384, 1e-3, 0.7),
    "k400-1600": (768, 384, 4, 1600, 2048, 75, 384, 5e-4, 0.75),
    "k400-vit-s": (384, 192, 4, 1600, 1024, 150, 384, 5e-4, 0.75),
    "k400-vit-l": (1024, 512, 12, 1600, 512, 35, 128, 2e-3, 0.75),
}


@pytest.mark.parametrize("recipe", SCRIPTS)
def test_other_sizes_and_lengths_have_the_numbers_of_videomaes_scripts(recipe):
    tables = read_recipe(recipe, None)
    config, tuned = pretrain_config(tables, "videomae"), finetune_config(tables, "mean")
    model, rate = config.model, SCRIPTS[recipe][7]
    found = (
        model.width,
        model.decoder_width,
        model.decoder_depth,
        config.epochs,
        config.batch_size,
    )
    found += (tuned.epochs, tuned.batch_size)
    assert (*found, rate, tuned.optim.layer_decay) == SCRIPTS[recipe]
    assert model.decoder_width == 64 * model.decoder_heads and tuned.repeats == 2
    # VideoMAE's scripts leave repeated views out of the batch that scales the rate.
    found_rate = scaled_learning_rate(
        tuned.optim.base_learning_rate, effective_batch(tuned.batch_size, tuned.repeats)
    )
    assert found_rate == pytest.approx(scaled_learning_rate(rate, tuned.batch_size))
    least_rate = scaled_learning_rate(
        tuned.optim.min_learning_rate, effective_batch(tuned.batch_size, tuned.repeats)
    )
    assert least_rate == pytest.approx(scaled_learning_rate(1e-6, tuned.batch_size))
    assert config.cut.stride == (2 if recipe.startswith("ssv2") else 4)


@pytest.mark.parametrize("dataset", PUBLISHED)
def test_pretraining_has_the_published_numbers(dataset):
    config = pretrain_config(read_recipe(dataset, None), "mofo")
    found = (config.optim.base_learning_rate, config.epochs, config.batch_size, config.cut.stride)
    assert (*found, config.flips) == PUBLISHED[dataset]
    optim, model = config.optim, config.model
    assert (optim.betas, optim.weight_decay, optim.warmup_epochs) == ((0.9, 0.95), 0.05, 40.0)
    assert config.crop.to_table() == {"kind": "multi_scale", "scales": (1.0, 0.875, 0.75, 0.66)}
    assert config.mask.options == {"mask_ratio": 0.9, "inside_ratio": 0.75, "inside": "box"}
    assert (model.num_tokens, model.decoder_depth, model.decoder_width) == (1568, 4, 384)


@pytest.mark.parametrize(("dataset", "stride"), [("ssv2", 3), ("k400", 4)])
def test_mme_has_the_published_numbers(dataset, stride):
    config = pretrain_config(read_recipe(dataset, None), "mme")
    model, tracks = config.model, config.target
    assert (config.batch_size, config.cut.stride, config.optim.betas) == (768, stride, (0.9, 0.999))
    assert (model.decoder_depth, model.decoder_width) == (1, 192)
    assert config.mask.to_table() == {"kind": "tube", "mask_ratio": 0.7}
    assert (tracks.kind, tracks.length, tracks.points, tracks.shape) == ("tracks", 6, 4, True)
    assert tracks.stabilised is True


@pytest.mark.parametrize("dataset", FINETUNED)
def test_finetuning_has_the_published_numbers(dataset):
    config = finetune_config(read_recipe(dataset, None), "mean")
    optim, augment = config.optim, config.augment
    # VideoMAE's scripts leave repeated views out of the batch that scales the rate.
    rate = scaled_learning_rate(
        optim.base_learning_rate, effective_batch(config.batch_size, config.repeats)
    )
    found = (rate, config.epochs, config.frames.kind, config.flips)
    assert (*found, optim.layer_decay, config.model.drop_path) == FINETUNED[dataset]
    assert (optim.betas, optim.weight_decay, optim.warmup_epochs) == ((0.9, 0.999), 0.05, 5.0)
    assert (augment.rand_magnitude, augment.rand_layers, augment.rand_magnitude_std) == (7, 4, 0.5)
    assert (augment.erase_probability, augment.label_smoothing) == (0.25, 0.1)
    assert (augment.mixup_alpha, augment.cutmix_alpha) == (0.8, 1.0)


@pytest.mark.parametrize("dataset", ["ssv2", "epic100"])
def test_finetuning_with_cross_attention_has_mofos_numbers(dataset):
    config = finetune_config(read_recipe(dataset, None), "mca")
    assert (config.head.num_heads, config.head.depth) == (3, 1)
    assert (config.epochs, config.early_stop_epochs) == (100, 10)
    assert (config.frames.kind, config.flips) == ("segments", ())


def test_a_mask_without_its_ratio_is_refused(tiny):
    change = {"mask": {"kind": "motion_tube", "mask_ratio": 0.5}}
    with refuses("missing-key", "motion_tube", "inside_ratio"):
        pretrain_config(tiny, "videomae", change)


def test_unknown_methods_and_heads_list_the_known(tiny):
    with refuses("unknown-name", "mae", "mofo, videomae"):
        pretrain_config(tiny, "mae")
    with refuses("unknown-name", "max", "mean, mca"):
        finetune_config(tiny, "max")


def test_the_mean_head_takes_no_options_of_the_other(tiny):
    with refuses("option-unused", "--mca-depth", "--head mca"):
        finetune_config(tiny, "mean", {"head": {"depth": 2}})
    assert finetune_config(tiny, "mca", {"head": {"depth": 2}}).head.depth == 2
    tiny["finetune"]["mca"] = {"head": {"depth": 3}}
    assert finetune_config(tiny, "mca").head.depth == 3
    assert finetune_config(tiny, "mean").head.kind == "mean"


def test_the_recipe_names_its_own_head(tiny):
    assert finetune_config(tiny, None).head.kind == "mean"
    tiny["finetune"]["head"] = {"kind": "mca"}
    assert finetune_config(tiny, None).head.kind == "mca"


def test_size_names_a_model_and_fields_change_it(tiny):
    tiny["model"] = {"size": "vit-s", "tubelet_size": 8}
    model = pretrain_config(tiny, "mofo").model
    assert (model.width, model.depth, model.tubelet_size) == (384, 12, 8)
    # The recipe's own widths do not stand against a size that is given after them.
    toy = read_recipe("toy", None)
    model = pretrain_config(toy, "mofo", parse_changes(("model.size=vit-s", "model.depth=6"))).model
    assert (model.width, model.depth, model.num_heads, model.tubelet_size) == (384, 6, 6, 8)


def test_kinds_of_label_go_together(tiny):
    assert finetune_config(tiny, "mean", {"labels": ["verb", "noun"]}).labels == ("verb", "noun")
    for labels in ([], ["label", "verb"], ["noun", "verb"]):
        with refuses("unknown-name", "labels", *labels):
            finetune_config(tiny, "mean", {"labels": labels})


def test_a_recipe_that_is_no_toml_is_refused(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("epochs = = 3")
    with refuses("wrong-format", path):
        read_recipe("toy", path)
    path.write_text("[pretraining]\nepochs = 3")
    with refuses("unknown-key", path, "pretraining", "finetune"):
        read_recipe("toy", path)
    with refuses("missing-file", tmp_path / "missing.toml"):
        read_recipe("toy", tmp_path / "missing.toml")


def test_a_recipe_extends_another(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('extends = "ssv2"\n[pretrain]\nepochs = 3\n[evaluate]\ncrops = 1')
    base, mine = read_recipe("ssv2", None), read_recipe("ssv2", path)
    assert mine["pretrain"]["epochs"] == 3
    assert mine["pretrain"]["optim"] == base["pretrain"]["optim"]
    assert mine["evaluate"] == {**base["evaluate"], "crops": 1}
    path.write_text('extends = "nothing"')
    with refuses("unknown-name", "extends", "nothing", "default"):
        read_recipe("ssv2", path)


def test_a_dataset_without_a_recipe_gets_the_default():
    assert read_recipe("holiday-videos", None) == read_recipe("default", None)


def test_merging_replaces_a_choice_of_another_kind():
    base = {"mask": {"kind": "tube", "ratio": 1}, "optim": {"lr": 1, "wd": 2}}
    assert merge(base, {"optim": {"lr": 3}})["optim"] == {"lr": 3, "wd": 2}
    assert merge(base, {"mask": {"ratio": 2}})["mask"] == {"kind": "tube", "ratio": 2}
    assert merge(base, {"mask": {"kind": "block"}})["mask"] == {"kind": "block"}
    assert flatten(base) == {"mask.kind": "tube", "mask.ratio": 1, "optim.lr": 1, "optim.wd": 2}
    named = {"mask": "tube"}
    assert merge(named, {"mask": {"ratio": 2}})["mask"] == {"kind": "tube", "ratio": 2}
    assert merge(named, {"mask": {"kind": "block", "side": 1}})["mask"] == {
        "kind": "block",
        "side": 1,
    }


@pytest.mark.parametrize(
    ("settings", "name", "kind", "options"),
    [
        (("mask=random", "mask.mask_ratio=0.75"), "mask", "random", {"mask_ratio": 0.75}),
        (("mask.kind=random", "mask.mask_ratio=0.75"), "mask", "random", {"mask_ratio": 0.75}),
        (
            ("decoder_mask=motion", "decoder_mask.share=0.25"),
            *("decoder_mask", "motion", {"share": 0.25}),
        ),
    ],
)
def test_a_kind_by_name_and_an_option_of_it_belong_together(settings, name, kind, options):
    tables = read_recipe("toy", None)
    choice = getattr(pretrain_config(tables, "videomae", parse_changes(settings)), name)
    assert choice.kind == kind and options.items() <= choice.options.items()


@pytest.mark.parametrize(
    "settings",
    [
        ("mask.mask_ratio=0.75", "mask=random"),
        ("mask.mask_ratio=0.75", "mask.kind=random"),
        ("model.depth=6", "model.size=vit-s"),
    ],
)
def test_a_setting_that_a_later_one_would_drop_is_refused(settings):
    with refuses("option-conflict", settings[0].partition("=")[0], f"{settings[1]} first"):
        parse_changes(settings)
    assert parse_changes(settings[::-1])
    assert parse_changes(("mask.kind=tube", "mask=random")) == {"mask": "random"}


def test_numbers_and_truth_are_not_mixed_up():
    assert convert(1, float, "x") == 1.0
    for value, kind in ((True, int), (True, float), (1.5, int), (1, bool), (1, str)):
        with refuses("wrong-type", repr(value), kind.__name__):
            convert(value, kind, "x")


OLDEST_OPTIONS = """
augment.cutmix_alpha augment.erase_probability augment.label_smoothing augment.mixup_alpha
augment.rand_layers augment.rand_magnitude augment.rand_magnitude_std batch_size crop.area
crop.aspect crop.kind crop.pixels crop.scales decoder_mask.share dropout early_stop_epochs
epochs flips frames.kind frames.stride head.depth head.head_width head.kind head.mlp_ratio
head.num_heads head.residual init_scale labels mask.aspect mask.base mask.inside_ratio mask.kind
mask.mask_ratio mask.min_positions mask.moving_share mask.pattern mask.speed mask.spread
mask.stabilised model.activation_checkpointing model.attention model.decoder_depth
model.decoder_heads model.decoder_mlp_ratio model.decoder_width model.depth model.drop_path
model.head_norm_eps model.image_size model.layer_norm_eps model.mlp_ratio model.num_frames
model.num_heads model.patch_size model.positions model.prediction_dim
model.second_prediction_dim model.tubelet_size model.width motion_source
optim.base_learning_rate optim.betas optim.eps optim.gradient_clipping optim.layer_decay
optim.min_learning_rate optim.warmup_epochs optim.weight_decay repeats shuffle_shards
target.cells target.decoders target.gap target.points target.quiet target.scale
target.shape_share target.softness target.stabilised target.starts target.steps target.still
target.upsample target.weight trajectories.interpolate trajectories.length trajectories.points
trajectories.positions trajectories.shape trajectories.stabilised validate_epochs
"""
"""Options that a run has recorded since the first version, or since the method exists that has
them. Later ones need their former value in ADDED_LATER."""


def keyword_options(functions):
    return {
        name
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def recorded_options():
    """The names of all options that the `config` of a run can have."""
    chosen = {
        "frames": keyword_options(FRAME_RULES.values()),
        "crop": keyword_options(CROPS.values()),
        "mask": keyword_options(mask.draw for mask in MASKS.values()),
        "decoder_mask": keyword_options(mask.draw for mask in DECODER_MASKS.values()),
    }
    hints = get_type_hints(options_config.PretrainConfig) | get_type_hints(FinetuneConfig)
    for name, kind in hints.items():
        if name in chosen:
            yield from (f"{name}.{option}" for option in ("kind", *chosen[name]))
        elif is_dataclass(kind) and name != "target":
            yield from (f"{name}.{field.name}" for field in fields(kind))
        elif name != "target":
            yield name
    for name, target in TARGETS.items():
        table = name if target.has_own_table else "target"
        yield from (f"{table}.{field.name}" for field in fields(target))


def test_a_new_option_has_a_value_for_the_runs_before_it():
    """Otherwise these runs neither continue nor lend their features."""
    later = {name.removeprefix("config.") for name in ADDED_LATER if name.startswith("config.")}
    assert later.isdisjoint(OLDEST_OPTIONS.split())
    assert later | set(OLDEST_OPTIONS.split()) == set(recorded_options())


def test_a_run_that_lacks_later_options_continues(tmp_path):
    """With what it did before these options existed, which may differ from the defaults now."""
    tables, folder = read_recipe("default", None), RunFolder(tmp_path)
    before = ("mask.first=motion", "mask.top=16", "mask.before=false")
    now, other = (
        {"config": to_table(pretrain_config(tables, "mgm", parse_changes(changes)))}
        for changes in (before, ("mask.first=random", *before[1:]))
    )
    older = copy.deepcopy(now)
    del older["config"]["frames"]["begins_every"], older["config"]["box_source"]
    for option in ("first", "top", "before"):
        del older["config"]["mask"][option]
    folder.begin(older, overwrite=False)
    assert folder.differences(now) == []
    assert folder.differences(other) == ["config.mask.first was None and is now 'random'"]
