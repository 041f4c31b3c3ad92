"""The two pools that run decoders and flow workers: in this process, or as Ray actors.

Both have `run(readings)`, which yields the workers' events (see preprocess/flow_run/messages.py) in
the order they come, and `close()`. What the events say does not depend on the pool or on the number
of workers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from preprocess.flow_run.decode_step import BATCH_READINGS, Decoder, FlowWorker
from preprocess.flow_run.messages import ClipFailed, Event, Reading, WorkOptions
from preprocess.flow_run.ray_start import start_ray
from shared.errors import InputError

START_SECONDS = 300.0  # until a new actor must have answered; importing torch can be slow
START_TRIES = 3


@dataclass
class StageTimes:
    """Seconds that workers were busy, summed over those of a stage; frames they decoded."""

    num_decoders: int = 1
    num_flow_workers: int = 1
    decode_busy: float = 0.0
    flow_busy: float = 0.0
    num_frames: int = 0

    @property
    def decode_seconds(self) -> float:
        """What decoding alone would have taken with these workers."""
        return self.decode_busy / self.num_decoders

    @property
    def flow_seconds(self) -> float:
        return self.flow_busy / self.num_flow_workers


class InProcessPool:
    """One decoder and one flow worker in this process, one after the other.

    Nothing protects it from a video that crashes or hangs the decoder; RayPool does.
    """

    def __init__(
        self,
        options: WorkOptions,
        decoder: type[Decoder] = Decoder,
        flow_worker: type[FlowWorker] = FlowWorker,
    ) -> None:
        self.times = StageTimes()
        self._decoder = decoder(options)
        self._flow_worker = flow_worker(options)

    def run(self, readings: Iterable[Reading]) -> Iterator[Event]:
        waiting = deque(readings)
        while waiting:
            given = [waiting.popleft()]
            while True:
                decoded, batch = self._decoder.next_batch(given)
                self.times.decode_busy += decoded.busy_seconds
                self.times.num_frames += decoded.num_frames
                waiting.extendleft(reversed(decoded.again))
                yield from decoded.events
                flowed = self._flow_worker.run(batch)
                self.times.flow_busy += flowed.busy_seconds
                yield from flowed.events
                given = []
                if decoded.running is None:
                    break

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class _Actor:
    """A Ray actor and the one call it has."""

    handle: Any
    is_decoder: bool
    call: Any = None  # ObjectRef of what the driver waits for
    batch: Any = None  # ObjectRef of a decoder's batch in the making
    since: float = 0.0
    is_starting: bool = True
    running: Reading | None = None  # begun by a decoder in an earlier call
    readings: list[Reading] = field(default_factory=list)  # given with the call
    flow_job: _FlowJob | None = None


@dataclass(frozen=True)
class _FlowJob:
    """Chunks of a batch for a flow worker."""

    batch: Any  # ObjectRef of list[GreyFrames]
    places: list[int]  # of all chunks of the batch
    wanted: list[int]  # which of them
    attempt: int = 0


class RayPool:
    """Decoder actors feed flow actors through Ray's object store; this driver decides everything.

    Each actor has one call at a time, and a bounded number of batches exists at once, so memory
    does not grow with the length of a video. No actor restarts by itself. When one dies or gives no
    answer in time, whatever it had is tried once more, each clip (or chunk, in flow) alone on a new
    actor; what loses a second actor is set aside. So a clip that kills its worker costs itself
    alone, and one whose worker was killed from outside costs nothing.

    Args:
        options: for the workers.
        num_decoders, num_flow_workers: actors of each kind.
        num_gpus: shared among the flow actors; 0 on CPU.
        clip_timeout: seconds until a call counts as hung. A call covers at most 16 readings and
            about BATCH_FRAMES frames, never a whole long video.
        decoder, flow_worker: what the actors run.
        dashboard: whether a Ray started here shows its dashboard, on 127.0.0.1.

    Raises:
        InputError: Ray is missing, or actors do not start.
    """

    def __init__(
        self,
        options: WorkOptions,
        num_decoders: int,
        num_flow_workers: int,
        num_gpus: float = 0,
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
            batches *= 4  # what comes of a batch is larger than its frames
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
                    raise AssertionError("nobody has work yet")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill the actors and leave Ray; also ends a Ray that was started here."""
        for actor in self._actors:
            self._ray.kill(actor.handle)
        self._ray.shutdown()

    def run(self, readings: Iterable[Reading]) -> Iterator[Event]:
        self._readings = deque(readings)
        self._flow_jobs: deque[_FlowJob] = deque()
        while True:
            self._give_work()
            busy = [actor for actor in self._actors if actor.call is not None]
            if not self._readings and not self._flow_jobs and all(a.is_starting for a in busy):
                return
            yield from self._next_events()

    def _next_events(self) -> Iterator[Event]:
        """Wait for the first call to end, or to have taken too long."""
        busy = [actor for actor in self._actors if actor.call is not None]
        calls = {actor.call: actor for actor in busy}
        ready, _ = self._ray.wait(list(calls), num_returns=1, timeout=self._patience(busy))
        for call in ready:
            yield from self._finish(calls[call])
        if not ready:
            for actor in busy:
                if time.monotonic() - actor.since > self._allowed(actor):
                    yield from self._lose(actor, f"no answer in {self._allowed(actor):.0f} s")

    def _new_actor(self, is_decoder: bool) -> _Actor:
        remote = self._decoder if is_decoder else self._flow_worker
        handle = remote.remote(self._options)
        is_ready = handle.__ray_ready__.remote()
        return _Actor(handle, is_decoder, call=is_ready, since=time.monotonic())

    def _allowed(self, actor: _Actor) -> float:
        return START_SECONDS if actor.is_starting else self._timeout

    def _patience(self, busy: list[_Actor]) -> float:
        """Seconds until the first of the running calls counts as hung."""
        return max(0.0, min(a.since + self._allowed(a) for a in busy) - time.monotonic()) + 0.01

    def _give_work(self) -> None:
        for actor in self._actors:
            if actor.call is not None:
                continue
            if actor.is_decoder:
                self._give_decoder(actor)
            elif self._flow_jobs:
                actor.flow_job = self._flow_jobs.popleft()
                actor.call = actor.handle.run.remote(actor.flow_job.batch, actor.flow_job.wanted)
                actor.since = time.monotonic()

    def _give_decoder(self, actor: _Actor) -> None:
        decoding = sum(1 for other in self._actors if other.is_decoder and other.batch is not None)
        if len(self._flow_jobs) + decoding >= self._max_queued + self.times.num_decoders - 1:
            return
        if actor.running is None and not self._readings:
            return
        actor.readings = self._take_readings(is_idle=actor.running is None)
        if actor.running is None and not actor.readings:
            return
        next_batch = actor.handle.next_batch.options(num_returns=2)
        actor.call, actor.batch = next_batch.remote(actor.readings)
        actor.since = time.monotonic()

    def _take_readings(self, is_idle: bool) -> list[Reading]:
        """The next ones for a decoder; one that lost a decoder goes alone, to an idle one."""
        taken: list[Reading] = []
        while self._readings and len(taken) < BATCH_READINGS:
            if self._readings[0].is_suspect:
                if is_idle and not taken:
                    taken.append(self._readings.popleft())
                break
            taken.append(self._readings.popleft())
        return taken

    def _finish(self, actor: _Actor) -> Iterator[Event]:
        """Take what an actor's call returned, or find that the actor is dead."""
        try:
            result = self._ray.get(actor.call)
        except self._ray.exceptions.RayActorError:
            yield from self._lose(actor, "worker died")
            return
        except self._ray.exceptions.RayError as error:  # such as a result that was lost
            yield from self._lose(actor, f"worker failed: {type(error).__name__}")
            return
        actor.call = None
        if actor.is_starting:
            actor.is_starting = False
            self._failed_starts = 0
        elif actor.is_decoder:
            yield from self._finish_decoding(actor, result)
        else:
            self.times.flow_busy += result.busy_seconds
            actor.flow_job = None
            yield from result.events

    def _finish_decoding(self, actor: _Actor, decoded) -> Iterator[Event]:
        self.times.decode_busy += decoded.busy_seconds
        self.times.num_frames += decoded.num_frames
        self._readings.extendleft(reversed(actor.readings[decoded.num_taken :]))
        self._readings.extendleft(reversed(decoded.again))
        actor.running = decoded.running
        actor.readings = []
        if decoded.batch_places:
            wanted = list(range(len(decoded.batch_places)))
            self._flow_jobs.append(_FlowJob(actor.batch, decoded.batch_places, wanted))
        actor.batch = None
        yield from decoded.events

    def _lose(self, actor: _Actor, reason: str) -> Iterator[Event]:
        """Replace an actor that died or hangs, and see to what it had."""
        self._ray.kill(actor.handle)
        if actor.is_starting:
            self._failed_starts += 1
            if self._failed_starts == START_TRIES:
                raise InputError(f"worker processes do not start under Ray: {reason}")
        self._actors[self._actors.index(actor)] = self._new_actor(actor.is_decoder)
        lost = [actor.running, *actor.readings] if actor.running else actor.readings
        for reading in reversed(lost):
            if reading.is_suspect:
                for job in reading.jobs:
                    yield ClipFailed(job.place, "decode", reason)
            else:
                for job in reversed(reading.jobs):
                    self._readings.appendleft(reading.alone(job.place, is_suspect=True))
        if actor.flow_job is not None:
            yield from self._retry_flow(actor.flow_job, reason)

    def _retry_flow(self, lost: _FlowJob, reason: str) -> Iterator[Event]:
        for index in reversed(lost.wanted):
            if lost.attempt > 0:
                yield ClipFailed(lost.places[index], "flow", reason)
            else:
                self._flow_jobs.appendleft(_FlowJob(lost.batch, lost.places, [index], attempt=1))
