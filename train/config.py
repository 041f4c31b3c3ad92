"""What a run is made of: recipes (TOML) as frozen, checked dataclasses.

A recipe has the tables [model], [loader], [pretrain], [finetune] and [evaluate]. A table
[pretrain.<method>] or [finetune.<head>] holds what that method or head changes; the tables of the
other methods are not looked at. Unknown keys, and options that the chosen mask, crop or head does
not take, are refused.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import InputError
from shared.manifest import SPLITS
from shared.masks import MASKS, NEEDS_BOXES, NEEDS_MOTION, Scene
from train.augment import CROPS
from train.clip_table import FLOW, MotionNeeds
from train.frame_sampling import FRAME_RULES
from train.head import KINDS as HEAD_KINDS
from train.head import HeadConfig
from train.model_config import ModelConfig, named_config
from train.targets_motion import TrajectoryConfig
from train.typed_tables import Choice, build, choose, merge, refuse_unknown

RECIPES = Path(__file__).resolve().parent / "recipes"
FLIPS = ("x", "y", "time")
LABELS = (("label",), ("verb",), ("noun",), ("verb", "noun"))
TARGETS = ("normalised_pixels", "trajectories")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, warm-up and cosine decay."""

    base_learning_rate: float
    """Per 256 clips: the learning rate is this times the effective batch over 256."""
    betas: tuple[float, float]
    """Decay of the running mean and variance of the gradient."""
    weight_decay: float
    """Decoupled; not on biases, norms and other 1-D parameters."""
    warmup_epochs: float
    """The learning rate rises linearly from 0 over so many epochs."""
    min_learning_rate: float = 0.0
    """Where the cosine ends; per 256 clips too."""
    eps: float = 1e-8
    """Added to the root of the variance."""
    gradient_clipping: float = 0.0
    """Largest norm of the gradient; 0 clips nothing."""
    layer_decay: float = 1.0
    """Learning rate of a block, relative to the block after it; 1 is the same for all."""

    def __post_init__(self) -> None:
        _at_least(self, 0.0, "base_learning_rate", "weight_decay", "warmup_epochs")
        _at_least(self, 0.0, "min_learning_rate", "gradient_clipping")
        if not 0.0 < self.layer_decay <= 1.0:
            raise InputError(f"layer_decay is {self.layer_decay}; above 0 up to 1 is allowed")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise InputError(f"betas are {self.betas}; from 0 to below 1 is allowed")


@dataclass(frozen=True)
class LoaderConfig:
    """How clips are read and work is shared. Decides speed and memory, never a result."""

    workers: int = 2
    """Processes that read and decode for each training process; 0: the training process does."""
    prefetch: int = 4
    """Batches that each worker prepares ahead."""
    open_shards: int = 16
    """Shard files that a worker keeps open; below shuffle_shards it reopens them all the time."""
    cache_megabytes: int = 0
    """Decoded frames kept in memory, all workers of a process together: with several workers each
    keeps its own part. Useful where the whole dataset fits."""
    micro_batch_size: int = 32
    """Most clips of one forward pass of one process; beyond it gradients are accumulated. With
    `repeats` a clip counts once."""
    log_steps: int = 10
    """Optimiser steps between two lines of the log."""
    checkpoint_minutes: float = 10.0
    """A checkpoint at least so often; what a kill can cost. 0 saves at each line of the log."""

    def __post_init__(self) -> None:
        _at_least(self, 0, "workers", "cache_megabytes", "checkpoint_minutes")
        _at_least(self, 1, "prefetch", "open_shards", "micro_batch_size", "log_steps")


