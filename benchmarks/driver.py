"""Measures what a clip costs the process of `make flows` itself, with and without shard writers.

    python -m benchmarks.driver --samples ../shared/samples

The command makes the same clips twice under Ray: once the run takes in every frame and writes every
shard, and once workers do (--shard-writers). It reports what a clip costs the process of the run
from the first decoded clip to the last shard: CPU seconds of its main thread, bytes of frames and
maps that it takes in, and bytes that it reads from files and writes to them. Flow is computed on
frames of 32 lines, because it is not part of the question.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from benchmarks.datasets import ROOT, make_videos, names_of
from benchmarks.options import out_option, samples_option
from benchmarks.record import Figure, conclude
from shared.errors import InputError, user_errors
from shared.layout import DatasetLayout
from shared.manifest import Clip, write_manifest

FLOW_LINES = "32"
MEASURE = """
import contextlib, json, sys, time
import numpy
from preprocess.flow_run.ray_pool import RayPool

result, run = {"bytes taken in": 0}, RayPool.run

def bytes_of_files():
    lines = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
    return int(lines["rchar"]) + int(lines["wchar"])

def counted(self, groups):
    files, began = bytes_of_files(), time.thread_time()
    for event in run(self, groups):
        arrays = [value for value in vars(event).values() if isinstance(value, numpy.ndarray)]
        result["bytes taken in"] += sum(array.nbytes for array in arrays)
        yield event
    result["processor seconds"] = time.thread_time() - began
    result["bytes of files"] = bytes_of_files() - files

RayPool.run = counted
from preprocess.flows import main
with contextlib.redirect_stdout(sys.stderr):
    main(sys.argv[1:], standalone_mode=False)
print(json.dumps(result))
"""


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@samples_option("Folder of sample clips. Without its ssv2/, toy clips are used.")
@click.option("--clips", type=click.IntRange(min=1), default=64, metavar="COUNT",
              help="Number of clips.")  # fmt: skip
@out_option("driver-HOST")
@user_errors
def main(samples: Path, clips: int, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(Path(scratch), samples, clips)
    conclude("driver", figures, out)


def measure(scratch: Path, samples: Path, clips: int) -> list[Figure]:
    """The cost of a clip for the run, with shards written by workers and by the run."""
    name = names_of(samples)[-1]
    videos = sorted(
        path
        for path in make_videos(scratch, name, samples).rglob("*.*")
        if path.suffix in (".mp4", ".webm")
    )
    costs = []
    for writers in (0, 1):
        layout = DatasetLayout(scratch, f"writers-{writers}")
        write_clips(layout, videos, clips)
        costs.append(run(layout, writers))
    theirs, ours = costs
    units = {"processor seconds": ("ms", 1e3)}
    figures = []
    for what in theirs:
        unit, factor = units.get(what, ("kB", 1e-3))
        figures.append(
            Figure(f"run of flows, {name}: {what} a clip", unit, factor * ours[what] / clips,
                   "the run writes shards", factor * theirs[what] / clips,
                   more_is_better=False, note=f"{clips} clips")
        )  # fmt: skip
    return figures


def write_clips(layout: DatasetLayout, videos: list[Path], count: int) -> None:
    """A dataset of as many clips; the same videos come again under other names."""
    layout.videos.mkdir(parents=True)
    clips = []
    for number in range(count):
        video = videos[number % len(videos)]
        name = f"{number:04d}{video.suffix}"
        (layout.videos / name).write_bytes(video.read_bytes())
        clips.append(Clip(f"{number:04d}", name))
    write_manifest(layout.manifest, clips)


def run(layout: DatasetLayout, writers: int) -> dict[str, float]:
    """What the process of the run used for all clips."""
    arguments = ["--dataset", layout.dataset, "--out", str(layout.out), "--clips-per-shard", "8"]
    arguments += ["--flow-short-side", FLOW_LINES, "--shard-writers", str(writers)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise InputError("not-finished", f"preprocess.flows ended: {done.stderr[-300:]}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
