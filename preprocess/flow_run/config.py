"""How a run of `flows` is configured: one frozen object, from the command line or options.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from preprocess.flow.options import FlowOptions, read_flow_options, recorded_flow_options
from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.shard_index import read_index

POOLS = ("ray", "in-process")


@dataclass(frozen=True)
class FlowsConfig:
    """All options of `flows`. The command line checks the ranges.

    Attributes:
        dataset: name of the folder below `out`, with manifest.csv.
        out: folder of all datasets.
        videos: folder that the paths of the manifest are relative to; None = OUT/NAME/videos.
        clips_per_shard: 1 or more; 512 clips of Something-Something V2 are about 440 MB of frames.
        frame_short_side: short side of the stored frames, pixels, 16 or more; smaller videos are
            not enlarged.
        jpeg_quality: JPEG quality of the stored frames, 1..100.
        flow_short_side: short side of the frames that flow is computed on, pixels, 16 or more.
        map_short_side: short side of the stored motion maps, pixels, 4 or more.
        flow: which flows are made, from which sources, with which options.
        max_pixels: largest accepted frame, width times height in pixels, 256 or more.
        max_frames: largest accepted number of frames of a clip, 2 or more.
        max_seconds: longest accepted clip, seconds, above 0.
        pool: "ray", or "in-process" on one core.
        decoders: number of decoder processes; None = as many as suit the machine or the cluster.
        flow_workers: number of flow processes; None = the same.
        shard_writers: number of processes that assemble and write shards; 0 = the run itself does;
            None = 0, or on a cluster that sees `out` one for every 32 workers.
        num_gpus: number of GPUs for flow; 0 = flow is computed on CPU cores.
        clip_timeout: seconds without an answer after which a worker is killed.
        dashboard: whether Ray shows its dashboard on 127.0.0.1.
        part: which share of the shards is made, such as "3/16"; None = all.
        finish: whether the shards of all parts are checked and declared complete; none is made.
        strict: whether the first clip that fails ends the run.
        overwrite: whether all shards are made again, also with other options.
        dry_run: whether the command prints its plan and stops.
        verbose: whether the command prints all options and digests.
    """

    dataset: str
    out: Path = Path("out")
    videos: Path | None = None
    # What is stored
    clips_per_shard: int = 512
    frame_short_side: int = 256
    jpeg_quality: int = 90
    flow_short_side: int = 240
    map_short_side: int = 64
    flow: FlowOptions = field(default_factory=FlowOptions)
    # Which clips are refused
    max_pixels: int = 8192 * 4320
    max_frames: int = 216_000
    max_seconds: float = 3600.0
    # Processes
    pool: str = POOLS[0]
    decoders: int | None = None
    flow_workers: int | None = None
    shard_writers: int | None = None
    num_gpus: int = 0
    clip_timeout: float = 300.0
    dashboard: bool = False
    # The run
    part: str | None = None
    finish: bool = False
    strict: bool = False
    overwrite: bool = False
    dry_run: bool = False
    verbose: bool = False

    @classmethod
    def from_options(cls, given: Mapping[str, Any]) -> FlowsConfig:
        """Build a config from options by name, not nested, as click and options.json have them.

        Unknown names are ignored; missing names have their defaults.

        Raises:
            InputError: options of flow contradict each other, or one has no effect.
        """
        names = {each.name for each in fields(cls)} - {"flow"}
        own = {name: value for name, value in given.items() if name in names}
        for name in ("out", "videos"):
            if own.get(name) is not None:
                own[name] = Path(own[name])
        return cls(**own, flow=read_flow_options(given))

    def options(self) -> dict[str, Any]:
        """The options by name, not nested: the inverse of `from_options`."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "flow"}
        return own | recorded_flow_options(self.flow)

    @property
    def layout(self) -> DatasetLayout:
        return DatasetLayout(self.out, self.dataset)

    @property
    def video_root(self) -> Path:
        """The folder that the paths of the manifest are relative to."""
        return self.videos or self.layout.videos


