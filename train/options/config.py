"""The options of a training run: frozen dataclasses that check their values.

train/options/recipe.py builds them from a recipe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

from shared.decoder_masks import ALL, DECODER_MASKS
from shared.errors import InputError
from shared.manifest import FLIPS, SPLITS
from shared.masks import MASKS
from shared.motion_cells import MotionPooling
from shared.track_window import TrackWindow
from train.clips.few_labels import FewLabels
from train.clips.table import DEFAULT_BOXES, FLOW, MotionNeeds
from train.clips.view_rules import least_side
from train.network.head_config import HeadConfig
from train.network.model_config import ModelConfig
from train.objectives.registry import TARGETS
from train.objectives.target import ClipCut, NormalisedPixels, Target
from train.tables.nested import check_name
from train.tables.typed import Choice

LABELS = (("label",), ("verb",), ("noun",), ("verb", "noun"))
OPERATIONS = ("colour", "all")
STARTS = ("frame", "stride")
ZERO_STAGES = (0, 1, 2)
COMPILE = ("gpu", "always", "never")
LAYERS = ("output", "norm1")  # where in an encoder block GradCAM takes the tokens
POOLS = ("clip", "steps", "tokens", "fisher")  # how a probe makes one vector of tokens
DECODERS = ("cpu", "gpu")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, warm-up and cosine decay."""

    base_learning_rate: float
    """Learning rate for an effective batch of 256 clips: the learning rate of a run is
    base_learning_rate * effective batch / 256."""
    betas: tuple[float, float]
    """Decay of the running mean and the running variance of the gradient."""
    weight_decay: float
    """Decoupled weight decay. Biases, norms and other 1-D parameters are not decayed."""
    warmup_epochs: float
    """Epochs in which the learning rate rises linearly from 0; at most half of the run."""
    min_learning_rate: float = 0.0
    """Learning rate at the end of the cosine, for an effective batch of 256 clips."""
    eps: float = 1e-8
    """Added to the square root of the variance."""
    gradient_clipping: float = 0.0
    """Largest norm of the gradient. 0 switches clipping off."""
    layer_decay: float = 1.0
    """Learning rate of a block, relative to the block after it. With 1 all blocks have the same."""

    def __post_init__(self) -> None:
        _at_least(self, 0.0, "base_learning_rate", "weight_decay", "warmup_epochs")
        _at_least(self, 0.0, "min_learning_rate", "gradient_clipping")
        if not 0.0 < self.layer_decay <= 1.0:
            raise InputError(
                "out-of-range",
                f"layer_decay is {self.layer_decay}; it must be above 0 and at most 1",
            )
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise InputError(
                "out-of-range", f"betas are {self.betas}; each must be at least 0 and below 1"
            )


