"""Boxes follow the shards that they were made from: those that are stale or bad are made again."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from preprocess.box_run.inputs import motion_inputs, source_of
from preprocess.box_run.run import make_box_shards, wanted_index
from preprocess.motion_boxes.presets import MotionParameters
from preprocess.running.journal import Journal, described, forget
from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.make_commands import make_boxes
from shared.shard_index import DatasetIndex, read_index
from shared.shards import ShardReader
from shared.wording import counted


def renew_boxes(layout: DatasetLayout, bad: Mapping[str, Iterable[int]]) -> None:
    """Make those boxes shards again that are bad, or whose flows shard has been replaced.

    Args:
        bad: numbers of shards, by name of the folder.
    """
    for folder in layout.boxes_folders():
        _renew(layout, folder, bad.get(folder.name, ()))


def _renew(layout: DatasetLayout, folder: Path, bad: Iterable[int]) -> None:
    index = read_index(folder)
    name, kind = source_of({} if index is None else index.config)
    source = read_index(layout.root / name)
    if index is None or source is None:
        command = make_boxes(layout, folder)
        print(f"{folder} is not complete; run `{command}` to finish it", file=sys.stderr)
        return
    if _division(index) != _division(source):  # no shard of theirs has the clips of one here
        command = make_boxes(layout, folder, "--overwrite")
        print(
            f"{folder} was made of {counted(len(index.shards), 'shard')} of up to "
            f"{counted(index.clips_per_shard, 'clip')}, and {layout.root / name} has "
            f"{len(source.shards)} of up to {source.clips_per_shard}, or is of another manifest; "
            f"make it again, with the options that it had: `{command}`",
            file=sys.stderr,
        )
        return
    stale = set(bad) | {
        number
        for number, (entry, made_of) in enumerate(zip(index.shards, source.shards, strict=True))
        if _source_digest(folder / entry.name, kind) != made_of.sha256
    }
    if not stale and index.config[kind] == source.digest:
        return
    if kind == "frames":
        print(
            f"{folder} was made of annotations, and is not as the frames are now; make it again "
            "with `preprocess.boxes --from-annotations ... --overwrite`",
            file=sys.stderr,
        )
        return
    left_out = ("flows", "frames", "made_from")
    numbers = {option: value for option, value in index.config.items() if option not in left_out}
    inputs = motion_inputs(layout, layout.root / name, MotionParameters(**numbers))
    wanted = wanted_index(layout, inputs)
    forget(folder)
    journal = Journal(folder, described(wanted))
    journal.finished = {
        number: {"shard": number, "boxes": asdict(entry)}
        for number, entry in enumerate(index.shards)
        if number not in stale
    }
    journal.start()
    make_box_shards(folder, inputs, wanted, None)


def _division(index: DatasetIndex) -> tuple[int, int, str]:
    """What decides which clips a shard of a number holds."""
    return len(index.shards), index.clips_per_shard, index.manifest_digest


def _source_digest(path: Path, kind: str) -> str | None:
    """sha256 of the shard that a boxes shard was made from; None where it cannot be read."""
    try:
        with ShardReader(path, "boxes") as reader:
            return reader.attributes.get(kind)
    except InputError:
        return None
