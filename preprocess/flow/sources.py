"""Where flow comes from: one interface, one table of names.

A source turns pairs of grey pictures into flow. To add one, write a function that takes its options
and a device and returns a `FlowSource`, and give it a line in `SOURCES`; options of its own are
declared in a class derived from `SourceOptions` (preprocess/flow/source_options.py). The codec's
motion vectors need no function: they come with the decoded frame
(preprocess/video/motion_vectors.py).

Solvers are imported by the functions that make them, so that names are checked in no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from preprocess.flow.source_options import SourceOptions, declarations, option
from preprocess.running.same_options import OptionNames
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
class Tvl1Options(SourceOptions):
    """Options of TV-L1 (preprocess/flow/tvl1.py)."""

    preset: str = option(
        "fast",
        "TV-L1 parameter preset.",
        choices=tuple(TVL1_PRESETS),
        config_key="flow_preset",
        is_rare=False,
    )


def tvl1_source(options: Tvl1Options, device: str) -> FlowSource:
    from preprocess.flow.tvl1 import tvl1_flow

    def flow(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return tvl1_flow(first.to(device), second.to(device), preset=options.preset)

    return flow


@dataclass(frozen=True)
class DisOptions(SourceOptions):
    """Options of dense inverse search."""

    dis_preset: str = option(
        "medium", "DIS parameter preset of OpenCV.", choices=DIS_PRESETS, config_key="flow_preset"
    )


def dis_source(options: DisOptions, device: str) -> FlowSource:
    """Dense inverse search (Kroeger et al., ECCV 2016) as OpenCV has it, pair by pair, on the CPU.

    OpenCV is told to use one thread, in the whole process: workers are what runs side by side.
    """
    import cv2
    import torch

    cv2.setNumThreads(1)
    no_initial_flow: Any = None  # the stubs of OpenCV do not know that it may be left out
    preset = getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{options.dis_preset.upper()}")

    def flow(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        pictures = [
            batch.round().clamp(0, 255) if batch.is_floating_point() else batch
            for batch in (first, second)
        ]
        arrays = [batch.to(torch.uint8).cpu().contiguous().numpy() for batch in pictures]
        # A new one: a solver that has seen a small picture keeps the scales that it took for that.
        solver = cv2.DISOpticalFlow.create(preset)
        flows = [
            torch.from_numpy(solver.calc(one, other, no_initial_flow))
            for one, other in zip(*arrays, strict=True)
        ]
        return torch.stack(flows).permute(0, 3, 1, 2).contiguous().to(device)

    return flow


@dataclass(frozen=True)
class RaftOptions(SourceOptions):
    """Options of RAFT (preprocess/flow/raft.py)."""

    raft_weights: Path | None = option(
        None,
        "Local weights file of torchvision's raft_small or raft_large.",
        metavar="FILE",
        is_required=True,
    )


def raft_source(options: RaftOptions, device: str) -> FlowSource:
    from preprocess.flow.raft import EXPECTED, RaftFlow

    if options.raft_weights is None:
        raise InputError(f"the source raft needs --raft-weights FILE; {EXPECTED}")
    return RaftFlow(options.raft_weights, device)


@dataclass(frozen=True)
class VectorOptions(SourceOptions):
    """Options of the codec's motion vectors."""

    transcode: bool = option(False, "Re-encode videos whose codec has no motion vectors, in OUT.")


@dataclass(frozen=True)
class Source:
    """A flow source.

    Attributes:
        make: makes it ready from its options, for "cpu" or "cuda"; None for motion vectors.
        options: the class of its options.
    """

    make: Callable[[Any, str], FlowSource] | None
    options: type[SourceOptions] = SourceOptions


SOURCES: dict[str, Source] = {
    "tvl1": Source(tvl1_source, Tvl1Options),
    "dis": Source(dis_source, DisOptions),
    "raft": Source(raft_source, RaftOptions),
    MOTION_VECTORS: Source(None, VectorOptions),
}


def option_names() -> OptionNames:
    """How messages call the options of all sources."""
    declared = {name: declarations(source.options) for name, source in SOURCES.items()}
    return OptionNames(
        flags={
            name: {each.config_key: each.flag for each in of_source}
            for name, of_source in declared.items()
        },
        files=frozenset(
            each.config_key
            for of_source in declared.values()
            for each in of_source
            if each.value_type is Path
        ),
    )


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
        _check_choice("flow source", name, SOURCES)
        if name in seen:
            raise InputError(f"flow source {name} is given twice; each can be given once")
        seen.add(name)


def make_source(name: str, options: SourceOptions | None = None, device: str = "cpu") -> FlowSource:
    """Make a source ready: load its weights, compile what it needs.

    The result is meant for the process that made it, and raises InputError for frames smaller
    than 16 px, pairs that differ in shape or dtype, and values that are not finite.

    Args:
        options: of the source's own class; None = its defaults.
        device: "cpu" or "cuda"; where TV-L1 and RAFT run, and where the flow is.

    Raises:
        InputError: no source of this name takes pictures, or its options do not fit.
    """
    makers = {name: source.make for name, source in SOURCES.items() if source.make is not None}
    _check_choice("flow source for pictures", name, makers)
    options = options or SOURCES[name].options()
    assert type(options) is SOURCES[name].options, (name, options)
    source = makers[name](options, device)

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
