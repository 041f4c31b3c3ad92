"""Compares flow from motion vectors with flow from frames: time per video, and difference.

    python -m benchmarks.motion_vectors VIDEO... --out benchmarks/results/motion_vectors.json

For each video, one thread decodes with motion vectors and makes their dense map at 1/8 resolution.
This is compared with decoding and OpenCV's TV-L1 with its defaults, this project's TV-L1 (preset
fast) and OpenCV's DIS, at `--short-side` lines. Frames for flow are decoded at that size. Motion
vectors need the whole stream whatever its size, so small frames favour the other methods. A video
whose codec exports no vectors is re-encoded first, and that time is reported separately.

Times are CPU seconds of this process, so that other work on the machine does not count. OpenCV's
TV-L1 takes up to seconds per pair. Flow is therefore timed on `--pairs` pairs of the video, and
the decoding time of all frames is added.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import av
import click
import cv2
import numpy as np
import torch

from preprocess.flow.sources import make_source
from preprocess.video.motion_vectors import VectorFlows, export_vectors, fill_holes
from preprocess.video.transcode import transcode
from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.run_record import command_line, git_commit, versions

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One video. Times are milliseconds per frame; ratios include decoding.

    Attributes:
        transcode_ms: time of re-encoding, 0 if the codec exports vectors.
        vectors_ms: time of decoding with vectors and of the map.
        decode_ms: time of decoding to grey frames at short_side lines.
        opencv_ms, fast_ms, dis_ms: time of flow of a pair, without decoding.
        times_opencv, times_fast, times_dis: how many times faster motion vectors are.
        difference_px: mean end-point difference between the filled map and TV-L1 (fast), in pixels
            of the frames.
        flow_px: mean length of TV-L1 (fast).
        holes: share of cells without a vector.
    """

    video: str
    codec: str
    size: str
    num_frames: int
    transcode_ms: float
    vectors_ms: float
    decode_ms: float
    opencv_ms: float
    fast_ms: float
    dis_ms: float
    times_opencv: float
    times_fast: float
    times_dis: float
    difference_px: float
    flow_px: float
    holes: float


@click.command(
    help=__doc__.split("\n")[0],
    context_settings={"show_default": True, "max_content_width": 100},
)
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--short-side", default=240, metavar="PIXELS", help="Resize frames to this short side."
)
@click.option("--pairs", default=6, metavar="COUNT", help="Number of frame pairs to time.")
@click.option(
    "--repeats", default=3, metavar="COUNT", help="Number of runs; the fastest one counts."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="JSON file to write.")
@user_errors
def main(
    videos: tuple[Path, ...], short_side: int, pairs: int, repeats: int, out: Path | None
) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for video in videos:
            rows.append(measure(video, short_side, pairs, repeats, Path(scratch)))
            print_row(rows[-1], is_first=len(rows) == 1)
    slowest = min(row.times_opencv for row in rows)
    print(
        f"motion vectors are at least {slowest:.0f} times faster than OpenCV's TV-L1 on each video"
    )
    if out:
        record = {
            "command": command_line(),
            "machine": f"{platform.machine()}, one thread",
            "versions": versions(),
            "git_commit": git_commit(),
            "short_side": short_side,
            "pairs": pairs,
            "least_times_opencv": slowest,
            "videos": [asdict(row) for row in rows],
        }
        write_atomically(out, json.dumps(record, indent=1).encode() + b"\n")


def measure(video: Path, short_side: int, pairs: int, repeats: int, scratch: Path) -> Row:
    began = time.process_time()
    source, codec = with_vectors(video, scratch)
    transcode_seconds = time.process_time() - began if source != video else 0.0
    vector_seconds, maps = fastest(repeats, lambda: decode_vectors(source))
    decode_seconds, frames = fastest(repeats, lambda: decode_pictures(video, short_side))
    if len(maps) != len(frames):
        raise InputError(
            "damaged-file", f"{video}: decoding gives {len(frames)} frames but {len(maps)} maps"
        )
    chosen = np.unique(np.linspace(0, len(frames) - 2, pairs).astype(int))
    batch = [torch.from_numpy(np.stack([frames[i + k] for i in chosen])) for k in (0, 1)]
    solvers = {
        "opencv": opencv_tvl1,
        "fast": make_source("tvl1"),
        "dis": make_source("dis"),
    }
    for solve in solvers.values():
        solve(batch[0][:1], batch[1][:1])  # compile, warm up
    times, flows = {}, {}
    for name, solve in solvers.items():
        seconds, flows[name] = fastest(1 if name == "opencv" else repeats, partial(solve, *batch))
        times[name] = 1000 * seconds / len(chosen)
    count = len(frames)
    vectors_ms, decode_ms = 1000 * vector_seconds / count, 1000 * decode_seconds / count
    difference, length = against(maps, flows["fast"].numpy(), chosen)
    return Row(
        video.name,
        codec,
        f"{frames[0].shape[1]}x{frames[0].shape[0]}",
        count,
        1000 * transcode_seconds / count,
        vectors_ms,
        decode_ms,
        times["opencv"],
        times["fast"],
        times["dis"],
        (decode_ms + times["opencv"]) / vectors_ms,
        (decode_ms + times["fast"]) / vectors_ms,
        (decode_ms + times["dis"]) / vectors_ms,
        difference,
        length,
        float(np.mean([np.isnan(flow[0]).mean() for flow in maps[1:]])),
    )


