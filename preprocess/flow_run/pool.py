"""The pool of workers of a run: started if there is work, and closed at its end.

A pool has `run(groups)`, which yields the events of the workers (preprocess/flow_run/messages.py)
as they come, `times`, and `close()`. The content of the events depends neither on the pool nor on
the number of workers. InProcessPool is the simplest pool; RayPool (preprocess/flow_run/ray_pool.py)
does the same work in many processes.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from preprocess.flow_run.assembler import AssemblerOptions
from preprocess.flow_run.decode_groups import DecodeGroup
from preprocess.flow_run.decode_step import Decoder
from preprocess.flow_run.flow_step import FlowWorker
from preprocess.flow_run.leases import Leases
from preprocess.flow_run.messages import Event, StageTimes, WorkerOptions
from preprocess.flow_run.plan import Plan
from preprocess.flow_run.ray_assemblers import Assembling
from preprocess.flow_run.ray_pool import RayPool
from preprocess.video.frame_chunks import DecodeOptions
from shared.gpus import refuse_too_few

KnownEvents = Callable[[int], Iterable[Event]]
"""Gives the events of those clips of a shard that no worker computes."""


@contextmanager
def running_pool(
    plan: Plan, is_needed: bool, known: KnownEvents | None = None
) -> Iterator[RayPool | InProcessPool | None]:
    """The workers of a run; None if there is nothing to compute.

    Args:
        plan: plan of the run.
        is_needed: whether there is anything to compute.
        known: for workers that write shards; None = workers write none.

    Raises:
        InputError: there are fewer GPUs than requested, or Ray does not start.
    """
    if not is_needed:
        yield None
        return
    config = plan.config
    if config.num_gpus and not os.environ.get("RAY_ADDRESS"):  # a cluster has other GPUs
        import torch

        refuse_too_few(torch.cuda, config.num_gpus, "--num-gpus")
    options = worker_options(plan)
    scratch = options.decode.scratch
    pool: RayPool | InProcessPool
    if config.pool == "in-process":
        pool = InProcessPool(options)
    else:
        pool = RayPool(
            options,
            config.decoders,
            config.flow_workers,
            config.num_gpus,
            config.clip_timeout,
            dashboard=config.dashboard,
            assembling=_assembling(plan, known) if known else None,
        )
    try:
        yield pool
    finally:
        pool.close()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _assembling(plan: Plan, known: KnownEvents) -> Assembling | None:
    """What workers that write shards need to know; None if the run writes them itself."""
    if plan.config.shard_writers == 0:
        return None
    leases = Leases(plan.leases)
    return Assembling(
        plan.config.shard_writers,
        leases,
        AssemblerOptions(plan.flow, plan.configs, leases.probe, leases.probe_text),
        plan.shard_of,
        lambda shard: {index: plan.clips[index] for index in plan.clip_indexes(shard)},
        known,
    )


def worker_options(plan: Plan) -> WorkerOptions:
    """The options of the workers, from the config."""
    config = plan.config
    return WorkerOptions(
        video_root=config.video_root.resolve(),
        decode=DecodeOptions(
            short_side=config.frame_short_side,
            max_pixels=config.max_pixels,
            max_frames=config.max_frames,
            max_seconds=config.max_seconds,
            # Re-encoded copies of videos are kept here until the run ends.
            scratch=plan.layout.root.resolve() / f".transcoded{plan.suffix}"
            if plan.flow.transcode
            else None,
        ),
        jpeg_quality=config.jpeg_quality,
        flow_short_side=config.flow_short_side,
        map_short_side=config.map_short_side,
        device="cuda" if config.num_gpus else "cpu",
        flow=plan.flow,
    )


class InProcessPool:
    """One decoder and one flow worker in this process, which work in turn.

    A video that crashes or hangs the decoder ends the run. With RayPool it does not.
    """

    def __init__(
        self,
        options: WorkerOptions,
        decoder: type[Decoder] = Decoder,
        flow_worker: type[FlowWorker] = FlowWorker,
    ) -> None:
        self.times = StageTimes()
        self._decoder = decoder(options)
        self._flow_worker = flow_worker(options) if options.flow.pictured else None

    def run(self, groups: Iterable[DecodeGroup]) -> Iterator[Event]:
        waiting = deque(groups)
        while waiting:
            given = [waiting.popleft()]
            while True:
                result, batch = self._decoder.next_batch(given)
                self.times.add_decoding(result)
                waiting.extendleft(reversed(result.retries))
                yield from result.events
                if self._flow_worker is not None:
                    flow_result = self._flow_worker.run(batch)
                    self.times.flow_busy += flow_result.busy_seconds
                    yield from flow_result.events
                given = []
                if result.running is None:
                    break

    def close(self) -> None:
        """Do nothing: this pool has no processes."""
