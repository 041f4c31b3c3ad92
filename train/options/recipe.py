"""Reads recipes (TOML) into the dataclasses of train/options/config.py.

A recipe has the tables [model], [loader], [pretrain], [finetune] and [evaluate]. A table
[pretrain.<method>] or [finetune.<head>] holds what that method or head changes; the tables of the
other methods are not looked at. Unknown keys, and options that the chosen mask, crop or head does
not take, are refused.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import InputError
from shared.masks import MASKS, Scene
from train.clips.view_rules import CROPS, FRAME_RULES
from train.network.head_config import KINDS as HEAD_KINDS
from train.network.head_config import HeadConfig
from train.network.model_config import named_config
from train.objectives.registry import OWN_TABLES, build_target
from train.options.config import (
    EvaluateConfig,
    FinetuneConfig,
    LoaderConfig,
    PretrainConfig,
)
from train.options.merging import merge
from train.tables.nested import check_name, refuse_unknown
from train.tables.typed import build, choose, fields_by_name

RECIPES = Path(__file__).resolve().parents[1] / "recipes"

MCA_FIELDS = {
    "mca_heads": "num_heads",
    "mca_depth": "depth",
    "mca_width": "head_width",
    "mca_residual": "residual",
    "mca_box": "box",
}
"""By name of an option of the command line: the field of HeadConfig that it sets."""

DECODER_FIELDS = (
    *("decoder_width", "decoder_depth", "decoder_heads", "decoder_mlp_ratio"),
    *("prediction_dim", "second_prediction_dim"),
)
"""Of ModelConfig, what only pretraining uses."""


def read_recipe(dataset: str, file: Path | None) -> dict[str, Any]:
    """The tables of `file`, or of the dataset's own recipe, or of default.toml where it has none.

    A recipe that says `extends = "default"` begins with the tables of that one in train/recipes and
    holds what differs.

    Raises:
        InputError: no such file, not TOML, or unknown tables.
    """
    path = file or RECIPES / f"{dataset}.toml"
    if file is None and not path.is_file():
        path = RECIPES / "default.toml"
    try:
        with open(path, "rb") as stream:
            tables = tomllib.load(stream)
    except FileNotFoundError:
        raise InputError(f"no recipe at {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    sections = ("extends", "model", "loader", "pretrain", "finetune", "evaluate")
    refuse_unknown(tables, dict.fromkeys(sections), str(path))
    for name, table in tables.items():
        if name != "extends" and not isinstance(table, Mapping):
            raise InputError(f"{path}: {name} is {table!r:.60}; a table [{name}] is expected")
    base = tables.pop("extends", None)
    if base is None:
        return tables
    known = sorted(recipe.stem for recipe in RECIPES.glob("*.toml"))
    check_name("extends", base, tuple(name for name in known if name != path.stem))
    return merge(read_recipe(base, None), tables)


def parse_changes(settings: tuple[str, ...]) -> dict[str, Any]:
    """`--set optim.weight_decay=0.1` and the like as nested tables; values are TOML."""
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: KEY=VALUE is expected")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text  # a bare word is a text: --set mask.kind=tube
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        changes = merge(changes, value)
    return changes


def pretrain_config(
    tables: Mapping[str, Any], method: str, changes: Mapping[str, Any] | None = None
) -> PretrainConfig:
    """The pretraining of a recipe by one method, with `changes` on top."""
    table, methods = _split_variants(tables, "pretrain")
    check_name("method", method, tuple(methods))
    table = merge(merge(table, methods[method]), changes or {})
    table["model"] = _model(tables, table)
    return recorded_pretrain_config(table)


def finetune_config(
    tables: Mapping[str, Any], head: str | None, changes: Mapping[str, Any] | None = None
) -> FinetuneConfig:
    """The finetuning of a recipe with one head (None: the recipe's), with `changes` on top."""
    table, heads = _split_variants(tables, "finetune")
    unused = [name for name in _table(changes or {}, "model") if name in DECODER_FIELDS]
    if unused:
        raise InputError(f"finetuning has no decoder: {', '.join(unused)} of model is not used")
    kind = head or _table(table, "head").get("kind", "mean")
    check_name("head", kind, HEAD_KINDS)
    table = merge(merge(table, {"head": {"kind": kind}, **heads.get(kind, {})}), changes or {})
    table["head"] = {"kind": kind, **_table(table, "head")}
    if kind == "mean":
        _refuse_options_of_mca(table["head"])
    table["model"] = _model(tables, table)
    return recorded_finetune_config(table)


def _refuse_options_of_mca(head: Mapping[str, Any]) -> None:
    refuse_unknown(head, fields_by_name(HeadConfig), "finetune.head")
    options = {field: f"--{option.replace('_', '-')}" for option, field in MCA_FIELDS.items()}
    unused = [options.get(field, f"head.{field}") for field in sorted(head) if field != "kind"]
    if unused:
        verb = "is" if len(unused) == 1 else "are"
        raise InputError(
            f"{', '.join(unused)} {verb} for --head mca, and the head is mean; give --head mca, or "
            f"leave {'it' if len(unused) == 1 else 'them'} out"
        )


def recorded_pretrain_config(table: Mapping[str, Any]) -> PretrainConfig:
    """The config of a complete table, such as `config` in a run's options.json."""
    rest = {key: value for key, value in table.items() if key not in OWN_TABLES}
    config = build(PretrainConfig, rest | {"target": build_target(table)}, "pretrain")
    masks = {name: mask.draw for name, mask in MASKS.items()}
    config = _with_choices(config, frames=FRAME_RULES, crop=CROPS, mask=masks)
    _check_mask(config)
    return _with_decoder(config)


def recorded_finetune_config(table: Mapping[str, Any]) -> FinetuneConfig:
    """The config of a complete table, such as `config` in a run's options.json."""
    config = build(FinetuneConfig, table, "finetune")
    return _with_choices(config, frames=FRAME_RULES, crop=CROPS)


def loader_config(
    tables: Mapping[str, Any], changes: Mapping[str, Any] | None = None
) -> LoaderConfig:
    """How clips are read."""
    return build(LoaderConfig, merge(tables.get("loader", {}), changes or {}), "loader")


def evaluate_config(
    tables: Mapping[str, Any], changes: Mapping[str, Any] | None = None
) -> EvaluateConfig:
    """The test views of a recipe."""
    return build(EvaluateConfig, merge(tables.get("evaluate", {}), changes or {}), "evaluate")


def _split_variants(
    tables: Mapping[str, Any], section: str
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The common options of [pretrain] or [finetune], and its [section.<variant>] tables."""
    if section not in tables:
        raise InputError(f"the recipe has no table [{section}]")
    cls = PretrainConfig if section == "pretrain" else FinetuneConfig
    known = {*fields_by_name(cls), *(OWN_TABLES if section == "pretrain" else ())}
    variants = {
        key: dict(value)
        for key, value in tables[section].items()
        if isinstance(value, Mapping) and key not in known
    }
    common = {key: value for key, value in tables[section].items() if key not in variants}
    return common, variants


def _model(tables: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the model: [model], then the section's own; `size` names a known one."""
    parts = ({"model": _table(each, "model")} for each in (tables, table))
    fields = merge(*parts)["model"]
    size = fields.pop("size", None)
    return fields if size is None else {**named_config(size).to_dict(), **fields}


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The table of that name, empty where there is none."""
    table = tables.get(name, {})
    if not isinstance(table, Mapping):
        first = {"model": "size", "head": "kind"}[name]
        raise InputError(
            f"{name} is {table!r}; it is a table of options, such as --set {name}.{first}=..."
        )
    return table


def _with_choices(config: Any, **registries: Mapping[str, Any]) -> Any:
    """The config with every Choice checked against its registry, completed, and tried once."""
    chosen = {
        name: choose(registry, getattr(config, name), name) for name, registry in registries.items()
    }
    for name, choice in chosen.items():
        try:
            registries[name][choice.kind](*_trial_arguments(name), **choice.options)
        except InputError as error:
            raise InputError(f"[{name}] {error}") from None
    return replace(config, **chosen)


def _trial_arguments(name: str) -> tuple[Any, ...]:
    """Arguments on which a function of a registry checks the values of its options."""
    rng = np.random.default_rng(0)
    return {
        "frames": (8, 2, np.zeros(2)),
        "crop": (64, 64, rng),
        "mask": (_still_scene(1, 14), rng),
    }[name]


def _still_scene(time_steps: int, grid: int) -> Scene:
    return Scene(time_steps, np.zeros((grid, grid), np.bool_), np.zeros((time_steps, grid, grid)))


def _with_decoder(config: PretrainConfig) -> PretrainConfig:
    """The config with decoders that predict as many numbers as the target has."""
    model, sizes = config.model, config.target.num_values(config.cut)
    total, second = sum(sizes), sizes[1] if len(sizes) > 1 else None
    if model.prediction_dim not in (None, total):
        raise InputError(
            f"[model] prediction_dim is {model.prediction_dim}, but target {config.target.name} "
            f"has {total} numbers a token; leave it out"
        )
    if model.second_prediction_dim not in (None, second):
        raise InputError("[model] second_prediction_dim follows from the target; leave it out")
    if total != model.output_dim:
        model = replace(model, prediction_dim=total)
    visible = config.target.predicts_visible
    return replace(
        config, model=replace(model, second_prediction_dim=second, predict_visible=visible)
    )


def _check_mask(config: PretrainConfig) -> None:
    """Refuse a mask that leaves the encoder or the decoder nothing to do on the model's grid."""
    scene = _still_scene(config.model.time_steps, config.model.grid)
    mask = MASKS[config.mask.kind].draw(scene, np.random.default_rng(0), **config.mask.options)
    if mask.all() or not mask.any():
        raise InputError(
            f"[mask] {config.mask.kind} hides {mask.sum()} of {mask.size} tokens, of a grid of "
            f"{config.model.grid} x {config.model.grid}; some must be hidden and some visible"
        )
