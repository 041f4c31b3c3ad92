"""Reads recipes (TOML) into the dataclasses of train/options/config.py.

A recipe has the tables [model], [loader], [pretrain], [finetune] and [evaluate]. A table
[pretrain.<method>] or [finetune.<head>] holds the values that this method or head changes. The
tables of other methods and heads are not read. Unknown keys are refused, and so are options that
the chosen mask, crop or head does not have.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from shared.decoder_masks import DECODER_MASKS
from shared.errors import InputError
from shared.flow_tube import FINE
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
from train.tables.nested import check_name, flatten, refuse_unknown
from train.tables.typed import build, choose, fields_by_name

RECIPES = Path(__file__).resolve().parents[1] / "recipes"

MCA_FIELDS = {
    "mca_heads": "num_heads",
    "mca_depth": "depth",
    "mca_width": "head_width",
    "mca_residual": "residual",
    "mca_box": "box",
    "mca_inside": "inside",
}
"""The field of HeadConfig that each option of the command line sets."""

DECODER_FIELDS = (
    *("decoder_width", "decoder_depth", "decoder_heads", "decoder_mlp_ratio"),
    *("decoder_output", "prediction_dim", "second_prediction_dim", "predict_visible"),
)
"""Fields of ModelConfig that only pretraining uses."""


def read_recipe(dataset: str, file: Path | None) -> dict[str, Any]:
    """Read the tables of a recipe: `file`, or the recipe of the dataset, or default.toml.

    With `extends = "default"` a recipe takes the tables of train/recipes/default.toml and holds
    only what differs from them.

    Raises:
        InputError: the file does not exist, is not TOML, or has unknown tables.
    """
    path = file or RECIPES / f"{dataset}.toml"
    if file is None and not path.is_file():
        path = RECIPES / "default.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError("missing-file", f"the recipe {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError("wrong-format", f"{path} is not TOML: {error}") from None
    sections = ("extends", "model", "loader", "pretrain", "finetune", "evaluate")
    refuse_unknown(tables, dict.fromkeys(sections), str(path))
    for name, table in tables.items():
        if name != "extends" and not isinstance(table, Mapping):
            raise InputError(
                "wrong-type", f"{path}: {name} is {table!r:.60}; it must be a table, [{name}]"
            )
    base = tables.pop("extends", None)
    if base is None:
        return tables
    known = sorted(each.stem for each in RECIPES.glob("*.toml") if each != path.resolve())
    check_name("extends", base, tuple(known))
    return merge(read_recipe(base, None), tables)


def parse_changes(settings: tuple[str, ...]) -> dict[str, Any]:
    """Nested tables of settings such as `optim.weight_decay=0.1`; the values are TOML.

    Raises:
        InputError: a setting has no value, or an earlier setting would have no effect.
    """
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError("bad-setting", f"--set {setting} has no value; write --set KEY=VALUE")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text  # a bare word is a string: --set mask.kind=tube
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        before, changes = changes, merge(changes, value)
        if dropped := _dropped(before, changes):
            raise InputError(
                "option-conflict",
                f"--set {setting} replaces what --set {dropped[0]} gave before it; give --set "
                f"{setting} first, or leave {dropped[0]} out",
            )
    return changes


def _dropped(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The options that are no longer there, without names and kinds, which others may replace."""
    kept = flatten(after)
    return [
        key
        for key in flatten(before)
        if key.rpartition(".")[2] != "kind"
        and not any(each == key or each.startswith(f"{key}.") for each in kept)
    ]


def pretrain_config(
    tables: Mapping[str, Any], method: str, changes: Mapping[str, Any] | None = None
) -> PretrainConfig:
    """The options of pretraining by one method of a recipe, with `changes` applied."""
    table, methods = _split_variants(tables, "pretrain")
    check_name("method", method, tuple(methods))
    table = merge(merge(table, methods[method]), changes or {})
    table["model"] = _model(tables, table)
    config = recorded_pretrain_config(table)
    _refuse_other_predict_visible(table["model"].get("predict_visible"), config)
    return config


def _refuse_other_predict_visible(given: bool | None, config: PretrainConfig) -> None:
    if given not in (None, config.model.predict_visible):
        which = "visible and masked" if config.target.predicts_visible else "masked"
        raise InputError(
            "option-conflict",
            f"[model] predict_visible is {str(given).lower()}, but the target {config.target.name} "
            f"is predicted for {which} tokens; leave predict_visible out",
        )


def finetune_config(
    tables: Mapping[str, Any], head: str | None, changes: Mapping[str, Any] | None = None
) -> FinetuneConfig:
    """The options of finetuning with one head, with `changes` applied. None is the recipe's
    head."""
    table, heads = _split_variants(tables, "finetune")
    unused = [name for name in _table(changes or {}, "model") if name in DECODER_FIELDS]
    if unused:
        raise InputError(
            "option-unused",
            f"finetuning has no decoder and does not use {', '.join(unused)} of model; leave it "
            "out",
        )
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
        raise InputError(
            "option-unused",
            f"the head is mean, and only the head mca has {', '.join(unused)}; give --head mca, or "
            f"leave {'it' if len(unused) == 1 else 'them'} out",
        )


