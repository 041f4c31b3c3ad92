"""Videos to shards: JPEG frames and motion maps of every clip of the manifest, in one decode.

    python -m preprocess.flows --dataset toy --out out
    python -m preprocess.flows --dataset ssv2 --out out --videos /data/ssv2/videos

Reads OUT/<dataset>/manifest.csv, writes frames/NNNNN.h5, flows/NNNNN.h5 and their dataset.json. A run
that was stopped goes on where it was; one that is complete says so and ends. Clips that cannot be
used are set aside in failures.jsonl, and the exit status is 3 then.

The toy dataset takes a few minutes on two cores; real clips (320x240, 45 frames) are bound by the
flow, see benchmarks/.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from preprocess import resume
from shared.errors import EXIT_SET_ASIDE, InputError, user_errors
from shared.files import remove_leftovers, write_atomically
from shared.layout import DatasetLayout
from shared.manifest import Clip, manifest_digest, read_manifest
from shared.run_record import JsonlLog, RunLock, read_jsonl, write_options
from shared.shard_index import DatasetIndex, write_index

if TYPE_CHECKING:  # a run that finds everything complete must not wait for torch
    from preprocess.assembly import Assembly
    from preprocess.pool import InProcessPool, RayPool
    from preprocess.work import WorkOptions

KINDS = ("frames", "flows")


@dataclass(frozen=True)
class Plan:
    """What is to be made: which clip goes where, and with which options.

    Attributes:
        layout: paths of the dataset.
        clips: of the manifest; clip i belongs to shard i // clips_per_shard, whether it fails or not.
        clips_per_shard: places of a shard. One whose clips all failed is published without clips.
        indexes: dataset.json of frames and flows, still without shards.
    """

    layout: DatasetLayout
    clips: list[Clip]
    clips_per_shard: int
    indexes: dict[str, DatasetIndex]

    @property
    def folders(self) -> dict[str, Path]:
        return {"frames": self.layout.frames, "flows": self.layout.flows}

    @property
    def num_shards(self) -> int:
        return -(-len(self.clips) // self.clips_per_shard)

    def places(self, shard: int) -> range:
        first = shard * self.clips_per_shard
        return range(first, min(first + self.clips_per_shard, len(self.clips)))

    @property
    def wanted(self) -> dict[str, Any]:
        """What decides the content of both kinds of shard, for the journal."""
        return resume.described(self.indexes["frames"]) | resume.described(self.indexes["flows"])


# fmt: off
@click.command(context_settings={"show_default": True, "max_content_width": 100})
# Data
@click.option("--dataset", required=True, metavar="NAME", help="Folder below OUT with manifest.csv.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER", help="Where all results go.")
@click.option("--videos", type=click.Path(path_type=Path), metavar="FOLDER", help="Folder that the manifest's paths are relative to.  [default: OUT/NAME/videos]")
@click.option("--clips-per-shard", type=click.IntRange(1), default=512, metavar="CLIPS", help="Clips of a shard; 512 of Something-Something are about 256 MB of frames.")
# Frames
@click.option("--frame-short-side", type=click.IntRange(16), default=256, metavar="PIXELS", help="Short side of the kept frames; smaller videos are not enlarged.")
@click.option("--jpeg-quality", type=click.IntRange(1, 100), default=90, metavar="1..100", help="Of the kept frames.")
# Flow
@click.option("--flow-short-side", type=click.IntRange(16), default=240, metavar="PIXELS", help="Short side of the frames that flow is computed on.")
@click.option("--map-short-side", type=click.IntRange(4), default=64, metavar="PIXELS", help="Short side of the stored motion maps.")
@click.option("--preset", default="fast", metavar="NAME", help="Of TV-L1: opencv, ipol, fast or exact.")
# What is refused
@click.option("--max-pixels", type=click.IntRange(256), default=8192 * 4320, metavar="PIXELS", help="Of a frame of a video, width times height.")
@click.option("--max-frames", type=click.IntRange(2), default=216_000, metavar="FRAMES", help="Of a clip.")
@click.option("--max-seconds", type=click.FloatRange(0, min_open=True), default=3600.0, metavar="SECONDS", help="Of a clip.")
# Workers
@click.option("--pool", type=click.Choice(["ray", "in-process"]), default="ray", help="in-process: no Ray, one core, no protection from a video that crashes the decoder.")
@click.option("--decoders", type=click.IntRange(1), metavar="PROCESSES", help="[default: a quarter of the cores; all of them with GPUs]")
@click.option("--flow-workers", type=click.IntRange(1), metavar="PROCESSES", help="[default: one a core; one a GPU]")
@click.option("--num-gpus", type=click.IntRange(0), default=0, metavar="GPUS", help="For flow; 0 computes it on CPU cores.")
@click.option("--clip-timeout", type=click.FloatRange(0, min_open=True), default=300.0, metavar="SECONDS", help="A worker without an answer for so long is killed; an answer covers at most about 256 frames.")
# Run
@click.option("--strict", is_flag=True, help="Stop with an error at the first clip that fails.")
@click.option("--overwrite", is_flag=True, help="Make all shards again, also if made with other options.")
@click.option("--dry-run", is_flag=True, help="Print what would be done and stop.")
# fmt: on
@user_errors
def main(**options: Any) -> None:
    """Decode every clip once: frames/ and flows/ shards of a dataset."""
    layout = DatasetLayout(options["out"], options["dataset"])
    plan = make_plan(layout, read_manifest(layout.manifest), options)
    videos = options["videos"] or layout.videos
    resolve_workers(options)

    print_plan(plan, videos, options)
    if options["dry_run"]:
        return
    with RunLock(layout.lock):
        if options["overwrite"]:
            for folder in plan.folders.values():
                resume.forget(folder)
        elif is_complete(plan):
            sys.exit(report_reuse(plan))
        if not videos.is_dir():
            raise InputError(f"no folder of videos at {videos}; give it with --videos (VIDEOS=)")
        write_options(layout.flows / "options.json", options | {"videos": videos})
        failures = compute(plan, videos, options)
    if failures:
        print(f"{len(failures)} clips set aside, see {layout.failures}", file=sys.stderr)
        sys.exit(EXIT_SET_ASIDE)


# --------------------------------------------------------------------------------------------------
# The plan


def make_plan(layout: DatasetLayout, clips: list[Clip], options: dict[str, Any]) -> Plan:
    """The plan, which the manifest and the options alone decide."""
    if not clips:
        raise InputError(f"{layout.manifest} lists no clip")
    # The caps and the workers are left out: they decide which clips fail, never what is stored.
    frames = {key: options[key] for key in ("frame_short_side", "jpeg_quality")}
    flows = {"flow_source": "tvl1", "flow_preset": options["preset"]}
    flows |= {key: options[key] for key in ("frame_short_side", "flow_short_side", "map_short_side")}
    digest = manifest_digest(clips)
    indexes = {
        kind: DatasetIndex(kind, layout.dataset, config, options["clips_per_shard"], digest)
        for kind, config in (("frames", frames), ("flows", flows))
    }
    return Plan(layout, clips, options["clips_per_shard"], indexes)


def resolve_workers(options: dict[str, Any]) -> None:
    """Fill in how many workers: flow is the most work on CPU, decoding beside a GPU."""
    cores = len(os.sched_getaffinity(0))
    gpus = options["num_gpus"]
    options["decoders"] = options["decoders"] or (cores if gpus else max(1, cores // 4))
    options["flow_workers"] = options["flow_workers"] or gpus or cores
    if options["pool"] == "in-process":
        options["decoders"] = options["flow_workers"] = 1


def print_plan(plan: Plan, videos: Path, options: dict[str, Any]) -> None:
    shown = {key: value for key, value in options.items() if key not in ("out", "videos")}
    print(f"flows: {len(plan.clips)} clips in {plan.num_shards} shards, videos in {videos}")
    print("  " + "  ".join(f"{key}={value}" for key, value in shown.items() if value is not False))


def is_complete(plan: Plan) -> bool:
    indexes = [
        resume.complete_index(plan.folders[kind], plan.indexes[kind]) for kind in KINDS
    ]
    return all(index is not None for index in indexes)


def report_reuse(plan: Plan) -> int:
    """Say that nothing is to be done; returns the exit status."""
    num_failed = len(read_jsonl(plan.layout.failures))
    aside = f", {num_failed} set aside" if num_failed else ""
    print(
        f"reuse: {plan.layout.frames} and {plan.layout.flows} are complete "
        f"({len(plan.clips) - num_failed} clips{aside})"
    )
    return EXIT_SET_ASIDE if num_failed else 0


# --------------------------------------------------------------------------------------------------
# The work


def compute(plan: Plan, videos: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Make what is missing; returns the failures, one record a clip."""
    from preprocess.assembly import Assembly
    from preprocess.work import ClipFailed, Job

    layout = plan.layout
    for folder in plan.folders.values():
        remove_leftovers(folder)
    journal = find_finished(plan)
    todo = [shard for shard in range(plan.num_shards) if shard not in journal.finished]
    write_failures(layout.failures, journal_failures(journal))
    num_done = len(plan.clips) - sum(len(plan.places(shard)) for shard in todo)
    jobs = [Job(place, plan.clips[place]) for shard in todo for place in plan.places(shard)]

    began = time.perf_counter()
    pool = start_pool(videos, options) if jobs else None
    started = time.perf_counter()
    ledger = JsonlLog(layout.failures)
    assemblies: dict[int, Assembly] = {}
    progress = tqdm(total=len(plan.clips), initial=num_done, desc="flows", unit="clip", mininterval=0.5)
    try:
        for event in pool.run(jobs) if pool else ():
            shard = event.place // plan.clips_per_shard
            if shard in journal.finished:
                continue  # the rest of a clip that was set aside
            if shard not in assemblies:
                clips = {place: plan.clips[place] for place in plan.places(shard)}
                assemblies[shard] = Assembly(shard, clips, layout.flows)
            if not assemblies[shard].add(event):
                continue
            progress.update()
            if isinstance(event, ClipFailed):
                record = failure_record(plan, event)
                if options["strict"]:
                    raise InputError(f"{record['clip_id']}: {record['stage']}: {record['reason']}")
                ledger.write(record)
            if assemblies[shard].is_settled:
                publish(plan, journal, assemblies.pop(shard))
    finally:
        progress.close()
        ledger.close()
        for assembly in assemblies.values():
            assembly.close()
        if pool is not None:
            pool.close()
    assert len(journal.finished) == plan.num_shards, "every shard must have been published"

    failures = journal_failures(journal)
    finish(plan, journal, failures)
    if pool is not None:
        print_times(pool, started - began, time.perf_counter() - started, len(jobs))
    print_sizes(plan, journal)
    return failures


