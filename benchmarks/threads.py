"""Measures how OpenMP's threads should wait, in the toy pretraining beside other processes.

    python -m benchmarks.threads

OpenMP runs one parallel region after another, and a training step has thousands of them. A thread
that has nothing to do until the next region either spins or sleeps. Spinning saves the time to wake
up, but it takes a core from whoever else computes. A contender is a process with its own setting of
OMP_WAIT_POLICY or GOMP_SPINCOUNT, because OpenMP reads them once, when PyTorch is imported. Each
computes steps of the toy recipe (forward pass, backward pass and fused AdamW of 8 clips, without
reading clips) on all cores, beside 0, 1, 2 and 4 processes that multiply matrices on one thread
each. The contenders take turns in each round, and the median of the rounds counts. It takes about
eight minutes.

`shared/threads.py` sets what this chose.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click

from benchmarks.options import out_option
from shared.errors import user_errors

ROOT = Path(__file__).resolve().parent.parent
OTHERS = (0, 1, 2, 4)
BATCH = 8
UNSET = "as PyTorch has it"
# Variables of each contender. OpenMP's own default is to spin 300,000 times before it sleeps.
SETTINGS: dict[str, dict[str, str]] = {
    UNSET: {},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 100": {"GOMP_SPINCOUNT": "100"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
OTHER_WORK = """
import numpy, os
parent, a = os.getppid(), numpy.random.rand(512, 512)
while os.getppid() == parent:  # a benchmark that is killed leaves nothing behind
    a @ a
"""


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--rounds", type=click.IntRange(min=1), default=5, metavar="COUNT",
              help="Number of rounds with all settings in turn; the median counts.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=4.0,
              metavar="SECONDS", help="Duration of one measurement.")  # fmt: skip
@out_option("threads-HOST")
@user_errors
def main(rounds: int, seconds: float, out: Path | None) -> None:
    print(f"The machine has {len(os.sched_getaffinity(0))} cores and a load of {os.getloadavg()}.")
    rates = measure(SETTINGS, OTHERS, rounds, seconds)
    for line in table(rates):
        print(line)
    # Imported here, so that no process of this benchmark but the contenders has OpenMP's threads.
    from benchmarks.record import RESULTS, Figure, host_kind, write_record

    figures = [
        Figure(
            f"toy pretraining beside {others} processes, {name}",
            "clips/s",
            statistics.median(each[others]),
            "" if name == UNSET else UNSET,
            None if name == UNSET else statistics.median(rates[UNSET][others]),
            note="rounds: " + ", ".join(f"{rate:.1f}" for rate in each[others]),
        )
        for name, each in rates.items()
        for others in each
    ]
    path = out or RESULTS / f"threads-{host_kind()}.json"
    write_record(path, figures)
    print(path)


def measure(
    settings: Mapping[str, Mapping[str, str]],
    others: tuple[int, ...],
    rounds: int,
    seconds: float,
) -> dict[str, dict[int, list[float]]]:
    """Clips per second of each setting beside each number of other processes, one a round."""
    rates: dict[str, dict[int, list[float]]] = {
        name: {count: [] for count in others} for name in settings
    }
    with contextlib.ExitStack() as opened:
        contenders = {
            name: opened.enter_context(_contender(variables))
            for name, variables in settings.items()
        }
        for _ in range(rounds):
            for count in others:
                with _busy_processes(count):
                    for name, contender in contenders.items():
                        rates[name][count].append(_ask(contender, seconds))
                now = ", ".join(f"{name} {each[count][-1]:.1f}" for name, each in rates.items())
                load = os.getloadavg()[0]
                print(f"beside {count}, clips/s: {now} (load {load:.1f})", flush=True)
    return rates


def table(rates: Mapping[str, Mapping[int, list[float]]]) -> list[str]:
    """Lines with the median of each setting, and its ratio to the first setting."""
    first = next(iter(rates.values()))
    width = max(map(len, rates))
    lines = [
        f"{'clips/s beside':<{width}}" + "".join(f"{f'{n} processes':>22}" for n in first),
    ]
    for name, each in rates.items():
        cells = [
            f"{statistics.median(found):.1f} ({_paired(found, first[count]):.2f} times)"
            for count, found in each.items()
        ]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>22}" for cell in cells))
    return lines


def _paired(found: list[float], before: list[float]) -> float:
    """The median of the ratios of the same rounds, which see the same load."""
    return statistics.median(one / other for one, other in zip(found, before, strict=True))


@contextlib.contextmanager
def _contender(variables: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that computes steps when it is asked to."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    process = subprocess.Popen(
        [sys.executable, "-c", "from benchmarks.threads import compute; compute()"],
        cwd=ROOT,
        env=inherited | dict(variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _ask(process, 0)  # allocate, warm up
        yield process
    finally:
        process.kill()
        process.communicate()


def _ask(process: subprocess.Popen[str], seconds: float) -> float:
    """Have a contender compute for a time; returns its clips per second."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def compute() -> None:
    """For each line of the input, compute for as many seconds, and print clips per second."""
    step = toy_step()
    for line in sys.stdin:
        began = time.perf_counter()
        steps = 0
        while time.perf_counter() - began < float(line) or not steps:
            step()
            steps += 1
        print(BATCH * steps / (time.perf_counter() - began), flush=True)


@contextlib.contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    """As many processes that compute on one thread each until the end of the block."""
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, "-c", OTHER_WORK], env=one_thread) for _ in range(count)
    ]
    try:
        if processes:
            time.sleep(0.5)  # they import numpy
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def toy_step() -> Callable[[], None]:
    """A pretraining step of the toy recipe on one batch."""
    # PyTorch comes first: `train` leaves the variables alone once it is imported.
    import torch
    from torch import Tensor

    from benchmarks.step_contenders import Contender
    from train.network.autoencoder import MaskedAutoencoder
    from train.objectives.pixels import masked_loss, masked_targets, normalised_pixels
    from train.options.recipe import pretrain_config, read_recipe

    config = pretrain_config(read_recipe("toy", None), "videomae").model
    torch.manual_seed(0)
    model = MaskedAutoencoder(config)
    clips = torch.randn(BATCH, 3, config.num_frames, config.image_size, config.image_size)
    hidden = torch.zeros(config.grid**2, dtype=torch.bool)
    hidden[torch.randperm(config.grid**2)[: int(0.9 * config.grid**2 + 0.5)]] = True
    mask = hidden.repeat(config.time_steps).expand(BATCH, -1).contiguous()
    num_masked = int(mask[0].sum())

    def loss() -> Tensor:
        target = masked_targets(normalised_pixels(clips, config), mask, num_masked)
        return masked_loss(model(clips, mask, num_masked), target)

    return Contender(model, loss).step()


if __name__ == "__main__":
    main()
