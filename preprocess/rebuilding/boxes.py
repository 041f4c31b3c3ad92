"""Make those boxes shards again that are damaged, or older than the shards they were made from."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from preprocess.box_run.inputs import motion_inputs, source_of, sources_of
from preprocess.box_run.run import make_box_shards, wanted_index
from preprocess.motion_boxes.presets import MotionParameters
from preprocess.running.journal import Journal, described
from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.make_commands import make_boxes
from shared.shard_index import DatasetIndex, read_index
from shared.shards import ShardReader
from shared.wording import counted


def renew_boxes(layout: DatasetLayout, bad: Mapping[str, Iterable[int]]) -> None:
    """Make boxes shards again that are bad, or whose flows or frames shard has been replaced.

    Boxes that cannot be made again here are printed with the command that makes them.

    Args:
        layout: paths of the dataset.
        bad: numbers of bad shards, by name of the folder.
    """
    for folder in layout.boxes_folders():
        _renew(layout, folder, bad.get(folder.name, ()))


def _renew(layout: DatasetLayout, folder: Path, bad: Iterable[int]) -> None:
    index = read_index(folder)
    config = {} if index is None else index.config
    name, kind = source_of(config)
    sources = {of: read_index(layout.root / each) for of, each in sources_of(config).items()}
    if index is None or None in sources.values():
        command = make_boxes(layout, folder)
        print(f"{folder} is not complete. Run `{command}` to finish it.", file=sys.stderr)
        return
    made_from = {of: source for of, source in sources.items() if source is not None}
    source = made_from[kind]
    if _division(index) != _division(source):  # shards of one number have different clips
        command = make_boxes(layout, folder, "--overwrite")
        print(
            f"{folder} was made from {counted(len(index.shards), 'shard')} of up to "
            f"{counted(index.clips_per_shard, 'clip')}, or from another manifest. "
            f"{layout.root / name} now has {counted(len(source.shards), 'shard')} of up to "
            f"{counted(source.clips_per_shard, 'clip')}. Make the boxes again, with their old "
            f"options: `{command}`",
            file=sys.stderr,
        )
        return
    stale = set(bad)
    for number, entry in enumerate(index.shards):
        now = {of: each.shards[number].sha256 for of, each in made_from.items()}
        if _source_digests(folder / entry.name, now) != now:
            stale.add(number)
    if not stale and all(config[of] == each.digest for of, each in made_from.items()):
        return
    if kind == "frames":
        print(
            f"{folder} was made from annotations, and frames/ has changed since then. Make it "
            f"again: `{make_boxes(layout, folder, '--from-annotations ... --overwrite')}`",
            file=sys.stderr,
        )
        return
    left_out = ("flows", "frames", "made_from")
    numbers = {option: value for option, value in index.config.items() if option not in left_out}
    inputs = motion_inputs(layout, layout.root / name, MotionParameters(**numbers))
    wanted = wanted_index(layout, inputs)
    journal = Journal(folder, described(wanted), is_new=True)
    journal.finished = {
        number: {"shard": number, "boxes": asdict(entry)}
        for number, entry in enumerate(index.shards)
        if number not in stale
    }
    journal.start()
    make_box_shards(folder, inputs, wanted, None)


def _division(index: DatasetIndex) -> tuple[int, int, str]:
    """Number of shards, clips per shard and manifest: they decide which clips a shard holds."""
    return len(index.shards), index.clips_per_shard, index.manifest_digest


def _source_digests(path: Path, kinds: Iterable[str]) -> dict[str, str | None]:
    """sha256 of the shards that a boxes shard was made from, by kind; none if it is unreadable."""
    try:
        with ShardReader(path, "boxes") as reader:
            return {kind: reader.attributes.get(kind) for kind in kinds}
    except InputError:
        return {}
