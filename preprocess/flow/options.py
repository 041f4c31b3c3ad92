"""The options of flow computation, checked before any solver is loaded."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from preprocess.flow.boundaries import OVERLAP
from preprocess.flow.source_options import (
    SourceOptions,
    declarations,
    file_digest,
    read_source_options,
)
from preprocess.flow.sources import (
    MOTION_VECTORS,
    NO_SOURCE,
    SOURCES,
    VectorOptions,
    check_sources,
    parse_sources,
)
from shared.errors import InputError
from shared.layout import BOUNDARIES, LENGTHS, UNSTABILISED, split_output
from shared.packed_tracks import HOG_FLOOR, HOG_STEP, MOVE_FLOOR, MOVE_STEP
from shared.track_window import TrackWindow
from shared.tracks import (
    CHANNELS,
    DISPLACEMENT_UNIT,
    HOG_UNIT,
    USUAL_LENGTH,
    USUAL_POINTS,
    HogLayout,
)

STABILISE = ("off", "warp", "subtract")
MAP_KINDS = {LENGTHS: "length", BOUNDARIES: "boundaries"}  # by output ending: `map` of a config


@dataclass(frozen=True)
class TrackOptions:
    """How points are tracked (preprocess/flow/tracks.py).

    Attributes:
        length: L, number of flows that a track passes through, 1..255.
        points: number of grid points along the short side of the frame, 1..1024.
        max_flow: components of flow are clipped to +-max_flow pixels; 0 = no clipping.
        cell: side of the HOG cell in pixels, even, at most 64; 0 = no HOG.
        channels: what HOG is computed of, "grey" frames or each of the three "rgb" channels.
        cells: cells along each side of the square around a position, 1..4.
        weights: TorchScript file of a point tracker that follows points instead of the flow
            (preprocess/flow/point_tracker.py).
        window: training windows at whose tubelets tracks start, such as "16x3x2"
            (shared/track_window.py); "" = tracks start at every frame.

    Raises:
        InputError: a value is not allowed.
    """

    length: int = USUAL_LENGTH
    points: int = USUAL_POINTS
    max_flow: float = 20.0
    cell: int = 8
    channels: str = "grey"
    cells: int = 1
    weights: Path | None = None
    window: str = ""

    def __post_init__(self) -> None:
        for name, least, most in (
            *(("length", 1, 255), ("points", 1, 1024), ("cell", 0, 64)),
            ("cells", 1, 4),
        ):
            if not least <= getattr(self, name) <= most:
                raise InputError(
                    "out-of-range",
                    f"--track-{name} is {getattr(self, name)}; {least} to {most} is allowed",
                )
        if self.cell % 2:
            raise InputError(
                "out-of-range", f"--track-cell is {self.cell}; it must be an even number of pixels"
            )
        if self.channels not in CHANNELS:
            raise InputError(
                "unknown-name",
                f"--track-channels is {self.channels!r}; allowed: {', '.join(CHANNELS)}",
            )
        if self.layout != HogLayout() and not self.cell:
            raise InputError(
                "option-unused",
                "--track-cell is 0, so that no HOG is stored, and --track-channels and "
                "--track-cells have no effect; leave them out",
            )
        if not 0 <= self.max_flow < math.inf:
            raise InputError(
                "out-of-range",
                f"--track-max-flow is {self.max_flow}; it must be a finite number of at least 0",
            )
        if self.window and TrackWindow.parse(self.window) and self.layout != HogLayout():
            raise InputError(
                "option-conflict",
                f"--track-window {self.window} stores HOG of one cell of grey frames; leave it "
                "out, or --track-channels and --track-cells",
            )

    @property
    def starts(self) -> TrackWindow | None:
        """The windows at whose tubelets tracks start; None for every frame."""
        return TrackWindow.parse(self.window) if self.window else None

    @property
    def layout(self) -> HogLayout:
        """The numbers of HOG at a position."""
        return HogLayout(self.channels, self.cells)

    def config(self) -> dict[str, Any]:
        """The options that decide what is stored, and the units of what is stored. Those of HOG's
        layout, the tracker and the window are left out where they are the default, because older
        datasets do not have them."""
        kept = {name: getattr(self, name) for name in ("length", "points", "max_flow", "cell")}
        if self.layout != HogLayout():
            kept |= {"channels": self.channels, "cells": self.cells}
        if self.weights is not None:
            kept["weights"] = file_digest("--track-weights", self.weights)
        config = {f"track_{name}": value for name, value in kept.items()}
        if not self.window:
            units = {"displacement_unit": DISPLACEMENT_UNIT, "hog_unit": HOG_UNIT}
        else:
            config["track_window"] = self.window
            units = {"move_step": MOVE_STEP, "move_floor": MOVE_FLOOR}
            units |= {"hog_step": HOG_STEP, "hog_floor": HOG_FLOOR}
        return config | {f"track_{name}": value for name, value in units.items()}


TRACK_NAMES = tuple(field.name for field in fields(TrackOptions))


@dataclass(frozen=True)
class FlowOptions:
    """Which flows are computed. Each output is a folder of shards; the first is `flows/`.

    Attributes:
        sources: names of flow sources (preprocess/flow/sources.py). Each gives an output. Without
            a source only frames are stored.
        source_options: options of the sources. A source without options here has its defaults.
        stabilise: how camera motion is removed (preprocess/flow/camera.py). "off": not at all.
            "warp": the second frame is warped back, and flow is computed again. "subtract":
            camera motion is fitted to the flow and subtracted. Motion vectors always take
            "subtract" in place of "warp".
        keep_unstabilised: add an output of the first source with camera motion.
        lengths: add an output for each source, with the length of its flow as map.
        boundaries: add an output for each source that computes flow from frames, with the maps of
            MOFO's public code (preprocess/flow/boundaries.py).
        residual: store beside the maps of each source the length of its flow without camera
            motion, from which boxes are made (preprocess/flow/residual.py).
        tracks: how to track points through the first source that computes flow from frames; None =
            no tracks. Points follow the flow between the original frames. With `stabilise`, the
            recorded displacements are free of camera motion.
        left_out: names of outputs that are not made, although the other options ask for them.
            Several runs may have made the outputs of a dataset: one those of two sources, and
            another one the lengths of one of them (see `united`).

    Raises:
        InputError: options contradict each other, or a value is not allowed.
    """

    sources: tuple[str, ...] = ("tvl1",)
    source_options: tuple[SourceOptions, ...] = ()
    stabilise: str = "off"
    keep_unstabilised: bool = False
    lengths: bool = False
    boundaries: bool = False
    residual: bool = True
    tracks: TrackOptions | None = None
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_sources(self.sources)
        if self.stabilise not in STABILISE:
            raise InputError(
                "unknown-name",
                f"--stabilise is {self.stabilise!r}; allowed: {', '.join(STABILISE)}",
            )
        if not self.sources:
            self._refuse_all_but_frames()
        if self.keep_unstabilised and self.stabilise == "off":
            raise InputError(
                "option-needs-another",
                "--keep-unstabilised has an effect only with --stabilise; give both",
            )
        asked = "--trajectories" if self.tracks else "--boundaries"
        if (self.tracks or self.boundaries) and not self.pictured:
            raise InputError(
                "option-conflict",
                f"{asked} needs flow for every pixel, which {MOTION_VECTORS} does not give; add "
                f"another source, such as --source {MOTION_VECTORS},tvl1",
            )
        if self.tracks and self.tracks.weights is not None and self.stabilise != "off":
            raise InputError(
                "option-conflict",
                f"--stabilise {self.stabilise} removes the camera's motion from flow, and "
                "--track-weights follows points without flow; leave one of them out",
            )
        for source in self.sources:
            for declared in declarations(SOURCES[source].options):
                value = getattr(self.options_of(source), declared.name)
                if declared.is_required and value is None:
                    raise InputError(
                        "missing-option",
                        f"--source {source} needs {declared.flag} {declared.metavar}; give both",
                    )

    def _refuse_all_but_frames(self) -> None:
        without = FlowOptions()
        names = ("stabilise", "keep_unstabilised", "lengths", "boundaries")
        unused = [name for name in names if getattr(self, name) != getattr(without, name)]
        if self.tracks:
            unused.append("trajectories")
        if unused:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
            raise InputError(
                "option-unused",
                f"{flags} has no effect with --source {NO_SOURCE}, which computes no flow; leave "
                f"it out, or name one of the sources {', '.join(SOURCES)}",
            )

    def options_of(self, source: str) -> SourceOptions:
        """The options of one source."""
        wanted = SOURCES[source].options
        given = (options for options in self.source_options if type(options) is wanted)
        return next(given, wanted())

    @property
    def transcode(self) -> bool:
        """Whether videos whose codec has no motion vectors are re-encoded."""
        vectors = self.options_of(MOTION_VECTORS)
        assert isinstance(vectors, VectorOptions)
        return vectors.transcode and MOTION_VECTORS in self.sources

    @property
    def pictured(self) -> tuple[str, ...]:
        """The sources that compute flow from frames, which are all but motion vectors."""
        return tuple(name for name in self.sources if name != MOTION_VECTORS)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of all outputs that are made, the one of `flows/` first."""
        kept = (self.sources[0] + UNSTABILISED,) if self.keep_unstabilised else ()
        lengths = tuple(name + LENGTHS for name in self.sources) if self.lengths else ()
        boundaries = tuple(name + BOUNDARIES for name in self.pictured) if self.boundaries else ()
        names = self.sources + kept + lengths + boundaries
        return tuple(name for name in names if name not in self.left_out)

    @property
    def frames_before(self) -> int:
        """Number of frames of the previous chunk that a chunk has again.

        Its first pair needs one. Tracks and windows of maps reach over several pairs, and need
        more.
        """
        track = self.tracks.length if self.tracks else 1
        return max(track, OVERLAP if self.boundaries else 1)

    @property
    def tracked(self) -> str | None:
        """The output that has the tracks; None without tracks."""
        return self.pictured[0] if self.tracks else None

    def is_stabilised(self, output: str) -> bool:
        return self.stabilise != "off" and not output.endswith(UNSTABILISED)

    def has_residual(self, output: str) -> bool:
        """Whether residual lengths lie beside the maps of an output, which are of equation 1."""
        return self.residual and not output.endswith(tuple(MAP_KINDS))

    @property
    def needs_colour(self) -> bool:
        """Whether flow workers need the frames in colour, for HOG of each channel or a tracker."""
        tracks = self.tracks
        return tracks is not None and (tracks.channels == "rgb" or tracks.weights is not None)

    def config(self, output: str) -> dict[str, Any]:
        """All options that decide the content of an output's shards, for its dataset.json."""
        source, ending = split_output(output)
        config: dict[str, Any] = {"flow_source": source}
        if ending in MAP_KINDS:
            config["map"] = MAP_KINDS[ending]
        if source == MOTION_VECTORS:
            from preprocess.video.motion_vectors import VECTOR_CELL  # it imports OpenCV and PyAV

            config["vector_cell"] = VECTOR_CELL
        config |= self.options_of(source).config()
        if self.is_stabilised(output):
            config["stabilise"] = "subtract" if source == MOTION_VECTORS else self.stabilise
        if self.has_residual(output):
            config["residual"] = "planar"
        if self.tracks and output == self.tracked:
            config |= self.tracks.config()
        return config


