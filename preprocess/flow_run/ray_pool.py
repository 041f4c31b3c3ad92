"""Decoders and flow workers as Ray actors, whose death does not end the run."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from preprocess.flow_run.config import default_workers
from preprocess.flow_run.decode_groups import ClipTask, DecodeGroup
from preprocess.flow_run.decode_step import BATCH_GROUPS, Decoder
from preprocess.flow_run.flow_step import FlowWorker
from preprocess.flow_run.messages import (
    ClipFailed,
    DecodeResult,
    Event,
    PoolEvent,
    StageTimes,
    WorkerOptions,
)
from preprocess.flow_run.ray_assemblers import Assembling, RayAssemblers
from preprocess.flow_run.ray_crew import TEND_SECONDS, Actor, Crew, FlowTask, Kind, Stage
from preprocess.flow_run.ray_start import connect_to_cluster, is_cluster_named, start_ray
from shared.errors import is_of_the_machine

DECODER, FLOW = "decoder", "flow worker"
LOST_NODES = 3  # how many nodes may be lost with a clip before the clip is blamed


class RayPool:
    """Decoder actors send frames to flow actors through Ray's object store; the driver assigns.

    Each actor has one call at a time, and the number of batches that exist at once is bounded.
    Memory therefore does not grow with the length of a video. No actor restarts by itself. When an
    actor dies or does not answer in time, its clips (or its chunks, for flow) are tried once more,
    each alone on a new actor. A clip that loses a second actor is set aside. So a clip that kills
    its worker costs only itself, and a worker that is killed from outside costs no clip.

    A cluster may lose machines. Clips that were on a lost machine are decoded again, and are not
    blamed. Workers wait until a CPU is free for them (preprocess/flow_run/ray_crew.py).

    Args:
        options: options of the workers.
        num_decoders, num_flow_workers: number of actors of each kind; None = as many as suit the
            CPUs of the cluster.
        num_gpus: number of GPUs that the flow actors share; 0 on CPU.
        clip_timeout: seconds until a call counts as hung. A call of a decoder covers at most 16
            groups, and about BATCH_FRAMES frames of those that it stores, of those before a span
            and of those that it transcodes, so never a whole long video.
        decoder, flow_worker: classes that the actors run.
        dashboard: whether a Ray that is started here shows its dashboard, on 127.0.0.1.
        assembling: how actors assemble and write shards; None = the caller of `run` does. With it,
            `run` yields what they have done: the ends of clips, and shards that were written.

    Raises:
        InputError: Ray is not installed, or actors do not start.
    """

    def __init__(
        self,
        options: WorkerOptions,
        num_decoders: int | None,
        num_flow_workers: int | None,
        num_gpus: int = 0,
        clip_timeout: float = 300.0,
        decoder: type[Decoder] = Decoder,
        flow_worker: type[FlowWorker] = FlowWorker,
        dashboard: bool = False,
        assembling: Assembling | None = None,
    ) -> None:
        self._timeout = clip_timeout
        on_cluster = is_cluster_named()
        if on_cluster:
            self._ray = connect_to_cluster()
            cpus = int(self._ray.cluster_resources().get("CPU", 0))
            defaults = default_workers(
                cpus, num_gpus, bool(options.flow.sources), one_core_each=True
            )
            num_decoders = num_decoders or defaults[0]
            num_flow_workers = num_flow_workers or defaults[1]
        assert num_decoders and num_flow_workers, "numbers of workers are resolved"
        self._max_queued = num_flow_workers + 1
        self.times = StageTimes(num_decoders, num_flow_workers)
        if not on_cluster:
            batches = num_decoders + num_flow_workers + self._max_queued
            if options.flow.tracks:
                batches *= 4  # the tracks of a batch are larger than its frames
            num_workers = num_decoders + num_flow_workers
            self._ray = start_ray(num_workers, num_gpus, batches, dashboard)
        kinds = {
            DECODER: Kind(decoder, num_decoders),
            FLOW: Kind(flow_worker, num_flow_workers, num_gpus / num_flow_workers),
        }
        self._groups: deque[DecodeGroup] = deque()
        self._flow_tasks: deque[FlowTask] = deque()
        # Of clips that were started again: the newest attempt, and how many nodes were lost.
        self._attempts: dict[int, int] = {}
        self._lost_nodes: Counter[int] = Counter()
        self._crew = Crew(self._ray, kinds, options, on_cluster)
        self._assemblers: RayAssemblers | None = None
        self._max_delivered = 2 * (num_decoders + num_flow_workers)
        try:
            if assembling is not None:
                num_workers = num_decoders + num_flow_workers
                found = RayAssemblers(
                    self._ray, assembling, num_workers, on_cluster, self._decode_again
                )
                self._assemblers = found if len(found) else None
            while not self._crew.has_started:
                for _ in self._next_events():
                    raise AssertionError("no group was given yet")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill the actors and disconnect from Ray; a Ray that was started here ends."""
        self._crew.close()
        if self._assemblers is not None:
            self._assemblers.close()
        self._ray.shutdown()

    def run(self, groups: Iterable[DecodeGroup]) -> Iterator[PoolEvent]:
        self._groups.extend(groups)
        while True:
            self._assign()
            is_working = any(
                actor.stage is Stage.READY and actor.call is not None for actor in self._crew.actors
            )
            is_working = is_working or bool(self._assemblers and self._assemblers.calls)
            if not self._groups and not self._flow_tasks and not is_working:
                return
            for event in self._next_events():
                if self._assemblers is None:
                    yield event
                else:
                    self._assemblers.deliver([event], [event.clip_index])
            if self._assemblers is not None:
                yield from self._assembled()

    def _assembled(self) -> Iterator[PoolEvent]:
        """What the assemblers have done since the last look."""
        assert self._assemblers is not None
        calls = self._assemblers.calls
        if calls:
            for call in self._ray.wait(calls, num_returns=len(calls), timeout=0)[0]:
                yield from self._assemblers.finish(call)

    def _next_events(self) -> Iterator[Event]:
        """Wait until calls end or take too long."""
        for ended in self._crew.tend():
            self._take_back(ended)
        calls = {actor.call: actor for actor in self._crew.actors if actor.call is not None}
        awaited = [*calls, *(self._assemblers.calls if self._assemblers else ())]
        if not awaited:
            time.sleep(TEND_SECONDS / 10)  # all workers wait to be requested again
            return
        for call in self._ready(awaited):
            if call in calls:
                yield from self._finish(calls[call])
        now = time.monotonic()
        for actor in self._crew.actors:
            if actor.call is None or now <= actor.since + self._seconds_allowed(actor):
                continue
            if not self._ray.wait([actor.call], timeout=0)[0]:
                reason = f"no answer in {self._seconds_allowed(actor):.0f} s"
                yield from self._replace(actor, reason)

    def _ready(self, calls: list[Any]) -> list[Any]:
        """The calls that have ended; wait for the first one, for no longer than calls may take."""
        busy = [actor for actor in self._crew.actors if actor.call is not None]
        ends = [actor.since + self._seconds_allowed(actor) for actor in busy]
        left = min(ends, default=math.inf) - time.monotonic()
        if any(actor.stage in (Stage.WAITING, Stage.AWAY) for actor in self._crew.actors):
            left = min(left, TEND_SECONDS)
        left = min(left, self._timeout)
        ready, rest = self._ray.wait(calls, num_returns=1, timeout=max(0.0, left) + 0.01)
        if ready and rest:
            ready += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return ready

    def _seconds_allowed(self, actor: Actor) -> float:
        return self._crew.seconds_allowed(actor, self._timeout)

    # ----------------------------------------------------------------------------------------------
    # Work for the workers

    def _assign(self) -> None:
        if self._assemblers is not None and len(self._assemblers.calls) > self._max_delivered:
            return  # results would pile up in Ray's object store
        for actor in self._crew.actors:
            if actor.call is not None or actor.stage is not Stage.READY:
                continue
            if actor.kind == DECODER:
                self._assign_to_decoder(actor)
            elif self._flow_tasks:
                actor.flow_task = self._flow_tasks.popleft()
                task = actor.flow_task
                run = actor.handle.call_apart.options(num_returns=2)
                self._begin(actor, *run.remote("run", task.batch, task.selected))

    def _assign_to_decoder(self, actor: Actor) -> None:
        decoding = sum(1 for other in self._crew.of(DECODER) if other.batch is not None)
        if len(self._flow_tasks) + decoding >= self._max_queued + self.times.num_decoders - 1:
            return
        if actor.running is None and not self._groups:
            return
        actor.groups = self._take_groups(is_idle=actor.running is None)
        if actor.running is None and not actor.groups:
            return
        next_batch = actor.handle.call_apart.options(num_returns=3)
        self._begin(actor, *next_batch.remote("next_batch", actor.groups))

    def _begin(self, actor: Actor, result: Any, events: Any, batch: Any = None) -> None:
        actor.result, actor.events, actor.batch = result, events, batch
        # Waiting for the events also fetches them. Where assemblers take them, they stay away.
        actor.call = events if self._assemblers is None else result
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

    # ----------------------------------------------------------------------------------------------
    # Results of the workers

    def _finish(self, actor: Actor) -> Iterator[Event]:
        """Handle the result of an actor's call, or the death of the actor.

        Raises:
            OSError: a machine lacks something that work needs, such as space on the disk.
        """
        errors = self._ray.exceptions
        try:
            result = self._ray.get(actor.call if actor.result is None else actor.result)
            if actor.result is not None and self._assemblers is None:
                result.events = self._ray.get(actor.events)
        except errors.RayActorError as error:
            yield from self._replace(actor, "worker died", self._crew.is_of_lost_node(actor, error))
            return
        except errors.ObjectLostError as error:  # the node that had a batch or a result is lost
            if actor.flow_task is None or not isinstance(error, errors.RayTaskError):
                is_lost = self._crew.is_of_lost_node(actor, error)
                yield from self._replace(actor, f"worker failed: {_name_of(error)}", is_lost)
                return
            lost, actor.flow_task, actor.call = actor.flow_task, None, None
            actor.result = actor.events = None
            for index in lost.selected:
                yield from self._restart(DecodeGroup((lost.tasks[index],)), "frames were lost")
            return
        except errors.RayError as error:
            cause = getattr(error, "cause", None)
            if actor.stage is Stage.READY and is_of_the_machine(cause):
                raise cause from None
            yield from self._replace(actor, f"worker failed: {_name_of(error)}")
            return
        if actor.stage is not Stage.READY:
            self._crew.advance(actor, result)
            return
        if self._assemblers is not None and result.event_clips:
            self._assemblers.deliver(actor.events, result.event_clips)
        actor.call = actor.result = actor.events = None
        if actor.kind == DECODER:
            yield from self._finish_decoding(actor, result)
        else:
            self.times.flow_busy += result.busy_seconds
            actor.flow_task = None
            yield from result.events

    def _finish_decoding(self, actor: Actor, result: DecodeResult) -> Iterator[Event]:
        self.times.add_decoding(result)
        tasks = {task.clip_index: task for group in _held(actor) for task in group.tasks}
        self._groups.extendleft(reversed(actor.groups[result.num_started :]))
        for group in reversed(result.retries):
            (task,) = group.tasks
            if task.attempt > self._attempts.get(task.clip_index, 0):
                self._attempts[task.clip_index] = task.attempt
                self._groups.appendleft(group)
        actor.running = result.running
        actor.groups = []
        if result.batch_clip_indexes:
            of_chunks = [tasks[clip_index] for clip_index in result.batch_clip_indexes]
            self._flow_tasks.append(FlowTask(actor.batch, of_chunks, list(range(len(of_chunks)))))
        actor.batch = None
        yield from result.events

    # ----------------------------------------------------------------------------------------------
    # Workers that were lost, and their work

    def _replace(self, actor: Actor, reason: str, is_node_lost: bool = False) -> Iterator[Event]:
        """Replace an actor that died or hung; its clips are tried again, or fail."""
        if actor.stage is not Stage.READY:
            self._crew.start_failed(actor, reason)
            return
        groups, flow_task = _held(actor), actor.flow_task
        self._crew.dismiss(actor)
        for group in reversed(groups):
            if is_node_lost:
                yield from self._restart(group, reason)
            elif group.is_suspect:
                for task in group.tasks:
                    yield ClipFailed(task.clip_index, "decode", reason, "worker-lost")
            else:
                for task in reversed(group.tasks):
                    self._try_again(task, is_suspect=True)
        if flow_task is not None:
            yield from self._retry_flow(flow_task, reason, is_node_lost)

    def _retry_flow(self, lost: FlowTask, reason: str, is_node_lost: bool) -> Iterator[Event]:
        if is_node_lost:  # its batch may lie on another node
            self._flow_tasks.appendleft(lost)
            return
        for index in reversed(lost.selected):
            if lost.attempt > 0:
                yield ClipFailed(lost.tasks[index].clip_index, "flow", reason, "worker-lost")
            else:
                self._flow_tasks.appendleft(replace(lost, selected=[index], attempt=1))

    def _restart(self, group: DecodeGroup, reason: str) -> Iterator[Event]:
        """Decode clips again that were lost with their node, but not without end."""
        for task in reversed(group.tasks):
            if task.attempt < self._attempts.get(task.clip_index, 0):
                continue  # another part of the clip was lost before
            self._lost_nodes[task.clip_index] += 1
            if self._lost_nodes[task.clip_index] > LOST_NODES:
                yield ClipFailed(task.clip_index, "decode", reason, "worker-lost")
            else:
                self._try_again(task, group.is_suspect)

    def _try_again(self, task: ClipTask, is_suspect: bool) -> None:
        """Decode a clip again, unless a newer attempt has been made."""
        if task.attempt < self._attempts.get(task.clip_index, 0):
            return
        again = DecodeGroup((task,)).retry_of(task.clip_index, is_suspect)
        self._attempts[task.clip_index] = again.tasks[0].attempt
        self._groups.appendleft(again)

    def _decode_again(self, task: ClipTask) -> None:
        """Decode a clip again whose events were lost, whichever attempt they were of."""
        newest = self._attempts.get(task.clip_index, 0)
        self._try_again(replace(task, attempt=newest), is_suspect=False)

    def _take_back(self, ended: Actor) -> None:
        """Decode those clips elsewhere that an actor held which was ended to make room."""
        for group in reversed(_held(ended)):
            for task in reversed(group.tasks):
                self._try_again(task, group.is_suspect)


def _held(actor: Actor) -> list[DecodeGroup]:
    """The groups that a decoder has started or was sent."""
    return [actor.running, *actor.groups] if actor.running else actor.groups


def _name_of(error: Exception) -> str:
    """The kind of an error in a worker: of its cause, where Ray tells it."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}".splitlines()[0][:200]
