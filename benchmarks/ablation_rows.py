"""The rows of the ablation: each has a pretraining and a finetuning on top of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.wording import counted


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: name in the table.
        method: pretraining method, "none" for random weights.
        pretraining: settings of the recipe's [pretrain], such as {"mask.mask_ratio": 0.5}.
        head: pooling head of the finetuning, "mean" or "mca".
        finetuning: settings of the recipe's [finetune].
        is_probed: whether a linear probe tests the frozen features.
        is_finetuned: whether the encoder is finetuned and tested.
        flows: further options of `preprocess.flows` for the clips that are pretrained on. Rows with
            the same options share a dataset.
    """

    name: str
    method: str
    pretraining: Mapping[str, object] = field(default_factory=dict)
    head: str = "mean"
    finetuning: Mapping[str, object] = field(default_factory=dict)
    is_probed: bool = False
    is_finetuned: bool = True
    flows: str = ""

    @property
    def pretrained_name(self) -> str:
        """Name of the pretraining without its seed; rows with the same name share the run."""
        flows = [dataset_name(self.flows)] if self.flows else []
        return "-".join([self.method, *flows, *map(_slug, self.pretraining.items())])

    @property
    def run_name(self) -> str:
        """Name of the finetuning without its seed."""
        return "-".join([self.pretrained_name, self.head, *map(_slug, self.finetuning.items())])


def dataset_name(flows: str) -> str:
    """A folder name for further options of `preprocess.flows`."""
    return flows.replace("--", "").replace(" ", "_")


def _slug(setting: tuple[str, object]) -> str:
    key, value = setting
    return f"{key.rpartition('.')[2]}_{value}".replace(" ", "").replace("[", "").replace("]", "")


def unless(default: float, key: str, value: float) -> dict[str, float]:
    """The setting if it differs from the recipe; rows without a setting share their runs."""
    return {} if value == default else {key: value}


def with_or_without(what: bool) -> str:
    return "with" if what else "without"


def probed(
    name: str, method: str, pretraining: Mapping[str, object] | None = None, flows: str = ""
) -> Row:
    """A row that a linear probe tests, without a finetuning."""
    return Row(name, method, pretraining or {}, is_probed=True, is_finetuned=False, flows=flows)


FROM_RANDOM = Row("from random weights", "none", is_probed=True)
MOFO = Row("MOFO* (MOFO, mean head)", "mofo", is_probed=True)
TRACKMAE = Row("TrackMAE, pixels and point tracks", "trackmae", is_probed=True)
VIDEOMAE = Row("VideoMAE", "videomae", is_probed=True)
MGM = Row("MGM", "mgm", is_probed=True)
MME = Row("MME", "mme", is_probed=True)
INSIDE_RATIO = "mask.inside_ratio"
# A mask of 90 % hides 14 of the 16 positions of a toy clip, and so nearly all positions outside the
# box, whatever the share inside. A mask of 75 % hides 12, so the share inside can vary.
THREE_QUARTERS = {"mask.mask_ratio": 0.75}
# Every second frame only, so that there are frames to interpolate.
SPARSE = {"model.num_frames": 8, "frames.stride": 2}
TUBELETS_OF_2 = {"model.tubelet_size": 2}
IN_COLOUR: dict[str, Any] = {
    "pretraining": {"trajectories.hog_channels": "rgb"},
    "flows": "--track-channels rgb",
}

