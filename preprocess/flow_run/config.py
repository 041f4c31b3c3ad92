"""How a run of `flows` is configured: one frozen object, from the command line or options.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from preprocess.flow.options import FlowOptions, read_flow_options, recorded_flow_options
from shared.errors import InputError
from shared.layout import DatasetLayout

POOLS = ("ray", "in-process")


@dataclass(frozen=True)
class FlowsConfig:
    """Everything that `flows` can be told. The command line checks the ranges.

    Attributes:
        dataset: name of the folder below `out`, with manifest.csv.
        out: folder of all datasets.
        videos: folder that the manifest's paths begin at; None = OUT/NAME/videos.
        clips_per_shard: 1 or more; 512 clips of Something-Something V2 are about 440 MB of frames.
        frame_short_side: of the stored frames, pixels, 16 or more; never enlarged.
        jpeg_quality: of the stored frames, 1..100.
        flow_short_side: of the frames that flow is computed on, pixels, 16 or more.
        map_short_side: of the stored motion maps, pixels, 4 or more.
        flow: which flows are made, from which sources, and their options.
        max_pixels: largest frame of a video that is accepted, width times height, 256 or more.
        max_frames: longest clip that is accepted, 2 or more.
        max_seconds: longest clip that is accepted, above 0.
        pool: "ray", or "in-process" on one core.
        decoders: decoder processes; None = as many as suit the machine.
        flow_workers: flow processes; None = one a core, or one a GPU.
        num_gpus: GPUs for flow; 0 = flow is computed on CPU cores.
        clip_timeout: seconds without an answer after which a worker is killed.
        dashboard: whether Ray shows its dashboard on 127.0.0.1.
        strict: whether the first clip that fails ends the run.
        overwrite: whether all shards are made again, also with other options.
        dry_run: whether the command prints what it would do and stops.
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
    flow: FlowOptions = FlowOptions()
    # Which clips are refused
    max_pixels: int = 8192 * 4320
    max_frames: int = 216_000
    max_seconds: float = 3600.0
    # Processes
    pool: str = POOLS[0]
    decoders: int | None = None
    flow_workers: int | None = None
    num_gpus: int = 0
    clip_timeout: float = 300.0
    dashboard: bool = False
    # The run
    strict: bool = False
    overwrite: bool = False
    dry_run: bool = False

    @classmethod
    def from_options(cls, given: Mapping[str, Any]) -> FlowsConfig:
        """From options by name, flat, as click and options.json have them.

        Names that are not known are ignored; names that are missing have their defaults.

        Raises:
            InputError: options of flow contradict each other, or one would be ignored.
        """
        names = {field.name for field in fields(cls)} - {"flow"}
        own = {name: value for name, value in given.items() if name in names}
        for name in ("out", "videos"):
            if own.get(name) is not None:
                own[name] = Path(own[name])
        return cls(**own, flow=read_flow_options(given))

    def options(self) -> dict[str, Any]:
        """The options by name, flat: the inverse of `from_options`."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "flow"}
        return own | recorded_flow_options(self.flow)

    @property
    def layout(self) -> DatasetLayout:
        return DatasetLayout(self.out, self.dataset)

    @property
    def video_root(self) -> Path:
        """The folder that the manifest's paths begin at."""
        return self.videos or self.layout.videos


# How a run was divided among processes says nothing about the next machine.
NOT_TAKEN_OVER = ("decoders", "flow_workers", "strict", "overwrite", "dry_run")


def recorded_config(layout: DatasetLayout, given: Mapping[str, Any]) -> FlowsConfig:
    """The config of the run that made a dataset, from its options.json.

    Args:
        given: options that replace those of that run; None for those that are not given.

    Raises:
        InputError: options.json is not there, or not what `flows` writes.
    """
    path = layout.flows / "options.json"
    replaced = {name: value for name, value in given.items() if value is not None}
    dataset = {"out": layout.out, "dataset": layout.dataset}
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["options"]
        kept = {name: value for name, value in recorded.items() if name not in NOT_TAKEN_OVER}
        return FlowsConfig.from_options(kept | replaced | dataset)
    except FileNotFoundError:
        raise InputError(f"{path} is not there; it says how the shards were made") from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not what `preprocess.flows` writes: {error!r}") from None


def with_workers(config: FlowsConfig) -> FlowsConfig:
    """The config with numbers of workers: flow is most of the work on CPU, decoding beside a GPU.

    Raises:
        InputError: flow workers cannot be spread evenly over the GPUs.
    """
    if config.pool == "in-process":
        return replace(config, decoders=1, flow_workers=1)
    cores = len(os.sched_getaffinity(0))
    gpus = config.num_gpus
    decoders = config.decoders or (cores if gpus else max(1, cores // 4))
    flow_workers = config.flow_workers or gpus or cores
    if gpus and flow_workers % gpus:
        raise InputError(
            f"--flow-workers {flow_workers} with --num-gpus {gpus}: each GPU serves the same "
            f"number of workers; a multiple of {gpus} is allowed"
        )
    return replace(config, decoders=decoders, flow_workers=flow_workers)
