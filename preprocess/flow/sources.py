"""The flow sources: one interface, and one table of their names.

A flow source computes flow from pairs of grey frames. To add one, write a function that takes its
options and a device and returns a `FlowSource`, and add a line to `SOURCES`. A source with options
declares them in a class derived from `SourceOptions` (preprocess/flow/source_options.py). The
motion vectors of the codec need no function, because they come with the decoded frame
(preprocess/video/motion_vectors.py).

The functions import their solvers themselves, so that names can be checked without loading them.
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

FlowSource: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"
"""source(first, second): two batches of grey frames [B, H, W], uint8 or float 0..255
-> flow from first to second, float32 [B, 2, H, W], u (right) then v (down), pixels per frame."""

MOTION_VECTORS = "motion-vectors"
NO_SOURCE = "none"  # stands alone for no source at all: frames are stored, and no flow
DIS_PRESETS = ("ultrafast", "fast", "medium")  # names of OpenCV


@dataclass(frozen=True)
class Tvl1Options(SourceOptions):
    """Options of TV-L1 (preprocess/flow/tvl1.py)."""

    preset: str = option(
        "fast",
        "Parameter preset of the source tvl1.",
        choices=tuple(TVL1_PRESETS),
        config_key="flow_preset",
        is_rare=False,
    )


def tvl1_source(options: Tvl1Options, device: str) -> FlowSource:
    """TV-L1, on the CPU or a GPU."""
    from preprocess.flow.tvl1 import tvl1_flow

    def flow(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return tvl1_flow(first.to(device), second.to(device), preset=options.preset)

    return flow


@dataclass(frozen=True)
class DisOptions(SourceOptions):
    """Options of dense inverse search."""

    dis_preset: str = option(
        "medium",
        "OpenCV's preset of the source dis.",
        choices=DIS_PRESETS,
        config_key="flow_preset",
    )


def dis_source(options: DisOptions, device: str) -> FlowSource:
    """OpenCV's dense inverse search (Kroeger et al., ECCV 2016), pair by pair, on the CPU.

    It limits OpenCV to one thread in the whole process, because several workers run side by side.
    """
    import cv2
    import torch

    cv2.setNumThreads(1)
    no_initial_flow: Any = None  # the type stubs of OpenCV do not allow None
    preset = getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{options.dis_preset.upper()}")

    def flow(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        pictures = [
            batch.round().clamp(0, 255) if batch.is_floating_point() else batch
            for batch in (first, second)
        ]
        arrays = [batch.to(torch.uint8).cpu().contiguous().numpy() for batch in pictures]
        # A new solver each time: a solver that has seen a small frame keeps the scales of that.
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
        "Local file with the weights of torchvision's raft_small or raft_large. The source raft "
        "needs it.",
        metavar="FILE",
        is_required=True,
    )


def raft_source(options: RaftOptions, device: str) -> FlowSource:
    """RAFT, with weights from a local file."""
    from preprocess.flow.raft import EXPECTED, RaftFlow

    if options.raft_weights is None:
        raise InputError("missing-option", f"the source raft needs --raft-weights FILE; {EXPECTED}")
    return RaftFlow(options.raft_weights, device)


@dataclass(frozen=True)
class VectorOptions(SourceOptions):
    """Options of the motion vectors of the codec."""

    transcode: bool = option(
        False,
        "For the source motion-vectors: re-encode videos whose codec has no motion "
        "vectors. The copies go to .transcoded/ in the folder of the dataset.",
    )


@dataclass(frozen=True)
class Source:
    """A flow source.

    Attributes:
        make: function of the options and of the device, "cpu" or "cuda", that loads the source;
            None for motion vectors.
        options: class of the options.
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
    """The names that messages give to the options of all sources."""
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
        )
        | {"track_weights"},
    )


def parse_sources(text: str) -> tuple[str, ...]:
    """Split `tvl1,motion-vectors` into ("tvl1", "motion-vectors"), and `none` into ().

    Raises:
        InputError: a name is unknown, or given twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    if names == (NO_SOURCE,):
        return ()
    check_sources(names)
    return names


def check_sources(names: Iterable[str]) -> None:
    """Refuse names that are unknown or given twice.

    Raises:
        InputError: there is such a name.
    """
    seen: set[str] = set()
    for name in names:
        _check_choice("flow source", name, SOURCES)
        if name in seen:
            raise InputError("duplicate", f"flow source {name} is given twice; give it once")
        seen.add(name)


def make_source(name: str, options: SourceOptions | None = None, device: str = "cpu") -> FlowSource:
    """Load a source: read its weights, and compile its code.

    The result can be used only in this process. It raises InputError for frames smaller than 16 px,
    for pairs that differ in shape or dtype, and for values that are not finite.

    Args:
        name: name of the source.
        options: options of the source's own class; None = its defaults.
        device: "cpu" or "cuda", the device of TV-L1 and RAFT, and of the flow.

    Raises:
        InputError: no source of this name computes flow from frames, or an option is missing.
    """
    makers = {name: source.make for name, source in SOURCES.items() if source.make is not None}
    _check_choice("flow source for frames", name, makers)
    options = options or SOURCES[name].options()
    assert type(options) is SOURCES[name].options, (name, options)
    source = makers[name](options, device)

    def checked(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        check_pair(first, second)
        return source(first, second)

    return checked


def check_pair(first: torch.Tensor, second: torch.Tensor) -> None:
    """Refuse frames from which no source can compute flow.

    Raises:
        InputError: frames have another shape than [B, H, W] or are too small, the frames of a pair
            differ in shape or dtype, or a value is not finite.
    """
    if first.ndim != 3 or min(first.shape[1:]) < SMALLEST_SIDE:
        raise InputError(
            "wrong-type",
            f"frames have the shape {tuple(first.shape)}; grey frames (pairs, height, width) of at "
            f"least {SMALLEST_SIDE} px a side are needed",
        )
    if first.shape != second.shape or first.dtype != second.dtype:
        raise InputError(
            "wrong-type",
            f"the frames of a pair differ: {tuple(first.shape)} {first.dtype} and "
            f"{tuple(second.shape)} {second.dtype}; resize or convert one of them",
        )
    if first.is_floating_point() and not bool((first.isfinite() & second.isfinite()).all()):
        raise InputError(
            "not-finite", "frames have NaN or infinite values; grey values 0..255 are needed"
        )


def _check_choice(what: str, name: str, allowed: Iterable[str]) -> None:
    if name not in allowed:
        raise InputError("unknown-name", f"unknown {what} {name!r}; known: {', '.join(allowed)}")