def with_vectors(video: Path, scratch: Path) -> tuple[Path, str]:
    """The video, or a copy whose codec exports motion vectors, and the codec of the video."""
    with av.open(str(video), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        codec = stream.codec_context.name
        try:
            export_vectors(stream)
            return video, codec
        except InputError:
            return transcode(video, scratch, max_pixels=1 << 26), codec


def decode_vectors(video: Path) -> list[np.ndarray]:
    maps = []
    with av.open(str(video), metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        export_vectors(stream)
        stream.codec_context.thread_count = 1
        flows = VectorFlows(stream)
        for packet in container.demux(stream):
            flows.note(packet)
            for frame in packet.decode():
                maps += flows.add(frame)
        return maps + flows.finish()


def decode_pictures(video: Path, short_side: int) -> list[np.ndarray]:
    frames = []
    with av.open(str(video), metadata_errors="ignore") as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            scale = min(1.0, short_side / min(frame.width, frame.height))
            size = round(frame.width * scale), round(frame.height * scale)
            frames.append(frame.reformat(*size, format="gray").to_ndarray())
    return frames


def opencv_tvl1(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    optflow: Any = cv2.optflow  # OpenCV's own types lack it
    solver = optflow.DualTVL1OpticalFlow_create()
    flows = [
        torch.from_numpy(solver.calc(np.ascontiguousarray(one), np.ascontiguousarray(other), None))
        for one, other in zip(first.numpy(), second.numpy(), strict=True)
    ]
    return torch.stack(flows).permute(0, 3, 1, 2)


def fastest(repeats: int, work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds of the fastest of several runs, and its result."""
    best: tuple[float, T] | None = None
    for _ in range(repeats):
        began = time.process_time()
        result = work()
        seconds = time.process_time() - began
        if best is None or seconds < best[0]:
            best = seconds, result
    assert best is not None, repeats
    return best


def against(maps: list[np.ndarray], flows: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    """Mean end-point difference between filled maps and flow of frames, and the length of flow."""
    filled = [np.zeros_like(maps[0])]
    for flow in maps[1:]:
        filled.append(fill_holes(flow, filled[-1]))
    differences = []
    height, width = flows.shape[2:]
    for index, flow in zip(chosen, flows, strict=True):
        # Values are in pixels of the source; a cell of a map covers 8 pixels.
        wide = cv2.resize(filled[index + 1].transpose(1, 2, 0), (width, height))
        scale = max(height, width) / (8 * max(filled[0].shape[1:]))
        differences.append(np.hypot(*(wide.transpose(2, 0, 1) * scale - flow)).mean())
    return float(np.mean(differences)), float(np.hypot(flows[:, 0], flows[:, 1]).mean())


def print_row(row: Row, is_first: bool) -> None:
    if is_first:
        print("video                     codec      size frames  ms a frame: vectors decode"
              "  OpenCV    fast     DIS   times faster than OpenCV   fast    DIS")  # fmt: skip
    print(
        f"{row.video[:25]:25} {row.codec:5} {row.size:>9} {row.num_frames:6}"
        f" {row.vectors_ms:20.2f} {row.decode_ms:6.2f} {row.opencv_ms:7.1f} {row.fast_ms:7.1f}"
        f" {row.dis_ms:7.1f} {row.times_opencv:26.0f} {row.times_fast:6.1f} {row.times_dis:6.1f}"
        + (f"   + {row.transcode_ms:.1f} ms re-encoding" if row.transcode_ms else ""),
        flush=True,
    )


if __name__ == "__main__":
    main()
