"""Find the shards of a dataset that are to be verified, and check that its folders fit together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from preprocess.box_run.inputs import sources_of
from preprocess.checks.shard import ShardFile, ShardsOfNumber
from preprocess.flow.options import shard_kind
from preprocess.running.failures import read_failures
from shared.errors import InputError
from shared.files import file_sizes
from shared.layout import DatasetLayout
from shared.make_commands import make_boxes, make_flows
from shared.manifest import Clip, manifest_digest, read_manifest
from shared.shard_index import DatasetIndex, read_index, shard_name
from shared.wording import counted


@dataclass
class FoundDataset:
    """The folders of a dataset, as their dataset.json describes them.

    Attributes:
        layout: paths of the dataset.
        clips: clips of the manifest.
        indexes: dataset.json by name of the folder, frames first; unreadable ones are left out.
        problems: problems of folders, as (path, problem).
        shards: the shards to check, in order of their numbers. A folder with another number of
            clips per shard than the first folder is left out here; it has an entry in `problems`.
    """

    layout: DatasetLayout
    clips: list[Clip]
    indexes: dict[str, DatasetIndex] = field(default_factory=dict)
    problems: list[tuple[Path, str]] = field(default_factory=list)
    shards: list[ShardsOfNumber] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        """Bytes of all shards to check, as dataset.json states them."""
        return sum(file.entry.bytes for each in self.shards for file in each.files.values())


def find_dataset(layout: DatasetLayout) -> FoundDataset:
    """Read the manifest, every dataset.json and failures.jsonl.

    Raises:
        InputError: there is no manifest, or frames/ or flows/ is not complete.
    """
    found = FoundDataset(layout, read_manifest(layout.manifest))
    for name in folder_names(layout):
        try:
            index = read_index(layout.root / name)
        except InputError as error:
            found.problems.append((layout.root / name, str(error)))
            continue
        if index is not None:
            found.indexes[name] = index
        elif name in ("frames", "flows"):
            raise InputError(
                "not-finished",
                f"{layout.root / name} is not complete (no dataset.json). Run "
                f"`{make_flows(layout, layout.root / name)}` to finish it",
            )
        else:
            folder = layout.root / name
            command = make_boxes if name.startswith("boxes") else make_flows
            problem = f"is not complete; run `{command(layout, folder)}` to finish it"
            found.problems.append((folder, problem))
    for name in found.indexes:
        found.problems += ((layout.root / name, text) for text in _index_problems(found, name))
    found.shards = list(_shards(found))
    return found


def folder_names(layout: DatasetLayout) -> list[str]:
    """frames, flows, folders of further flows, and all folders of boxes, complete or not."""
    others = sorted(path.name for path in layout.root.glob("flows-*") if path.is_dir())
    first = ["frames"] if layout.has_frames_alone else ["frames", "flows"]
    return [*first, *others, *(folder.name for folder in layout.boxes_folders())]


def _index_problems(found: FoundDataset, name: str) -> Iterator[str]:
    index, folder = found.indexes[name], found.layout.root / name
    kind = "boxes" if name.startswith("boxes") else shard_kind(name)
    if index.kind != kind:
        yield f"dataset.json describes {index.kind}, not {kind}"
    if index.manifest_digest != manifest_digest(found.clips):
        yield "was made from another manifest.csv"
    if index.clips_per_shard < 1:
        yield f"dataset.json has {index.clips_per_shard} clips per shard; 1 is the least"
        return
    expected = [shard_name(n) for n in range(-(-len(found.clips) // index.clips_per_shard))]
    names = [entry.name for entry in index.shards]
    if names != expected:
        yield f"dataset.json lists {len(names)} shards; the manifest needs {len(expected)} in order"
    shards = {name for name in file_sizes(folder) if name.endswith(".h5") and name[0] != "."}
    unknown = sorted(shards - set(names))
    if unknown:
        yield (
            f"{counted(len(unknown), 'file')} not listed in dataset.json, such as "
            f"{', '.join(unknown[:3])}"
        )
    first = next(iter(found.indexes.values()))
    if index.clips_per_shard != first.clips_per_shard:
        yield f"has {index.clips_per_shard} clips per shard, and frames {first.clips_per_shard}"
    if index.kind == "boxes":
        for kind, source in sources_of(index.config).items():
            if source in found.indexes and index.config.get(kind) != found.indexes[source].digest:
                yield f"was made from other {source}"


def _shards(found: FoundDataset) -> Iterator[ShardsOfNumber]:
    set_aside = frozenset(record["clip_id"] for record in read_failures(found.layout.failures))
    per_shard = next((index.clips_per_shard for index in found.indexes.values()), 0)
    indexes = {n: index for n, index in found.indexes.items() if index.clips_per_shard == per_shard}
    num_shards = max((len(index.shards) for index in indexes.values()), default=0)
    for number in range(num_shards):
        files = {}
        for name, index in indexes.items():
            if number < len(index.shards):
                entry = index.shards[number]
                path = found.layout.root / name / entry.name
                files[name] = ShardFile(path, index.kind, entry, index.config)
        of_number = found.clips[number * per_shard : (number + 1) * per_shard]
        clip_ids = tuple(clip.clip_id for clip in of_number)
        yield ShardsOfNumber(number, files, clip_ids, set_aside.intersection(clip_ids))
