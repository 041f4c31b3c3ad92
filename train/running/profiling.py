"""A torch profiler's trace of a few training steps, for `--profile`."""

from __future__ import annotations

from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule

from train.running.engine import Processes

SKIPPED = 3  # steps in which things are compiled and caches fill
TRACED = 5


class StepProfiler:
    """Traces steps SKIPPED to SKIPPED + TRACED of this start of a run; a context manager.

    Only the first process traces. The file is for chrome://tracing or ui.perfetto.dev.

    Args:
        path: of the trace; None for no trace.
        processes: that train.
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
        """Note that an optimiser step has ended."""
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
        print(f"trace of {TRACED} steps: {self._path}", flush=True)
