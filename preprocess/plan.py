"""Which clip goes into which shard, made with which options: fixed before any work starts.

The manifest and the options decide it alone, so that neither workers nor the order in which they
finish change a byte of any shard.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocess import resume
from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.manifest import Clip, manifest_digest
from shared.shard_index import DatasetIndex, ShardEntry, write_index

KINDS = ("frames", "flows")


@dataclass(frozen=True)
class Plan:
    """What is to be made.

    Attributes:
        layout: paths of the dataset.
        clips: of the manifest; clip i belongs to shard i // clips_per_shard, also if it fails.
        clips_per_shard: places of a shard. One whose clips all failed is published without clips.
        indexes: dataset.json by kind, still without shards.
    """

    layout: DatasetLayout
    clips: list[Clip]
    clips_per_shard: int
    indexes: dict[str, DatasetIndex]

    @property
    def folders(self) -> dict[str, Path]:
        return {"frames": self.layout.frames, "flows": self.layout.flows}

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        return {kind: index.config for kind, index in self.indexes.items()}

    @property
    def num_shards(self) -> int:
        return -(-len(self.clips) // self.clips_per_shard)

    def shard_of(self, place: int) -> int:
        return place // self.clips_per_shard

    def places(self, shard: int) -> range:
        first = shard * self.clips_per_shard
        return range(first, min(first + self.clips_per_shard, len(self.clips)))

    def is_complete(self) -> bool:
        """Whether both folders hold what is planned.

        Raises:
            InputError: one was made with other options or from another manifest.
        """
        found = [resume.complete_index(self.folders[kind], self.indexes[kind]) for kind in KINDS]
        return all(index is not None for index in found)

    def journal(self) -> resume.Journal:
        """The journal of both folders, with what an earlier run finished.

        Raises:
            InputError: that run had other options or another manifest.
        """
        frames, flows = (resume.described(self.indexes[kind]) for kind in KINDS)
        return resume.Journal(self.layout.flows, frames | flows)

    def write_indexes(self, entries: dict[str, list[ShardEntry]]) -> None:
        """Declare both folders complete, and rid them of shards that belong to no place."""
        for kind in KINDS:
            resume.remove_other_shards(self.folders[kind], entries[kind])
            self.indexes[kind].shards.extend(entries[kind])
            write_index(self.folders[kind], self.indexes[kind])


def make_plan(layout: DatasetLayout, clips: list[Clip], options: dict[str, Any]) -> Plan:
    """The plan for the options of `preprocess.flows`.

    Caps and workers are left out of what is compared with an earlier run: they decide which clips
    fail, never what is stored.

    Raises:
        InputError: there are no clips.
    """
    if not clips:
        raise InputError(f"{layout.manifest} lists no clip")
    frames = {"frame_short_side": options["frame_short_side"]}
    flows = {
        "flow_source": "tvl1",
        "flow_preset": options["preset"],
        "flow_short_side": options["flow_short_side"],
        "map_short_side": options["map_short_side"],
    }
    configs = {
        "frames": frames | {"jpeg_quality": options["jpeg_quality"]},
        "flows": frames | flows,
    }
    digest = manifest_digest(clips)
    per_shard = options["clips_per_shard"]
    indexes = {
        kind: DatasetIndex(kind, layout.dataset, configs[kind], per_shard, digest) for kind in KINDS
    }
    return Plan(layout, clips, per_shard, indexes)
