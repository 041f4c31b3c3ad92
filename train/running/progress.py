"""What a training loop watches: losses, time, and when to save or stop."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import FrameType
from typing import TypeVar

import torch
from torch import Tensor

from shared.errors import InputError
from shared.randomness import counter_generator
from train.running.engine import Processes
from train.running.throughput import peak_gigabytes

T = TypeVar("T")


class LossWatch:
    """Collects losses on the device and reads them once per line of the log.

    Reading a loss waits for the GPU. A loss that is not finite stops the run at the next line of
    the log, and the error names the step that had it.
    """

    def __init__(self, processes: Processes, clip_id: Callable[[int], str]) -> None:
        self._processes = processes
        self._clip_id = clip_id
        self._losses: list[Tensor] = []
        self._steps: list[tuple[int, float, list[Tensor]]] = []

    def add(self, step: int, learning_rate: float, losses: Tensor, clips: list[Tensor]) -> None:
        """Add the losses float [K] of one optimiser step. The first one is the training loss."""
        self._losses.append(losses.detach())
        self._steps.append((step, learning_rate, clips))

    def mean(self) -> list[float]:
        """The mean losses [K] since the last call, over all processes.

        Raises:
            InputError: a loss is NaN or infinite.
        """
        losses = torch.stack(self._losses).float()  # [steps, K]
        mean = self._processes.mean(losses.mean(dim=0)).tolist()
        if not all(math.isfinite(value) for value in mean):
            self._refuse(losses[:, 0].tolist())
        self._losses, self._steps = [], []
        return mean

    def _refuse(self, losses: list[float]) -> None:
        found = None
        for loss, (step, rate, clips) in zip(losses, self._steps, strict=True):
            if not math.isfinite(loss):
                names = [self._clip_id(int(index)) for index in torch.cat(clips).unique()]
                where = f"loss {loss} at step {step}, learning rate {rate:.3g}"
                found = f"{where}, clips: {', '.join(names)}"
                break
        reports = [report for report in self._processes.gather(found) if report]
        raise InputError(
            "not-finite",
            "; ".join(reports or ["a loss is not finite"])
            + ". The last checkpoint is older than this step. Try a lower base_learning_rate or a "
            "lower gradient_clipping, and look at these clips with `make show`",
        )


class Stopwatch:
    """Measures the speed of training from one line of the log to the next.

    Attributes:
        begin: when it was made, at the start of the run or where the run continues.
        started: the same in UTC, such as `2026-12-01T09:30:00.123456+00:00`.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self.started = datetime.now(UTC).isoformat()
        self.begin = time.monotonic()
        self.reset()

    def reset(self) -> None:
        """Start the next interval."""
        self._since = time.monotonic()
        self._waited = 0.0
        self._steps = self._clips = 0

    def count(self, clips: int) -> None:
        """Count an optimiser step with this number of clips over all processes."""
        self._steps += 1
        self._clips += clips

    def next(self, batches: Iterator[T]) -> T:
        """Get the next batch, and count the time as waiting for data."""
        began = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - began
        return batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out of the interval; `seconds` have it."""
        if self._processes.uses_cuda:  # the steps that the GPU has yet to finish are no part of it
            torch.cuda.synchronize(self._processes.device)
        began = time.monotonic()
        try:
            yield
        finally:
            self._since += time.monotonic() - began

    def read(self, clip_flops: float) -> dict[str, float]:
        """The figures of the interval.

        Args:
            clip_flops: operations of the forward and backward pass of a clip
            (running/throughput.py).

        Returns:
            clips_per_second over all processes; step_seconds; data_wait_share of this process,
            0..1; tflops_per_process (of its GPU); peak_memory_gb of this process since its start;
            and seconds since the start.
        """
        now = time.monotonic()
        passed = max(now - self._since, 1e-9)
        rate = self._clips / passed
        flops = rate * clip_flops / self._processes.world_size
        return {
            "clips_per_second": round(rate, 2),
            "step_seconds": round(passed / max(1, self._steps), 4),
            "data_wait_share": round(self._waited / passed, 4),
            "tflops_per_process": round(flops / 1e12, 4),
            "peak_memory_gb": round(peak_gigabytes(self._processes.device), 3),
            "seconds": round(now - self.begin, 2),
        }


class Interruption:
    """A context manager that turns Ctrl-C, SIGTERM and --stop-after into a request to stop.

    One process saves a checkpoint after the step in progress and ends. Several processes ask each
    other only at a line of the log, and so they save and end at the next one. A second Ctrl-C ends
    this process immediately.
    """

    def __init__(self, processes: Processes, stop_after_minutes: float | None) -> None:
        self._processes = processes
        self._deadline = math.inf
        if stop_after_minutes is not None:
            self._deadline = time.monotonic() + 60 * stop_after_minutes
        self._signal: int | None = None

    def __enter__(self) -> Interruption:
        self._old = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    @property
    def reason(self) -> str | None:
        """Why this process should stop, or None."""
        if self._signal is not None:
            return signal.Signals(self._signal).name
        return "--stop-after" if time.monotonic() >= self._deadline else None

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SaveClock:
    """Knows when the next checkpoint is due."""

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self._last = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self._last >= self._seconds

    def reset(self) -> None:
        self._last = time.monotonic()


def seed_step(seed: int, step: int, micro_batch: int, rank: int) -> None:
    """Seed dropout and drop path of one forward pass, so that a resumed run draws the same."""
    rng = counter_generator(seed, "step", step, micro_batch, rank)
    torch.manual_seed(int(rng.integers(2**63)))
