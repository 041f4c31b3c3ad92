"""A part of the shards of a run, for machines that share nothing but the folders.

`--part 3/16` makes every sixteenth shard, from the third on. The parts run on different machines,
at the same time or one after the other. Each has a journal, a lock and temporary names of its own
in the shared folder. `--finish`, or a run without `--part`, then completes the dataset.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shared.errors import InputError


@dataclass(frozen=True)
class Part:
    """One of `count` parts; the first one has number 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def suffix(self) -> str:
        """What is added to the names of files that belong to this part alone: `-3-of-16`."""
        return f"-{self.number}-of-{self.count}"

    def shards(self, num_shards: int) -> range:
        """The numbers of the shards that this part makes."""
        return range(self.number - 1, num_shards, self.count)


def read_part(text: str) -> Part:
    """A part from its text, `3/16`.

    Raises:
        InputError: the text is not two numbers, or the first one is not between 1 and the second.
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(
            "bad-setting",
            f"--part (PART=) is {text!r}. Give a number and a count, such as 3/16. The number is "
            "between 1 and the count",
        )
    return Part(int(found[1]), int(found[2]))


def files_of_parts(path: Path) -> list[Path]:
    """The files that belong to single parts beside a file of the whole run.

    For `failures.jsonl` these are `failures-3-of-16.jsonl` and so on.
    """
    pattern = f"{path.stem}-*-of-*{path.suffix}"
    return sorted(found for found in path.parent.glob(pattern) if found.is_file())
