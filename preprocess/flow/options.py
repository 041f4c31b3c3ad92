"""What the flows of a dataset are made from and how: checked here, before any solver is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from preprocess.flow.boundaries import OVERLAP
from preprocess.flow.source_options import SourceOptions, declarations, read_source_options
from preprocess.flow.sources import (
    MOTION_VECTORS,
    SOURCES,
    VectorOptions,
    check_sources,
    parse_sources,
)
from shared.errors import InputError
from shared.layout import BOUNDARIES, LENGTHS, UNSTABILISED, split_output
from shared.tracks import DISPLACEMENT_UNIT, HOG_UNIT, USUAL_LENGTH, USUAL_POINTS

STABILISE = ("off", "warp", "subtract")
MAP_KINDS = {LENGTHS: "length", BOUNDARIES: "boundaries"}  # what `map` of a config says


@dataclass(frozen=True)
class TrackOptions:
    """How points are tracked (preprocess/flow/tracks.py).

    Attributes:
        length: L, flows that a track goes through.
        points: grid points along the short side of the frame.
        max_flow: components of flow are clipped to this many pixels either way; 0 = not at all.
        cell: side of the HOG cell in pixels, even; 0 = no HOG.
    """

    length: int = USUAL_LENGTH
    points: int = USUAL_POINTS
    max_flow: float = 20.0
    cell: int = 8

    def __post_init__(self) -> None:
        for name, least, most in (("length", 1, 255), ("points", 1, 1024), ("cell", 0, 64)):
            if not least <= getattr(self, name) <= most:
                raise InputError(
                    f"tracks: {name} is {getattr(self, name)}; {least} to {most} is allowed"
                )
        if self.cell % 2:
            raise InputError(f"tracks: cell is {self.cell}; an even number of pixels is allowed")
        if not 0 <= self.max_flow < math.inf:
            raise InputError(f"tracks: max_flow is {self.max_flow}; a number from 0 is allowed")


TRACK_NAMES = tuple(field.name for field in fields(TrackOptions))


@dataclass(frozen=True)
class FlowOptions:
    """Which flows are made. Each output is a folder of shards, the first of them `flows/`.

    Attributes:
        sources: names of preprocess/flow/sources.py, and "motion-vectors"; each an output.
        source_options: options of sources; a source without any here has its defaults.
        stabilise: "off"; "warp": the second frame is warped back by the camera's motion and flow
            computed again; "subtract": the camera's motion is fitted to the flow and taken out of
            it, as it always is of motion vectors (preprocess/flow/camera.py).
        keep_unstabilised: the first source is an output a second time, as it is.
        lengths: each source is an output a second time, with the length of its flow as map.
        boundaries: each source that looks at pictures is an output a second time, with the maps of
            MOFO's public code (preprocess/flow/boundaries.py).
        residual: the maps of each source have beside them the length of its flow without the
            camera's part, which `boxes` takes (preprocess/flow/residual.py).
        tracks: points to track through the first source that is not motion vectors; None = none.
            They are followed through the flow between the frames as they are; with `stabilise`
            what is recorded is free of the camera's motion.
    """

    sources: tuple[str, ...] = ("tvl1",)
    source_options: tuple[SourceOptions, ...] = ()
    stabilise: str = "off"
    keep_unstabilised: bool = False
    lengths: bool = False
    boundaries: bool = False
    residual: bool = True
    tracks: TrackOptions | None = None

    def __post_init__(self) -> None:
        check_sources(self.sources)
        if self.stabilise not in STABILISE:
            raise InputError(f"--stabilise {self.stabilise}: {', '.join(STABILISE)} are allowed")
        if self.keep_unstabilised and self.stabilise == "off":
            raise InputError("--keep-unstabilised keeps what --stabilise changes; give both")
        asked = "--trajectories" if self.tracks else "--boundaries"
        if (self.tracks or self.boundaries) and not self.pictured:
            raise InputError(
                f"{asked} needs flow of every pixel; add a source to {MOTION_VECTORS}, "
                f"such as --source {MOTION_VECTORS},tvl1"
            )
        for source in self.sources:
            for declared in declarations(SOURCES[source].options):
                value = getattr(self.options_of(source), declared.name)
                if declared.is_required and value is None:
                    raise InputError(
                        f"--source {source} and {declared.flag} {declared.metavar} need each other"
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
        """Sources that look at pictures."""
        return tuple(name for name in self.sources if name != MOTION_VECTORS)

    @property
    def outputs(self) -> tuple[str, ...]:
        kept = (self.sources[0] + UNSTABILISED,) if self.keep_unstabilised else ()
        lengths = tuple(name + LENGTHS for name in self.sources) if self.lengths else ()
        boundaries = tuple(name + BOUNDARIES for name in self.pictured) if self.boundaries else ()
        return self.sources + kept + lengths + boundaries

    @property
    def frames_before(self) -> int:
        """Frames that a chunk has from before it: one for its first pair, and as many as what
        reaches over several pairs needs again."""
        track = self.tracks.length if self.tracks else 1
        return max(track, OVERLAP if self.boundaries else 1)

    @property
    def tracked(self) -> str | None:
        """The output that has the tracks."""
        return self.pictured[0] if self.tracks else None

    def is_stabilised(self, output: str) -> bool:
        return self.stabilise != "off" and not output.endswith(UNSTABILISED)

    def has_residual(self, output: str) -> bool:
        """Whether residual lengths lie beside the maps of an output, which are of equation 1."""
        return self.residual and not output.endswith(tuple(MAP_KINDS))

    def config(self, output: str) -> dict[str, Any]:
        """What decides the content of an output's shards, flat, for its dataset.json."""
        source, ending = split_output(output)
        config: dict[str, Any] = {"flow_source": source}
        if ending in MAP_KINDS:
            config["map"] = MAP_KINDS[ending]
        if source == MOTION_VECTORS:
            from preprocess.video.motion_vectors import VECTOR_CELL  # OpenCV and PyAV

            config["vector_cell"] = VECTOR_CELL
        config |= self.options_of(source).config()
        if self.is_stabilised(output):
            config["stabilise"] = "subtract" if source == MOTION_VECTORS else self.stabilise
        if self.has_residual(output):
            config["residual"] = "planar"
        if self.tracks and output == self.tracked:
            config |= {f"track_{name}": value for name, value in vars(self.tracks).items()}
            config |= {"track_displacement_unit": DISPLACEMENT_UNIT, "track_hog_unit": HOG_UNIT}
        return config


