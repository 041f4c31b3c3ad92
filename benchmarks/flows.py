"""Measures `make flows` end to end against PyAV and OpenCV's TV-L1 with one process per core.

    python -m benchmarks.flows --samples ../shared/samples

Ours is the whole command on one core, from the manifest to published shards. The baseline decodes
with PyAV, computes OpenCV's DualTVL1OpticalFlow with its defaults on frames of 240 lines, clips
flow to +-20 pixels and writes two JPEG files per pair, as denseflow does. It is timed on `--pairs`
pairs of each clip, and the time is extrapolated to all pairs. Its clips are independent, so it is
assumed to lose nothing with one process per core. Both times are CPU seconds.

Then the benchmark measures how decoding and flow overlap, in wall-clock time: the same command with
all cores under Ray against one core. Other work on the machine changes this result; see `load` in
the record. It takes about five minutes.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import click
import cv2
import numpy as np
import torch

from benchmarks.datasets import make_dataset, make_videos, names_of, run
from benchmarks.options import out_option, samples_option
from benchmarks.record import NOT_ON_GPU, Figure, conclude
from preprocess.boxes import main as boxes_command
from preprocess.flows import main as flows_command
from preprocess.video.frame_chunks import scaled_size
from shared.errors import InputError, user_errors
from shared.manifest import read_manifest

FLOW_LINES = 240
FLOW_BOUND = 20.0  # pixels; the default of denseflow's --bound
COPIES = 3  # copies of each clip
TARGET, OVERLAP_TARGET = 8.0, 1.6
SUMMARY = re.compile(
    r"Decoding took ([\d.]+) s on (\d+) workers?\.\n"
    r"Flow took ([\d.]+) s on (\d+) workers?\.\n"
    r"The whole took ([\d.]+) s, with an overlap efficiency of ([\d.]+)\."
)


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@samples_option("Folder of sample clips. Without its ssv2/, toy clips are used.")
@click.option("--pairs", type=click.IntRange(min=1), default=3, metavar="COUNT",
              help="Number of frame pairs of each clip for OpenCV's flow.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(min=1), default=2, metavar="COUNT",
              help="Number of runs of ours; the fastest one counts.")  # fmt: skip
@out_option("flows-HOST")
@user_errors
def main(samples: Path, pairs: int, rounds: int, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        figures = end_to_end(Path(scratch), samples, pairs, rounds)
        figures += overlap(Path(scratch), samples, rounds)
    conclude("flows", figures, out)


# --------------------------------------------------------------------------------- end to end


def end_to_end(scratch: Path, samples: Path, pairs: int, rounds: int) -> list[Figure]:
    """The command against the baseline in CPU seconds; shards are made below `scratch`."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    name = names_of(samples)[-1]
    out = scratch / "end-to-end"
    layout = make_dataset(out, name, samples)  # also compiles the solver
    folder = make_videos(out, name, samples)
    videos = [folder / clip.video for clip in read_manifest(layout.manifest)]
    place = ["--dataset", name, "--out", str(out)]
    arguments = [*place, "--videos", str(folder), "--pool", "in-process", "--overwrite"]
    ours = min(cpu_seconds(flows_command, arguments) for _ in range(rounds))
    boxes = min(cpu_seconds(boxes_command, [*place, "--overwrite"]) for _ in range(rounds))
    theirs, num_frames = plain_seconds(videos, pairs)
    return [
        Figure(
            f"flows, {name}: end to end",
            "frames/s",
            num_frames / ours,
            "PyAV + OpenCV TV-L1",
            num_frames / theirs,
            target=TARGET,
            note=f"per core; {len(videos) / ours:.2f} clips/s against {len(videos) / theirs:.4f}",
        ),
        Figure(
            f"boxes, {name}: end to end", "frames/s", num_frames / boxes, note="per core, from maps"
        ),
        Figure("flows, GPU", "frames/s", None, note=NOT_ON_GPU),
    ]


def cpu_seconds(command: click.Command, arguments: list[str]) -> float:
    """CPU seconds of a command in this process, where modules are imported and compiled already."""
    silence = io.StringIO()
    began = time.process_time()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        command.main(arguments, standalone_mode=False)
    return time.process_time() - began


