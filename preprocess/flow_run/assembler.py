"""The assembly step, where workers do it: an Assembler turns events of clips into whole shards.

An Assembler is a plain object. preprocess/flow_run/ray_assemblers.py runs it as a Ray actor. It has
several shards at once, and writes each into the folder of its lease when its last clip has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preprocess.flow.options import FlowOptions
from preprocess.flow_run.assembly import Assembly
from preprocess.flow_run.leases import sees
from preprocess.flow_run.messages import ClipEnd, ClipFailed, Event, WrittenShard
from shared.manifest import Clip


@dataclass(frozen=True)
class AssemblerOptions:
    """Options of every Assembler.

    Attributes:
        flow: which flows are made.
        configs: options that decide the content of each folder, by its name.
        probe, probe_text: a file, and its content if this machine sees the folder of the run.
    """

    flow: FlowOptions
    configs: dict[str, dict[str, Any]]
    probe: Path
    probe_text: str


@dataclass(frozen=True)
class LeasedShard:
    """A shard that an Assembler is to write.

    Attributes:
        number: number of the shard.
        clips: its clips, by their index.
        folder: the folder of the lease.
        known: events of those clips that no worker computes.
    """

    number: int
    clips: dict[int, Clip]
    folder: Path
    known: tuple[Event, ...] = ()


@dataclass
class Assembled:
    """What events led to: clips that ended, and shards that were written."""

    ended: list[ClipEnd] = field(default_factory=list)
    written: list[WrittenShard] = field(default_factory=list)


class Assembler:
    """Collects the events of the clips of its shards."""

    def __init__(self, options: AssemblerOptions) -> None:
        self._options = options
        self._assemblies: dict[int, tuple[Path, Assembly]] = {}

    def sees_output(self) -> bool:
        """Whether this machine sees the folder that the run writes to."""
        return sees(self._options.probe, self._options.probe_text)

    def add(self, leased: Sequence[LeasedShard], events: Sequence[Event]) -> Assembled:
        """Begin shards, then add events; events of shards of other Assemblers are passed over.

        Raises:
            OSError: a shard cannot be written.
        """
        for shard in leased:
            assembly = Assembly(shard.number, shard.clips, shard.folder, self._options.flow)
            for event in shard.known:
                assembly.add(event)
            self._assemblies[shard.number] = shard.folder, assembly
        result = Assembled()
        for event in events:
            for number, (folder, assembly) in list(self._assemblies.items()):
                if event.clip_index not in assembly.clips or not assembly.add(event):
                    continue
                failed = event if isinstance(event, ClipFailed) else None
                result.ended.append(ClipEnd(event.clip_index, failed))
                if assembly.is_settled:
                    result.written.append(self._write(folder, assembly))
                    del self._assemblies[number]
        return result

    def _write(self, lease: Path, assembly: Assembly) -> WrittenShard:
        configs = self._options.configs
        try:
            entries = assembly.publish({name: lease / name for name in configs}, configs)
        finally:
            assembly.close()
        return WrittenShard(assembly.number, lease, entries, assembly.failures)
