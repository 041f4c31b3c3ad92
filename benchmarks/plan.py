"""Projects the time of Something-Something V2 on 1, 4 and 64 GPUs from measured figures.

    python -m benchmarks.plan benchmarks/results/DATE-HOST.json

Measured are the core seconds for a frame of `make flows` and for a clip of the loader on the
machine of the results, and the bytes of a frame in a shard of seven clips of the dataset. Assumed
are the rate of a GPU (`--tflops`, by default the 989 bf16 TFLOP/s of an H200's data sheet, of which
training reaches `--share`), the number of cores per GPU, and that several GPUs share the work
without loss. The hours of training are a reference for a real run, not a promise.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click

from shared.errors import InputError, user_errors
from train.network.model_config import named_config
from train.running.throughput import finetuning_flops, pretraining_flops

GPUS = (1, 4, 64)
CLIPS, TRAIN, VAL = 220_847, 168_913, 24_777  # Goyal et al. 2017; splits of the V2 release
FRAMES = 45  # frames per clip, about
PRETRAIN_EPOCHS, FINETUNE_EPOCHS, TEST_VIEWS = 800, 50, 6
NUM_MASKED = 1408
SPAN = 31  # frames that are read for a dense window of 16 frames with a stride of two
PARAMETERS = 94.2e6
BATCH = 2048
FRAME_BYTES = 18_160  # a shard of 7 clips, 329 frames, 5,974,455 bytes; quality 90


@dataclass(frozen=True)
class Measured:
    """Rates of one core: frames/s of flows and boxes, clips/s and views/s of the loader; bytes."""

    flow_frames: float
    box_frames: float
    loader_clips: float
    loader_views: float
    frame_bytes: float


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--tflops", type=click.FloatRange(0, min_open=True), default=989.0, metavar="TFLOP/S",
              help="Rate of a GPU for bf16 matrix products.")  # fmt: skip
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=0.4, metavar="0..1",
              help="Share of this rate that training reaches.")  # fmt: skip
@click.option("--cores", type=click.IntRange(1), default=16, metavar="CORES",
              help="Number of CPU cores per GPU.")  # fmt: skip
@click.option("--frame-bytes", type=click.FloatRange(1), default=FRAME_BYTES, metavar="BYTES",
              help="Size of a JPEG frame; `make flows` prints the size of a clip.")  # fmt: skip
@user_errors
def main(results: Path, tflops: float, share: float, cores: int, frame_bytes: float) -> None:
    measured = read_measured(results, frame_bytes)
    flops = tflops * share * 1e12
    print("| | " + " | ".join(f"{gpus} GPU{'s' if gpus > 1 else ''}" for gpus in GPUS) + " |")
    print("|---|" + "---|" * len(GPUS))
    for name, values in rows(measured, flops, cores).items():
        print(f"| {name} | " + " | ".join(values) + " |")
    frames = CLIPS * FRAMES
    print(f"\nframes: {frames * frame_bytes / 1e9:.0f} GB at {frame_bytes:.0f} bytes a frame")
    print(f"flows: {frames / measured.flow_frames / 3600:.0f} core-hours")


def rows(measured: Measured, flops: float, cores: int) -> dict[str, list[str]]:
    """Rows of the table: the name, and its value for each number of GPUs."""
    config = named_config("vit-b")
    clip, tuned = pretraining_flops(config, NUM_MASKED), finetuning_flops(config)
    pretrain_rate, tune_rate = flops / clip, flops / tuned
    hours = {
        f"flows on {cores} cores a GPU": CLIPS * FRAMES / (measured.flow_frames * cores),
        f"boxes on {cores} cores a GPU": CLIPS * FRAMES / (measured.box_frames * cores),
        "pretraining, 800 epochs": TRAIN * PRETRAIN_EPOCHS / pretrain_rate,
        "finetuning, 50 epochs": TRAIN * FINETUNE_EPOCHS / tune_rate,
        "evaluation, 6 views": VAL * TEST_VIEWS / (3 * tune_rate),
    }
    found = {name: [_hours(seconds / gpus) for gpus in GPUS] for name, seconds in hours.items()}
    # Bytes read for a view: those of its window, or a quarter of the clip for four views.
    one_view, of_four = SPAN * measured.frame_bytes, FRAMES * measured.frame_bytes / 4
    per_step = BATCH / pretrain_rate
    return found | {
        "pretraining, clips/s": [f"{pretrain_rate * gpus:,.0f}" for gpus in GPUS],
        "loader cores a GPU, one view a read": _same(pretrain_rate / measured.loader_clips),
        "loader cores a GPU, four views a read": _same(pretrain_rate / measured.loader_views),
        "read, one view a read": [
            f"{pretrain_rate * one_view * gpus / 1e9:.1f} GB/s" for gpus in GPUS
        ],
        "read, four views a read": [
            f"{pretrain_rate * of_four * gpus / 1e9:.1f} GB/s" for gpus in GPUS
        ],
        f"a step of {BATCH} clips": [f"{1000 * per_step / gpus:.0f} ms" for gpus in GPUS],
        "gradients and weights, bf16, each way a GPU and step": [
            f"{2 * 2 * PARAMETERS * (gpus - 1) / gpus / 1e6:.0f} MB" for gpus in GPUS
        ],
    }


def read_measured(results: Path, frame_bytes: float) -> Measured:
    """Read the figures that the plan needs.

    Raises:
        InputError: there is no such file, or it lacks a figure.
    """
    try:
        figures = {row["name"]: row for row in json.loads(results.read_text())["figures"]}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            "wrong-format", f"{results} is not a results file of `make bench`: {error}"
        ) from None
    for name in ("ssv2", "toy"):
        wanted = (
            f"flows, {name}: end to end",
            f"boxes, {name}: end to end",
            f"loader, {name}: views as bytes, 4 of one read",
        )
        if all(figures.get(each, {}).get("ours") for each in wanted):
            flows, boxes, views = (figures[each] for each in wanted)
            rates = flows["ours"], boxes["ours"], views["theirs"], views["ours"]
            return Measured(*rates, frame_bytes)
    raise InputError("not-finished", f"{results} lacks {' or '.join(wanted)}; run `make bench`")


def _hours(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _same(value: float) -> list[str]:
    return [f"{value:.1f}"] * len(GPUS)


if __name__ == "__main__":
    main()
