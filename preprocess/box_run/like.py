"""Reads the options that decide which boxes a folder holds, for `boxes --like FOLDER`."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from preprocess.box_run.inputs import source_of
from preprocess.motion_boxes.presets import OF_BOUNDARIES, MotionParameters
from shared.errors import InputError
from shared.layout import BOUNDARIES, split_output
from shared.shard_index import read_index


def options_like(folder: Path) -> dict[str, Any]:
    """The options of the run of `boxes` that made a folder, by name of the parameter.

    The numbers are those of the shards, so that a preset may have changed since then.

    Raises:
        InputError: the folder holds no boxes, or boxes that were not computed from motion.
    """
    index = read_index(folder)
    if index is None or index.kind != "boxes":
        raise InputError(
            "other-kind",
            f"--like {folder}: this is not a complete folder of boxes, such as out/ssv2/boxes",
        )
    name, kind = source_of(index.config)
    if kind == "frames":
        raise InputError(
            "not-supported",
            f"--like {folder}: its boxes come from annotations, and other clips need annotations "
            "of their own; give --from-annotations, or the options of boxes from motion",
        )
    known = {each.name for each in fields(MotionParameters)}
    numbers = {name: value for name, value in index.config.items() if name in known}
    source, ending = split_output(name.removeprefix("flows").removeprefix("-"))
    return {
        "source": source or None,
        "preset": OF_BOUNDARIES[0] if ending == BOUNDARIES else None,
        "changes": [
            f"{name}={value}" for name, value in asdict(MotionParameters(**numbers)).items()
        ],
    }
