"""Command lines of the Makefile for messages, with the variables that name the dataset."""

from __future__ import annotations

import shlex
from pathlib import Path

from shared.layout import (
    BOUNDARIES,
    LENGTHS,
    UNSTABILISED,
    DatasetLayout,
    is_dataset_name,
    split_output,
)
from shared.shard_index import read_index

# The option of `preprocess.flows` that makes the output with each suffix.
_OPTIONS = {
    LENGTHS: "--lengths",
    BOUNDARIES: "--boundaries",
    UNSTABILISED: "--stabilise ... --keep-unstabilised",
}


def first_source(layout: DatasetLayout) -> str:
    """The flow source of flows/; if there is none yet, the default of `make flows`."""
    first = read_index(layout.flows)
    return "tvl1" if first is None else str(first.config.get("flow_source", "tvl1"))


def make_flows(layout: DatasetLayout, folder: Path) -> str:
    """The command line that makes flows/ with frames/, or a folder of further flows.

    Further flows are made together with the first: `make flows ARGS='--source tvl1,dis'` makes
    flows-dis/.
    """
    if folder.name == layout.frames.name:
        return layout.make("flows", "--source none" if layout.has_frames_alone else "")
    output = folder.name.removeprefix(layout.flows.name).removeprefix("-")
    if not output:
        return layout.make("flows")
    source, ending = split_output(output)
    sources = ",".join(dict.fromkeys((first_source(layout), source)))
    options = [_OPTIONS[ending]] if ending else []
    return layout.make("flows", " ".join([f"--source {sources}", *options]))


def make_boxes(layout: DatasetLayout, folder: Path, *arguments: str) -> str:
    """The command line that makes boxes/, or a folder of further boxes.

    The name of further boxes does not tell their source, so `...` stands for it.
    """
    name = folder.name.removeprefix(layout.boxes.name).removeprefix("-")
    return layout.make("boxes", " ".join([f"--name {name} ..."] * bool(name) + [*arguments]))


def rebuild_advice(folder: Path) -> str:
    """What to do about shards of another manifest than the present one."""
    flows, boxes = (make_around(folder, goal, "--overwrite") for goal in ("flows", "boxes"))
    return f"make all shards again, with the options that they had: {flows}, then {boxes}"


def make_around(path: Path, goal: str, arguments: str = "") -> str:
    """The command line of a goal, in backquotes, for the dataset of a folder of shards.

    Args:
        path: a folder of shards such as out/ssv2/boxes, or a manifest. If it is a copy outside of
            a dataset, the text names the goal `of its dataset`.
    """
    path = Path(path)
    root = path.parent
    is_one = path.name == "manifest.csv" or (root / "manifest.csv").is_file()
    if is_one and is_dataset_name(root.name):
        return f"`{DatasetLayout(root.parent, root.name).make(goal, arguments)}`"
    given = f" ARGS={shlex.quote(arguments)}" if arguments else ""
    return f"`make {goal}{given}` of its dataset"
