"""The actors of a RayPool: requested from Ray, placed on a CPU, started, and requested again.

AWAY ---request---> WAITING ---Ray has a CPU---> STARTING ---the worker is made---> READY
  ^                    |                            |                                 |
  '--------------------'------- a start failed, ----'---------- it died or hung ------'
                            or the CPU is needed by the other kind of worker
"""

from __future__ import annotations

import enum
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from preprocess.flow_run.decode_groups import ClipTask, DecodeGroup
from preprocess.flow_run.worker_process import WorkerProcess
from shared.errors import InputError
from shared.wording import counted

START_SECONDS = 300.0  # a worker must be made within this time; importing torch can be slow
START_TRIES = 3
# Before a failed start is tried again; twice as long each time, up to the limit.
RETRY_SECONDS, RETRY_LIMIT = 2.0, 60.0
PATIENCE_SECONDS = 10.0  # how long a worker waits for a CPU before something is done or said
TEND_SECONDS = 2.0  # between two looks at workers that wait


class Stage(enum.Enum):
    """How far an actor has come."""

    AWAY = "not requested from Ray"
    WAITING = "waits for a free CPU, or its process starts"
    STARTING = "its worker is being made"
    READY = "works, or waits for work"


@dataclass(frozen=True)
class FlowTask:
    """Chunks of a batch for a flow worker.

    Attributes:
        batch: Ray's reference to a list[GreyFrames].
        tasks: the clip of each chunk of the batch.
        selected: numbers of the chunks to compute.
        attempt: how many flow workers died with it.
    """

    batch: Any
    tasks: list[ClipTask]
    selected: list[int]
    attempt: int = 0


@dataclass(frozen=True)
class Kind:
    """One kind of workers of a crew.

    Attributes:
        worker: class of the workers.
        count: number of workers.
        num_gpus: share of a GPU that each of them takes.
    """

    worker: type
    count: int
    num_gpus: float = 0.0


@dataclass(eq=False)
class Actor:
    """A place for one worker, with the call that it works on and the work of that call.

    Attributes:
        kind: name of the kind of worker.
        call: Ray's reference to the result that the driver waits for; None while it is idle.
        since: when the call, or the wait for a CPU, began; of time.monotonic.
        node: id of its node.
        failed_starts: number of failed starts in a row.
        request_at: when an actor that is AWAY is requested; of time.monotonic.
        result, events, batch: references to what the call returns: its result, the events, and the
            batch of a decoder. `call` is one of them.
        running: the group that a decoder started in an earlier call.
        groups: the groups that were sent with the call.
        flow_task: what a flow worker computes.
    """

    kind: str
    stage: Stage = Stage.AWAY
    handle: Any = None
    call: Any = None
    since: float = 0.0
    node: str = ""
    failed_starts: int = 0
    request_at: float = 0.0
    result: Any = None
    events: Any = None
    batch: Any = None
    running: DecodeGroup | None = None
    groups: list[DecodeGroup] = field(default_factory=list)
    flow_task: FlowTask | None = None

    @property
    def is_placed(self) -> bool:
        return self.stage in (Stage.STARTING, Stage.READY)