@dataclass(frozen=True)
class PretrainConfig:
    """Masked pretraining."""

    model: ModelConfig
    """Encoder and decoder."""
    epochs: int
    """Passes over the clips of split train."""
    batch_size: int
    """Clips of one optimiser step, over all processes and accumulation."""
    frames: Choice
    """Which frames: kind dense (stride) or segments."""
    crop: Choice
    """Which part of them: kind multi_scale, random_resized, shift or centre."""
    mask: Choice
    """What is hidden from the encoder: a function of shared/masks.py and its ratios."""
    optim: OptimConfig
    """AdamW."""
    flips: tuple[str, ...] = ()
    """Of x, y, time: each mirrors half of the clips."""
    target: str = "normalised_pixels"
    """What the decoder predicts: normalised_pixels (train/targets.py) or trajectories
    (train/targets_motion.py)."""
    trajectories: TrajectoryConfig | None = None
    """Which trajectories; of target trajectories only."""
    repeats: int = 1
    """Views of one read of a clip, each with its own crop and mask (VideoMAE: 4)."""
    shuffle_shards: int = 16
    """Shards whose clips are shuffled together; more is more random and reads more files."""
    motion_source: str = FLOW
    """Whose motion maps a mask looks at, or whose tracks are predicted: flow is
    OUT/<dataset>/flows, another name flows-<name>."""

    def __post_init__(self) -> None:
        _check_training(self)
        _check_name("target", self.target, TARGETS)
        self._check_trajectories()
        looks = self.mask.kind in NEEDS_MOTION or self.target == "trajectories"
        if self.motion_source != FLOW and not looks:
            raise InputError(
                f"motion_source is {self.motion_source!r}, but neither the mask {self.mask.kind} "
                f"nor the target {self.target} looks at motion; of use with the masks "
                f"{', '.join(sorted(NEEDS_MOTION))} and the target trajectories"
            )
        if self.optim.layer_decay != 1.0:
            raise InputError("optim.layer_decay is not used in pretraining; it must be 1")

    def _check_trajectories(self) -> None:
        if self.trajectories is None:
            return
        if self.target != "trajectories":
            raise InputError(f"trajectories is not used with target {self.target}; leave it out")
        if "time" in self.flips:
            raise InputError("flips has 'time', but points were tracked forward in time only")
        if not self.trajectories.interpolate and self.frames.kind != "dense":
            raise InputError(
                "trajectories.interpolate is off: frames must be of kind dense, a stride apart"
            )

    @property
    def needs_boxes(self) -> bool:
        return self.mask.kind in NEEDS_BOXES

    @property
    def needed_motion(self) -> MotionNeeds | None:
        """What to read of the flows shards, None where neither mask nor target needs them."""
        if self.trajectories is not None:
            tracks = self.trajectories
            return MotionNeeds(self.motion_source, tracks.length, tracks.shape)
        return MotionNeeds(self.motion_source) if self.mask.kind in NEEDS_MOTION else None

    @property
    def stride(self) -> int:
        """Frames of the video between two given ones, 1 where that is not fixed."""
        return self.frames.options.get("stride", 1)


