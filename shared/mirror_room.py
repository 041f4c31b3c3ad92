"""Keeps the shards of object storage on this machine within a limit.

Every shard that has its name on this machine is also in the store, so any of them may be removed
for another one. The one that was not opened for longest goes first. A process that has it open
keeps its content.
"""

from __future__ import annotations

import os
from pathlib import Path

from shared.errors import InputError
from shared.mirror import MIRROR, is_shard, stored_address

LIMIT_VARIABLE = "MOFO_MIRROR_GB"
"""Environment variable: the most gigabytes of shards of object storage on this machine."""
DEFAULT_GIGABYTES = 50.0


def limit_bytes() -> int:
    """The most bytes of shards of object storage on this machine.

    Raises:
        InputError: the environment variable is not a number above 0.
    """
    given = os.environ.get(LIMIT_VARIABLE) or DEFAULT_GIGABYTES
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < float("inf"):
        raise InputError(
            "bad-setting",
            f"the environment variable {LIMIT_VARIABLE} is {given!r}; a number of gigabytes above "
            "0 is allowed",
        )
    return int(gigabytes * 1e9)


def make_room(path: Path, num_bytes: int = 0) -> None:
    """Remove shards of the mirror that were opened longest ago, until the rest is in the limit.

    Args:
        path: a shard of the mirror. It stays if it is there, even if it is larger than the limit.
        num_bytes: room that is needed beside those that stay.
    """
    mirror = Path(*path.parts[: path.parts.index(MIRROR) + 1])
    held = []
    for other in mirror.rglob("[0-9]*.h5"):
        try:
            state = other.stat()
        except FileNotFoundError:  # another process makes room as well
            continue
        if is_shard(other.name) and stored_address(other) is not None:
            held.append((state.st_mtime_ns, state.st_size, other))
    room = limit_bytes() - num_bytes - sum(size for _, size, _ in held)
    for _, size, other in sorted(held):
        if room >= 0:
            return
        if other != path:
            other.unlink(missing_ok=True)
            room += size