def find_finished(plan: Plan) -> resume.Journal:
    """The journal with the shards of an earlier run that are whole."""
    for kind, folder in plan.folders.items():
        resume.complete_index(folder, plan.indexes[kind])  # refuses those with other options
    journal = resume.Journal(plan.layout.flows, plan.wanted)
    if journal.finished:
        with tqdm(total=len(journal.finished), desc="checking finished shards", unit="shard") as bar:
            damaged = journal.keep_intact(plan.folders, lambda _: bar.update())
        for shard in damaged:
            print(f"shard {shard:05d} is not what was written: made again", file=sys.stderr)
        print(f"going on: {len(journal.finished)} of {plan.num_shards} shards are finished")
    journal.start()
    return journal


def start_pool(videos: Path, options: dict[str, Any]) -> RayPool | InProcessPool:
    from preprocess.pool import InProcessPool, RayPool

    work = work_options(videos, options)
    if options["pool"] == "in-process":
        return InProcessPool(work)
    return RayPool(
        work,
        options["decoders"],
        options["flow_workers"],
        options["num_gpus"],
        options["clip_timeout"],
    )


def work_options(videos: Path, options: dict[str, Any]) -> WorkOptions:
    from preprocess.decode import DecodeOptions
    from preprocess.work import WorkOptions

    return WorkOptions(
        video_root=videos.resolve(),
        decode=DecodeOptions(
            short_side=options["frame_short_side"],
            max_pixels=options["max_pixels"],
            max_frames=options["max_frames"],
            max_seconds=options["max_seconds"],
        ),
        jpeg_quality=options["jpeg_quality"],
        flow_short_side=options["flow_short_side"],
        map_short_side=options["map_short_side"],
        preset=options["preset"],
        device="cuda" if options["num_gpus"] else "cpu",
    )


