"""The configuration of a video transformer: named sizes, checks, and derived numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from shared.errors import InputError
from train.tables.typed import PlainValues

NUM_CHANNELS = 3
POSITIONS = ("sincos-1d", "sincos-3d")
ATTENTION = ("joint", "divided")
DECODER_OUTPUTS = ("linear", "tanh")

# Dosovitskiy et al. 2021, table 1 (L), and Touvron et al. 2021, table 1 (S, B).
SIZES = {
    "vit-s": {"width": 384, "depth": 12, "num_heads": 6},
    "vit-b": {"width": 768, "depth": 12, "num_heads": 12},
    "vit-l": {"width": 1024, "depth": 24, "num_heads": 16},
}

_COUNTS = (
    *("image_size", "num_frames", "patch_size", "tubelet_size", "width", "depth", "num_heads"),
    *("decoder_width", "decoder_depth", "decoder_heads"),
)


@dataclass(frozen=True)
class ModelConfig(PlainValues):
    """The options that define a model and its computation. The defaults are VideoMAE's ViT-B."""

    what = "model"

    image_size: int = 224
    """Height and width of a clip in pixels; a multiple of patch_size."""
    num_frames: int = 16
    """Number of frames of a clip; a multiple of tubelet_size."""
    patch_size: int = 16
    """Height and width of a patch in pixels."""
    tubelet_size: int = 2
    """Frames of a tubelet: 2 in VideoMAE (1,568 tokens), 8 in MOFO's text (392 tokens)."""
    width: int = 768
    """Channels of an encoder token; an even multiple of num_heads."""
    depth: int = 12
    """Number of encoder blocks."""
    num_heads: int = 12
    """Number of attention heads in an encoder block."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP of an encoder block, as a multiple of width (rounded)."""
    drop_path: float = 0.0
    """Stochastic depth of the last encoder block, 0..1; it falls linearly to 0 at the first
    block."""
    attention: str = "joint"
    """Attention of the encoder: joint over all tokens, or divided into time and space
    (TimeSformer)."""
    decoder_width: int = 384
    """Channels of a decoder token; an even multiple of decoder_heads."""
    decoder_depth: int = 4
    """Number of decoder blocks."""
    decoder_heads: int = 6
    """Number of attention heads in a decoder block."""
    decoder_mlp_ratio: float = 4.0
    """Hidden width of the MLP of a decoder block, as a multiple of decoder_width (rounded)."""
    decoder_output: str = "linear"
    """Last layer of the decoder: linear, or a tanh after it, as MME's code has for displacements. A
    tanh cannot reach targets beyond -1 and 1."""
    prediction_dim: int | None = None
    """How many numbers are predicted for a masked token. None: the pixels of a tubelet
    (patch_dim)."""
    second_prediction_dim: int | None = None
    """How many of these numbers a second decoder of the same size predicts, the last ones. None:
    there is one decoder."""
    predict_visible: bool = False
    """Whether the decoder predicts the visible tokens too, before the masked tokens."""
    positions: str = "sincos-1d"
    """Fixed position table: sincos-1d (VideoMAE) or sincos-3d (separate time, row and column)."""
    layer_norm_eps: float = 1e-6
    """Added to the variance in the norms of the blocks and of the encoder (Hugging Face: 1e-12)."""
    head_norm_eps: float = 1e-6
    """Added to the variance in the last norms of decoder and classifier (Hugging Face: 1e-5)."""
    activation_checkpointing: bool = False
    """Whether the backward pass computes each block again: less memory, one more forward pass."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _require_positive_int(name, getattr(self, name))
        if self.prediction_dim is not None:
            _require_positive_int("prediction_dim", self.prediction_dim)
        if self.second_prediction_dim is not None:
            _require_positive_int("second_prediction_dim", self.second_prediction_dim)
            if self.second_prediction_dim >= self.output_dim:
                raise InputError(
                    "out-of-range",
                    f"second_prediction_dim is {self.second_prediction_dim} of {self.output_dim} "
                    "numbers; it must be smaller, because the first decoder needs some of them",
                )
        _require_multiple(self, "image_size", "patch_size")
        _require_multiple(self, "num_frames", "tubelet_size")
        _require_multiple(self, "width", "num_heads")
        _require_multiple(self, "decoder_width", "decoder_heads")
        for name, allowed in (
            ("positions", POSITIONS),
            ("attention", ATTENTION),
            ("decoder_output", DECODER_OUTPUTS),
        ):
            if getattr(self, name) not in allowed:
                found = getattr(self, name)
                raise InputError(
                    "unknown-name", f"{name} is {found!r}; allowed: {', '.join(allowed)}"
                )
        narrowest = 6 if self.positions == "sincos-3d" else 2
        for name in ("width", "decoder_width"):
            value = getattr(self, name)
            if value % 2 or value < narrowest:
                raise InputError(
                    "out-of-range",
                    f"{name} is {value}; {self.positions} positions need an even number of at "
                    f"least {narrowest} (sine and cosine)",
                )
        if not 0.0 <= self.drop_path < 1.0:
            raise InputError(
                "out-of-range", f"drop_path is {self.drop_path}; it must be at least 0 and below 1"
            )
        for name in ("mlp_ratio", "decoder_mlp_ratio", "layer_norm_eps", "head_norm_eps"):
            if not getattr(self, name) > 0.0:
                raise InputError(
                    "out-of-range", f"{name} is {getattr(self, name)}; it must be above 0"
                )

    @property
    def grid(self) -> int:
        """Patches along each side of the frame."""
        return self.image_size // self.patch_size

    @property
    def time_steps(self) -> int:
        """Number of tubelets along time."""
        return self.num_frames // self.tubelet_size

    @property
    def num_tokens(self) -> int:
        """Number of tokens of a clip, t-major: index = t * grid**2 + row * grid + column."""
        return self.time_steps * self.grid**2

    @property
    def patch_dim(self) -> int:
        """Numbers of a tubelet: tubelet_size * patch_size**2 * 3."""
        return self.tubelet_size * self.patch_size**2 * NUM_CHANNELS

    def num_predicted(self, num_masked: int, num_decoded: int | None = None) -> int:
        """Tokens of a clip that are predicted if so many are masked, and so many of these decoded.
        None decodes all of them."""
        decoded = num_masked if num_decoded is None else num_decoded
        return decoded + (self.num_tokens - num_masked if self.predict_visible else 0)

    def num_kept(self, share: float) -> int:
        """How many tokens of a clip a share of them is, at least 1."""
        return max(1, math.floor(share * self.num_tokens + 0.5))

    @property
    def output_dim(self) -> int:
        """How many numbers the decoder predicts for a masked token."""
        return self.patch_dim if self.prediction_dim is None else self.prediction_dim


def named_config(name: str, **overrides: Any) -> ModelConfig:
    """The configuration of `vit-s`, `vit-b` or `vit-l`, with overrides for single fields.

    The decoder has 4 blocks of 384 channels for every size. VideoMAE's code uses 192 channels (3
    heads) with ViT-S and 512 channels (8 heads) with ViT-L.
    """
    if name not in SIZES:
        raise InputError(
            "unknown-name", f"there is no model size {name!r}; allowed: {', '.join(SIZES)}"
        )
    return ModelConfig.from_dict({**SIZES[name], **overrides})


def _require_positive_int(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(
            "out-of-range", f"{name} is {value!r}; it must be a whole number of at least 1"
        )


def _require_multiple(config: ModelConfig, name: str, divisor_name: str) -> None:
    value, divisor = getattr(config, name), getattr(config, divisor_name)
    if value % divisor:
        raise InputError(
            "out-of-range", f"{name} {value} is not a multiple of {divisor_name} {divisor}"
        )