PARTS: dict[str, tuple[Row, ...]] = {
    "methods": (
        FROM_RANDOM,
        VIDEOMAE,
        Row("VideoMAE V2, half of the hidden tokens decoded", "videomae_v2", is_probed=True),
        Row("MotionMAE, pixels and frame differences", "motion_mae", is_probed=True),
        MOFO,
        Row("MOFO** (VideoMAE, cross attention)", "videomae", head="mca"),
        Row("MOFO-dagger (MOFO, cross attention)", "mofo", head="mca"),
        Row("SMM", "smm", is_probed=True),
        MGM,
        Row("MGMAE", "mgmae", is_probed=True),
        TRACKMAE,
        MME,
    ),
    "inside-ratio": (
        FROM_RANDOM,
        *(
            Row(
                f"MOFO, {inside:.0%} inside the box",
                "mofo",
                {**THREE_QUARTERS, **unless(0.75, INSIDE_RATIO, inside)},
            )
            for inside in (0.0, 0.25, 0.5, 0.75, 0.9)
        ),
    ),
    "cross-attention": (
        FROM_RANDOM,
        MOFO,
        *(
            Row(
                f"{counted(heads, 'head')}, depth {depth}, {with_or_without(residual)} residual",
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
        *(
            Row(
                f"4 heads that share the width, {with_or_without(residual)} residual",
                "mofo",
                head="mca",
                finetuning={
                    "head.num_heads": 4,
                    "head.head_width": "split",
                    **({} if residual else {"head.residual": "false"}),
                },
            )
            for residual in (True, False)
        ),
        Row("random weights, 3 heads, depth 1, with residual", "none", head="mca"),
        Row(
            "random weights, 3 heads, depth 1, the equations alone",
            "none",
            head="mca",
            finetuning={"head.block": "false"},
        ),
        Row(
            "3 heads, depth 1, the equations alone",
            "mofo",
            head="mca",
            finetuning={"head.block": "false"},
        ),
    ),
    "mgm": (
        FROM_RANDOM,
        *(
            Row(f"MGM, mask ratio {ratio:.0%}", "mgm", unless(0.75, "mask.mask_ratio", ratio))
            for ratio in (0.5, 0.75, 0.9)
        ),
        Row("MGM without jitter", "mgm", {"mask.aspect": [1.0, 1.0]}),
        Row("MGM, sparse", "mgm", {"mask.pattern": "sparse"}),
        Row("MGM, edges of the codec's vectors", "mgm", {"motion_source": "motion-vectors"}),
        Row("MGM, the 4 of 16 parts that move most", "mgm", {"mask.top": 4}),
        Row("MGM, motion before each frame", "mgm", {"mask.before": "true"}),
        Row("MGM, lengths of flow", "mgm", {"motion_source": "tvl1-length"}),
        Row("MGM, edges of flow", "mgm", {"motion_source": "flow"}),
    ),
    "trackmae": (
        FROM_RANDOM,
        TRACKMAE,
        Row("TrackMAE, a plain tube", "trackmae", {"mask.kind": "tube", "mask.mask_ratio": 0.75}),
        Row("TrackMAE, displacements by their size", "trackmae", {"target.scale": "size"}),
        Row("TrackMAE, points of the patch", "trackmae", {"target.starts": "tubelet"}),
    ),
    "mme": (
        FROM_RANDOM,
        Row("MME: positions and HOG along the track", "mme"),
        Row("MME: positions", "mme", {"trajectories.shape": "false"}),
        Row("MME: HOG along the track", "mme", {"trajectories.positions": "false"}),
        *(
            Row(
                f"MME: {kind.upper()} where it is, not followed", "mme", {"trajectories.kind": kind}
            )
            for kind in ("flow", "hog", "hof", "mbh")
        ),
    ),
    "mme-options": (
        FROM_RANDOM,
        Row("MME: positions and HOG along the track", "mme"),
        *(
            Row(
                f"MME: {kind.upper()} and HOG where they are, not followed",
                "mme",
                {"trajectories.kind": kind, "trajectories.fixed_hog": "true"},
            )
            for kind in ("flow", "hof", "mbh")
        ),
        Row(
            "MME: positions, and HOG where it is",
            "mme",
            {"trajectories.shape": "false", "trajectories.fixed_hog": "true"},
        ),
        *(
            Row(f"MME: the {how} of the tracks of a patch", "mme", {"trajectories.merge": how})
            for how in ("mean", "max")
        ),
        Row("MME: not normalised over a patch", "mme", {"trajectories.normalise": "false"}),
        Row("MME: without a loss mask", "mme", {"trajectories.loss_mask": "false"}),
        Row("MME: frames in random order", "mme", {"shuffle_frames": "true"}),
        Row(
            "MME: HOG of each colour channel",
            "mme",
            **IN_COLOUR,
        ),
        Row(
            "MME: HOG of 2 x 2 cells",
            "mme",
            {"trajectories.hog_cells": 2},
            flows="--track-cells 2",
        ),
        *(
            Row(
                f"MME: camera motion removed by --stabilise {how}",
                "mme",
                flows=f"--stabilise {how}",
            )
            for how in ("warp", "subtract")
        ),
        Row("MME: a quarter of the clips", "mme", {"clip_share": 0.25}),
    ),
    "decoder-mask": (
        FROM_RANDOM,
        MOFO,
        *(
            Row(
                f"MOFO, {share:.0%} of the hidden tokens decoded, by {kind}",
                "mofo",
                {"decoder_mask.kind": kind, **unless(0.5, "decoder_mask.share", share)},
            )
            for kind in ("running_cell", "random", "motion")
            for share in (0.5, 0.25)
        ),
    ),
    # The last table of docs/methods.md: what a method does here beside what its paper or code does.
    # Where pretraining differs, the linear probe alone compares the rows: it takes a third of the
    # time of both. Where only finetuning differs, the rows start from random weights.
    "defaults-pretraining": (
        probed(FROM_RANDOM.name, "none"),
        probed(VIDEOMAE.name, "videomae"),
        probed("VideoMAE without flips instead of all", "videomae", {"flips": []}),
        probed(MGM.name, "mgm"),
        probed(
            "MGM, first mask at random instead of on the motion", "mgm", {"mask.first": "random"}
        ),
        probed("MGM, motion before each frame instead of after", "mgm", {"mask.before": "true"}),
        probed(MME.name, "mme"),
        probed("MME, HOG of each colour channel instead of grey", "mme", **IN_COLOUR),
        probed("MME, displacements centred", "mme", {"trajectories.centred": "true"}),
        probed(
            "MME, each number of the target with the same weight",
            "mme",
            {"trajectories.equal_parts": "false"},
        ),
        probed("MME, second beta 0.999 instead of 0.95", "mme", {"optim.betas": [0.9, 0.999]}),
        probed("MME, tracks of 4 frames instead of 6", "mme", {"trajectories.length": 4}),
        probed("MME, a tanh as last layer of the decoder", "mme", {"model.decoder_output": "tanh"}),
        probed(MOFO.name, "mofo"),
        probed("MOFO, tubelets of 2 frames instead of 8", "mofo", TUBELETS_OF_2),
        probed(TRACKMAE.name, "trackmae"),
        probed(
            "TrackMAE, 1e-6 px instead of 0.1 px added to the deviation",
            "trackmae",
            {"target.quiet": 1e-6},
        ),
    ),
    "defaults-finetuning": (
        FROM_RANDOM,
        # With four layers of colours, finetuning stays at chance: 11.7 % with seed 0.
        Row("RandAugment on colours", "none", finetuning={"augment.rand_layers": 1}),
        Row(
            "RandAugment of all operations instead of colours",
            "none",
            finetuning={"augment.rand_layers": 1, "augment.rand_operations": "all"},
        ),
        # A window of 31 frames in clips of 16. Spread over the clip, it has the frames of all rows.
        Row(
            "a long window with the last frame repeated instead of spread",
            "none",
            finetuning={"frames.stride": 2, "frames.short": "repeat"},
        ),
        Row("tubelets of 2 frames instead of 8", "none", finetuning=TUBELETS_OF_2),
    ),
    # These rows sample frames in another way, so they do not compare with the other parts.
    "interpolation": (
        Row("from random weights", "none", finetuning=SPARSE),
        Row("MME, interpolated between the given frames", "mme", SPARSE, finetuning=SPARSE),
        Row(
            "MME, not interpolated",
            "mme",
            {**SPARSE, "trajectories.interpolate": "false"},
            finetuning=SPARSE,
        ),
    ),
}
