"""Where a dataset in object storage lies on this machine: path rules alone, without a network.

With OUT=s3://bucket/path the programs work on a folder, `s3.mirror/bucket/path`. Files that are
written there go to the store in the same step (shared/files.py), and shards are fetched when they
are opened (shared/shard_cache.py). The name of the folder alone decides that, so that it holds in
every process, whichever started it. Paths outside of a folder of this name are ordinary paths.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from shared.errors import InputError

MIRROR = "s3.mirror"
FOLDER_VARIABLE = "MOFO_MIRROR"
"""Environment variable: the folder that holds the mirror. Default: the present folder."""
SHARD = re.compile(r"[0-9]+\.h5")
OWN_FOLDERS = ("runs", "videos", "annotations", "truth")
"""Folders of a dataset that stay on this machine: training runs, and what shards are made from."""
JOURNAL_NAME = ".journal.jsonl"
JOURNALS = re.compile(r"\.journal(-\d+-of-\d+)?\.jsonl")
"""The hidden files that lie in the store, of a run or of its parts: other machines continue it."""


def local_folder(out: Path) -> Path:
    """The folder for an OUT: the mirror for s3://bucket/path, and any other OUT itself.

    Raises:
        InputError: the address has no bucket, the store is another one than S3, or nothing would be
            stored there.
    """
    kind, _, rest = str(out).partition(":")
    if not re.fullmatch("[a-z][a-z0-9]+", kind) or rest[:1] not in ("", "/") or str(out) == kind:
        return Path(out)
    bucket, *parts = [part for part in rest.split("/") if part] or [""]
    if kind != "s3" or not bucket or ".." in parts:
        raise InputError(
            "unsafe-path",
            f"OUT {kind}:/{rest}: s3://bucket/path is allowed, or a folder",
        )
    for part in (bucket, *parts):
        refuse_unstored(part, f"OUT s3://{'/'.join((bucket, *parts))}", "another bucket or path")
    return Path(os.environ.get(FOLDER_VARIABLE) or ".").absolute() / MIRROR / bucket / Path(*parts)


def refuse_unstored(part: str, what: str, instead: str) -> None:
    """Refuse a part of an address in object storage below which nothing would be stored.

    Args:
        part: a bucket, or the name of a folder.
        what: whose part it is, for the message.
        instead: what to choose instead, for the message.

    Raises:
        InputError: the part is hidden, or is one of `OWN_FOLDERS`.
    """
    if part.startswith(".") or part in OWN_FOLDERS:
        raise InputError(
            "unsafe-path",
            f"{what}: nothing would be stored below {part!r}, because hidden folders and the "
            f"folders {', '.join(OWN_FOLDERS)} stay on this machine; choose {instead}",
        )


def address_of(path: Path) -> str | None:
    """The address of a mirrored path, such as bucket/path/toy/frames; None for other paths."""
    parts = Path(path).parts
    if MIRROR not in parts:
        return None
    below = parts[len(parts) - parts[::-1].index(MIRROR) :]
    return "/".join(below) or None


def stored_address(path: Path) -> str | None:
    """The address of a file that belongs into the store; None if it stays on this machine.

    Hidden files, except for journals, and the folders `OWN_FOLDERS` of a dataset stay here.
    """
    address = address_of(path)
    if address is None:
        return None
    *folders, name = address.split("/")
    hidden = any(folder.startswith(".") for folder in folders)
    hidden = hidden or (name.startswith(".") and not JOURNALS.fullmatch(name))
    return None if hidden or set(folders) & set(OWN_FOLDERS) else address


def is_shard(name: str) -> bool:
    """Whether a file name is that of a shard, which is fetched only when it is needed."""
    return SHARD.fullmatch(name) is not None


def shown(path: Path) -> str:
    """A path for messages: s3://bucket/path for a mirrored one."""
    address = address_of(path)
    return str(path) if address is None else f"s3://{address}"
