"""All shards of a folder have the same options and the same manifest; other ones are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.make_commands import rebuild_advice

# The command-line option for each key of a config.
_OPTIONS = {"flow_source": "--source", "made_from": "the input"} | {
    name: f"--{name.replace('_', '-')}"
    for name in (
        *("clips_per_shard", "frame_short_side", "jpeg_quality", "flow_short_side"),
        *("map_short_side", "stabilise", "residual", "format", "min_score", "annotation_fps"),
        *("track_length", "track_points", "track_max_flow", "track_cell"),
        *("track_window", "track_channels", "track_cells", "track_weights"),
    )
}
_OF_CODING = {f"track_{name}_{what}" for name in ("move", "hog") for what in ("step", "floor")} | {
    *("track_window", "track_displacement_unit", "track_hog_unit"),
}
_WHERE_ABSENT = {"stabilise": "off", "residual": "none", "made_from": "flows"} | {
    "track_channels": "grey",
    "track_cells": "1",
}
_DIGESTS = ("flows", "frames", "annotations")
"""Keys of a config whose value is the digest of the input of the shards."""


@dataclass(frozen=True)
class OptionNames:
    """Names on the command line of options that belong to a flow source.

    Attributes:
        flags: names by flow source, then by key of a config.
        files: keys of a config whose value is the sha256 of a file.
    """

    flags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    files: frozenset[str] = frozenset()


NO_NAMES = OptionNames()


def refuse_other_options(
    folder: Path, found: dict[str, Any], wanted: dict[str, Any], names: OptionNames = NO_NAMES
) -> None:
    """Refuse to mix shards: the message has each option that differs, with both values.

    If all options are the same, the message says whether the manifest or the input differs.

    Args:
        folder: folder of the shards.
        found, wanted: value by option, with the digests of the manifest and of the input.
        names: names on the command line of options of flow sources.

    Raises:
        InputError: any key has another value.
    """
    differing = [
        name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)
    ]
    if not differing:
        return
    both = ", or keep both with --name NAME" if folder.name.startswith("boxes") else ""
    digests = {*_DIGESTS, *names.files}
    options = _differences(
        found, wanted, [n for n in differing if n not in digests | {"manifest"}], names
    )
    if options:
        raise InputError(
            "other-options",
            f"{folder} was made with other options: {'; '.join(options)}. Give the old values, or "
            f"make all shards again with --overwrite{both}",
        )
    sources = [name.replace("_", " ") for name in differing if name in digests]
    if sources:
        raise InputError(
            "other-inputs",
            f"{folder} was made from other {' and '.join(sources)} than there are now. Make all "
            f"shards again with --overwrite{both}",
        )
    refuse_other_manifest(folder, found["manifest"], wanted["manifest"])


def refuse_other_manifest(folder: Path, found: str, wanted: str) -> None:
    """Refuse shards that were made from another manifest.

    Args:
        folder: folder of the shards.
        found, wanted: digest of the manifest of the shards, and of the manifest now.

    Raises:
        InputError: the digests differ.
    """
    if found != wanted:
        raise InputError(
            "other-manifest",
            f"{folder} was made from manifest {found[:12]}, and the manifest is now {wanted[:12]}: "
            f"clips were added or removed, or their times have changed; {rebuild_advice(folder)}",
        )


def _differences(
    found: dict[str, Any], wanted: dict[str, Any], keys: list[str], names: OptionNames
) -> list[str]:
    """One text for each option that differs; keys that come with another option are left out."""
    texts = []
    for option, brought, sign in (
        ("--from-annotations", lambda name: (name in found) != (name in wanted), "annotations"),
        ("--trajectories", lambda name: name.startswith("track_"), "track_length"),
        ("--track-window", lambda name: name in _OF_CODING, "track_window"),
    ):
        if (sign in found) != (sign in wanted):
            before, now = ("given", "not given")[:: 1 if sign in found else -1]
            texts.append(f"{option} was {before} and is now {now}")
            keys = [key for key in keys if not brought(key)]
    return texts + [
        f"{_flag(key, found, wanted, names)} was {_value(key, found)} and is now "
        f"{_value(key, wanted)}"
        for key in keys
    ]


def _flag(key: str, found: dict[str, Any], wanted: dict[str, Any], names: OptionNames) -> str:
    """--jpeg-quality for jpeg_quality; `flows-dis: --dis-preset` for an option of that folder."""
    folder, separator, option = key.rpartition(": ")
    for options in (wanted, found):
        source = options.get(f"{folder}{separator}flow_source")
        flag = names.flags.get(str(source), {}).get(option)
        if flag is not None:
            return folder + separator + flag
    return folder + separator + _OPTIONS.get(option, option)


def _value(name: str, options: dict[str, Any]) -> Any:
    value = options.get(name, _WHERE_ABSENT.get(name, False))
    if isinstance(value, bool):
        return "given" if value else "not given"
    return value
