"""What the flows of a dataset are made from and how: checked here, before any solver is loaded."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocess.flow.boundaries import OVERLAP
from preprocess.flow.sources import (
    MOTION_VECTORS,
    SourceOptions,
    check_sources,
    parse_sources,
)
from preprocess.video.motion_vectors import VECTOR_CELL
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


@dataclass(frozen=True)
class FlowOptions:
    """Which flows are made. Each output is a folder of shards, the first of them `flows/`.

    Attributes:
        sources: names of preprocess/flow/sources.py, and "motion-vectors"; each an output.
        solvers: what the sources are told.
        stabilise: "off"; "warp": the second frame is warped back by the camera's motion and flow
            computed again; "subtract": the camera's motion is fitted to the flow and taken out of
            it, as it always is of motion vectors (preprocess/flow/camera.py).
        keep_unstabilised: the first source is an output a second time, as it is.
        lengths: each source is an output a second time, with the length of its flow as map.
        boundaries: each source that looks at pictures is an output a second time, with the maps of
            MOFO's public code (preprocess/flow/boundaries.py).
        tracks: points to track through the first source that is not motion vectors; None = none.
            They are followed through the flow between the frames as they are; with `stabilise`
            what is recorded is free of the camera's motion.
        transcode: re-encode videos whose codec has no motion vectors.
    """

    sources: tuple[str, ...] = ("tvl1",)
    solvers: SourceOptions = SourceOptions()
    stabilise: str = "off"
    keep_unstabilised: bool = False
    lengths: bool = False
    boundaries: bool = False
    tracks: TrackOptions | None = None
    transcode: bool = False

    def __post_init__(self) -> None:
        check_sources(self.sources)
        if self.stabilise not in STABILISE:
            raise InputError(f"--stabilise {self.stabilise}: {', '.join(STABILISE)} are allowed")
        if self.keep_unstabilised and self.stabilise == "off":
            raise InputError("--keep-unstabilised keeps what --stabilise changes; give both")
        if self.transcode and MOTION_VECTORS not in self.sources:
            raise InputError(f"--transcode is for --source {MOTION_VECTORS} alone")
        asked = "--trajectories" if self.tracks else "--boundaries"
        if (self.tracks or self.boundaries) and not self.pictured:
            raise InputError(
                f"{asked} needs flow of every pixel; add a source to {MOTION_VECTORS}, "
                f"such as --source {MOTION_VECTORS},tvl1"
            )
        if (self.solvers.raft_weights is not None) != ("raft" in self.sources):
            raise InputError("--source raft and --raft-weights FILE need each other")

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

    def config(self, output: str) -> dict[str, Any]:
        """What decides the content of an output's shards, flat, for its dataset.json."""
        source, ending = split_output(output)
        config: dict[str, Any] = {"flow_source": source}
        if ending in MAP_KINDS:
            config["map"] = MAP_KINDS[ending]
        if source == MOTION_VECTORS:
            config |= {"vector_cell": VECTOR_CELL, "transcode": self.transcode}
        elif source == "raft":
            config["raft_weights"] = _digest(self.solvers.raft_weights)
        else:
            presets = {"tvl1": self.solvers.tvl1_preset, "dis": self.solvers.dis_preset}
            config |= {"flow_preset": presets[source]} if source in presets else {}
        if self.is_stabilised(output):
            config["stabilise"] = "subtract" if source == MOTION_VECTORS else self.stabilise
        if self.tracks and output == self.tracked:
            config |= {f"track_{name}": value for name, value in vars(self.tracks).items()}
            config |= {"track_displacement_unit": DISPLACEMENT_UNIT, "track_hog_unit": HOG_UNIT}
        return config


def read_flow_options(options: dict[str, Any]) -> FlowOptions:
    """From the options of `preprocess.flows`, where None stands for one not given.

    Raises:
        InputError: they contradict each other, or one would be ignored.
    """
    sources = parse_sources(options["source"])
    solvers = {
        "tvl1": {"tvl1_preset": options["preset"]},
        "dis": {"dis_preset": options["dis_preset"]},
        "raft": {"raft_weights": options["raft_weights"]},
    }
    given: dict[str, Any] = {}
    for source, of_source in solvers.items():
        of_source = {name: value for name, value in of_source.items() if value is not None}
        for name in of_source.keys() if source not in sources else ():
            flag = "preset" if name == "tvl1_preset" else name.replace("_", "-")
            raise InputError(f"--{flag} is for --source {source}, which is not asked for")
        given |= of_source
    tracks = {
        name: options[f"track_{name}"]
        for name in ("length", "points", "max_flow", "cell")
        if options[f"track_{name}"] is not None
    }
    if tracks and not options["trajectories"]:
        flags = ", ".join(f"--track-{name.replace('_', '-')}" for name in tracks)
        raise InputError(f"{flags}: give --trajectories too")
    return FlowOptions(
        sources,
        SourceOptions(**given),
        options["stabilise"],
        options["keep_unstabilised"],
        options["lengths"],
        options["boundaries"],
        TrackOptions(**tracks) if options["trajectories"] else None,
        options["transcode"],
    )


def flow_folders(options: FlowOptions) -> dict[str, str]:
    """The folder of each output below OUT/DATASET; boxes are made from the first."""
    first, *others = options.outputs
    return {first: "flows"} | {output: f"flows-{output}" for output in others}


def shard_kind(folder: str) -> str:
    return "frames" if folder == "frames" else "flows"


def _digest(weights: Path | None) -> str:
    try:
        with open(weights or "", "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"--raft-weights {weights}: {error.strerror}") from None