def plain_seconds(videos: list[Path], pairs: int) -> tuple[float, int]:
    """CPU seconds of the baseline for all frames of the videos, and the number of frames."""
    seconds, num_frames = 0.0, 0
    for video in videos:
        began = time.process_time()
        frames = decode(video)
        seconds += time.process_time() - began
        chosen = np.unique(np.linspace(0, len(frames) - 2, pairs).astype(int))
        began = time.process_time()
        for i in chosen:
            # A new solver each time: after a small frame it keeps a lower number of scales.
            optflow: Any = cv2.optflow  # OpenCV's own types lack it
            solver = optflow.DualTVL1OpticalFlow_create()
            write(solver.calc(frames[i], frames[i + 1], None))
        flow = (time.process_time() - began) / len(chosen)
        seconds += flow * (len(frames) - 1)
        num_frames += len(frames)
    return seconds, num_frames


def decode(video: Path) -> list[np.ndarray]:
    frames = []
    with av.open(str(video), metadata_errors="ignore") as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            size = scaled_size(frame.width, frame.height, FLOW_LINES)
            grey = frame.reformat(*size, format="gray").to_ndarray()
            frames.append(np.ascontiguousarray(grey))
    return frames


def write(flow: np.ndarray) -> None:
    """Encode flow float32 [H, W, 2] as denseflow does, without writing the files to disk."""
    scaled = np.clip((flow + FLOW_BOUND) * (255 / (2 * FLOW_BOUND)), 0, 255).astype(np.uint8)
    for part in (scaled[..., 0], scaled[..., 1]):
        cv2.imencode(".jpg", part)


# ------------------------------------------------------------------------------------ overlap


def overlap(scratch: Path, samples: Path, rounds: int) -> list[Figure]:
    """Wall-clock time of all cores against one, and how much of the shorter stage overlaps."""
    name = names_of(samples)[-1]
    videos = sorted(make_videos(scratch, name, samples).rglob("*.mp4"))[:16]
    place = copied_videos(scratch, videos)
    cores = len(os.sched_getaffinity(0))
    one, all_cores = [], []
    for _ in range(rounds):
        one.append(summary(place, "in-process"))
        all_cores.append(summary(place, "ray"))
    alone, together = (min(each, key=lambda times: times["whole"]) for each in (one, all_cores))
    figures = [
        Figure(
            f"flows, {name}: {cores} cores against one worker",
            "x",
            alone["whole"] / together["whole"],
            "one worker",
            1.0,
            target=OVERLAP_TARGET if cores >= 2 else None,
            note=f"one worker {alone['whole']:.1f} s: decode {alone['decode']:.1f} s, flow "
            f"{alone['flow']:.1f} s",
        ),
        Figure(
            f"flows, {name}: overlap efficiency",
            "1",
            together["efficiency"],
            note=f"decode alone {together['decode']:.1f} s, flow alone {together['flow']:.1f} s, "
            f"whole {together['whole']:.1f} s; decode and flow share the cores here",
        ),
    ]
    return figures


def copied_videos(scratch: Path, videos: list[Path]) -> list[str]:
    """Make a dataset with several copies of each video, so that several cores have work."""
    copies = scratch / "copies"
    for number in range(COPIES):
        (copies / str(number)).mkdir(parents=True, exist_ok=True)
        for video in videos:
            shutil.copy(video, copies / str(number) / f"{number}-{video.name}")
    place = ["--dataset", "copied", "--out", str(scratch), "--videos", str(copies)]
    run("preprocess.manifest", *place)
    return place


def summary(place: list[str], pool: str) -> dict[str, float]:
    """Run the command in a new process, and return the times of its stages."""
    said = run("preprocess.flows", *place, "--pool", pool, "--overwrite")
    found = SUMMARY.search(said)
    if found is None:
        raise InputError(
            "wrong-format", f"the output of preprocess.flows has no stage times: {said[-300:]}"
        )
    decode, _, flow, _, whole, efficiency = map(float, found.groups())
    return {"decode": decode, "flow": flow, "whole": whole, "efficiency": efficiency}


if __name__ == "__main__":
    main()