def publish(plan: Plan, journal: resume.Journal, assembly: Assembly) -> None:
    """Write both shards of an assembly and note them as finished."""
    configs = {kind: plan.indexes[kind].config for kind in KINDS}
    entries = assembly.publish(plan.folders, configs)
    assembly.close()
    failures = [failure_record(plan, event) for _, event in sorted(assembly.failures.items())]
    record = {kind: asdict(entry) for kind, entry in entries.items()}
    journal.add({"shard": assembly.number, "failures": failures} | record)


def finish(plan: Plan, journal: resume.Journal, failures: list[dict[str, Any]]) -> None:
    """Write the failures in order and dataset.json of both folders, last."""
    write_failures(plan.layout.failures, failures)
    for kind in KINDS:
        entries = journal.entries(kind)
        resume.remove_other_shards(plan.folders[kind], entries)
        index = plan.indexes[kind]
        index.shards.extend(entries)
        write_index(plan.folders[kind], index)
    journal.remove()


# --------------------------------------------------------------------------------------------------
# Failures and what is printed at the end


def failure_record(plan: Plan, event: Any) -> dict[str, Any]:
    clip = plan.clips[event.place]
    return {
        "clip_id": clip.clip_id,
        "video": clip.video,
        "stage": event.stage,
        "reason": event.reason,
    }


