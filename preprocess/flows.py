"""Decode videos once, and write JPEG frames and motion maps of all clips of the manifest to shards.

    python -m preprocess.flows --dataset toy --out out
    python -m preprocess.flows --dataset ssv2 --out out --videos /data/ssv2/videos
    python -m preprocess.flows --dataset new --videos /data/new --like out/ssv2/flows

The command reads OUT/DATASET/manifest.csv and writes

    OUT/DATASET/frames/NNNNN.h5    JPEG frames
    OUT/DATASET/flows/NNNNN.h5     motion maps of the same clips in the same order; on request also
                                   the motion of the camera and tracks of points
    OUT/DATASET/flows-SOURCE/      the same for a further --source
    OUT/DATASET/failures.jsonl     clips that were set aside; the exit status is then 3

It writes dataset.json in each folder last. A run that was stopped continues where it stopped. If
everything is complete, the command says so and ends. Complete folders stay as they are when further
outputs are requested later. On CPU, nearly all of the time is spent on optical flow; the last lines
of the output say how much.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from preprocess.flow.options import STABILISE, FlowOptions, TrackOptions
from preprocess.flow.sources import NO_SOURCE, SOURCES
from preprocess.flow_run.config import FlowsConfig, with_workers
from preprocess.flow_run.like import options_like
from preprocess.flow_run.options import shared_option, source_options
from preprocess.flow_run.part import files_of_parts
from preprocess.flow_run.plan import Plan, make_plan
from preprocess.running.failures import read_failures, report_failures, write_failures
from preprocess.running.journal import Journal
from preprocess.running.like_option import like_option
from preprocess.running.options import dataset_options, help_all_option, rare_option
from shared.errors import InputError, user_errors
from shared.files import remove_file, remove_leftovers
from shared.layout import DatasetLayout
from shared.manifest import read_manifest
from shared.progress import bar_options
from shared.run_record import RunLock
from shared.shard_cache import open_shard
from shared.shard_index import read_index, shard_name
from shared.tracks import CHANNELS
from shared.wording import counted, listed

if TYPE_CHECKING:  # a run that finds everything complete does not wait for OpenCV and torch
    from preprocess.flow_run.messages import Event, StageTimes


@click.command(
    help=__doc__.split("\n")[0], context_settings={"show_default": True, "max_content_width": 100}
)
@dataset_options("manifest.csv")
@shared_option("videos")
@like_option("flows", options_like, is_rare=True)
@click.option("--clips-per-shard", type=click.IntRange(1), default=FlowsConfig.clips_per_shard,
              metavar="CLIPS", help="Number of clips in a shard. 512 clips of Something-Something "
              "V2 are about 440 MB of frames.")  # fmt: skip
# What is stored
@click.option("--frame-short-side", type=click.IntRange(16), default=FlowsConfig.frame_short_side,
              metavar="PIXELS", help="Short side of the stored frames in pixels. Smaller videos "
                                     "are not enlarged.")  # fmt: skip
@click.option("--jpeg-quality", type=click.IntRange(1, 100), default=FlowsConfig.jpeg_quality,
              metavar="1..100", help="JPEG quality of the stored frames; 100 is the "
                                     "best.")  # fmt: skip
@click.option("--flow-short-side", type=click.IntRange(16), default=FlowsConfig.flow_short_side,
              metavar="PIXELS", help="Short side in pixels to which frames are resized before "
                                     "flow is computed from them."
              )  # fmt: skip
@click.option("--map-short-side", type=click.IntRange(4), default=FlowsConfig.map_short_side,
              metavar="PIXELS", help="Short side of the stored motion maps in pixels.")  # fmt: skip
# Flow
@click.option("--source", default=",".join(FlowOptions.sources), metavar="NAMES",
              help=f"Flow sources, separated by commas: {', '.join(SOURCES)}. The first one "
              "writes flows/, from which boxes are made; each further one writes "
              "flows-SOURCE/. With none, only frames are stored.")  # fmt: skip
@source_options
@click.option("--stabilise", type=click.Choice(STABILISE), default=FlowOptions.stabilise,
              help="How camera motion is removed: not at all (off); by warping the second frame "
              "back and computing flow again (warp); or by fitting camera motion to the flow "
              "and subtracting it (subtract).")  # fmt: skip
@rare_option("--keep-unstabilised", is_flag=True,
             help="With --stabilise, also store motion maps of the first source that include "
             "camera motion, in flows-SOURCE-unstabilised/."
             )  # fmt: skip
@rare_option("--lengths", is_flag=True,
             help="Also store the length of the flow, in flows-SOURCE-length/. The pretraining "
             "method mgm needs it."
             )  # fmt: skip
@rare_option("--boundaries", is_flag=True,
             help="Also store motion maps as MOFO's public code computes them, in "
             "flows-SOURCE-boundaries/. `preprocess.boxes --motion-preset mofo-code` needs "
             "them.")  # fmt: skip
@rare_option("--residual/--no-residual", default=None,
             help="Also store residual lengths beside the motion maps: how far each place moves "
             "beyond the motion of the camera. The default preset of `preprocess.boxes` uses "
             "them.  [default: yes, unless flows/ is complete and has none]"
             )  # fmt: skip
# Tracks of points
@click.option("--trajectories", is_flag=True,
              help="Also store tracks of points that start at every frame, with histograms of "
              "oriented gradients (HOG). They take megabytes for each clip."
              )  # fmt: skip
@rare_option("--track-length", type=int, show_default=str(TrackOptions.length), metavar="FLOWS",
             help="With --trajectories: number of consecutive flows that a track "
             "follows.")  # fmt: skip
@rare_option("--track-points", type=int, show_default=str(TrackOptions.points), metavar="COUNT",
             help="With --trajectories: number of points along the short side of the frame at "
             "which tracks start.")  # fmt: skip
@rare_option("--track-max-flow", type=float, show_default=f"{TrackOptions.max_flow:g}",
             metavar="PIXELS", help="With --trajectories: largest horizontal or vertical flow, in "
                                    "pixels per frame. Larger values are cut to it. 0 sets no "
                                    "limit.")  # fmt: skip
@rare_option("--track-cell", type=int, show_default=str(TrackOptions.cell), metavar="PIXELS",
             help="With --trajectories: side of a HOG cell in pixels, an even number up to 64. 0 "
             "stores no HOG.")  # fmt: skip
@rare_option("--track-channels", type=click.Choice(list(CHANNELS)),
             show_default=TrackOptions.channels,
             help="With --trajectories: compute HOG of grey frames, or of each colour channel. "
             "With rgb HOG is three times as large.")  # fmt: skip
@rare_option("--track-cells", type=int, show_default=str(TrackOptions.cells), metavar="COUNT",
             help="With --trajectories: number of HOG cells along each side of the square around "
             "a position, 1 to 4.")  # fmt: skip
@rare_option("--track-weights", type=click.Path(path_type=Path), metavar="FILE",
             help="With --trajectories: a TorchScript file of a point tracker that follows points "
             "instead of the flow. preprocess/flow/point_tracker.py states its inputs and outputs."
             )  # fmt: skip
@rare_option("--track-window", metavar="FRAMESxSTRIDExTUBELET",
              help="With --trajectories: store, in a tenth of the space, only tracks that start at "
              "the tubelets of training windows: the recipe's number of input frames, their "
              "distance and the frames of a tubelet, such as 16x3x2.")  # fmt: skip
# Which clips are set aside
@shared_option("max_pixels")
@shared_option("max_frames")
@shared_option("max_seconds")
# Processes
@shared_option("pool")
@shared_option("decoders")
@shared_option("flow_workers")
@shared_option("num_gpus")
@shared_option("clip_timeout")
@rare_option("--shard-writers", type=click.IntRange(0), metavar="PROCESSES",
             help="Number of processes that put shards together and write them in place of this "
             "one. Their machines must see --out. With 0, this process does.  [default: 0; in a "
             "cluster that sees --out, one for every 32 workers]")  # fmt: skip
@rare_option("--dashboard", is_flag=True,
             help="Show Ray's dashboard on 127.0.0.1. The dashboard asks for a token, the value "
             "of RAY_AUTH_TOKEN."
             )  # fmt: skip
# The run
@click.option("--part", metavar="NUMBER/COUNT",
              help="Make only every COUNT-th shard, from shard NUMBER on, such as 3/16, beside "
              "other machines that share OUT.")  # fmt: skip
@click.option("--finish", is_flag=True,
              help="Check the shards of all parts, and complete the dataset. No shard is made."
              )  # fmt: skip
@click.option(
    "--strict",
    is_flag=True,
    help="Stop with an error at the first clip that fails. "
    "Otherwise, the command sets such clips aside.",
)
@click.option("--overwrite", is_flag=True,
              help="Make all shards again. The options may differ from those of the existing "
              "shards.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the plan of the run, and write nothing.")
@click.option("--verbose", is_flag=True, help="Print all options, and the digests of the inputs.")
@help_all_option
@user_errors
def main(**given: Any) -> None:
    if given["residual"] is None:
        given["residual"] = stores_residual(given)
    config = with_workers(FlowsConfig.from_options(given))
    config = replace(config, videos=config.video_root)
    layout = config.layout
    plan = make_plan(layout, read_manifest(layout.manifest), config)
    if config.dashboard and (config.pool != "ray" or os.environ.get("RAY_ADDRESS")):
        raise InputError(
            "option-conflict",
            "--dashboard shows the Ray that this command starts. Leave out --pool and RAY_ADDRESS",
        )

    if config.finish and (config.part is not None or config.overwrite):
        raise InputError(
            "option-conflict", "--finish makes no shard. Leave out --part and --overwrite"
        )

    print_plan(plan)
    if config.dry_run:
        return
    with locked(plan):
        if not config.overwrite and plan.complete_indexes().keys() == plan.folders.keys():
            with suppress(InputError):  # a journal of other folders, or of a run killed here
                plan.journal().remove()
            print(f"reuse: {' and '.join(map(str, plan.folders.values()))} are complete.")
            report_failures(layout.failures, read_failures(layout.failures))
            return
        failures = compute(plan)
        report_failures(plan.failures, failures)


@contextmanager
def locked(plan: Plan) -> Iterator[None]:
    """Refuse other runs on the dataset. Runs of other parts may work beside a run of a part.

    Raises:
        InputError: another run is using the dataset, or is making the same part.
    """
    lock = plan.layout.lock
    with ExitStack() as stack:
        stack.enter_context(RunLock(lock, is_shared=plan.part is not None))
        if plan.part is not None:
            stack.enter_context(RunLock(lock.with_name(f"{lock.name}{plan.suffix}")))
        yield


def stores_residual(given: dict[str, Any]) -> bool:
    """Whether residual lengths are stored where nothing is said: a finished dataset without stays
    as it is, and its boxes are made of its motion maps."""
    if given["source"] == NO_SOURCE:
        return False
    found = read_index(DatasetLayout(given["out"], given["dataset"]).flows)
    return given["overwrite"] or found is None or "residual" in found.config


def compute(plan: Plan) -> list[dict[str, Any]]:
    """Make the shards that are missing; returns the failures, one record for each clip."""
    from preprocess.flow_run.decode_groups import decode_groups
    from preprocess.flow_run.further_outputs import (
        clips_set_aside,
        refuse_loss,
        skip_complete,
        split_by_shard,
    )
    from preprocess.flow_run.pool import running_pool
    from preprocess.flow_run.publishing import failed_record, settled_clips
    from preprocess.flow_run.run_start import RunStart, require_videos

    # ----- What an earlier run finished
    plan = plan if plan.config.overwrite else skip_complete(plan)
    journal = find_finished(plan)
    todo = [shard for shard in plan.shards if shard not in journal.finished]
    if plan.config.finish and todo:
        raise InputError("not-finished", missing_shards(plan, todo))
    set_aside = clips_set_aside(plan, todo)
    missing = [clip for shard in todo for clip in plan.clip_indexes(shard) if clip not in set_aside]
    groups = decode_groups(plan, missing)
    if groups:
        require_videos(plan)

    # ----- Decode and flow at once; clips end in any order, shards as their last clip does
    of_lost_shards, known_failures = split_by_shard(plan, set_aside)

    def known(shard: int) -> Iterable[Event]:
        return known_failures.get(shard, ())

    with (
        closing(RunStart(plan, journal)) as run,
        running_pool(plan, bool(groups), known) as pool,
        tqdm(
            total=plan.num_clips,
            initial=plan.num_clips - len(missing),
            desc="flows",
            unit="clip",
            **bar_options(),
        ) as progress,
    ):
        began = time.perf_counter()
        events = chain(of_lost_shards, pool.run(groups) if pool else ())
        for event in settled_clips(
            plan,
            events,
            journal,
            plan.folders,
            known,
            run.publish,
            run.put_in_place,
        ):
            if event.clip_index in set_aside:
                continue
            progress.update()
            failed = failed_record(plan, event)
            if failed is not None:
                refuse_loss(plan, failed)
                if plan.config.strict:
                    raise InputError(
                        failed["code"], "{clip_id}: {stage}: {reason}".format_map(failed)
                    )
                run.add_failure(failed)
        seconds = time.perf_counter() - began
    assert len(journal.finished) == len(plan.shards), "every shard must have been published"

    # ----- Every shard exists: declare the folders complete, once
    failures = journal.failures()
    write_failures(plan.failures, failures)
    if plan.part is None:
        declare_complete(plan, journal)
    if pool is not None:
        print_times(pool.times, seconds, len(missing))
        for line in pool.times.remarks.lines():
            print(line)
    print_sizes(plan, len(plan.clips) - len(failures))
    return failures


def declare_complete(plan: Plan, journal: Journal) -> None:
    """Write dataset.json of every folder, and delete what was needed until then."""
    from preprocess.flow_run.run_start import record_options

    layout = plan.layout
    if plan.complete:
        record_options(plan)
    plan.write_indexes({name: journal.entries(name) for name in plan.folders})
    journal.remove()
    for path in [*files_of_parts(plan.failures), *files_of_parts(layout.lock)]:
        remove_file(path)
    for name in (".first-shard", ".leases", ".transcoded"):  # of parts that were killed
        for folder in layout.root.glob(f"{name}-*-of-*"):
            shutil.rmtree(folder, ignore_errors=True)


def missing_shards(plan: Plan, missing: list[int]) -> str:
    """The message of --finish where shards are missing."""
    names = listed([shard_name(shard) for shard in missing])
    return (
        f"{len(missing)} of {counted(plan.num_shards, 'shard')} of {plan.layout.root} are missing "
        f"or damaged: {names}. Run their parts again, or make them here with "
        f"`{plan.layout.make('flows')}`"
    )


def find_finished(plan: Plan) -> Journal:
    """The journal with those shards of an earlier run that are still as they were published."""
    for folder in plan.folders.values():
        # Temporary files of other parts may be in use.
        remove_leftovers(folder, map(shard_name, plan.shards) if plan.part else None)
    journal = plan.journal()
    if journal.finished:
        num_finished = len(journal.finished)
        with tqdm(
            total=num_finished, desc="checking finished shards", unit="shard", **bar_options()
        ) as progress:
            damaged = journal.keep_intact(plan.folders, lambda _: progress.update())
        for shard in damaged:
            print(
                f"Shard {shard:05d} differs from what was written and is made again.",
                file=sys.stderr,
            )
        print(f"continuing: {len(journal.finished)} of {len(plan.shards)} shards are finished.")
    return journal


# --------------------------------------------------------------------------------------------------
# What is printed before the run


def print_plan(plan: Plan) -> None:
    """One fact a line; with --verbose also every option, and what decides each folder's content."""
    config, flow = plan.config, plan.flow
    clips, shards = counted(len(plan.clips), "clip"), counted(plan.num_shards, "shard")
    print(f"flows: {clips} in {shards} of up to {counted(plan.clips_per_shard, 'clip')}.")
    if plan.part is not None:
        print(
            f"This is part {plan.part}: {counted(plan.num_clips, 'clip')} in "
            f"{counted(len(plan.shards), 'shard')}."
        )
    print(f"The videos are in {config.video_root}.")
    print(f"The shards go to {', '.join(plan.folders)} in {plan.layout.root}.")
    print(
        f"Frames are stored with short side {config.frame_short_side} pixels and JPEG quality "
        f"{config.jpeg_quality}."
    )
    if flow.sources:
        print(
            f"Flow comes from {', '.join(flow.sources)}, on frames of short side "
            f"{config.flow_short_side} pixels."
        )
        print(f"Motion maps are stored with short side {config.map_short_side} pixels.")
    else:
        print("No flow is computed.")
    if flow.stabilise != FlowOptions.stabilise:
        print(f"The motion of the camera is removed (--stabilise {flow.stabilise}).")
    if flow.tracks is not None:
        print(
            f"Tracks over {counted(flow.tracks.length, 'flow')} are stored, with "
            f"{flow.tracks.points} points along the short side."
        )
        window = flow.tracks.window
        print(f"They start at {f'the tubelets of {window}' if window else 'every frame'}.")
    device = counted(config.num_gpus, "GPU") if config.num_gpus else "the CPU"
    by_cluster = "as many as the cluster has CPUs for"
    print(
        f"Decoder processes: {config.decoders or by_cluster}. "
        f"Flow processes: {config.flow_workers or by_cluster}, on {device}."
    )
    if config.verbose:
        for name, value in config.options().items():
            print(f"  option {name}: {value}")
        for name, index in plan.indexes.items():
            print(f"  {name}/ manifest: {index.manifest_digest}")
            for key, value in index.config.items():
                print(f"  {name}/ {key}: {value}")


