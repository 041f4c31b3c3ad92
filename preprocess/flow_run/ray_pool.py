"""Decoders and flow workers as Ray actors, whose death does not end the run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from preprocess.flow_run.decode_groups import DecodeGroup
from preprocess.flow_run.decode_step import BATCH_GROUPS, Decoder
from preprocess.flow_run.flow_step import FlowWorker
from preprocess.flow_run.messages import (
    ClipFailed,
    DecodeResult,
    Event,
    StageTimes,
    WorkerOptions,
)
from preprocess.flow_run.ray_start import start_ray
from shared.errors import InputError

START_SECONDS = 300.0  # a new actor must answer within this time; importing torch can be slow
START_TRIES = 3


@dataclass
class _Actor:
    """A Ray actor and the one call that it works on."""

    handle: Any
    is_decoder: bool
    call: Any = None  # ObjectRef that the driver waits for
    batch: Any = None  # ObjectRef of the batch that a decoder is making
    since: float = 0.0
    is_starting: bool = True
    running: DecodeGroup | None = None  # started by a decoder in an earlier call
    groups: list[DecodeGroup] = field(default_factory=list)  # sent with the call
    flow_task: _FlowTask | None = None


@dataclass(frozen=True)
class _FlowTask:
    """Chunks of a batch for a flow worker."""

    batch: Any  # ObjectRef of list[GreyFrames]
    clip_indexes: list[int]  # of all chunks of the batch
    selected: list[int]  # numbers of the chunks to compute
    attempt: int = 0


class RayPool:
    """Decoder actors send frames to flow actors through Ray's object store; the driver assigns.

    Each actor has one call at a time, and the number of batches that exist at once is bounded.
    Memory therefore does not grow with the length of a video. No actor restarts by itself. When an
    actor dies or does not answer in time, its clips (or its chunks, for flow) are tried once more,
    each alone on a new actor. A clip that loses a second actor is set aside. So a clip that kills
    its worker costs only itself, and a worker that is killed from outside costs no clip.

    Args:
        options: options of the workers.
        num_decoders, num_flow_workers: number of actors of each kind.
        num_gpus: number of GPUs that the flow actors share; 0 on CPU.
        clip_timeout: seconds until a call counts as hung. A call covers at most 16 groups and
            about BATCH_FRAMES frames, never a whole long video.
        decoder, flow_worker: classes that the actors run.
        dashboard: whether a Ray that is started here shows its dashboard, on 127.0.0.1.

    Raises:
        InputError: Ray is not installed, or actors do not start.
    """

    def __init__(
        self,
        options: WorkerOptions,
        num_decoders: int,
        num_flow_workers: int,
        num_gpus: int = 0,
        clip_timeout: float = 300.0,
        decoder: type[Decoder] = Decoder,
        flow_worker: type[FlowWorker] = FlowWorker,
        dashboard: bool = False,
    ) -> None:
        self._options = options
        self._timeout = clip_timeout
        self._max_queued = num_flow_workers + 1
        self.times = StageTimes(num_decoders, num_flow_workers)
        batches = num_decoders + num_flow_workers + self._max_queued
        if options.flow.tracks:
            batches *= 4  # the tracks of a batch are larger than its frames
        num_workers = num_decoders + num_flow_workers
        self._ray = start_ray(num_workers, num_gpus, batches, dashboard)
        remote = self._ray.remote(max_restarts=0, max_task_retries=0, num_cpus=1)
        self._decoder = remote(decoder)
        self._flow_worker = remote(flow_worker).options(num_gpus=num_gpus / num_flow_workers)
        self._failed_starts = 0
        self._actors = [self._new_actor(True) for _ in range(num_decoders)]
        self._actors += [self._new_actor(False) for _ in range(num_flow_workers)]
        try:
            while any(actor.is_starting for actor in self._actors):
                for _ in self._next_events():
                    raise AssertionError("no group was given yet")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill the actors and disconnect from Ray; a Ray that was started here ends."""
        for actor in self._actors:
            self._ray.kill(actor.handle)
        self._ray.shutdown()

    def run(self, groups: Iterable[DecodeGroup]) -> Iterator[Event]:
        self._groups = deque(groups)
        self._flow_tasks: deque[_FlowTask] = deque()
        while True:
            self._assign()
            busy = [actor for actor in self._actors if actor.call is not None]
            if not self._groups and not self._flow_tasks and all(a.is_starting for a in busy):
                return
            yield from self._next_events()

    def _next_events(self) -> Iterator[Event]:
        """Wait until a call ends or takes too long."""
        busy = [actor for actor in self._actors if actor.call is not None]
        calls = {actor.call: actor for actor in busy}
        ready, _ = self._ray.wait(list(calls), num_returns=1, timeout=self._seconds_left(busy))
        for call in ready:
            yield from self._finish(calls[call])
        if not ready:
            for actor in busy:
                if time.monotonic() - actor.since > self._timeout_of(actor):
                    yield from self._replace(actor, f"no answer in {self._timeout_of(actor):.0f} s")

    def _new_actor(self, is_decoder: bool) -> _Actor:
        remote = self._decoder if is_decoder else self._flow_worker
        handle = remote.remote(self._options)
        is_ready = handle.__ray_ready__.remote()
        return _Actor(handle, is_decoder, call=is_ready, since=time.monotonic())

    def _timeout_of(self, actor: _Actor) -> float:
        return START_SECONDS if actor.is_starting else self._timeout

    def _seconds_left(self, busy: list[_Actor]) -> float:
        """Seconds until the first running call counts as hung."""
        return max(0.0, min(a.since + self._timeout_of(a) for a in busy) - time.monotonic()) + 0.01

    def _assign(self) -> None:
        for actor in self._actors:
            if actor.call is not None:
                continue
            if actor.is_decoder:
                self._assign_to_decoder(actor)
            elif self._flow_tasks:
                actor.flow_task = self._flow_tasks.popleft()
                actor.call = actor.handle.run.remote(
                    actor.flow_task.batch, actor.flow_task.selected
                )
                actor.since = time.monotonic()

    def _assign_to_decoder(self, actor: _Actor) -> None:
        decoding = sum(1 for other in self._actors if other.is_decoder and other.batch is not None)
        if len(self._flow_tasks) + decoding >= self._max_queued + self.times.num_decoders - 1:
            return
        if actor.running is None and not self._groups:
            return
        actor.groups = self._take_groups(is_idle=actor.running is None)
        if actor.running is None and not actor.groups:
            return
        next_batch = actor.handle.next_batch.options(num_returns=2)
        actor.call, actor.batch = next_batch.remote(actor.groups)
        actor.since = time.monotonic()

    def _take_groups(self, is_idle: bool) -> list[DecodeGroup]:
        """The next groups for a decoder; an idle decoder gets a suspect group, alone."""
        taken: list[DecodeGroup] = []
        while self._groups and len(taken) < BATCH_GROUPS:
            if self._groups[0].is_suspect:
                if is_idle and not taken:
                    taken.append(self._groups.popleft())
                break
            taken.append(self._groups.popleft())
        return taken

    def _finish(self, actor: _Actor) -> Iterator[Event]:
        """Handle the result of an actor's call, or the death of the actor."""
        try:
            result = self._ray.get(actor.call)
        except self._ray.exceptions.RayActorError:
            yield from self._replace(actor, "worker died")
            return
        except self._ray.exceptions.RayError as error:  # for example, a result was lost
            yield from self._replace(actor, f"worker failed: {type(error).__name__}")
            return
        actor.call = None
        if actor.is_starting:
            actor.is_starting = False
            self._failed_starts = 0
        elif actor.is_decoder:
            yield from self._finish_decoding(actor, result)
        else:
            self.times.flow_busy += result.busy_seconds
            actor.flow_task = None
            yield from result.events

    def _finish_decoding(self, actor: _Actor, result: DecodeResult) -> Iterator[Event]:
        self.times.add_decoding(result)
        self._groups.extendleft(reversed(actor.groups[result.num_started :]))
        self._groups.extendleft(reversed(result.retries))
        actor.running = result.running
        actor.groups = []
        if result.batch_clip_indexes:
            selected = list(range(len(result.batch_clip_indexes)))
            self._flow_tasks.append(_FlowTask(actor.batch, result.batch_clip_indexes, selected))
        actor.batch = None
        yield from result.events

    def _replace(self, actor: _Actor, reason: str) -> Iterator[Event]:
        """Replace an actor that died or hung; its clips are tried again, or fail."""
        self._ray.kill(actor.handle)
        if actor.is_starting:
            self._failed_starts += 1
            if self._failed_starts == START_TRIES:
                raise InputError(
                    "no-workers",
                    f"Worker processes do not start under Ray: {reason}. Try --pool in-process",
                )
        self._actors[self._actors.index(actor)] = self._new_actor(actor.is_decoder)
        lost = [actor.running, *actor.groups] if actor.running else actor.groups
        for group in reversed(lost):
            if group.is_suspect:
                for task in group.tasks:
                    yield ClipFailed(task.clip_index, "decode", reason, "worker-lost")
            else:
                for task in reversed(group.tasks):
                    self._groups.appendleft(group.retry_of(task.clip_index, is_suspect=True))
        if actor.flow_task is not None:
            yield from self._retry_flow(actor.flow_task, reason)

    def _retry_flow(self, lost: _FlowTask, reason: str) -> Iterator[Event]:
        for index in reversed(lost.selected):
            if lost.attempt > 0:
                yield ClipFailed(lost.clip_indexes[index], "flow", reason, "worker-lost")
            else:
                self._flow_tasks.appendleft(
                    _FlowTask(lost.batch, lost.clip_indexes, [index], attempt=1)
                )
