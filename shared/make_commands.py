"""Command lines of the Makefile that messages give, with the variables that name the dataset."""

from __future__ import annotations

import shlex
from pathlib import Path

from shared.layout import (
    BOUNDARIES,
    DATASET_NAME,
    LENGTHS,
    UNSTABILISED,
    DatasetLayout,
    split_output,
)
from shared.shard_index import read_index

# Of an output of `preprocess.flows` beside its source's own: the option that makes it.
_OPTIONS = {
    LENGTHS: "--lengths",
    BOUNDARIES: "--boundaries",
    UNSTABILISED: "--stabilise ... --keep-unstabilised",
}


def first_source(layout: DatasetLayout) -> str:
    """The flow source of flows/; where there is none yet, the one that `make flows` takes."""
    first = read_index(layout.flows)
    return "tvl1" if first is None else str(first.config.get("flow_source", "tvl1"))


def make_flows(layout: DatasetLayout, folder: Path) -> str:
    """The command line that makes flows/, or a folder of further flows beside it.

    Those are made together with the first: `make flows ARGS='--source tvl1,dis'` for flows-dis/.
    """
    output = folder.name.removeprefix(layout.flows.name).removeprefix("-")
    if not output:
        return layout.make("flows")
    source, ending = split_output(output)
    sources = ",".join(dict.fromkeys((first_source(layout), source)))
    options = [_OPTIONS[ending]] if ending else []
    return layout.make("flows", " ".join([f"--source {sources}", *options]))


def make_boxes(layout: DatasetLayout, folder: Path, *arguments: str) -> str:
    """The command line that makes boxes/, or a folder of boxes beside it.

    What the boxes of another name are made of is not known from it: `...` stands for that.
    """
    name = folder.name.removeprefix(layout.boxes.name).removeprefix("-")
    return layout.make("boxes", " ".join([f"--name {name} ..."] * bool(name) + [*arguments]))


def make_anew(folder: Path) -> str:
    """What to do about shards of another manifest than the one beside them."""
    flows, boxes = (make_around(folder, goal, "--overwrite") for goal in ("flows", "boxes"))
    return f"make all shards anew, with the options that they had: {flows}, then {boxes}"


def make_around(path: Path, goal: str, arguments: str = "") -> str:
    """In backquotes, the command line of a goal for the dataset that a folder of shards lies in,
    such as out/ssv2/boxes, or a manifest.

    A folder of boxes may be a copy that lies in no dataset: then the goal, and whose it is.
    """
    path = Path(path)
    root = path.parent
    is_one = path.name == "manifest.csv" or (root / "manifest.csv").is_file()
    if is_one and DATASET_NAME.fullmatch(root.name):
        return f"`{DatasetLayout(root.parent, root.name).make(goal, arguments)}`"
    given = f" ARGS={shlex.quote(arguments)}" if arguments else ""
    return f"`make {goal}{given}` of its dataset"
