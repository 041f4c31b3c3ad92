"""Videos to shards: JPEG frames and motion maps of every clip of the manifest, in one decode.

    python -m preprocess.flows --dataset toy --out out
    python -m preprocess.flows --dataset ssv2 --out out --videos /data/ssv2/videos

Reads OUT/DATASET/manifest.csv and writes

    OUT/DATASET/frames/NNNNN.h5    JPEG frames
    OUT/DATASET/flows/NNNNN.h5     motion maps, clip by clip in the same places; on request the
                                   camera's motion and tracks of points
    OUT/DATASET/flows-SOURCE/      the same of a further --source
    OUT/DATASET/failures.jsonl     clips set aside; the exit status is 3 then

and dataset.json in each folder last. A run that was stopped goes on where it was; one that is
complete says so and ends. Folders that are complete stay as they are when others are asked for
later. Flow is nearly all of the work on CPU: see what is printed at the end.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from preprocess.flow.options import STABILISE, TrackOptions
from preprocess.flow.sources import DIS_PRESETS, SOURCE_NAMES
from preprocess.flow_run.flow_summary import print_sizes, print_times
from preprocess.flow_run.plan import Plan, make_plan
from preprocess.flow_run.workers import resolve_workers, running_pool
from preprocess.running import journal as resume
from preprocess.running.failures import read_failures, report_failures, write_failures
from preprocess.running.rare_options import help_all_option, rare_option
from preprocess.tvl1_solvers.presets import PRESETS
from shared.errors import InputError, user_errors
from shared.files import remove_leftovers
from shared.layout import DatasetLayout
from shared.manifest import read_manifest
from shared.run_record import JsonlLog, RunLock, write_options
from shared.wording import counted


@click.command(
    help=__doc__.split("\n")[0], context_settings={"show_default": True, "max_content_width": 100}
)
@click.option("--dataset", required=True, metavar="NAME", help="folder of OUT with manifest.csv")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="folder of all datasets; this one is in FOLDER/NAME")  # fmt: skip
@click.option("--videos", type=click.Path(path_type=Path), metavar="FOLDER",
              help="what the manifest's paths begin at  [default: OUT/NAME/videos]")  # fmt: skip
@click.option("--clips-per-shard", type=click.IntRange(1), default=512, metavar="CLIPS",
              help="512 of Something-Something V2 are about 440 MB of frames")  # fmt: skip
# What is stored
@click.option("--frame-short-side", type=click.IntRange(16), default=256, metavar="PIXELS",
              help="of the kept frames; smaller videos are not enlarged")  # fmt: skip
@click.option("--jpeg-quality", type=click.IntRange(1, 100), default=90, metavar="1..100",
              help="of the kept frames")  # fmt: skip
@click.option("--flow-short-side", type=click.IntRange(16), default=240, metavar="PIXELS",
              help="of the frames that flow is computed on")  # fmt: skip
@click.option("--map-short-side", type=click.IntRange(4), default=64, metavar="PIXELS",
              help="of the stored motion maps")  # fmt: skip
# Flow
@click.option("--source", default="tvl1", metavar="NAMES",
              help=f"{', '.join(SOURCE_NAMES)}, or several with commas: the first goes to "
              "flows/, from which boxes are made")  # fmt: skip
@click.option("--preset", type=click.Choice(list(PRESETS)), show_default="fast", help="of TV-L1")
@rare_option("--dis-preset", type=click.Choice(DIS_PRESETS), show_default="medium", help="of DIS")
@rare_option("--raft-weights", type=click.Path(path_type=Path), metavar="FILE",
              help="of torchvision's raft_small or raft_large")  # fmt: skip
@rare_option("--transcode", is_flag=True,
              help="re-encode videos whose codec has no motion vectors, in OUT")  # fmt: skip
@click.option("--stabilise", type=click.Choice(STABILISE), default="off",
              help="take out the camera's motion; warp computes flow again")  # fmt: skip
@rare_option("--keep-unstabilised", is_flag=True,
              help="the first source also as it is, in flows-SOURCE-unstabilised/")  # fmt: skip
@rare_option("--lengths", is_flag=True,
              help="also how far things move, in flows-SOURCE-length/ (mask mgm)")  # fmt: skip
@rare_option("--boundaries", is_flag=True,
              help="also maps as MOFO's public code makes them, in flows-SOURCE-boundaries/ "
              "(boxes --preset mofo-code)")  # fmt: skip
# Tracks of points
@click.option("--trajectories", is_flag=True,
              help="track points from every frame, with their HOG: megabytes a clip")  # fmt: skip
@rare_option("--track-length", type=int, show_default=str(TrackOptions.length), metavar="FLOWS",
              help="of a track")  # fmt: skip
@rare_option("--track-points", type=int, show_default=str(TrackOptions.points), metavar="COUNT",
              help="along the short side of the frame")  # fmt: skip
@rare_option("--track-max-flow", type=float, show_default=f"{TrackOptions.max_flow:g}",
              metavar="PIXELS",
              help="components of flow are clipped to this; 0: they are not")  # fmt: skip
@rare_option("--track-cell", type=int, show_default=str(TrackOptions.cell), metavar="PIXELS",
              help="side of the HOG cell; 0: no HOG")  # fmt: skip
# What is refused
@rare_option("--max-pixels", type=click.IntRange(256), default=8192 * 4320, metavar="PIXELS",
              help="of a frame of a video, width times height")  # fmt: skip
@rare_option("--max-frames", type=click.IntRange(2), default=216_000, metavar="FRAMES",
              help="of a clip")  # fmt: skip
@rare_option("--max-seconds", type=click.FloatRange(0, min_open=True), default=3600.0,
              metavar="SECONDS", help="of a clip")  # fmt: skip
# Who works
@click.option("--pool", type=click.Choice(["ray", "in-process"]), default="ray",
              help="in-process: one core, and a crash of the decoder ends the run")  # fmt: skip
@click.option("--decoders", type=click.IntRange(1), metavar="PROCESSES",
              help="that decode videos  [default: one for four cores; one a core beside GPUs]"
              )  # fmt: skip
@click.option("--flow-workers", type=click.IntRange(1), metavar="PROCESSES",
              help="that compute flow  [default: one a core, or one a GPU]")  # fmt: skip
@click.option("--num-gpus", type=click.IntRange(0), default=0, metavar="GPUS",
              help="for flow; 0 computes it on CPU cores")  # fmt: skip
@rare_option("--clip-timeout", type=click.FloatRange(0, min_open=True), default=300.0,
              metavar="SECONDS", help="a worker without an answer for so long is killed; "
              "answers come about every 256 frames")  # fmt: skip
@rare_option("--dashboard", is_flag=True,
              help="of Ray, on 127.0.0.1; its token is that of RAY_AUTH_TOKEN")  # fmt: skip
# The run
@click.option("--strict", is_flag=True, help="stop with an error at the first clip that fails")
@click.option("--overwrite", is_flag=True, help="make all shards again, also with other options")
@click.option("--dry-run", is_flag=True, help="print what would be done and stop")
@help_all_option
@user_errors
def main(**options: Any) -> None:
    layout = DatasetLayout(options["out"], options["dataset"])
    plan = make_plan(layout, read_manifest(layout.manifest), options)
    videos = options["videos"] = options["videos"] or layout.videos
    resolve_workers(options)
    if options["dashboard"] and (options["pool"] != "ray" or os.environ.get("RAY_ADDRESS")):
        raise InputError("--dashboard is of a Ray started here; leave out --pool and RAY_ADDRESS")

    clips, shards = counted(len(plan.clips), "clip"), counted(plan.num_shards, "shard")
    print(f"flows: {clips} in {shards}, videos in {videos}")
    given = {name: value for name, value in options.items() if value not in (None, False)}
    print("  " + ", ".join(f"{name} {value}" for name, value in given.items()))
    for name, config in plan.configs.items():
        print(f"  {name}/: " + ", ".join(f"{key} {value}" for key, value in config.items()))
    if options["dry_run"]:
        return
    with RunLock(layout.lock):
        if options["overwrite"]:
            for folder in plan.folders.values():
                resume.forget(folder)
        elif plan.complete_indexes().keys() == plan.folders.keys():
            with suppress(InputError):  # one of other folders, or killed just before this
                plan.journal().remove()
            print(f"reuse: {' and '.join(map(str, plan.folders.values()))} are complete")
            report_failures(layout.failures, read_failures(layout.failures))
            return
        if not videos.is_dir():
            raise InputError(f"no folder of videos at {videos}; give it with --videos (VIDEOS=)")
        failures = compute(plan, options)
        report_failures(layout.failures, failures)


def compute(plan: Plan, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Make the shards that are missing; returns the failures, one record a clip."""
    from preprocess.flow_run.decode_groups import readings_of
    from preprocess.flow_run.further_outputs import (
        clips_set_aside,
        parted,
        refuse_loss,
        without_complete,
    )
    from preprocess.flow_run.publishing import failed_record, settled_clips

    # ----- What an earlier run finished
    layout = plan.layout
    plan = without_complete(plan)
    journal = find_finished(plan)
    plan.remove_indexes()
    if not plan.standing:  # beside complete folders, what `retry` goes by holds to the end
        write_failures(layout.failures, journal.failures())
        write_options(layout.flows / "options.json", options)
    todo = [shard for shard in range(plan.num_shards) if shard not in journal.finished]
    set_aside = clips_set_aside(plan, todo)
    places = [place for shard in todo for place in plan.places(shard) if place not in set_aside]
    readings = readings_of(plan, places)

    # ----- Decode and flow at once; clips end in any order, shards as their last clip does
    alone, known = parted(plan, set_aside)
    with (
        closing(JsonlLog(layout.failures)) as ledger,
        running_pool(plan, options, is_needed=bool(readings)) as pool,
        tqdm(
            total=len(plan.clips),
            initial=len(plan.clips) - len(places),
            desc="flows",
            unit="clip",
            mininterval=0.5,
        ) as progress,
    ):
        began = time.perf_counter()
        events = chain(alone, pool.run(readings) if pool else ())
        for event in settled_clips(plan, events, journal, plan.folders, known):
            if event.place in set_aside:
                continue
            progress.update()
            failed = failed_record(plan, event)
            if failed is not None:
                refuse_loss(plan, failed)
                if options["strict"]:
                    raise InputError("{clip_id}: {stage}: {reason}".format_map(failed))
                ledger.write(failed)
        seconds = time.perf_counter() - began
    assert len(journal.finished) == plan.num_shards, "every shard must have been published"

    # ----- Everything is there: say so, once
    failures = journal.failures()
    write_failures(layout.failures, failures)
    if plan.standing:
        write_options(layout.flows / "options.json", options)
    plan.write_indexes({name: journal.entries(name) for name in plan.folders})
    journal.remove()
    if pool is not None:
        print_times(pool, seconds, len(places))
    print_sizes(plan, len(plan.clips) - len(failures))
    return failures


def find_finished(plan: Plan) -> resume.Journal:
    """The journal with those shards of an earlier run that are still what was published."""
    for folder in plan.folders.values():
        remove_leftovers(folder)
    journal = plan.journal()
    if journal.finished:
        num_finished = len(journal.finished)
        with tqdm(total=num_finished, desc="checking finished shards", unit="shard") as progress:
            damaged = journal.keep_intact(plan.folders, lambda _: progress.update())
        for shard in damaged:
            print(f"shard {shard:05d} is not what was written; it is made again", file=sys.stderr)
        print(f"going on: {len(journal.finished)} of {plan.num_shards} shards are finished")
    journal.start()
    return journal


if __name__ == "__main__":
    main()