@dataclass(frozen=True)
class LoaderConfig:
    """How clips are read and how the work is divided. These options decide speed and memory.

    Results change only by rounding, by the decoder (`decode`), and by what is drawn at random for
    each forward pass: drop path, dropout, and the clips that mixup and cutmix combine.
    """

    workers: int = 2
    """Worker processes that read and decode clips, for each training process. With 0 the training
    process reads them itself."""
    prefetch: int = 4
    """Batches that each worker prepares in advance."""
    open_shards: int = 16
    """Shard files that a worker keeps open. With fewer than shuffle_shards it reopens files all the
    time."""
    cache_megabytes: int = 0
    """Memory for decoded frames, divided among the workers of a training process. This saves time
    if the whole dataset fits."""
    decode: str = "cpu"
    """What decodes, crops and resizes frames: cpu (the workers), or gpu (nvJPEG, in the training
    process). With gpu the workers hand over compressed frames, so that few CPU cores feed a GPU;
    RandAugment, random erasing and cache_megabytes need cpu."""
    micro_batch_size: int = 32
    """Most clips in one forward pass of one process. For a larger batch, gradients are accumulated.
    With `repeats` a clip counts once."""
    zero_stage: int = 1
    """What DeepSpeed partitions over the processes (ZeRO, Rajbhandari et al. 2020): 0 nothing, 1
    the state of the optimizer, 2 also the gradients."""
    precision: str = "auto"
    """Number format of the computation: bf16 (the weights of the optimizer stay fp32), fp32, or
    auto, which is bf16 on a GPU and fp32 on a CPU. Some CPUs have instructions for bf16 and are
    faster with it."""
    compile: str = "gpu"
    """When the blocks of encoder and decoder are compiled (torch.compile): gpu (only on a GPU),
    always or never."""
    log_steps: int = 10
    """Optimiser steps between two lines of log.jsonl."""
    checkpoint_minutes: float = 10.0
    """Maximum minutes between checkpoints, and so the most work that a kill can cost. With 0 each
    line of the log has a checkpoint."""

    def __post_init__(self) -> None:
        _at_least(self, 0, "workers", "cache_megabytes", "checkpoint_minutes")
        _at_least(self, 1, "prefetch", "open_shards", "micro_batch_size", "log_steps")
        if self.zero_stage not in ZERO_STAGES:
            raise InputError(
                "out-of-range", f"zero_stage is {self.zero_stage}; it must be 0, 1 or 2"
            )
        check_name("decode", self.decode, DECODERS)
        if self.decode == "gpu" and self.cache_megabytes:
            raise InputError(
                "option-conflict",
                f"loader.cache_megabytes is {self.cache_megabytes}, memory for frames that workers "
                "decode, and with loader.decode = gpu they decode none; give --set "
                "loader.cache_megabytes=0 or loader.decode=cpu",
            )
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
    """Clips of one optimiser step, over all processes and accumulated micro-batches."""
    frames: Choice
    """How frames are sampled: kind dense (with a stride) or segments."""
    crop: Choice
    """How frames are cropped: kind multi_scale, random_resized, shift or centre."""
    mask: Choice
    """How tokens are masked: the name of a mask of shared/masks.py, with its options."""
    optim: OptimConfig
    """AdamW."""
    flips: tuple[str, ...] = ()
    """Any of x, y, time. Each flips half of the clips."""
    decoder_mask: Choice = field(default_factory=lambda: Choice(ALL, {}))
    """Which masked tokens are decoded and in the loss: all; or a `share` of them (0.5), chosen by
    running_cell (VideoMAE V2, evenly over space and time), random or motion. The name of a decoder
    mask of shared/decoder_masks.py, or a table with kind and options."""
    target: Target = field(default_factory=NormalisedPixels)
    """What the decoder predicts: a name in TARGETS (train/objectives/registry.py), or a table with
    kind and options. The options of trajectories have a table of their own, `trajectories`."""
    repeats: int = 1
    """Views of a clip that are made from one read. Each has its own crop and mask."""
    clip_share: float = 1.0
    """Share of the clips of split train that is used, chosen by their ids. The clips of a smaller
    share are among those of a larger one (MME, table 10: 25 % of the data)."""
    shuffle_frames: bool = False
    """Whether the input frames of a view are put into random order, so that nothing can be learned
    from the order of motion (MME, fig. 3). A target of tracks describes the motion that follows
    each frame in the video."""
    shuffle_shards: int = 16
    """Shards whose clips are shuffled together. More shards are more random, and more files are
    read."""
    motion_source: str = FLOW
    """Flow source of the motion maps that a mask uses, or of the tracks that are predicted. flow is
    the folder OUT/<dataset>/flows; any other name is the folder flows-<name>."""
    box_source: str = DEFAULT_BOXES
    """Source of the motion boxes that a mask uses. default is the folder OUT/<dataset>/boxes; any
    other name is the folder boxes-<name>."""

    def __post_init__(self) -> None:
        _check_training(self)
        check_name("mask.kind", self.mask.kind, tuple(MASKS))
        check_name("decoder_mask.kind", self.decoder_mask.kind, tuple(DECODER_MASKS))
        self.target.check(self.cut, self.flips)
        follows_flow = MASKS[self.mask.kind].needs_flow
        if follows_flow and "time" in self.flips:
            raise InputError(
                "option-conflict",
                f"flips has 'time', but the mask {self.mask.kind} follows points that are tracked "
                "only forward in time; leave 'time' out",
            )
        if not 0.0 < self.clip_share <= 1.0:
            raise InputError(
                "out-of-range", f"clip_share is {self.clip_share}; it must be above 0 and at most 1"
            )
        if self.shuffle_frames and (follows_flow or self.target.needs_order):
            what = (
                f"the mask {self.mask.kind}" if follows_flow else f"the target {self.target.name}"
            )
            raise InputError(
                "option-conflict",
                f"shuffle_frames is true, but {what} follows points from one input frame to the "
                "next; leave shuffle_frames out",
            )
        reads_flows = self.masks_by_motion or follows_flow or self.target.needs_flows
        if self.motion_source != FLOW and not reads_flows:
            masks = ", ".join(
                sorted(name for name, mask in MASKS.items() if mask.needs_motion or mask.needs_flow)
            )
            targets = ", ".join(name for name, target in TARGETS.items() if target.needs_flows)
            raise InputError(
                "option-unused",
                f"motion_source is {self.motion_source!r}, but neither the mask {self.mask.kind} "
                f"nor the decoder mask {self.decoder_mask.kind} nor the target {self.target.name} "
                f"uses motion; leave it out, or choose one of the masks {masks}, the decoder mask "
                f"motion, or one of the targets {targets}",
            )
        if self.box_source != DEFAULT_BOXES and not self.needs_boxes:
            masks = ", ".join(sorted(name for name, mask in MASKS.items() if mask.needs_boxes))
            raise InputError(
                "option-unused",
                f"box_source is {self.box_source!r}, but the mask {self.mask.kind} does not use "
                f"boxes; leave it out, or choose one of the masks {masks}",
            )
        if self.optim.layer_decay != 1.0:
            raise InputError(
                "option-unused", "optim.layer_decay is not used in pretraining; leave it at 1"
            )

    @property
    def needs_boxes(self) -> bool:
        return MASKS[self.mask.kind].needs_boxes

    @property
    def inside(self) -> str:
        """What is inside for the mask: the motion box, or the positions that move."""
        return self.mask.options.get("inside", "box")

    @property
    def motion_pooling(self) -> MotionPooling:
        """How the motion of a position is read for masks."""
        return MotionPooling.of_mask(self.mask.options)

    @property
    def masks_by_motion(self) -> bool:
        """Whether the mask of the encoder or of the decoder uses the motion of the clip."""
        return (
            MASKS[self.mask.kind].needs_motion or DECODER_MASKS[self.decoder_mask.kind].needs_motion
        )

    @property
    def decodes_all(self) -> bool:
        """Whether all masked tokens are decoded."""
        return self.decoder_mask.kind == ALL

    @property
    def needed_motion(self) -> MotionNeeds | None:
        """What must be read from the flows shards; None if neither masks nor target need them."""
        needs = self.target.needed_motion(self.cut)
        if needs is None and self.masks_by_motion:
            needs = MotionNeeds()
        if MASKS[self.mask.kind].needs_flow:
            needs = self._with_flow(needs or MotionNeeds())
        return needs and replace(needs, source=self.motion_source)

    def _with_flow(self, needs: MotionNeeds) -> MotionNeeds:
        """These needs and those of a mask that follows the flow."""
        stabilised = self.mask.options.get("stabilised")
        if None not in (stabilised, needs.stabilised) and stabilised != needs.stabilised:
            raise InputError(
                "option-conflict",
                f"mask.stabilised is {stabilised} and the target {self.target.name} has stabilised "
                f"{needs.stabilised}; both read the same tracks, so leave one of them out",
            )
        # One start of a track for each position in the smallest crop.
        points = math.floor(self.model.grid / least_side(self.crop))
        return replace(
            needs,
            track_length=max(1, needs.track_length),
            track_points=max(points, needs.track_points),
            track_window=None,  # it is followed from frame to frame
            stabilised=needs.stabilised if stabilised is None else stabilised,
        )

    @property
    def cut(self) -> ClipCut:
        """How clips are cut into tokens."""
        stride, window = self.frames.options.get("stride", 1), None
        if self.frames.kind == "dense" and not self.shuffle_frames:
            window = self._window(stride)
        return ClipCut(self.model, stride, self.crop, window)

    def _window(self, stride: int) -> TrackWindow | None:
        """The windows, if each begins at the first frame of a tubelet of the first window."""
        options, tubelet = self.frames.options, self.model.tubelet_size
        begins = options.get("begins_every", 1)
        if options.get("short", "spread") != "spread" or stride < 1 or begins % (stride * tubelet):
            return None
        return TrackWindow(self.model.num_frames, stride, tubelet)

    def to_table(self) -> dict[str, Any]:
        """The fields in the form that a recipe has."""
        table = {each.name: getattr(self, each.name) for each in fields(self)}
        return table | self.target.to_tables()


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation in finetuning: colours, erasing and mixing. The default is none."""

    rand_layers: int = 0
    """RandAugment operations that are applied one after another. 0 switches RandAugment off."""
    rand_operations: str = "colour"
    """Operations of RandAugment: colour, the ten on colours; all, also rotation, shear and shift,
    with which the motion boxes move (train/clips/geometric.py)."""
    rand_magnitude: int = 7
    """Magnitude of RandAugment, 0 to 10."""
    rand_magnitude_std: float = 0.5
    """Standard deviation of the magnitude."""
    erase_probability: float = 0.0
    """Random erasing: share of the clips that get a rectangle of noise."""
    mixup_alpha: float = 0.0
    """Parameter of the beta distribution of mixup. 0 switches mixup off."""
    cutmix_alpha: float = 0.0
    """Parameter of the beta distribution of cutmix. 0 switches cutmix off. If both are on, each
    batch uses one of them, by coin flip."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""

    def __post_init__(self) -> None:
        check_name("rand_operations", self.rand_operations, OPERATIONS)
        _at_least(self, 0, "rand_layers", "rand_magnitude_std", "mixup_alpha", "cutmix_alpha")
        if not 0 <= self.rand_magnitude <= 10:
            raise InputError(
                "out-of-range", f"rand_magnitude is {self.rand_magnitude}; it must be from 0 to 10"
            )
        for name in ("erase_probability", "label_smoothing"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InputError(
                    "out-of-range",
                    f"{name} is {getattr(self, name)}; it must be at least 0 and below 1",
                )
        for name in ("rand_operations", "rand_magnitude", "rand_magnitude_std"):
            found, default = getattr(self, name), getattr(AugmentConfig, name)
            if self.rand_layers == 0 and found != default:
                raise InputError(
                    "option-unused",
                    f"{name} is {found}, but rand_layers is 0, so that no operation is applied; "
                    f"set rand_layers, or leave {name} at {default}",
                )


@dataclass(frozen=True)
class FinetuneConfig:
    """Supervised finetuning."""

    model: ModelConfig
    """The encoder. Finetuning does not use the fields of the decoder."""
    head: HeadConfig
    """The pooling head."""
    epochs: int
    """Passes over the clips of split train."""
    batch_size: int
    """Clips of one optimiser step, over all processes and accumulated micro-batches."""
    frames: Choice
    """How frames are sampled: kind dense (with a stride) or segments. Evaluation uses the same
    rule."""
    crop: Choice
    """How frames are cropped: kind multi_scale, random_resized, shift or centre."""
    optim: OptimConfig
    """AdamW, with layer decay."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Colours, erasing and mixing."""
    flips: tuple[str, ...] = ()
    """Any of x, y, time. Each flips half of the clips. classes.json must say which label a flipped
    clip has. Verbs and nouns do not change."""
    labels: tuple[str, ...] = ("label",)
    """The kinds of label that are learned: ["label"], or ["verb", "noun"]."""
    dropout: float = 0.0
    """Dropout probability of the pooled vector."""
    init_scale: float = 0.001
    """Factor on the initial weights of the classifier."""
    token_share: float = 1.0
    """Share of the tokens of a clip that training computes, drawn at random for each step (MME,
    table 10: 50 %). Validation and evaluation compute all tokens."""
    repeats: int = 1
    """Views of a clip that are made from one read (repeated augmentation)."""
    shuffle_shards: int = 16
    """Shards whose clips are shuffled together."""
    early_stop_epochs: int = 0
    """Stop after this many epochs without a better top-1 on split val. 0 never stops early."""
    validate_epochs: int = 1
    """Epochs between two evaluations on split val."""
    box_source: str = DEFAULT_BOXES
    """Source of the motion boxes that the head mca uses. default is the folder OUT/<dataset>/boxes;
    any other name is the folder boxes-<name>."""
    labels_per_class: int = 0
    """Number of labelled clips of each class of split train that are used. 0 uses all. The clips of
    a smaller number are among those of a larger number."""
    label_share: float = 1.0
    """Share of the labelled clips of each class of split train that are used."""
    label_seed: int = 0
    """Seed that chooses these clips."""

    def __post_init__(self) -> None:
        _check_training(self)
        _at_least(self, 0, "early_stop_epochs", "init_scale")
        _at_least(self, 1, "validate_epochs")
        assert self.few_labels  # refuses impossible numbers
        if self.labels not in LABELS:
            raise InputError(
                "unknown-name",
                f"labels are {list(self.labels)}; allowed: "
                f"{', '.join(str(list(each)) for each in LABELS)}",
            )
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(
                "out-of-range", f"dropout is {self.dropout}; it must be at least 0 and below 1"
            )
        if not 0.0 < self.token_share <= 1.0:
            raise InputError(
                "out-of-range",
                f"token_share is {self.token_share}; it must be above 0 and at most 1",
            )
        if self.box_source != DEFAULT_BOXES and not self.needs_boxes:
            raise InputError(
                "option-unused",
                f"box_source is {self.box_source!r}, but the head {self.head.kind} does not use "
                "boxes; leave it out, or choose the head mca",
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
    """Test views of a clip. Their softmax scores are averaged."""

    split: str = "test"
    """The split that is evaluated: the one that the papers on a dataset report."""
    segments: int = 1
    """Views along time, at even distances."""
    crops: int = 1
    """Square crops along the long side. 1 is the centre; 3 are both ends and the centre."""
    starts: str = "frame"
    """Where windows of dense frames may start: frame, at any frame of the clip; stride, at
    multiples of the stride only, as in VideoMAE's code."""

    def __post_init__(self) -> None:
        check_name("starts", self.starts, STARTS)
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
            raise InputError("out-of-range", f"{name} is {value}; it must be at least {least}")