_DEFAULTS: dict[str, Any] = {
    "source": ",".join(FlowOptions.sources),
    "stabilise": FlowOptions.stabilise,
    "keep_unstabilised": FlowOptions.keep_unstabilised,
    "lengths": FlowOptions.lengths,
    "boundaries": FlowOptions.boundaries,
    "residual": False,  # what is not recorded was not made: older runs had no such option
    "trajectories": False,
    "left_out": (),  # no option of the command line; only records have it
}


def read_flow_options(given: Mapping[str, Any]) -> FlowOptions:
    """Read the options of `flows` by name.

    Args:
        given: value by name. An option that is missing or None was not given.

    Raises:
        InputError: options contradict each other, or one has no effect.
    """
    given = _DEFAULTS | dict(given)
    names = parse_sources(given["source"])
    source_options = []
    for name, source in SOURCES.items():
        options, flags = read_source_options(source.options, given)
        if flags and name not in names:
            raise InputError(
                "option-needs-another",
                f"{flags[0]} has an effect only with --source {name}; give both, or leave it out",
            )
        if flags:
            source_options.append(options)
    if not names and given["residual"]:
        raise InputError(
            "option-unused",
            f"--residual has no effect with --source {NO_SOURCE}, which computes no flow; leave it "
            "out",
        )
    tracks: dict[str, Any] = {
        name: given[f"track_{name}"]
        for name in TRACK_NAMES
        if given.get(f"track_{name}") is not None
    }
    if "weights" in tracks:
        tracks["weights"] = Path(tracks["weights"])
    if tracks and not given["trajectories"]:
        flags = [f"--track-{name.replace('_', '-')}" for name in tracks]
        raise InputError(
            "option-needs-another",
            f"{', '.join(flags)}: no effect without --trajectories; give both, or leave it out",
        )
    return FlowOptions(
        names,
        tuple(source_options),
        given["stabilise"],
        given["keep_unstabilised"],
        given["lengths"],
        given["boundaries"],
        given["residual"],
        TrackOptions(**tracks) if given["trajectories"] else None,
        tuple(given["left_out"]),
    )


