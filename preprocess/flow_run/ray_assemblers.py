"""Assemblers as Ray actors: shards are written where the events are, not by the run itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from preprocess.flow_run.assembler import Assembled, Assembler, AssemblerOptions, LeasedShard
from preprocess.flow_run.decode_groups import ClipTask
from preprocess.flow_run.leases import Leases
from preprocess.flow_run.messages import ClipEnd, Event, WrittenShard
from preprocess.flow_run.ray_crew import START_SECONDS, START_TRIES
from preprocess.flow_run.worker_process import WorkerProcess
from shared.errors import InputError
from shared.manifest import Clip
from shared.shard_index import shard_name

LOST_TIMES = 3  # how often a shard may be lost before it is blamed
WORKERS_PER_ASSEMBLER = 32  # these deliver about 40 MB/s; an Assembler writes and hashes some 400


@dataclass(frozen=True)
class Assembling:
    """What the assemblers of a run need to know about it.

    Attributes:
        count: number of assemblers; None = one for every 32 workers, if they see the folder.
        leases: the leases of the run.
        options: options of the assemblers.
        shard_of: the shard of a clip.
        clips_of: the clips of a shard, by their index.
        known: the events of those clips of a shard that no worker computes.
    """

    count: int | None
    leases: Leases
    options: AssemblerOptions
    shard_of: Callable[[int], int]
    clips_of: Callable[[int], dict[int, Clip]]
    known: Callable[[int], Iterable[Event]]


@dataclass(eq=False)
class _Actor:
    """One assembler, and the leases of the shards that it has begun, by number of the shard."""

    handle: Any
    leased: dict[int, LeasedShard] = field(default_factory=dict)


class RayAssemblers:
    """Sends events to the assemblers of their shards, and collects what these have written.

    An assembler needs little of a CPU, and takes none from Ray's count. When one dies, its shards
    are lost, and the pool has their clips decoded again.

    Args:
        ray: the module, connected.
        assembling: see there.
        num_workers: number of decoders and flow workers.
        on_cluster: whether the assemblers may run on other machines.
        decode_again: called with each clip whose events were lost.
    """

    def __init__(
        self,
        ray: Any,
        assembling: Assembling,
        num_workers: int,
        on_cluster: bool,
        decode_again: Callable[[ClipTask], None],
    ) -> None:
        self._ray = ray
        self._given = assembling
        self._decode_again = decode_again
        self._remote = ray.remote(
            max_restarts=0, max_task_retries=0, num_cpus=0, scheduling_strategy="SPREAD"
        )(WorkerProcess)
        count = assembling.count
        if count is None:
            count = -(-num_workers // WORKERS_PER_ASSEMBLER) if on_cluster else 0
        self._calls: dict[Any, tuple[_Actor, list[int]]] = {}  # with the clips of the events
        # By shard that is being assembled:
        self._by_shard: dict[int, _Actor] = {}
        self._delivered: dict[int, set[int]] = {}  # clips of which events were delivered
        self._ended: dict[int, set[int]] = {}  # clips whose end was yielded
        self._num_lost: Counter[int] = Counter()  # how often the shard was lost
        self._actors = self._start(count)
        if len(self._actors) == count:
            return
        if assembling.count is not None:
            self.close()
            raise InputError(
                "missing-folder",
                f"{count - len(self._actors)} of {count} shard writers do not see "
                f"{assembling.leases.folder.parent}. Mount it on all machines under this path, or "
                "leave out --shard-writers",
            )
        if not self._actors:
            print(
                f"The machines of the cluster do not see {assembling.leases.folder.parent}. This "
                "command writes all shards."
            )

    def __len__(self) -> int:
        return len(self._actors)

    @property
    def calls(self) -> list[Any]:
        """Ray's references to the results that are awaited."""
        return list(self._calls)

    def close(self) -> None:
        """Kill the assemblers, and end their leases."""
        for actor in self._actors:
            self._ray.kill(actor.handle)
        self._given.leases.close()

    def _start(self, count: int) -> list[_Actor]:
        """As many new assemblers, without those that do not see the output folder."""
        actors = [_Actor(self._remote.remote()) for _ in range(count)]
        for actor in actors:
            actor.handle.start.remote(Assembler, self._given.options)
        found = []
        for actor in actors:
            answer = actor.handle.call.remote("sees_output")
            try:
                sees_output = self._ray.get(answer, timeout=START_SECONDS)
            except self._ray.exceptions.RayError:
                sees_output = False
            if sees_output:
                found.append(actor)
            else:
                self._ray.kill(actor.handle)
        return found

    def deliver(self, events: Any, clip_indexes: Iterable[int]) -> None:
        """Send events to the assemblers of their shards, and begin shards that are new.

        Args:
            events: a list of events, or Ray's reference to one.
            clip_indexes: the clips that the events belong to.
        """
        receivers: dict[_Actor, list[int]] = {}
        for clip_index in clip_indexes:
            shard = self._given.shard_of(clip_index)
            self._delivered.setdefault(shard, set()).add(clip_index)
            receivers.setdefault(self._assembler_of(shard), []).append(clip_index)
        for actor, clips in receivers.items():
            shards = sorted({self._given.shard_of(clip_index) for clip_index in clips})
            new = [self._lease(actor, shard) for shard in shards if shard not in actor.leased]
            self._calls[actor.handle.call.remote("add", new, events)] = actor, clips

    def _assembler_of(self, shard: int) -> _Actor:
        if shard not in self._by_shard:
            self._by_shard[shard] = min(self._actors, key=lambda actor: len(actor.leased))
        return self._by_shard[shard]

    def _lease(self, actor: _Actor, shard: int) -> LeasedShard:
        given = self._given
        folder = given.leases.take(shard)
        leased = LeasedShard(shard, given.clips_of(shard), folder, tuple(given.known(shard)))
        actor.leased[shard] = leased
        return leased

    def finish(self, call: Any) -> Iterator[ClipEnd | WrittenShard]:
        """Yield what a call led to.

        Raises:
            OSError: a shard cannot be written.
            InputError: assemblers die again and again.
        """
        actor, clips = self._calls.pop(call)
        errors = self._ray.exceptions
        try:
            result: Assembled = self._ray.get(call)
        except errors.RayActorError:
            self._give_up(actor)
            return
        except errors.ObjectLostError:  # the node that held the events is lost
            for clip_index in reversed(clips):
                self._redo(clip_index)
            return
        except errors.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, OSError) else error) from None
        for end in result.ended:
            seen = self._ended.setdefault(self._given.shard_of(end.clip_index), set())
            if end.clip_index not in seen:  # the clips of a shard that was lost end twice
                seen.add(end.clip_index)
                yield end
        for written in result.written:
            del actor.leased[written.number]
            for of_shards in (self._by_shard, self._delivered, self._ended, self._num_lost):
                of_shards.pop(written.number, None)
            yield written

    def _redo(self, clip_index: int) -> None:
        clip = self._given.clips_of(self._given.shard_of(clip_index))[clip_index]
        self._decode_again(ClipTask(clip_index, clip))

    def _give_up(self, actor: _Actor) -> None:
        """Replace an assembler that died, and have the clips of its shards decoded again."""
        if actor not in self._actors:
            return  # another of its calls has failed before
        self._actors.remove(actor)
        for _ in range(START_TRIES):
            self._actors += self._start(1)
            if self._actors:
                break
        else:
            raise InputError(
                "no-workers",
                "The processes that write shards end, and new ones do not start or do not see "
                f"{self._given.leases.folder.parent}. Run the same command again to continue, or "
                "give --shard-writers 0",
            )
        for shard, leased in sorted(actor.leased.items(), reverse=True):
            self._given.leases.end(leased.folder)
            del self._by_shard[shard]
            self._num_lost[shard] += 1
            if self._num_lost[shard] > LOST_TIMES:
                raise InputError(
                    "no-workers",
                    f"Processes that assemble {shard_name(shard)} end again and again. Give fewer "
                    "clips per shard (--clips-per-shard) or more memory, or --shard-writers 0",
                )
            for clip_index in sorted(self._delivered.pop(shard), reverse=True):
                self._redo(clip_index)
