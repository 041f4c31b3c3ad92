"""Which clip goes into which shard, and with which options: fixed before any worker starts.

The manifest and the options alone decide this. Neither the number of workers nor the order in which
they finish changes a byte of any shard.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preprocess.flow.options import FlowOptions, flow_folders, shard_kind
from preprocess.flow.sources import option_names
from preprocess.flow_run.config import FlowsConfig
from preprocess.flow_run.part import Part, read_part
from preprocess.running.journal import (
    Journal,
    complete_index,
    described,
    drop_beside_others,
    remove_other_shards,
)
from shared.errors import InputError
from shared.files import remove_file
from shared.layout import DatasetLayout
from shared.manifest import Clip, manifest_digest
from shared.shard_index import INDEX_NAME, DatasetIndex, ShardEntry, write_index


@dataclass(frozen=True)
class Plan:
    """The shards that a run makes.

    Attributes:
        layout: paths of the dataset.
        clips: clips of the manifest. Clip i belongs to shard i // clips_per_shard, also if it
            fails. A shard whose clips all fail is published without clips.
        config: options of the run.
        indexes: dataset.json by name of the folder, before it lists shards.
        complete: dataset.json by name of those folders that are complete. They stay as they are;
            the run makes the other folders beside them.
    """

    layout: DatasetLayout
    clips: list[Clip]
    config: FlowsConfig
    indexes: dict[str, DatasetIndex]
    complete: dict[str, DatasetIndex] = field(default_factory=dict)

    @property
    def flow(self) -> FlowOptions:
        return self.config.flow

    @property
    def clips_per_shard(self) -> int:
        return self.config.clips_per_shard

    @property
    def part(self) -> Part | None:
        """The part of the shards that this run makes; None = all."""
        return read_part(self.config.part) if self.config.part is not None else None

    @property
    def suffix(self) -> str:
        """What is added to the names of files that runs of other parts must not touch."""
        return self.part.suffix if self.part else ""

    @property
    def failures(self) -> Path:
        """The clips that were set aside by this run: failures.jsonl, or a file of its part."""
        whole = self.layout.failures
        return whole.with_name(f"{whole.stem}{self.suffix}{whole.suffix}")

    @property
    def folders(self) -> dict[str, Path]:
        """Folders that the run writes: frames/, flows/, and one for each further flow."""
        return {name: self.layout.root / name for name in self.indexes}

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """Options that decide the content of each folder, by its name."""
        return {name: index.config for name, index in self.indexes.items()}

    @property
    def main_folder(self) -> Path:
        """The folder with the record of the run: flows/, or frames/ if no flow is computed."""
        return self.layout.flows if self.flow.sources else self.layout.frames

    @property
    def num_shards(self) -> int:
        return -(-len(self.clips) // self.clips_per_shard)

    @property
    def leases(self) -> Path:
        """The folder in which workers write shards; see preprocess/flow_run/leases.py."""
        return self.layout.root / f".leases{self.suffix}"

    @property
    def shards(self) -> range:
        """The numbers of the shards that this run makes."""
        return self.part.shards(self.num_shards) if self.part else range(self.num_shards)

    @property
    def num_clips(self) -> int:
        """How many clips the shards of this run have in the manifest."""
        return sum(len(self.clip_indexes(shard)) for shard in self.shards)

    def shard_of(self, clip_index: int) -> int:
        return clip_index // self.clips_per_shard

    def clip_indexes(self, shard: int) -> range:
        first = shard * self.clips_per_shard
        return range(first, min(first + self.clips_per_shard, len(self.clips)))

    def complete_indexes(self) -> dict[str, DatasetIndex]:
        """dataset.json of those folders that hold already what is planned.

        Raises:
            InputError: one was made with other options or from another manifest.
        """
        found = {
            name: complete_index(folder, self.indexes[name], option_names())
            for name, folder in self.folders.items()
        }
        return {name: index for name, index in found.items() if index is not None}

    def journal(self) -> Journal:
        """The journal of all folders, with those of `shards` that an earlier run finished.

        It lies in the main folder, or in the first of those that are made beside complete ones.
        With --overwrite it is empty, and what an earlier run left is neither read nor deleted.

        Raises:
            InputError: the earlier run had other options or another manifest.
        """
        wanted: dict[str, Any] = {}
        for name, index in self.indexes.items():
            for option, value in described(index).items():
                is_its_own = wanted.setdefault(option, value) != value
                if is_its_own:
                    wanted[f"{name}: {option}"] = value
        folder = self.main_folder
        if self.complete:
            wanted["beside"] = {name: index.digest for name, index in self.complete.items()}
            folder = next(iter(self.folders.values()))
        if not self.config.overwrite:
            drop_beside_others(folder, wanted.get("beside"))
        return Journal(
            folder,
            wanted,
            option_names(),
            is_new=self.config.overwrite,
            suffix=self.suffix,
            shards=self.shards if self.part else None,
        )

    def remove_indexes(self) -> None:
        """Declare the folders unfinished, before one of their shards is replaced."""
        for folder in self.folders.values():
            remove_file(folder / INDEX_NAME)

    def write_indexes(self, entries: dict[str, list[ShardEntry]]) -> None:
        """Declare all folders complete, and delete shards that no clip belongs to."""
        for name, folder in self.folders.items():
            remove_other_shards(folder, entries[name])
            self.indexes[name].shards.extend(entries[name])
            write_index(folder, self.indexes[name])


def make_plan(layout: DatasetLayout, clips: list[Clip], config: FlowsConfig) -> Plan:
    """The plan of a run of `flows`.

    Limits on clips and numbers of workers are not compared with an earlier run: they decide which
    clips fail, never what is stored.

    Raises:
        InputError: the manifest has no clips, or a file that an option names cannot be read.
    """
    if not clips:
        raise InputError(
            "empty",
            f"{layout.manifest} has no clips. Add clips, or run `{layout.make('manifest')}` again",
        )
    frames = {"frame_short_side": config.frame_short_side}
    sizes = {"flow_short_side": config.flow_short_side, "map_short_side": config.map_short_side}
    configs: dict[str, dict[str, Any]] = {"frames": frames | {"jpeg_quality": config.jpeg_quality}}
    for output, folder in flow_folders(config.flow).items():
        configs[folder] = frames | sizes | config.flow.config(output)
    digest = manifest_digest(clips)
    indexes = {
        name: DatasetIndex(
            shard_kind(name), layout.dataset, of_folder, config.clips_per_shard, digest
        )
        for name, of_folder in configs.items()
    }
    return Plan(layout, clips, config, indexes)