def recorded_pretrain_config(table: Mapping[str, Any]) -> PretrainConfig:
    """The options of a complete table, such as `config` in the options.json of a run."""
    rest = {key: value for key, value in table.items() if key not in OWN_TABLES}
    config = build(PretrainConfig, rest | {"target": build_target(table)}, "pretrain")
    masks = {name: mask.draw for name, mask in MASKS.items()}
    decoder_masks = {name: mask.draw for name, mask in DECODER_MASKS.items()}
    config = _with_choices(
        config, frames=FRAME_RULES, crop=CROPS, mask=masks, decoder_mask=decoder_masks
    )
    _check_mask(config)
    return _with_decoder(config)


def recorded_finetune_config(table: Mapping[str, Any]) -> FinetuneConfig:
    """The options of a complete table, such as `config` in the options.json of a run."""
    config = build(FinetuneConfig, table, "finetune")
    return _with_choices(config, frames=FRAME_RULES, crop=CROPS)


def loader_config(
    tables: Mapping[str, Any], changes: Mapping[str, Any] | None = None
) -> LoaderConfig:
    """The loader options of a recipe, with `changes` applied."""
    return build(LoaderConfig, merge(tables.get("loader", {}), changes or {}), "loader")


def evaluate_config(
    tables: Mapping[str, Any], changes: Mapping[str, Any] | None = None
) -> EvaluateConfig:
    """The test views of a recipe, with `changes` applied."""
    return build(EvaluateConfig, merge(tables.get("evaluate", {}), changes or {}), "evaluate")


def written_options(tables: Mapping[str, Any], section: str, variant: str) -> dict[str, Any]:
    """The options of [pretrain] or [finetune] with [section.variant], as a recipe has them.

    Options that the recipe leaves out are missing, so that a new option with a default does not
    change what is returned.
    """
    common, variants = _split_variants(tables, section)
    return merge(common, variants.get(variant, {}))


def _split_variants(
    tables: Mapping[str, Any], section: str
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The common options of [pretrain] or [finetune], and its [section.<variant>] tables."""
    if section not in tables:
        raise InputError("missing-key", f"the recipe has no table [{section}]")
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
    """The fields of the model: those of [model], then those of the section. `size` is a named
    size."""
    common, own = ({"model": _table(each, "model")} for each in (tables, table))
    fields = merge(common, own)["model"]
    size = fields.pop("size", None)
    return fields if size is None else {**named_config(size).to_dict(), **fields}


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The table `name` of `tables`; empty if there is none."""
    table = tables.get(name, {})
    if not isinstance(table, Mapping):
        first = {"model": "size", "head": "kind"}[name]
        raise InputError(
            "wrong-type",
            f"{name} is {table!r}; it must be a table of options, such as --set {name}.{first}=...",
        )
    return table


def _with_choices(config: Any, **registries: Mapping[str, Any]) -> Any:
    """The config after each Choice was checked against its registry, completed and tried once."""
    chosen = {
        name: choose(registry, getattr(config, name), name) for name, registry in registries.items()
    }
    for name, choice in chosen.items():
        try:
            registries[name][choice.kind](*_trial_arguments(name), **choice.options)
        except InputError as error:
            raise error.at(f"[{name}]") from None
    return replace(config, **chosen)


def _trial_arguments(name: str) -> tuple[Any, ...]:
    """Arguments for a trial call, in which a function checks the values of its options."""
    rng = np.random.default_rng(0)
    return {
        "frames": (8, 2, np.zeros(2)),
        "crop": (64, 64, rng),
        "mask": (_still_scene(1, 14), rng),
        "decoder_mask": (_still_scene(1, 14), np.ones(14 * 14, np.bool_), rng),
    }[name]


def _still_scene(time_steps: int, grid: int) -> Scene:
    nothing, motion = np.zeros((grid, grid), np.bool_), np.zeros((time_steps, grid, grid))
    flow = np.zeros((time_steps - 1, grid * FINE, grid * FINE, 2))
    return Scene(time_steps, nothing, motion, flow, nothing)


def _with_decoder(config: PretrainConfig) -> PretrainConfig:
    """The config with as many predicted numbers per token as the target has."""
    model, sizes = config.model, config.target.num_values(config.cut)
    total, second = sum(sizes), sizes[1] if len(sizes) > 1 else None
    if model.prediction_dim not in (None, total):
        raise InputError(
            "option-conflict",
            f"[model] prediction_dim is {model.prediction_dim}, but the target "
            f"{config.target.name} has {total} numbers per token; leave prediction_dim out",
        )
    if model.second_prediction_dim not in (None, second):
        raise InputError(
            "option-conflict",
            "[model] second_prediction_dim is computed from the target; leave it out",
        )
    if total != model.output_dim:
        model = replace(model, prediction_dim=total)
    visible = config.target.predicts_visible
    return replace(
        config, model=replace(model, second_prediction_dim=second, predict_visible=visible)
    )


def _check_mask(config: PretrainConfig) -> None:
    """Refuse a mask that hides all tokens of the model's grid, or none."""
    scene = _still_scene(config.model.time_steps, config.model.grid)
    mask = MASKS[config.mask.kind].draw(scene, np.random.default_rng(0), **config.mask.options)
    if mask.all() or not mask.any():
        raise InputError(
            "out-of-range",
            f"[mask] {config.mask.kind} masks {mask.sum()} of {mask.size} tokens of a grid of "
            f"{config.model.grid} x {config.model.grid} patches; some must be masked and some "
            "visible",
        )
