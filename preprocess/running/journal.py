"""What an earlier run left behind: whether it is complete, and which shards are finished."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from preprocess.running.same_options import NO_NAMES, OptionNames, refuse_other_options
from shared.errors import InputError
from shared.files import file_sizes, remove_file, sent_as, write_atomically
from shared.mirror import JOURNAL_NAME, stored_address
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
        is_new: ignore the journals of an earlier run, which `start` then replaces.
        suffix: added to the name of the journal, for a run that makes a part of the shards beside
            runs of other parts. The journals of all parts are read.
        shards: the numbers of the shards of this part; None = all.

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
        suffix: str = "",
        shards: Container[int] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._path = self.folder / f"{Path(JOURNAL_NAME).stem}{suffix}.jsonl"
        self._is_part = shards is not None
        self._head = wanted
        self.finished: dict[int, dict[str, Any]] = {}
        for path in [] if is_new else journals_in(folder):
            # A shard whose line is damaged is made again.
            records = read_jsonl(path, skip_damaged=True)
            if records and "shard" in records[0]:
                raise InputError(
                    "damaged-file",
                    f"the first line of {path} is damaged, so the options of the stopped run "
                    "are unknown. Move the file elsewhere; the same command then makes its shards "
                    "again",
                )
            if records:
                refuse_other_options(folder, records[0], wanted, names)
            self.finished |= {
                record["shard"]: record
                for record in records[1:]
                if shards is None or record["shard"] in shards
            }

    def start(self) -> None:
        """Write a new file with the shards in `finished`.

        Journals that it replaces are deleted: those of all parts by the journal of the whole, and
        those of other options by the journal of a part.
        """
        records = [self._head, *(self.finished[number] for number in sorted(self.finished))]
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_atomically(self._path, text.encode())
        for path in journals_in(self.folder):
            if path != self._path and not (self._is_part and _head_of(path) == self._head):
                remove_file(path)

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
        """Delete the journals: the run is finished."""
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


def journals_in(folder: Path) -> list[Path]:
    """The journals in a folder, of the whole run and of parts, the one changed last at the end."""
    name = Path(JOURNAL_NAME)
    found = {path: _changed_at(path) for path in Path(folder).glob(f"{name.stem}*{name.suffix}")}
    return sorted(found, key=lambda path: (found[path], path.name))


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:  # another part has deleted it
        return 0


def _head_of(path: Path) -> dict[str, Any] | None:
    """The line of options of a journal; None for a file without a line."""
    records = read_jsonl(path, skip_damaged=True)
    return records[0] if records else None


def remove_journal(folder: Path) -> None:
    """Delete the journals of a folder, if there are any."""
    for path in journals_in(folder):
        remove_file(path)


def is_under_way(folder: Path) -> bool:
    """Whether the folder has the journal of a stopped run of all folders."""
    heads = [_head_of(path) for path in journals_in(folder)]
    return any(head is not None and "beside" not in head for head in heads)


def drop_beside_others(folder: Path, digests: dict[str, str] | None) -> None:
    """Delete the journal of a run beside complete folders if those were replaced since.

    `retry`, for example, replaces their shards.

    Args:
        digests: digests of the complete folders by name; None if no folder is complete.
    """
    for path in journals_in(folder):
        head = _head_of(path)
        if head is not None and head.get("beside") != digests:
            remove_file(path)


def remove_other_shards(folder: Path, entries: list[ShardEntry]) -> None:
    """Delete shards that an earlier run with more shards left in the folder."""
    names = {entry.name for entry in entries}
    for name in file_sizes(folder):
        if name.endswith(".h5") and name not in names:
            remove_file(Path(folder) / name)
