"""Reads the options that decide what flows shards hold, for `flows --like FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preprocess.flow.options import recorded_flow_options
from preprocess.flow_run.config import recorded_config
from shared.errors import InputError
from shared.layout import DatasetLayout

STORED = ("frame_short_side", "jpeg_quality", "flow_short_side", "map_short_side")
"""Options that decide what is stored, beside those of flow."""


def options_like(folder: Path) -> dict[str, Any]:
    """The options of the run of `flows` that made a folder, by name of the parameter.

    Raises:
        InputError: the folder is not OUT/DATASET/flows, or has no record of its run.
    """
    root = folder.resolve().parent
    layout = DatasetLayout(root.parent, root.name)
    if folder.resolve() != layout.flows:
        raise InputError(
            "other-kind",
            f"--like {folder}: this is not the folder flows/ of a dataset, such as out/ssv2/flows",
        )
    config = recorded_config(layout, {}, layout.flows / "options.json")
    stored = {name: getattr(config, name) for name in STORED}
    return stored | recorded_flow_options(config.flow)