class Crew:
    """Keeps the workers of a pool at their numbers, as far as Ray has CPUs for them.

    A worker that waits for a CPU is no failure: on a cluster, machines come and go. Each kind of
    worker keeps at least one CPU, because neither kind can work without the other.

    Args:
        ray: the module, connected.
        kinds: kinds of workers by name. The actors are requested in turns, by their share.
        options: options of the workers.
        on_cluster: whether machines may come and go, and other programs may hold CPUs.

    Attributes:
        actors: all actors; a replaced actor keeps its place.
    """

    def __init__(
        self, ray: Any, kinds: Mapping[str, Kind], options: Any, on_cluster: bool = False
    ) -> None:
        self._ray = ray
        self._kinds = kinds
        self._options = options
        self._on_cluster = on_cluster
        self._tended = 0.0
        self._num_reported = 0
        remote = ray.remote(max_restarts=0, max_task_retries=0, num_cpus=1)
        self._remote = {
            name: remote(WorkerProcess).options(num_gpus=kind.num_gpus)
            for name, kind in kinds.items()
        }
        self.actors = [Actor(name) for name in _in_turns(kinds)]
        if on_cluster:
            self._report_too_few_cpus()

    def close(self) -> None:
        """Kill all actors."""
        for actor in self.actors:
            self._kill(actor)

    def of(self, kind: str) -> list[Actor]:
        """The actors of one kind."""
        return [actor for actor in self.actors if actor.kind == kind]

    @property
    def has_started(self) -> bool:
        """Whether a worker of each kind is ready."""
        return all(
            any(actor.stage is Stage.READY for actor in self.of(name)) for name in self._kinds
        )

    # ----------------------------------------------------------------------------------------------
    # From one stage to the next

    def tend(self) -> list[Actor]:
        """Request actors that are away, look at those that wait, and make room where it is needed.

        Returns:
            the actors that were ended to make room, with the work that they held.
        """
        now = time.monotonic()
        for actor in self.actors:
            if actor.stage is Stage.AWAY and actor.request_at <= now:
                self._request(actor)
        if now - self._tended < TEND_SECONDS:
            return []
        self._tended = now
        waiting = [actor for actor in self.actors if actor.stage is Stage.WAITING]
        late = [actor for actor in waiting if now - actor.since > PATIENCE_SECONDS]
        if not self._on_cluster:
            return []
        self._report_waiting(len(waiting), len(late))
        return [ended for name in self._kinds for ended in self._make_room(name, late)]

    def _request(self, actor: Actor) -> None:
        actor.handle = self._remote[actor.kind].remote()
        actor.call = actor.handle.place.remote()
        actor.stage, actor.since = Stage.WAITING, time.monotonic()

    def advance(self, actor: Actor, result: Any) -> None:
        """The next stage of an actor whose call as a newcomer has ended well."""
        if actor.stage is Stage.WAITING:
            actor.node = result
            actor.call = actor.handle.start.remote(self._kinds[actor.kind].worker, self._options)
            actor.stage, actor.since = Stage.STARTING, time.monotonic()
            return
        assert actor.stage is Stage.STARTING
        actor.stage, actor.call, actor.failed_starts = Stage.READY, None, 0

    def start_failed(self, actor: Actor, reason: str) -> None:
        """Request an actor again later whose worker could not be made.

        Raises:
            InputError: it failed several times in a row, and no other worker of its kind works.
        """
        failed = actor.failed_starts + 1
        self.dismiss(actor, min(RETRY_LIMIT, RETRY_SECONDS * 2 ** (failed - 1)))
        actor.failed_starts = failed
        if failed < START_TRIES:
            return
        if not any(other.stage is Stage.READY for other in self.of(actor.kind)):
            raise InputError(
                "no-workers",
                f"Worker processes do not start under Ray: {reason}. Try --pool in-process",
            )
        if failed == START_TRIES:
            tqdm.write(f"A worker process does not start: {reason}.", file=sys.stderr)

    def dismiss(self, actor: Actor, seconds: float = 0.0) -> None:
        """End an actor, forget its work, and request it again after some seconds."""
        self._kill(actor)
        actor.stage, actor.handle, actor.call, actor.node = Stage.AWAY, None, None, ""
        actor.result = actor.events = actor.batch = actor.running = actor.flow_task = None
        actor.groups = []
        actor.failed_starts = 0
        actor.request_at = time.monotonic() + seconds

    def _kill(self, actor: Actor) -> None:
        if actor.handle is not None:
            self._ray.kill(actor.handle)

    # ----------------------------------------------------------------------------------------------
    # Time, nodes and CPUs

    def seconds_allowed(self, actor: Actor, clip_timeout: float) -> float:
        """How long the call of an actor may take."""
        if actor.stage is Stage.READY:
            return clip_timeout
        if actor.stage is Stage.WAITING and self._on_cluster:
            return float("inf")
        return START_SECONDS

    def is_of_lost_node(self, actor: Actor, error: Exception) -> bool:
        """Whether an actor, or the result of its call, is gone because its machine is.

        Ray takes some seconds to declare a node dead. Until then, it calls the actor unavailable. A
        process that ends alone is reported as dead at once, by its node, which keeps its results.
        """
        if not self._on_cluster:
            return False
        errors = self._ray.exceptions
        if isinstance(error, errors.ActorUnavailableError | errors.ObjectLostError):
            return True
        return actor.node not in {
            node["NodeID"] for node in self._ray.nodes() if node.get("Alive", True)
        }

    def _make_room(self, kind: str, late: list[Actor]) -> list[Actor]:
        """End an idle worker of the other kinds if a kind has none, and no CPU is free for it.

        This happens where a node was lost, and where there are fewer CPUs than workers.
        """
        own = self.of(kind)
        if any(actor.is_placed for actor in own) or not any(actor in late for actor in own):
            return []
        if self._ray.available_resources().get("CPU", 0.0) >= 1:
            return []  # one is on its way
        others = [actor for actor in self.actors if actor.kind != kind]
        idle = [actor for actor in others if actor.stage is Stage.READY and actor.call is None]
        # Each kind keeps a worker: this one is in excess if there is another of its kind.
        idle = [a for a in idle if sum(other.is_placed for other in self.of(a.kind)) > 1]
        if not idle:
            return []
        ended = min(idle, key=lambda actor: actor.running is not None)
        work = Actor(ended.kind, running=ended.running)
        self.dismiss(ended, PATIENCE_SECONDS)
        for other in others:
            if other.stage is Stage.WAITING:  # it would take the CPU that becomes free
                self.dismiss(other, PATIENCE_SECONDS)
        return [work]

    def _report_too_few_cpus(self) -> None:
        num_cpus = int(self._ray.cluster_resources().get("CPU", 0))
        if num_cpus < len(self.actors):
            self._num_reported = len(self.actors) - num_cpus
            print(
                f"{len(self.actors)} worker processes were requested, and the Ray cluster has "
                f"{counted(num_cpus, 'CPU')}: {self._num_reported} of them wait until more CPUs "
                "are there."
            )

    def _report_waiting(self, num_waiting: int, num_late: int) -> None:
        """Say when more workers wait than was said before, and when none waits any more."""
        if num_late > self._num_reported:
            num_cpus = int(self._ray.cluster_resources().get("CPU", 0))
            text = f"{num_late} of {len(self.actors)} worker processes wait for a free CPU, or for "
            text += f"their process to start. The Ray cluster has {counted(num_cpus, 'CPU')} now."
        elif self._num_reported and not num_waiting:
            text = "No worker process waits any more."
        else:
            return
        self._num_reported = num_late
        tqdm.write(text, file=sys.stderr)


def _in_turns(kinds: Mapping[str, Kind]) -> list[str]:
    """The kind of each actor in the order of requests: one of each first, then by their shares."""
    places = [
        ((number + 0.5) / kind.count if number else 0.0, name)
        for name, kind in kinds.items()
        for number in range(kind.count)
    ]
    return [name for _, name in sorted(places, key=lambda place: place[0])]
