"""Where flow comes from: one interface, one table of names.

A source turns pairs of grey pictures into flow. To add one, write a function that takes
`SourceOptions` and returns a `FlowSource`, and give it a line in `SOURCES`. The codec's motion
vectors are no such source: they come with the decoded frame (preprocess/video/motion_vectors.py).

Solvers are imported by the functions that make them, so that names are checked in no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from preprocess.tvl1_solvers.presets import PRESETS as TVL1_PRESETS
from preprocess.tvl1_solvers.presets import SMALLEST_SIDE
from shared.errors import InputError

if TYPE_CHECKING:
    import torch

# flow(first, second): two (B, H, W) batches of grey pictures, uint8 or float 0..255
# -> (B, 2, H, W) float32, u (right) then v (down) in pixels per frame, from first to second.
FlowSource: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"

MOTION_VECTORS = "motion-vectors"
DIS_PRESETS = ("ultrafast", "fast", "medium")  # OpenCV's


@dataclass(frozen=True)
class SourceOptions:
    """What the sources can be told; each reads its own.

    Attributes:
        tvl1_preset: see preprocess/flow/tvl1.py.
        dis_preset: "ultrafast", "fast" or "medium".
        raft_weights: a local file; see preprocess/flow/raft.py.
    """

    tvl1_preset: str = "fast"
    dis_preset: str = "medium"
    raft_weights: Path | None = None

    def __post_init__(self) -> None:
        _check_choice("TV-L1 preset", self.tvl1_preset, TVL1_PRESETS)
        _check_choice("DIS preset", self.dis_preset, DIS_PRESETS)


def tvl1_source(options: SourceOptions, device: str) -> FlowSource:
    from preprocess.flow.tvl1 import tvl1_flow

    def flow(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return tvl1_flow(first.to(device), second.to(device), preset=options.tvl1_preset)

    return flow


def dis_source(options: SourceOptions, device: str) -> FlowSource:
    """Dense inverse search (Kroeger et al., ECCV 2016) as OpenCV has it, pair by pair, on the CPU.

    OpenCV is told to use one thread, in the whole process: workers are what runs side by side.
    """
    import cv2
    import torch

    cv2.setNumThreads(1)
    preset = getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{options.dis_preset.upper()}")

    def flow(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        pictures = [
            batch.round().clamp(0, 255) if batch.is_floating_point() else batch
            for batch in (first, second)
        ]
        arrays = [batch.to(torch.uint8).cpu().contiguous().numpy() for batch in pictures]
        # A new one: a solver that has seen a small picture keeps the scales that it took for that.
        solver = cv2.DISOpticalFlow_create(preset)
        flows = [
            torch.from_numpy(solver.calc(one, other, None))
            for one, other in zip(*arrays, strict=True)
        ]
        return torch.stack(flows).permute(0, 3, 1, 2).contiguous().to(device)

    return flow


def raft_source(options: SourceOptions, device: str) -> FlowSource:
    from preprocess.flow.raft import EXPECTED, RaftFlow

    if options.raft_weights is None:
        raise InputError(f"the source raft needs --raft-weights FILE; {EXPECTED}")
    return RaftFlow(options.raft_weights, device)


SOURCES: dict[str, Callable[[SourceOptions, str], FlowSource]] = {
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
    check_sources(names)
    return names


def check_sources(names: Iterable[str]) -> None:
    """Refuse unknown names, and one given twice."""
    seen: set[str] = set()
    for name in names:
        _check_choice("flow source", name, SOURCE_NAMES)
        if name in seen:
            raise InputError(f"flow source {name} is given twice; each can be given once")
        seen.add(name)


def make_source(name: str, options: SourceOptions, device: str = "cpu") -> FlowSource:
    """Make a source ready: load its weights, compile what it needs.

    The result is meant for the process that made it, and raises InputError for frames smaller
    than 16 px, pairs that differ in shape or dtype, and values that are not finite.

    Args:
        device: "cpu" or "cuda"; where TV-L1 and RAFT run, and where the flow is.

    Raises:
        InputError: no source of this name takes pictures, or its options do not fit.
    """
    _check_choice("flow source for pictures", name, SOURCES)
    source = SOURCES[name](options, device)

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


def _check_choice(what: str, name: str, allowed: Iterable[str]) -> None:
    if name not in allowed:
        raise InputError(f"unknown {what} {name!r}: choose among {', '.join(allowed)}")
