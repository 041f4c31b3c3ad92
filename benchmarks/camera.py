"""Compares two ways to remove camera motion from flow: remaining motion, and time.

    python -m benchmarks.camera VIDEO... --out benchmarks/results/camera.json

warp: estimate a homography from matched features, warp the second frame back, compute flow again.
subtract: fit a homography to the computed flow, and subtract it (preprocess/flow/camera.py).

For real videos the benchmark reports the median over pairs of the median length of flow. This is
the flow of the background if more than half of the frame is background. For rendered pairs (frames
of the videos under a known homography, so the scene is still) it reports the mean length, which
would be 0 without error.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import click
import cv2
import numpy as np
import torch

from preprocess.flow.camera import camera_motion, residual_flow, warp_back
from preprocess.flow.tvl1 import tvl1_flow
from shared.errors import user_errors
from shared.files import write_atomically
from shared.randomness import counter_generator
from shared.run_record import command_line, git_commit, versions


@dataclass(frozen=True)
class Row:
    """Lengths of flow in pixels, and CPU milliseconds per pair on top of the first flow."""

    what: str
    num_pairs: int
    statistic: str
    as_it_is: float
    subtract: float
    warp: float
    flow_ms: float
    subtract_ms: float
    warp_ms: float


@click.command(
    help=__doc__.split("\n")[0],
    context_settings={"show_default": True, "max_content_width": 100},
)
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--short-side", default=240, metavar="PIXELS", help="Resize frames to this short side."
)
@click.option("--pairs", default=12, metavar="COUNT", help="Number of frame pairs of each video.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="JSON file to write.")
@user_errors
def main(videos: tuple[Path, ...], short_side: int, pairs: int, out: Path | None) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rows: list[Row] = []
    print(f"{'':34} pairs       as it is  subtract    warp    ms: flow  subtract    warp")
    for video in videos:
        frames = decode(video, short_side)
        chosen = np.unique(np.linspace(0, len(frames) - 2, pairs).astype(int))
        real = [(frames[i], frames[i + 1]) for i in chosen]
        rendered = [render(frames[i], video.name, int(i)) for i in chosen[:: len(chosen) // 4]]
        rows.append(measure(video.name, real, "median"))
        rows.append(measure(f"{video.name}, rendered", rendered, "mean"))
        for row in rows[-2:]:
            print(
                f"{row.what:34} {row.num_pairs:5} {row.statistic:6} {row.as_it_is:8.3f}"
                f" {row.subtract:9.3f} {row.warp:7.3f} {row.flow_ms:11.1f} {row.subtract_ms:9.1f}"
                f" {row.warp_ms:7.1f}",
                flush=True,
            )
    if out:
        record = {
            "command": command_line(),
            "versions": versions(),
            "git_commit": git_commit(),
            "short_side": short_side,
            "rows": [asdict(row) for row in rows],
        }
        write_atomically(out, json.dumps(record, indent=1).encode() + b"\n")


def decode(video: Path, short_side: int) -> list[np.ndarray]:
    frames = []
    with av.open(str(video), metadata_errors="ignore") as container:
        for frame in container.decode(video=0):
            scale = min(1.0, short_side / min(frame.width, frame.height))
            size = round(frame.width * scale), round(frame.height * scale)
            frames.append(np.ascontiguousarray(frame.reformat(*size, format="gray").to_ndarray()))
    return frames


def render(frame: np.ndarray, *key: str | int) -> tuple[np.ndarray, np.ndarray]:
    """Two views of the enlarged middle of a frame that differ by a random homography."""
    height, width = frame.shape
    rng = counter_generator("benchmark camera", *key)
    angle, zoom = rng.uniform(-0.03, 0.03), 1 + rng.uniform(-0.03, 0.03)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]]) * zoom
    turn = np.vstack([turn, [*rng.uniform(-5e-5, 5e-5, 2), 1]])
    middle = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]])
    shift = np.array([[1, 0, rng.uniform(-6, 6)], [0, 1, rng.uniform(-6, 6)], [0, 0, 1]])
    homography = shift @ middle @ turn @ np.linalg.inv(middle)
    crop = np.array([[0.75, 0, width / 8], [0, 0.75, height / 8], [0, 0, 1]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    first, second = (
        cv2.warpPerspective(frame, to_frame, (width, height), flags=flags)
        for to_frame in (crop, crop @ np.linalg.inv(homography))
    )
    return first, second


def measure(what: str, pairs: list[tuple[np.ndarray, np.ndarray]], statistic: str) -> Row:
    lengths, seconds = [], np.zeros(3)
    flow_between(*pairs[0])  # compile, warm up
    for first, second in pairs:
        began = time.process_time()
        flow = flow_between(first, second)
        flowed = time.process_time()
        fitted, _, _ = residual_flow(flow)
        subtracted = time.process_time()
        camera = camera_motion(first, second)
        warped = flow_between(first, warp_back(second, camera.homography, first))
        ended = time.process_time()
        seconds += flowed - began, subtracted - flowed, ended - subtracted
        summarise = np.median if statistic == "median" else np.mean
        lengths.append([summarise(np.hypot(*field)) for field in (flow, fitted, warped)])
    lengths = np.median(lengths, axis=0) if statistic == "median" else np.mean(lengths, axis=0)
    milliseconds = 1000 * seconds / len(pairs)
    return Row(what, len(pairs), statistic, *map(float, lengths), *map(float, milliseconds))


def flow_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return tvl1_flow(torch.from_numpy(first)[None], torch.from_numpy(second)[None])[0].numpy()


if __name__ == "__main__":
    main()
