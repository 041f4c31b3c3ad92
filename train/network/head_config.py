"""The configuration of a pooling head."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import InputError
from shared.scene import INSIDES
from train.tables.typed import PlainValues

KINDS = ("mean", "mca")
HEAD_WIDTHS = ("model", "split")
BOXES = ("clip", "tubelet")


@dataclass(frozen=True)
class HeadConfig(PlainValues):
    """The options of the pooling head. All fields except `kind` belong to the head mca."""

    what = "head"

    kind: str = "mean"
    """mean: the mean over all tokens. mca: MOFO's motion-focused multi cross attention."""
    num_heads: int = 3
    """Number of attention heads h in a layer (MOFO: 3)."""
    depth: int = 1
    """Number of cross-attention layers (MOFO: 1)."""
    head_width: str = "model"
    """Channels of one attention head. model: D channels each, projected from h * D to D (MOFO's
    equations). split: D / h channels (MOFO's code)."""
    block: bool = True
    """Whether a layer is a block of a transformer: norms before attention, a residual, and an MLP.
    Without it a layer is cross attention alone, as in the equations of MOFO's text; the pooled
    vector keeps its norm."""
    residual: bool = True
    """Whether the queries are added to the result of attention. Without it, an inner token has an
    effect only through its query."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP of a layer, as a multiple of D (rounded). 0 leaves the MLP out."""
    box: str = "clip"
    """Which tokens are inside. clip: patches in the motion box of all frames of the view
    (MOFO; `window_box` in shared/grid.py). tubelet: patches in the box of the tubelet's frames."""
    inside: str = "box"
    """What decides it. box: the motion box. positions: the patches that move in these frames
    (`moving_positions` in shared/moving_areas.py)."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(
                "unknown-name", f"there is no head {self.kind!r}; allowed: {', '.join(KINDS)}"
            )
        for name, allowed in (
            ("head_width", HEAD_WIDTHS),
            ("box", BOXES),
            ("inside", INSIDES),
        ):
            if getattr(self, name) not in allowed:
                found = getattr(self, name)
                raise InputError(
                    "unknown-name", f"{name} is {found!r}; allowed: {', '.join(allowed)}"
                )
        for name in ("num_heads", "depth"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(
                    "out-of-range", f"{name} is {value!r}; it must be a whole number of at least 1"
                )
        parts = {"residual": True, "mlp_ratio": 4.0}
        given = {name: getattr(self, name) for name in parts}
        if not self.block and given != parts:
            said = ", ".join(f"{k} is {v}" for k, v in given.items() if v != parts[k])
            raise InputError(
                "option-unused",
                f"block is false, so that a layer has neither residual nor MLP, and {said}; leave "
                "it out",
            )
        if not self.mlp_ratio >= 0.0:
            raise InputError(
                "out-of-range", f"mlp_ratio is {self.mlp_ratio}; it must be at least 0"
            )

    @property
    def adds_queries(self) -> bool:
        """Whether a layer adds its queries to the result of attention."""
        return self.block and self.residual

    @property
    def mlp_share(self) -> float:
        """Hidden width of the MLP of a layer, as a multiple of D; 0 if it has none."""
        return self.mlp_ratio if self.block else 0.0

    @property
    def needs_boxes(self) -> bool:
        """Whether the head needs motion boxes."""
        return self.kind == "mca"
