"""What a run is made of: frozen dataclasses, checked where they are built (see recipe.py)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from shared.errors import InputError
from shared.manifest import FLIPS, SPLITS
from shared.masks import MASKS
from train.clips.few_labels import FewLabels
from train.clips.table import DEFAULT_BOXES, FLOW, MotionNeeds
from train.network.head_config import HeadConfig
from train.network.model_config import ModelConfig
from train.objectives.registry import TARGETS
from train.objectives.target import ClipCut, NormalisedPixels, Target
from train.tables.nested import check_name
from train.tables.typed import Choice

NEEDS_BOXES = {name for name, mask in MASKS.items() if mask.needs_boxes}
NEEDS_MOTION = {name for name, mask in MASKS.items() if mask.needs_motion}
LABELS = (("label",), ("verb",), ("noun",), ("verb", "noun"))
ZERO_STAGES = (0, 1, 2)
COMPILE = ("gpu", "always", "never")
POOLS = ("clip", "steps")  # over which tokens a probe averages
PRECISIONS = ("auto", "fp32", "bf16")


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
    """The learning rate rises linearly from 0 over so many epochs, at most over half of the run."""
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
    """How clips are read and work is shared. Decides speed and memory, never a result beyond
    rounding, but for what is drawn for each forward pass: drop path and dropout, and which of its
    clips mixup and cutmix mix."""

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
    zero_stage: int = 1
    """What DeepSpeed shares out over the processes (ZeRO, Rajbhandari et al. 2020): 0 nothing, 1
    the optimizer's state, 2 its gradients too."""
    precision: str = "auto"
    """Of what a step computes in: bf16 (the optimizer's weights stay fp32), fp32, or auto, which is
    bf16 on a GPU and fp32 on a CPU. A CPU is faster in bf16 where it has instructions for it."""
    compile: str = "gpu"
    """Where encoder and decoder blocks are compiled (torch.compile): gpu, always or never."""
    log_steps: int = 10
    """Optimiser steps between two lines of the log."""
    checkpoint_minutes: float = 10.0
    """A checkpoint at least so often; what a kill can cost. 0 saves at each line of the log."""

    def __post_init__(self) -> None:
        _at_least(self, 0, "workers", "cache_megabytes", "checkpoint_minutes")
        _at_least(self, 1, "prefetch", "open_shards", "micro_batch_size", "log_steps")
        if self.zero_stage not in ZERO_STAGES:
            raise InputError(f"zero_stage is {self.zero_stage}; 0, 1 and 2 are allowed")
        check_name("precision", self.precision, PRECISIONS)
        check_name("compile", self.compile, COMPILE)


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
    target: Target = field(default_factory=NormalisedPixels)
    """What the decoder predicts: a name in TARGETS (train/objectives/registry.py), or a table with
    its kind and options; the options of trajectories are in the table trajectories."""
    repeats: int = 1
    """Views of one read of a clip, each with its own crop and mask."""
    shuffle_shards: int = 16
    """Shards whose clips are shuffled together; more is more random and reads more files."""
    motion_source: str = FLOW
    """Whose motion maps a mask looks at, or whose tracks are predicted: flow is
    OUT/<dataset>/flows, another name flows-<name>."""
    box_source: str = DEFAULT_BOXES
    """Whose boxes a mask looks at: default is OUT/<dataset>/boxes, another name boxes-<name>."""

    def __post_init__(self) -> None:
        _check_training(self)
        self.target.check(self.cut, self.flips)
        looks = self.mask.kind in NEEDS_MOTION or self.target.needs_flows
        if self.motion_source != FLOW and not looks:
            targets = ", ".join(name for name, target in TARGETS.items() if target.needs_flows)
            raise InputError(
                f"motion_source is {self.motion_source!r}, but neither the mask {self.mask.kind} "
                f"nor the target {self.target.name} looks at motion; of use with the masks "
                f"{', '.join(sorted(NEEDS_MOTION))} and the target {targets}"
            )
        if self.box_source != DEFAULT_BOXES and not self.needs_boxes:
            raise InputError(
                f"box_source is {self.box_source!r}, but the mask {self.mask.kind} does not look "
                f"at boxes; of use with {', '.join(sorted(NEEDS_BOXES))}"
            )
        if self.optim.layer_decay != 1.0:
            raise InputError("optim.layer_decay is not used in pretraining; it must be 1")

    @property
    def needs_boxes(self) -> bool:
        return self.mask.kind in NEEDS_BOXES

    @property
    def needed_motion(self) -> MotionNeeds | None:
        """What to read of the flows shards, None where neither mask nor target needs them."""
        needs = self.target.needed_motion(self.cut)
        if needs is None and self.mask.kind in NEEDS_MOTION:
            needs = MotionNeeds()
        return needs and replace(needs, source=self.motion_source)

    @property
    def cut(self) -> ClipCut:
        """How clips are cut into tokens."""
        return ClipCut(self.model, self.frames.options.get("stride", 1), self.crop)

    def to_table(self) -> dict[str, Any]:
        """The fields as a recipe has them."""
        table = {each.name: getattr(self, each.name) for each in fields(self)}
        return table | self.target.to_tables()


@dataclass(frozen=True)
class AugmentConfig:
    """Colours, erasing and mixing in finetuning. Default: none."""

    rand_layers: int = 0
    """RandAugment operations one after another, colours only (see train/clips/augment.py); 0 is
    off."""
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
        for name in ("rand_magnitude", "rand_magnitude_std"):
            found, default = getattr(self, name), getattr(AugmentConfig, name)
            if self.rand_layers == 0 and found != default:
                raise InputError(
                    f"{name} is {found}, but rand_layers is 0, which draws no operation; set "
                    f"rand_layers, or leave {name} at {default}"
                )


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
    box_source: str = DEFAULT_BOXES
    """Whose boxes the head mca looks at: default is OUT/<dataset>/boxes, another name
    boxes-<name>."""
    labels_per_class: int = 0
    """Labelled clips of each class of split train that are learned from; 0 is all. The clips of a
    smaller number are among those of a larger one."""
    label_share: float = 1.0
    """The same as a share of the labelled clips of each class."""
    label_seed: int = 0
    """Which clips these are; another seed chooses others."""

    def __post_init__(self) -> None:
        _check_training(self)
        _at_least(self, 0, "early_stop_epochs", "init_scale")
        _at_least(self, 1, "validate_epochs")
        assert self.few_labels  # refuses impossible numbers
        if self.labels not in LABELS:
            raise InputError(f"labels are {self.labels}; allowed: {', '.join(map(str, LABELS))}")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout is {self.dropout}; 0 to below 1 is allowed")
        if self.box_source != DEFAULT_BOXES and not self.needs_boxes:
            raise InputError(
                f"box_source is {self.box_source!r}, but the head {self.head.kind} does not look "
                "at boxes; of use with mca"
            )

    @property
    def needs_boxes(self) -> bool:
        return self.head.needs_boxes

    @property
    def few_labels(self) -> FewLabels:
        """Which labelled clips are learned from."""
        return FewLabels(self.labels_per_class, self.label_share, self.label_seed)


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
        check_name("split", self.split, SPLITS)
        _at_least(self, 1, "segments", "crops")


def _check_training(config: PretrainConfig | FinetuneConfig) -> None:
    _at_least(config, 1, "epochs", "batch_size", "repeats", "shuffle_shards")
    for flip in config.flips:
        check_name("flips", flip, FLIPS)


def _at_least(config: Any, least: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not value >= least:
            raise InputError(f"{name} is {value}; at least {least} is allowed")
