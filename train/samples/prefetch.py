"""Gets shards of object storage ahead of the readers, in the order that the sampler knows."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.mirror import stored_address
from shared.mirror_room import limit_bytes
from shared.shard_cache import local_shard
from train.clips.table import ClipTable

AHEAD = 0.5  # of the room for shards; the rest is for those that are being read


class PrefetchedShards:
    """Batches of a sampler, whose shards a thread gets while earlier batches are computed.

    It yields what the sampler yields. A second pass over the sampler runs ahead of it and gets the
    shards of each batch, until those that no batch has reached yet fill `AHEAD` of the room on this
    machine. What it cannot get, the reader that needs it will ask for, and say what is wrong.

    Args:
        table: the clips.
        batches: the sampler, which gives the same batches each time; keys are (epoch, index) or
            index.
    """

    def __init__(self, table: ClipTable, batches: Iterable[list[Any]]) -> None:
        self._batches = batches
        self._shards = table.shard
        folders = (table.frames_folder, table.boxes_folder, table.motion_folder)
        self._folders = [folder for folder in folders if folder is not None]
        self._names = table.shard_names

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]  # of a sampler or a list

    def __iter__(self) -> Iterator[list[Any]]:
        progress = _Progress(AHEAD * limit_bytes())
        # The loader has forked its workers when it asks for the first batch.
        threading.Thread(target=self._get, args=(progress,), daemon=True).start()
        try:
            for number, batch in enumerate(self._batches):
                progress.reach(number)
                yield batch
        finally:
            progress.stop()

    def _get(self, progress: _Progress) -> None:
        for number, batch in enumerate(self._batches):
            for path in self._paths(batch):
                if not progress.may_get(number):
                    return
                is_new = not path.exists()
                try:
                    local_shard(path)
                    progress.got(number, path.stat().st_size if is_new else 0)
                except (InputError, OSError):
                    continue

    def _paths(self, batch: list[Any]) -> list[Path]:
        """The shards of a batch, in the order in which its clips need them."""
        indexes = [key[1] if isinstance(key, tuple) else key for key in batch]
        numbers = dict.fromkeys(int(self._shards[index]) for index in indexes)
        return [folder / self._names[number] for number in numbers for folder in self._folders]


def with_prefetching(table: ClipTable, batches: Iterable[list[Any]]) -> Iterable[list[Any]]:
    """The batches, whose shards are got ahead if they lie in object storage."""
    if stored_address(table.frames_folder) is None:
        return batches
    return PrefetchedShards(table, batches)


class _Progress:
    """How far the readers are, and how many bytes lie ready for batches beyond that."""

    def __init__(self, most_bytes: float) -> None:
        self._most_bytes = most_bytes
        self._ready: deque[tuple[int, int]] = deque()  # number of the batch, bytes
        self._batch = 0
        self._stopped = False
        self._changed = threading.Condition()

    def reach(self, batch: int) -> None:
        """Note that readers begin with a batch."""
        with self._changed:
            self._batch = batch
            while self._ready and self._ready[0][0] <= batch:
                self._ready.popleft()
            self._changed.notify_all()

    def may_get(self, batch: int) -> bool:
        """Wait until there is room for the shards of a batch; False if the batches have ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._stopped
                    or batch <= self._batch
                    or sum(size for _, size in self._ready) < self._most_bytes
                )
            )
            return not self._stopped

    def got(self, batch: int, num_bytes: int) -> None:
        """Note that bytes lie ready for a batch."""
        with self._changed:
            if num_bytes and batch > self._batch:
                self._ready.append((batch, num_bytes))

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
