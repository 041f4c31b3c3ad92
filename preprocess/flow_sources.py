"""Where flow comes from: one interface, one table of names.

A source turns pairs of grey pictures into flow. To add one, write a function that takes
`SourceOptions` and returns a `FlowSource`, and give it a line in `SOURCES`. The codec's motion
vectors are no such source: they come with the decoded frame (preprocess/motion_vectors.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from preprocess.raft import EXPECTED, RaftFlow
from preprocess.tvl1 import PRESETS as TVL1_PRESETS
from preprocess.tvl1 import SMALLEST_SIDE, tvl1_flow
from shared.errors import InputError

# flow(first, second): two (B, H, W) batches of grey pictures, uint8 or float 0..255
# -> (B, 2, H, W) float32, u (right) then v (down) in pixels per frame, from first to second.
FlowSource = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

MOTION_VECTORS = "motion-vectors"
DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


@dataclass(frozen=True)
class SourceOptions:
    """What the sources can be told; each reads its own.

    Attributes:
        tvl1_preset: see preprocess/tvl1.py.
        dis_preset: "ultrafast", "fast" or "medium": OpenCV's.
        raft_weights: a local file; see preprocess/raft.py.
        device: where TV-L1 and RAFT run, "cpu" or "cuda"; DIS has only the CPU.
    """

    tvl1_preset: str = "fast"
    dis_preset: str = "medium"
    raft_weights: Path | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        _check_choice("TV-L1 preset", self.tvl1_preset, TVL1_PRESETS)
        _check_choice("DIS preset", self.dis_preset, DIS_PRESETS)


def tvl1_source(options: SourceOptions) -> FlowSource:
    def flow(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return tvl1_flow(
            first.to(options.device), second.to(options.device), preset=options.tvl1_preset
        )

    return flow


def dis_source(options: SourceOptions) -> FlowSource:
    """Dense inverse search (Kroeger et al., ECCV 2016) as OpenCV has it, pair by pair.

    OpenCV is told to use one thread, in the whole process: workers are what runs side by side.
    """
    cv2.setNumThreads(1)
    solver = cv2.DISOpticalFlow_create(DIS_PRESETS[options.dis_preset])

    def flow(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        pairs = zip(_bytes(first), _bytes(second), strict=True)
        flows = [torch.from_numpy(solver.calc(one, other, None)) for one, other in pairs]
        return torch.stack(flows).permute(0, 3, 1, 2).contiguous()

    return flow


def raft_source(options: SourceOptions) -> FlowSource:
    if options.raft_weights is None:
        raise InputError(f"the source raft needs --raft-weights FILE; {EXPECTED}")
    return RaftFlow(options.raft_weights, options.device)


SOURCES: dict[str, Callable[[SourceOptions], FlowSource]] = {
    "tvl1": tvl1_source,
    "dis": dis_source,
    "raft": raft_source,
}
SOURCE_NAMES = (*SOURCES, MOTION_VECTORS)


def parse_sources(text: str) -> tuple[str, ...]:
    """`tvl1,motion-vectors` -> ("tvl1", "motion-vectors").

    Raises:
        InputError: an unknown name, or one given twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        _check_choice("flow source", name, SOURCE_NAMES)
    if len(set(names)) < len(names):
        raise InputError(f"flow sources {text!r}: each can be given once")
    return names


def make_source(name: str, options: SourceOptions) -> FlowSource:
    """Make a source ready: load its weights, check its options.

    The result is meant for the process that made it, and raises InputError for frames smaller
    than 16 px, pairs that differ in shape or dtype, and values that are not finite.

    Raises:
        InputError: no source of this name takes pictures, or its options do not fit.
    """
    _check_choice("flow source for pictures", name, SOURCES)
    source = SOURCES[name](options)

    def checked(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        check_pair(first, second)
        return source(first, second)

    return checked


def check_pair(first: torch.Tensor, second: torch.Tensor) -> None:
    """Refuse what no source can work on."""
    if first.ndim != 3 or min(first.shape[1:]) < SMALLEST_SIDE:
        raise InputError(
            f"frames of shape {tuple(first.shape)}: (pairs, height, width) grey values of at "
            f"least {SMALLEST_SIDE} px a side are needed"
        )
    if first.shape != second.shape or first.dtype != second.dtype:
        raise InputError(
            f"the frames of a pair differ: {tuple(first.shape)} {first.dtype} against "
            f"{tuple(second.shape)} {second.dtype}; resize or convert one of them"
        )
    if first.is_floating_point() and not bool((first.isfinite() & second.isfinite()).all()):
        raise InputError("frames hold NaN or infinite values; grey values 0..255 are needed")


def _bytes(pictures: torch.Tensor) -> np.ndarray:
    """u1[B,H,W], for OpenCV's DIS takes nothing else."""
    if pictures.is_floating_point():
        pictures = pictures.round().clamp(0, 255)
    return np.ascontiguousarray(pictures.to(torch.uint8).cpu().numpy())


def _check_choice(what: str, name: str, allowed) -> None:
    if name not in allowed:
        raise InputError(f"unknown {what} {name!r}: choose among {', '.join(allowed)}")