def recorded_flow_options(flow: FlowOptions) -> dict[str, Any]:
    """The options by name, for options.json; the inverse of `read_flow_options`."""
    record: dict[str, Any] = {"source": ",".join(flow.sources) or NO_SOURCE}
    for name, source in SOURCES.items():
        for declared in declarations(source.options):
            record[declared.name] = None
        if name in flow.sources:
            record |= flow.options_of(name).values()
    for name in ("stabilise", "keep_unstabilised", "lengths", "boundaries", "residual"):
        record[name] = getattr(flow, name)
    record["trajectories"] = flow.tracks is not None
    for name in TRACK_NAMES:
        record[f"track_{name}"] = None if flow.tracks is None else getattr(flow.tracks, name)
    if flow.left_out:
        record["left_out"] = list(flow.left_out)
    return record


def united(earlier: FlowOptions, kept: Collection[str], later: FlowOptions) -> FlowOptions:
    """The options of one run that makes what two runs have made of the same flows/.

    Args:
        earlier: options of the run before.
        kept: those of its outputs that there still are.
        later: options of the run now. They hold where both runs have a value.
    """
    is_same_first = earlier.sources[:1] == later.sources[:1]
    if not kept or not is_same_first or earlier.stabilise != later.stabilise:
        return later
    # Tracks are those of the first source with pictures; the run that has tracks says which it is.
    first, second = (later, earlier) if later.tracks else (earlier, later)
    of_kept = {split_output(output)[0] for output in kept}
    sources = tuple(
        source
        for source in dict.fromkeys((*first.sources, *second.sources))
        if source in later.sources or source in of_kept
    )
    both = replace(
        later,
        sources=sources,
        source_options=tuple(
            (later if source in later.sources else earlier).options_of(source) for source in sources
        ),
        keep_unstabilised=later.keep_unstabilised or earlier.keep_unstabilised,
        lengths=later.lengths or earlier.lengths,
        boundaries=later.boundaries or earlier.boundaries,
        tracks=later.tracks or earlier.tracks,
        left_out=(),
    )
    made = {*later.outputs, *kept}
    return replace(both, left_out=tuple(name for name in both.outputs if name not in made))


def flow_folders(options: FlowOptions) -> dict[str, str]:
    """The folder of each output below OUT/DATASET. Boxes are made from the first."""
    names = [f"flows-{output}" for output in options.outputs]
    return dict(zip(options.outputs, ["flows", *names[1:]], strict=False))


def shard_kind(folder: str) -> str:
    """The kind of shards that a folder holds."""
    return "frames" if folder == "frames" else "flows"
