"""What the ablation compares: each row a pretraining, and what is put on top of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: as printed.
        method: of the pretraining, "none" for random weights.
        pretraining: settings of the recipe's [pretrain], such as {"mask.mask_ratio": 0.5}.
        head: "mean" or "mca", of the finetuning.
        finetuning: settings of the recipe's [finetune].
    """

    name: str
    method: str
    pretraining: Mapping[str, object] = field(default_factory=dict)
    head: str = "mean"
    finetuning: Mapping[str, object] = field(default_factory=dict)

    @property
    def pretrained_name(self) -> str:
        """Of the pretraining without its seed; rows with the same one share it."""
        return "-".join([self.method, *map(_slug, self.pretraining.items())])

    @property
    def run_name(self) -> str:
        """Of the finetuning without its seed."""
        return "-".join([self.pretrained_name, self.head, *map(_slug, self.finetuning.items())])

    @property
    def is_probed(self) -> bool:
        """Whether a linear probe says something of this row that it does not say of another."""
        return self.head == "mean" and not self.finetuning


def _slug(setting: tuple[str, object]) -> str:
    key, value = setting
    return f"{key.rpartition('.')[2]}_{value}".replace(" ", "").replace("[", "").replace("]", "")


def unless(default: float, key: str, value: float) -> dict[str, float]:
    """The setting, where it is not the recipe's; rows with the recipe's share its runs."""
    return {} if value == default else {key: value}


FROM_RANDOM = Row("from random weights", "none")
INSIDE_RATIO = "mask.inside_ratio"


PARTS: dict[str, tuple[Row, ...]] = {
    "methods": (
        FROM_RANDOM,
        Row("VideoMAE", "videomae"),
        Row("MOFO* (MOFO, mean head)", "mofo"),
        Row("MOFO** (VideoMAE, cross attention)", "videomae", head="mca"),
        Row("MOFO-dagger (MOFO, cross attention)", "mofo", head="mca"),
        Row("SMM", "smm"),
        Row("MGM", "mgm"),
        Row("MME", "mme"),
    ),
    "inside-ratio": (
        FROM_RANDOM,
        *(
            Row(f"MOFO, {inside:.0%} inside the box", "mofo", unless(0.75, INSIDE_RATIO, inside))
            for inside in (0.0, 0.25, 0.5, 0.75, 0.9)
        ),
    ),
    "cross-attention": (
        FROM_RANDOM,
        Row("MOFO, mean head", "mofo"),
        *(
            Row(
                f"{heads} heads, depth {depth}, {'with' if residual else 'without'} residual",
                "mofo",
                head="mca",
                finetuning={
                    **unless(3, "head.num_heads", heads),
                    **unless(1, "head.depth", depth),
                    **({} if residual else {"head.residual": "false"}),
                },
            )
            for heads in (1, 3)
            for depth in (1, 3)
            for residual in (True, False)
        ),
    ),
    "mgm": (
        FROM_RANDOM,
        *(
            Row(f"MGM, mask ratio {ratio:.0%}", "mgm", unless(0.75, "mask.mask_ratio", ratio))
            for ratio in (0.5, 0.75, 0.9)
        ),
        Row("MGM without jitter", "mgm", {"mask.aspect": [1.0, 1.0]}),
        Row("MGM, edges of the codec's vectors", "mgm", {"motion_source": "motion-vectors"}),
        Row("MGM, lengths of the vectors", "mgm", {"motion_source": "motion-vectors-length"}),
        Row("MGM, lengths of flow", "mgm", {"motion_source": "tvl1-length"}),
        Row("MGM, sparse", "mgm", {"mask.pattern": "sparse"}),
    ),
    "mme": (
        FROM_RANDOM,
        Row("MME: positions and HOG", "mme"),
        Row("MME: positions", "mme", {"trajectories.shape": "false"}),
        Row("MME: HOG", "mme", {"trajectories.positions": "false"}),
        Row("MME without interpolation", "mme", {"trajectories.interpolate": "false"}),
        Row("MME: 9 points a patch", "mme", {"trajectories.points": 9}),
        Row("MME: 4 steps", "mme", {"trajectories.length": 4}),
    ),
}