# How a run was divided among processes says nothing about the next machine.
NOT_TAKEN_OVER = (
    *("decoders", "flow_workers", "shard_writers", "part", "finish"),
    *("strict", "overwrite", "dry_run", "verbose"),
)


def recorded_config(
    layout: DatasetLayout, given: Mapping[str, Any], path: Path | None = None
) -> FlowsConfig:
    """The config of the run that made a dataset, from its options.json.

    Args:
        given: options that replace those of that run, by name; None for an option that was not
            given.
        path: the record; None = the one of flows/, or of frames/ if there are frames alone.

    Raises:
        InputError: options.json is missing, or was not written by `flows`.
    """
    path = path or _record_of(layout)
    replaced = {name: value for name, value in given.items() if value is not None}
    dataset = {"out": layout.out, "dataset": layout.dataset}
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["options"]
        kept = {name: value for name, value in recorded.items() if name not in NOT_TAKEN_OVER}
        return FlowsConfig.from_options(kept | replaced | dataset)
    except FileNotFoundError:
        raise InputError(
            "missing-file",
            f"{path} does not exist. It records how the shards were made; restore it, or make all "
            f"shards again with `{layout.make('flows', '--overwrite')}`",
        ) from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "damaged-file",
            f"{path} is not a file that preprocess.flows writes ({error!r}). Restore it, or make "
            f"all shards again with `{layout.make('flows', '--overwrite')}`",
        ) from None


def _record_of(layout: DatasetLayout) -> Path:
    """The record of the run of a dataset. A run that computes no flow leaves it in frames/."""
    of_flows, of_frames = (folder / "options.json" for folder in (layout.flows, layout.frames))
    has_flows = of_flows.is_file() or read_index(layout.flows) is not None
    return of_frames if of_frames.is_file() and not has_flows else of_flows


def with_workers(config: FlowsConfig) -> FlowsConfig:
    """The config with numbers of workers that suit the machine.

    The numbers stay None where RAY_ADDRESS names a cluster. RayPool asks the cluster for its CPUs.

    Raises:
        InputError: flow workers cannot be spread evenly over the GPUs, or shard writers are
            requested in a single process.
    """
    if config.pool == "in-process":
        if config.shard_writers:
            raise InputError(
                "option-unused",
                f"--shard-writers is {config.shard_writers}, and --pool in-process has no other "
                "process. Leave out one of the two",
            )
        return replace(config, decoders=1, flow_workers=1)
    gpus, flow_workers = config.num_gpus, config.flow_workers
    if gpus and flow_workers and flow_workers % gpus:
        raise InputError(
            "out-of-range",
            f"--flow-workers is {flow_workers} and --num-gpus is {gpus}. Each GPU serves the same "
            f"number of workers, so give a multiple of {gpus}",
        )
    if os.environ.get("RAY_ADDRESS"):
        return config
    cores, computes_flow = len(os.sched_getaffinity(0)), bool(config.flow.sources)
    decoders, flow_defaults = default_workers(cores, gpus, computes_flow)
    return replace(
        config, decoders=config.decoders or decoders, flow_workers=flow_workers or flow_defaults
    )


def default_workers(
    cores: int, gpus: int, computes_flow: bool = True, one_core_each: bool = False
) -> tuple[int, int]:
    """Numbers of decoders and flow workers that suit a number of CPU cores.

    On CPU most processes compute flow; beside a GPU, or without flow, most of them decode.

    Args:
        cores: number of CPU cores.
        gpus: number of GPUs; 0 = flow is computed on CPU cores.
        computes_flow: whether there is flow to compute.
        one_core_each: whether there may be no more workers than cores (but one of each kind). Ray
            gives each worker of a cluster a core of its own; on one machine a few workers more
            keep all cores busy.
    """
    few = gpus or (0 if computes_flow else 1)  # flow workers, if few are enough
    if not one_core_each:
        return (cores, few) if few else (max(1, cores // 4), cores)
    if few:
        return max(1, cores - few), few
    decoders = max(1, round(cores / 5))
    return decoders, max(1, cores - decoders)