_DEFAULTS: dict[str, Any] = {
    "source": ",".join(FlowOptions.sources),
    "stabilise": FlowOptions.stabilise,
    "keep_unstabilised": FlowOptions.keep_unstabilised,
    "lengths": FlowOptions.lengths,
    "boundaries": FlowOptions.boundaries,
    "residual": False,  # what is not recorded was not made: older runs had no such option
    "trajectories": False,
}


def read_flow_options(given: Mapping[str, Any]) -> FlowOptions:
    """From options of `flows` by name; None, and no value, stand for one that is not given.

    Raises:
        InputError: they contradict each other, or one would be ignored.
    """
    given = _DEFAULTS | dict(given)
    names = parse_sources(given["source"])
    source_options = []
    for name, source in SOURCES.items():
        options, flags = read_source_options(source.options, given)
        if flags and name not in names:
            raise InputError(f"{flags[0]} is for --source {name}, which is not asked for")
        if flags:
            source_options.append(options)
    tracks: dict[str, Any] = {
        name: given[f"track_{name}"]
        for name in TRACK_NAMES
        if given.get(f"track_{name}") is not None
    }
    if tracks and not given["trajectories"]:
        flags = [f"--track-{name.replace('_', '-')}" for name in tracks]
        raise InputError(f"{', '.join(flags)}: give --trajectories too")
    return FlowOptions(
        names,
        tuple(source_options),
        given["stabilise"],
        given["keep_unstabilised"],
        given["lengths"],
        given["boundaries"],
        given["residual"],
        TrackOptions(**tracks) if given["trajectories"] else None,
    )


def recorded_flow_options(flow: FlowOptions) -> dict[str, Any]:
    """The inverse of `read_flow_options`, for options.json."""
    record: dict[str, Any] = {"source": ",".join(flow.sources)}
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
    return record


def flow_folders(options: FlowOptions) -> dict[str, str]:
    """The folder of each output below OUT/DATASET; boxes are made from the first."""
    first, *others = options.outputs
    return {first: "flows"} | {output: f"flows-{output}" for output in others}


def shard_kind(folder: str) -> str:
    return "frames" if folder == "frames" else "flows"
