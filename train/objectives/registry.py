"""The registry of targets, and how a target is read from a recipe or from the record of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import InputError
from train.objectives.descriptors import Descriptors
from train.objectives.differences import PixelsAndDifferences
from train.objectives.pixels_and_tracks import PixelsAndTracks
from train.objectives.target import LossWords, NormalisedPixels, Target
from train.objectives.trajectories import Trajectories
from train.objectives.velocity import Velocity
from train.tables.nested import check_name
from train.tables.typed import build

TARGETS: dict[str, type[Target]] = {
    NormalisedPixels.name: NormalisedPixels,
    Trajectories.name: Trajectories,
    Velocity.name: Velocity,
    Descriptors.name: Descriptors,
    PixelsAndDifferences.name: PixelsAndDifferences,
    PixelsAndTracks.name: PixelsAndTracks,
}

OWN_TABLES = tuple(name for name, target in TARGETS.items() if target.has_own_table)
"""Tables of [pretrain] that hold the options of the target with the same name."""


def build_target(table: Mapping[str, Any]) -> Target:
    """The target of a [pretrain] table.

    It is `target = "name"`, or `target = {kind = "name", ...}` with options. The options of
    trajectories are in a table of their own.

    Raises:
        InputError: there is no such target, it has no such option, or there is a table of another
            target.
    """
    given = table.get("target", NormalisedPixels.name)
    name = target_name(table)
    try:
        check_name("target", name, tuple(TARGETS))
        for other in OWN_TABLES:
            if other != name and table.get(other) is not None:
                raise InputError(
                    "option-unused",
                    f"the target {name} does not use the table {other}; leave it out",
                )
    except InputError as error:
        raise error.at("[pretrain]") from None
    options = {key: value for key, value in given.items() if key != "kind"} if name != given else {}
    if TARGETS[name].has_own_table:
        if options:
            raise InputError(
                "unknown-key",
                f"[pretrain.target] has no option {', '.join(options)}; write the options of "
                f"{name} in the table {name}",
            )
        own = table.get(name)
        return build(TARGETS[name], options if own is None else own, f"pretrain.{name}")
    return build(TARGETS[name], options, "pretrain.target")


def target_name(table: Mapping[str, Any]) -> str:
    """The name of the target of a [pretrain] table; it may be unknown."""
    given = table.get("target", NormalisedPixels.name)
    return str(given.get("kind") if isinstance(given, Mapping) else given)


def recorded_target(config: Mapping[str, Any]) -> Target | None:
    """The target of a run.

    Args:
        config: `config` in the options.json of the run.

    Returns:
        None if this version has no such target.
    """
    try:
        return build_target(config)
    except InputError:
        return None


def loss_words(config: Mapping[str, Any]) -> LossWords:
    """The loss of a run in words, see `recorded_target`."""
    target = recorded_target(config)
    if target is None:
        return LossWords(target_name(config).replace("_", " "), "zeros", "zeros")
    return target.words
