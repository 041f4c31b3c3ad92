"""Compares a training step of ViT-B with Hugging Face's VideoMAE at equal shapes and precision.

    python -m benchmarks.step

A step computes targets, forward and backward pass and fused AdamW from standardised clips and
masks: 16 frames of 224 pixels, with a tube mask of 90 %. For pretraining a third contender decodes
half of the hidden tokens (`decoder_mask` of a recipe). On a CPU all contenders take turns on one
thread, and times are CPU seconds. On a GPU the precision is bf16, times are wall-clock times after
the device has finished, blocks are compiled, and batches are larger. TFLOP/s count the operations
of the model as defined (train/running/throughput.py) for both. The share is relative to the rate of
large matrix products of that type on this machine. Memory is what the forward pass of pretraining
keeps for the backward pass of one clip, without weights. It takes about five minutes on an idle
CPU.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

from benchmarks.options import out_option
from benchmarks.record import NOT_ON_GPU, Figure, conclude, fastest
from benchmarks.step_contenders import (
    MASK_RATIO,
    VIT_B,
    Contender,
    Step,
    has_transformers,
    hugging_face,
    kept_gigabytes,
    ours,
)
from shared.decoder_masks import HALF
from shared.errors import user_errors
from train.network.model_config import ModelConfig
from train.running.throughput import finetuning_flops, peak_gigabytes, pretraining_flops

TARGETS = {"cpu": 1.5, "cuda": 2.0}
TARGET_OF_HALF = 1.4  # times the speed of decoding all hidden tokens
TARGET_SHARE = 0.45  # of the matrix rate, on a GPU
TASKS = ("pretraining", "finetuning")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
GPU_BATCHES = {"pretraining": (32, 64, 128, 256), "finetuning": (8, 16, 32, 64)}


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--rounds", type=click.IntRange(min=1), default=3, metavar="COUNT",
              help="Number of rounds with both in turn; the fastest one counts.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=1), default=2, metavar="CLIPS",
              help="Batch size of pretraining on a CPU; finetuning takes half of it.")  # fmt: skip
@out_option("step-HOST")
@user_errors
def main(rounds: int, batch_size: int, out: Path | None) -> None:
    figures = [figure for task in TASKS for figure in measure(task, rounds, batch_size)]
    conclude("step", figures, out)


def measure(task: str, rounds: int, batch_size: int) -> list[Figure]:
    """All figures of "pretraining" or "finetuning", on the GPU if there is one, else on one thread.

    A clip takes five times as much work in finetuning, so the batch on a CPU has half the clips.
    """
    if torch.cuda.is_available():
        return at_best_batch(task, rounds, GPU_BATCHES[task], torch.device("cuda"))
    torch.set_num_threads(1)
    if task == "finetuning":
        batch_size = max(1, batch_size // 2)
    figures = [each for name in DTYPES for each in _on_cpu(task, name, batch_size, rounds)]
    if task == "pretraining":
        figures += _of_memory()
    return [*figures, Figure(f"step, {task}, GPU", "clips/s", None, note=NOT_ON_GPU)]


# ----------------------------------------------------------------------------------- figures


def _on_cpu(task: str, precision: str, batch_size: int, rounds: int) -> list[Figure]:
    device, dtype = torch.device("cpu"), DTYPES[precision]
    peak = matmul_tflops(dtype, device)
    works: dict[str, Step] = {"ours": ours(task, batch_size, dtype, device).step()}
    if task == "pretraining":
        works["half"] = ours(task, batch_size, dtype, device, decoded_share=HALF).step()
    if has_transformers():
        works["theirs"] = hugging_face(task, batch_size, dtype, device).step()
    seconds = fastest(works, 1 + rounds)  # the first round warms up
    figures = _compared(task, precision, batch_size, seconds, peak, device)
    del works
    gc.collect()
    return figures


def at_best_batch(
    task: str,
    rounds: int,
    batch_sizes: tuple[int, ...],
    device: torch.device,
    config: ModelConfig = VIT_B,
) -> list[Figure]:
    """Figures in bf16 at the best of these batch sizes, which may differ between contenders."""
    dtype = torch.bfloat16
    best: dict[str, tuple[float, int, float]] = {}
    makers: dict[str, Callable[..., Contender]] = {"ours": ours}
    if task == "pretraining":
        makers["half"] = functools.partial(ours, decoded_share=HALF)
    if has_transformers():
        makers["theirs"] = hugging_face
    for name, make in makers.items():
        for batch_size in batch_sizes:
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                step = make(task, batch_size, dtype, device, config).step()
                seconds = device_seconds(step, rounds, device)
            except torch.cuda.OutOfMemoryError:
                break
            memory = peak_gigabytes(device)
            if name not in best or seconds / batch_size < best[name][0]:
                best[name] = (seconds / batch_size, batch_size, memory)
    peak = matmul_tflops(dtype, device)
    per_clip = {name: each[0] for name, each in best.items()}
    figures = _compared(task, "bf16", 1, per_clip, peak, device, config)
    if task == "pretraining":
        figures.append(
            Figure(
                f"step, {task}, bf16: share of the matrix rate at its best batch",
                "1",
                figures[1].ours,
                "the project's own aim",
                TARGET_SHARE,
                target=1.0,
            )
        )
    _, batch_size, memory = best["ours"]
    figures.append(
        Figure(
            f"step, {task}, bf16: memory of a clip",
            "GB",
            memory / batch_size,
            more_is_better=False,
            note=f"at its best batch, {batch_size}",
        )
    )
    return figures


def _compared(
    task: str,
    precision: str,
    batch_size: int,
    seconds: dict[str, float],
    peak: float,
    device: torch.device,
    config: ModelConfig = VIT_B,
) -> list[Figure]:
    clip_tflop = clip_flops(task, config) / 1e12
    rates = {name: batch_size / each for name, each in seconds.items()}
    what = f"step, {task}, {precision}"
    peer = "Hugging Face"
    theirs = rates.get("theirs")
    shares = {name: rate * clip_tflop / peak for name, rate in rates.items()}
    reason = "" if theirs else "transformers is not installed"
    figures = [
        Figure(
            what,
            "clips/s",
            rates["ours"],
            peer,
            theirs,
            target=TARGETS[device.type],
            note=reason or f"{rates['ours'] * clip_tflop:.3f} TFLOP/s",
        ),
        Figure(
            f"{what}: share of {peak:.3f} TFLOP/s of a matrix product",
            "1",
            shares["ours"],
            peer,
            shares.get("theirs"),
            note=f"so at most {1 / shares['theirs']:.2f} times the speed of {peer} is possible"
            if theirs
            else "",
        ),
    ]
    if "half" in rates:
        operations = clip_flops(task, config) / clip_flops(task, config, HALF)
        figures.append(
            Figure(
                f"{what}: half of the hidden tokens decoded",
                "clips/s",
                rates["half"],
                "all decoded",
                rates["ours"],
                target=TARGET_OF_HALF,
                note=f"{operations:.2f} times fewer operations",
            )
        )
    return figures


def clip_flops(task: str, config: ModelConfig = VIT_B, decoded_share: float = 1.0) -> float:
    """Operations of a step for one clip, see train/running/throughput.py."""
    if task == "finetuning":
        return finetuning_flops(config)
    masked = config.time_steps * int(MASK_RATIO * config.grid**2 + 0.5)
    return pretraining_flops(config, masked, int(decoded_share * masked + 0.5))


def matmul_tflops(dtype: torch.dtype, device: torch.device) -> float:
    """The rate of a large matrix product in TFLOP/s, which arithmetic alone would reach."""
    size = 8192 if device.type == "cuda" else 2048
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    if device.type == "cuda":
        seconds = device_seconds(lambda: torch.mm(one, other), 20, device)
    else:
        torch.mm(one, other)
        seconds = fastest({"mm": lambda: torch.mm(one, other)}, 5)["mm"]
    return 2 * size**3 / seconds / 1e12


def device_seconds(work: Callable[[], object], rounds: int, device: torch.device) -> float:
    """Lowest seconds of a call by the clock; a GPU has five calls in its queue at a time."""
    on_gpu = device.type == "cuda"
    calls = 5 if on_gpu else 1
    for _ in range(3 if on_gpu else 1):
        work()
    least = float("inf")
    for _ in range(rounds):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(calls):
            work()
        synchronize(device)
        least = min(least, (time.perf_counter() - began) / calls)
    return least


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _of_memory() -> list[Figure]:
    """Gigabytes that are kept for the backward pass of a clip, with and without checkpointing."""
    arguments = ("pretraining", 1, torch.float32, torch.device("cpu"))
    theirs = kept_gigabytes(hugging_face(*arguments)) if has_transformers() else None
    return [
        Figure(
            f"step, pretraining, fp32: memory of a clip{note}",
            "GB",
            kept_gigabytes(ours(*arguments, activation_checkpointing=checkpointing)),
            "Hugging Face",
            theirs,
            more_is_better=False,
        )
        for checkpointing, note in ((False, ""), (True, ", activation checkpointing"))
    ]


if __name__ == "__main__":
    main()