def journal_failures(journal: resume.Journal) -> list[dict[str, Any]]:
    """All failures of the finished shards, in order of the manifest."""
    return [
        failure
        for shard in sorted(journal.finished)
        for failure in journal.finished[shard]["failures"]
    ]


def write_failures(path: Path, failures: list[dict[str, Any]]) -> None:
    """Write failures.jsonl anew, so that each clip stands there once; no failures, no file."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    text = "".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures)
    write_atomically(path, text.encode())


def print_times(
    pool: RayPool | InProcessPool, start_seconds: float, seconds: float, num_clips: int
) -> None:
    times = pool.times
    efficiency = max(times.decode_seconds, times.flow_seconds) / seconds
    print(
        f"decode {times.decode_seconds:.1f} s ({times.num_decoders} workers), "
        f"flow {times.flow_seconds:.1f} s ({times.num_flow_workers} workers), "
        f"whole {seconds:.1f} s after {start_seconds:.1f} s to start; "
        f"overlap efficiency {efficiency:.2f}, {num_clips / seconds:.1f} clips/s"
    )


def print_sizes(plan: Plan, journal: resume.Journal) -> None:
    stages = Counter(failure["stage"] for failure in journal_failures(journal))
    num_kept = len(plan.clips) - stages.total()
    for kind in KINDS:
        total = sum(entry.bytes for entry in journal.entries(kind))
        print(
            f"{plan.folders[kind]}: {num_kept} clips, {total / 1e6:.1f} MB, "
            f"{total / max(1, num_kept):.0f} bytes a clip"
        )


if __name__ == "__main__":
    main()