# --------------------------------------------------------------------------------------------------
# What is printed after the run


def print_times(times: StageTimes, seconds: float, num_clips: int) -> None:
    """How long each stage took, and how well the stages overlapped."""
    efficiency = max(times.decode_seconds, times.flow_seconds) / seconds
    decoders, flow_workers = times.num_decoders, times.num_flow_workers
    print(f"Decoding took {times.decode_seconds:.1f} s on {counted(decoders, 'worker')}.")
    print(f"Flow took {times.flow_seconds:.1f} s on {counted(flow_workers, 'worker')}.")
    print(f"The whole took {seconds:.1f} s, with an overlap efficiency of {efficiency:.2f}.")
    print(f"{num_clips / seconds:.1f} clips/s were made of {times.num_frames} decoded frames.")


def print_sizes(plan: Plan, num_clips: int) -> None:
    """Size of each folder; tracks have a line of their own, because they are large.

    After a part of the shards, it says what completes the dataset.
    """
    if plan.part is not None:
        finish = plan.layout.make("flows", "--finish")
        print(f"Part {plan.part} is finished. After all parts, `{finish}` completes the dataset.")
        return
    for name, index in plan.indexes.items():
        folder = plan.folders[name]
        total = sum(entry.bytes for entry in index.shards)
        has_tracks = "track_length" in index.config
        tracks = sum(track_bytes(folder / entry.name) for entry in index.shards if has_tracks)
        print(f"{folder} has {counted(num_clips, 'clip')} in {_size(total - tracks, num_clips)}.")
        if tracks:
            print(f"  The tracks are {_size(tracks, num_clips)} more.")


def track_bytes(shard: Path) -> int:
    """Number of bytes of a shard that hold tracks."""
    with open_shard(shard, partly=True)[0] as file:
        tracks = file.get("track", {})
        return sum(dataset.id.get_storage_size() for dataset in tracks.values())


def _size(num_bytes: int, num_clips: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB ({num_bytes / max(1, num_clips):.0f} bytes a clip)"


if __name__ == "__main__":
    main()
