"""All shards of a folder have the same options and the same manifest; others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.make_commands import rebuild_advice

# The option of the command line for each key of a config.
_OPTIONS = {"flow_source": "--source", "made_from": "what they are made of"} | {
    name: f"--{name.replace('_', '-')}"
    for name in (
        *("clips_per_shard", "frame_short_side", "jpeg_quality", "flow_short_side"),
        *("map_short_side", "stabilise", "residual", "format", "min_score", "annotation_fps"),
        *("track_length", "track_points", "track_max_flow", "track_cell"),
    )
}
_WHERE_ABSENT = {"stabilise": "off", "residual": "none", "made_from": "flows"}
_DIGESTS = ("flows", "frames", "annotations")
"""Keys of a config whose value is the digest of what shards are made of."""


@dataclass(frozen=True)
class OptionNames:
    """How the command line calls options that belong to a flow source.

    Attributes:
        flags: by flow source, then by key of a config.
        files: keys of a config whose value is the sha256 of a file.
    """

    flags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    files: frozenset[str] = frozenset()


NO_NAMES = OptionNames()


def refuse_other_options(
    folder: Path, found: dict[str, Any], wanted: dict[str, Any], names: OptionNames = NO_NAMES
) -> None:
    """Refuse to mix shards: names each option that differs, what was found and what is wanted.

    Where options are the same, and the manifest or what the shards were made of is another, that is
    named.

    Args:
        folder: of the shards.
        found, wanted: by option, with the digests of the manifest and of what shards are made of.
        names: of options that the config does not name by itself.

    Raises:
        InputError: any key has another value.
    """
    differing = [
        name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)
    ]
    if not differing:
        return
    both = ", or give --name NAME to have both" if folder.name.startswith("boxes") else ""
    digests = {*_DIGESTS, *names.files}
    options = _in_words(
        found, wanted, [n for n in differing if n not in digests | {"manifest"}], names
    )
    if options:
        raise InputError(
            f"{folder} was made with other options: {'; '.join(options)}. Give what was found, or "
            f"make all shards again with --overwrite{both}"
        )
    sources = [name.replace("_", " ") for name in differing if name in digests]
    if sources:
        raise InputError(
            f"{folder} was made of other {' and '.join(sources)} than are there now; make all "
            f"shards again with --overwrite{both}"
        )
    refuse_other_manifest(folder, found["manifest"], wanted["manifest"])


def refuse_other_manifest(folder: Path, found: str, wanted: str) -> None:
    """Refuse shards of another list of clips; the digests are those of the manifests.

    Raises:
        InputError: they are not the same.
    """
    if found != wanted:
        raise InputError(
            f"{folder} was made of manifest {found[:12]}, and the manifest is now {wanted[:12]}: "
            f"clips were added, removed or cut anew; {rebuild_advice(folder)}"
        )


def _in_words(
    found: dict[str, Any], wanted: dict[str, Any], keys: list[str], names: OptionNames
) -> list[str]:
    """The differences, one text an option; keys that an option brings with it are left out."""
    words = []
    for option, brought, sign in (
        ("--from-annotations", lambda name: (name in found) != (name in wanted), "annotations"),
        ("--trajectories", lambda name: name.startswith("track_"), "track_length"),
    ):
        if (sign in found) != (sign in wanted):
            there, now = ("with", "without") if sign in found else ("without", "with")
            words.append(f"{there} {option} there and {now} it now")
            keys = [key for key in keys if not brought(key)]
    return words + [
        f"{_flag(key, found, wanted, names)} is {_value(key, found)} there and "
        f"{_value(key, wanted)} now"
        for key in keys
    ]


def _flag(key: str, found: dict[str, Any], wanted: dict[str, Any], names: OptionNames) -> str:
    """--jpeg-quality of jpeg_quality; of a further folder `flows-dis: --dis-preset`."""
    folder, separator, option = key.rpartition(": ")
    for options in (wanted, found):
        source = options.get(f"{folder}{separator}flow_source")
        flag = names.flags.get(str(source), {}).get(option)
        if flag is not None:
            return folder + separator + flag
    return folder + separator + _OPTIONS.get(option, option)


def _value(name: str, options: dict[str, Any]) -> Any:
    return options.get(name, _WHERE_ABSENT.get(name, "not given"))
