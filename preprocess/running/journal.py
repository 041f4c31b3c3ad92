"""What an earlier run left behind: whether it is complete, and which shards are finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preprocess.running.same_options import NO_NAMES, OptionNames, refuse_other_options
from shared.errors import InputError
from shared.files import file_sizes, remove_file, sent_as, write_atomically
from shared.mirror import JOURNAL as JOURNAL_NAME
from shared.mirror import stored_address
from shared.mirror_sync import send
from shared.run_record import read_jsonl
from shared.shard_index import DatasetIndex, ShardEntry, read_index


def complete_index(
    folder: Path, wanted: DatasetIndex, names: OptionNames = NO_NAMES
) -> DatasetIndex | None:
    """The index of a complete folder that was made as wanted; None if it is not complete.

    Checks that every shard exists and has its size; `make verify` checks the content.

    Raises:
        InputError: the folder was made with other options or from another manifest.
    """
    index = read_index(folder)
    if index is None:
        return None
    refuse_other_options(folder, described(index), described(wanted), names)
    sizes = file_sizes(folder)
    is_whole = all(sizes.get(shard.name) == shard.bytes for shard in index.shards)
    return index if is_whole else None


def described(index: DatasetIndex) -> dict[str, Any]:
    """Everything that decides the content of a folder of shards, by option, not nested."""
    return index.config | {
        "clips_per_shard": index.clips_per_shard,
        "manifest": index.manifest_digest,
    }


class Journal:
    """The finished shards of an unfinished run: one line of options, then one line for each shard.

    A shard alone does not say which clips failed, nor what its own checksum is.

    Args:
        folder: folder of the shards.
        wanted: the options and digests that decide the content of the shards.
        names: names of options, for messages.
        is_new: ignore the journal of an earlier run, which `start` then replaces.

    Attributes:
        folder: folder of the journal.
        finished: records of an earlier run by shard number, as they were given to `add`.

    Raises:
        InputError: the earlier run had other options, or its line of options is damaged.
    """

    def __init__(
        self,
        folder: Path,
        wanted: dict[str, Any],
        names: OptionNames = NO_NAMES,
        is_new: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self._path = self.folder / JOURNAL_NAME
        # A shard whose line is damaged is made again.
        records = [] if is_new else read_jsonl(self._path, skip_damaged=True)
        if records and "shard" in records[0]:
            raise InputError(
                "damaged-file",
                f"the first line of {self._path} is damaged, so the options of the stopped run "
                "are unknown. Move the file elsewhere; the same command then makes all shards "
                "again",
            )
        if records:
            refuse_other_options(folder, records[0], wanted, names)
        self.finished = {record["shard"]: record for record in records[1:]}
        self._head = wanted

    def start(self) -> None:
        """Write a new file with the shards in `finished`."""
        records = [self._head, *(self.finished[number] for number in sorted(self.finished))]
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_atomically(self._path, text.encode())

    def add(self, record: dict[str, Any]) -> None:
        """Record a shard as finished, after it has been published."""
        self.finished[record["shard"]] = record
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        send(self._path, self._path)

    def keep_intact(
        self, folders: dict[str, Path], on_checked: Callable[[int], None] = lambda _: None
    ) -> list[int]:
        """Drop the shards whose files differ from what was published; returns their numbers."""
        damaged = []
        for number, record in sorted(self.finished.items()):
            if not all(
                is_intact(folder / record[kind]["name"], ShardEntry(**record[kind]))
                for kind, folder in folders.items()
            ):
                damaged.append(number)
            on_checked(number)
        for number in damaged:
            del self.finished[number]
        return damaged

    def failures(self) -> list[dict[str, Any]]:
        """The `failures` of all records, in the order of the shards."""
        return [
            failure
            for number in sorted(self.finished)
            for failure in self.finished[number]["failures"]
        ]

    def entries(self, kind: str) -> list[ShardEntry]:
        return [ShardEntry(**self.finished[number][kind]) for number in sorted(self.finished)]

    def remove(self) -> None:
        """Delete the file: the run is finished."""
        remove_journal(self.folder)


def is_intact(path: Path, entry: ShardEntry) -> bool:
    """Whether a file has the size and the sha256 of its entry.

    Of a file in object storage these are asked for, and its content is not read.
    """
    if stored_address(path) is not None:
        return sent_as(path) == (entry.bytes, entry.sha256)
    try:
        if path.stat().st_size != entry.bytes:
            return False
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == entry.sha256
    except FileNotFoundError:
        return False


def remove_journal(folder: Path) -> None:
    """Delete the journal of a folder, if there is one."""
    remove_file(Path(folder) / JOURNAL_NAME)


def is_under_way(folder: Path) -> bool:
    """Whether the folder has the journal of a stopped run of all folders."""
    records = read_jsonl(Path(folder) / JOURNAL_NAME, skip_damaged=True)
    return bool(records) and "beside" not in records[0]


def drop_beside_others(folder: Path, digests: dict[str, str] | None) -> None:
    """Delete the journal of a run beside complete folders if those were replaced since.

    `retry`, for example, replaces their shards.

    Args:
        digests: digests of the complete folders by name; None if no folder is complete.
    """
    records = read_jsonl(Path(folder) / JOURNAL_NAME, skip_damaged=True)
    if records and records[0].get("beside") != digests:
        remove_journal(folder)


def remove_other_shards(folder: Path, entries: list[ShardEntry]) -> None:
    """Delete shards that an earlier run with more shards left in the folder."""
    names = {entry.name for entry in entries}
    for name in file_sizes(folder):
        if name.endswith(".h5") and name not in names:
            remove_file(Path(folder) / name)
