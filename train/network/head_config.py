"""The configuration of a pooling head."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import InputError
from train.tables.typed import PlainValues

KINDS = ("mean", "mca")
HEAD_WIDTHS = ("model", "split")
BOXES = ("clip", "tubelet")


@dataclass(frozen=True)
class HeadConfig(PlainValues):
    """How tokens are pooled. The fields after `kind` belong to the cross-attention head."""

    what = "head"

    kind: str = "mean"
    """mean: mean over all tokens. mca: MOFO's motion-focused multi cross attention."""
    num_heads: int = 3
    """Attention heads h of a layer (MOFO: 3)."""
    depth: int = 1
    """Cross-attention layers (MOFO: 1)."""
    head_width: str = "model"
    """Channels of one attention head. model: D each, projected from h * D to D (MOFO's
    equations). split: D / h (MOFO's code)."""
    residual: bool = True
    """Add the queries to what attention brings them. Without it, an inner token is forgotten
    but for how it asks."""
    mlp_ratio: float = 4.0
    """Hidden width of a layer's MLP as a multiple of D (rounded); 0 leaves the MLP out."""
    box: str = "clip"
    """What is inside. clip: patches in the box of all frames shown (MOFO; `window_box` in
    shared/grid.py). tubelet: of a tubelet's own frames."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"unknown head {self.kind!r}; allowed: {', '.join(KINDS)}")
        for name, allowed in (("head_width", HEAD_WIDTHS), ("box", BOXES)):
            if getattr(self, name) not in allowed:
                found = getattr(self, name)
                raise InputError(f"{name} is {found!r}; allowed: {', '.join(allowed)}")
        for name in ("num_heads", "depth"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if not self.mlp_ratio >= 0.0:
            raise InputError(f"mlp_ratio is {self.mlp_ratio}; it must be 0 or above")

    @property
    def needs_boxes(self) -> bool:
        """Whether the head must be told which tokens lie in the motion box."""
        return self.kind == "mca"