@dataclass(frozen=True)
class AugmentConfig:
    """Colours, erasing and mixing in finetuning. Default: none."""

    rand_layers: int = 0
    """RandAugment operations one after another, colours only (see train/augment.py); 0 is off."""
    rand_magnitude: int = 7
    """Of RandAugment, 0 to 10."""
    rand_magnitude_std: float = 0.5
    """Spread of the magnitude."""
    erase_probability: float = 0.0
    """Random erasing: share of clips with a rectangle of noise."""
    mixup_alpha: float = 0.0
    """Beta parameter of mixup; 0 is off."""
    cutmix_alpha: float = 0.0
    """Beta parameter of cutmix; 0 is off. With both, each batch takes one by coin flip."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes."""

    def __post_init__(self) -> None:
        _at_least(self, 0, "rand_layers", "rand_magnitude_std", "mixup_alpha", "cutmix_alpha")
        if not 0 <= self.rand_magnitude <= 10:
            raise InputError(f"rand_magnitude is {self.rand_magnitude}; 0 to 10 is allowed")
        for name in ("erase_probability", "label_smoothing"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InputError(f"{name} is {getattr(self, name)}; 0 to below 1 is allowed")


@dataclass(frozen=True)
class FinetuneConfig:
    """Supervised finetuning."""

    model: ModelConfig
    """Encoder; decoder fields are of no use here and stay at the pretrained model's."""
    head: HeadConfig
    """How tokens are pooled."""
    epochs: int
    """Passes over the clips of split train."""
    batch_size: int
    """Clips of one optimiser step, over all processes and accumulation."""
    frames: Choice
    """Which frames: kind dense (stride) or segments; the same rule in evaluation."""
    crop: Choice
    """Which part of them: kind multi_scale, random_resized, shift or centre."""
    optim: OptimConfig
    """AdamW, with layer_decay."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Colours, erasing, mixing."""
    flips: tuple[str, ...] = ()
    """Of x, y, time: each mirrors half of the clips, and the label with them by classes.json, which
    must allow it. Verbs and nouns stay."""
    labels: tuple[str, ...] = ("label",)
    """Kinds of label learned: ["label"], or ["verb", "noun"]."""
    dropout: float = 0.0
    """Of the pooled vector."""
    init_scale: float = 0.001
    """Factor on the classifier's initial weights."""
    repeats: int = 1
    """Views of one read of a clip (repeated augmentation)."""
    shuffle_shards: int = 16
    """Shards whose clips are shuffled together."""
    early_stop_epochs: int = 0
    """Stop after so many epochs without a better top-1 on split val; 0 never stops early."""
    validate_epochs: int = 1
    """Epochs between two evaluations on split val."""

    def __post_init__(self) -> None:
        _check_training(self)
        _at_least(self, 0, "early_stop_epochs", "init_scale")
        _at_least(self, 1, "validate_epochs")
        if self.labels not in LABELS:
            raise InputError(f"labels are {self.labels}; allowed: {', '.join(map(str, LABELS))}")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout is {self.dropout}; 0 to below 1 is allowed")

    @property
    def needs_boxes(self) -> bool:
        return self.head.needs_boxes


@dataclass(frozen=True)
class EvaluateConfig:
    """Test views of a clip, whose softmax scores are averaged."""

    split: str = "test"
    """Which clips: the split that the papers on a dataset report."""
    segments: int = 1
    """Views along time, evenly spread."""
    crops: int = 1
    """Squares along the long side: 1 is the centre, 3 are both ends and the centre."""

    def __post_init__(self) -> None:
        _check_name("split", self.split, SPLITS)
        _at_least(self, 1, "segments", "crops")


# ---------------------------------------------------------------------------------------------
# Reading recipes
# ---------------------------------------------------------------------------------------------


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
    base = tables.pop("extends", None)
    if base is None:
        return tables
    known = sorted(recipe.stem for recipe in RECIPES.glob("*.toml"))
    _check_name("extends", base, tuple(name for name in known if name != path.stem))
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
    _check_name("method", method, tuple(methods))
    table = merge(merge(table, methods[method]), changes or {})
    table["model"] = _model(tables, table)
    return recorded_pretrain_config(table)


def finetune_config(
    tables: Mapping[str, Any], head: str | None, changes: Mapping[str, Any] | None = None
) -> FinetuneConfig:
    """The finetuning of a recipe with one head (None: the recipe's), with `changes` on top."""
    table, heads = _split_variants(tables, "finetune")
    kind = head or table.get("head", {}).get("kind", "mean")
    _check_name("head", kind, HEAD_KINDS)
    table = merge(merge(table, {"head": {"kind": kind}, **heads.get(kind, {})}), changes or {})
    table["head"] = {"kind": kind, **table["head"]}
    if kind == "mean":
        refuse_unknown(table["head"], {"kind": kind}, "finetune.head, kind 'mean'")
    table["model"] = _model(tables, table)
    return recorded_finetune_config(table)


def recorded_pretrain_config(table: Mapping[str, Any]) -> PretrainConfig:
    """The config of a complete table, such as `config` in a run's options.json."""
    config = build(PretrainConfig, table, "pretrain")
    config = _with_choices(config, frames=FRAME_RULES, crop=CROPS, mask=MASKS)
    _check_mask(config)
    return _with_trajectories(config) if config.target == "trajectories" else config


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
    known = set(cls.__dataclass_fields__)
    variants = {
        key: value
        for key, value in tables[section].items()
        if isinstance(value, Mapping) and key not in known
    }
    common = {key: value for key, value in tables[section].items() if key not in variants}
    return common, variants


def _model(tables: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the model: [model], then the section's own; `size` names a known one."""
    fields = merge(tables.get("model", {}), table.get("model", {}))
    size = fields.pop("size", None)
    return fields if size is None else {**named_config(size).to_dict(), **fields}


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


def _with_trajectories(config: PretrainConfig) -> PretrainConfig:
    """The config with its trajectories, and a decoder that predicts as many numbers."""
    trajectories = config.trajectories or TrajectoryConfig()
    numbers = sum(trajectories.parts(config.stride))
    if config.model.prediction_dim not in (None, numbers):
        raise InputError(
            f"[model] prediction_dim is {config.model.prediction_dim}, but these trajectories are "
            f"{numbers} numbers a token; leave it out"
        )
    model = replace(config.model, prediction_dim=numbers)
    return replace(config, model=model, trajectories=trajectories)


def _check_mask(config: PretrainConfig) -> None:
    """Refuse a mask that leaves the encoder or the decoder nothing to do on the model's grid."""
    scene = _still_scene(config.model.time_steps, config.model.grid)
    mask = MASKS[config.mask.kind](scene, np.random.default_rng(0), **config.mask.options)
    if mask.all() or not mask.any():
        raise InputError(
            f"[mask] {config.mask.kind} hides {mask.sum()} of {mask.size} tokens, of a grid of "
            f"{config.model.grid} x {config.model.grid}; some must be hidden and some visible"
        )


def _check_training(config: PretrainConfig | FinetuneConfig) -> None:
    _at_least(config, 1, "epochs", "batch_size", "repeats", "shuffle_shards")
    for flip in config.flips:
        _check_name("flips", flip, FLIPS)


def _check_name(what: str, name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise InputError(f"{what} is {name!r}; allowed: {', '.join(allowed)}")


def _at_least(config: Any, least: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not value >= least:
            raise InputError(f"{name} is {value}; at least {least} is allowed")
