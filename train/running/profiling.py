"""Traces a few training steps with the torch profiler, for `--profile`."""

from __future__ import annotations

from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule

from train.running.engine import Processes

SKIPPED = 3  # steps that compile code and fill caches
TRACED = 5


class StepProfiler:
    """A context manager that traces steps SKIPPED to SKIPPED + TRACED after the start of a run.

    Only the first process traces. chrome://tracing and ui.perfetto.dev show the file.

    Args:
        path: file of the trace; None for no trace.
        processes: the training processes.
    """

    def __init__(self, path: Path | None, processes: Processes) -> None:
        self._path = path
        self._profile: profile | None = None
        if path is None or not processes.is_first:
            return
        activities = [ProfilerActivity.CPU]
        if processes.uses_cuda:
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=SKIPPED - 1, warmup=1, active=TRACED, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )

    def __enter__(self) -> StepProfiler:
        if self._profile is not None:
            self._profile.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop()

    def step(self) -> None:
        """Count an optimiser step."""
        if self._profile is not None:
            self._profile.step()

    def _stop(self) -> None:
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def _write(self, finished: profile) -> None:
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        finished.export_chrome_trace(str(self._path))
        print(f"The trace of {TRACED} steps is in {self._path}.", flush=True)
