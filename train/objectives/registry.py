"""The targets that a recipe may name, and how one is read from a recipe or from a run's record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import InputError
from train.objectives.target import LossWords, NormalisedPixels, Target
from train.objectives.trajectories import Trajectories
from train.objectives.velocity import Velocity
from train.tables.nested import check_name
from train.tables.typed import build

TARGETS: dict[str, type[Target]] = {
    NormalisedPixels.name: NormalisedPixels,
    Trajectories.name: Trajectories,
    Velocity.name: Velocity,
}

OWN_TABLES = tuple(name for name, target in TARGETS.items() if target.has_own_table)
"""Tables of [pretrain] that hold the options of the target of their name."""


def build_target(table: Mapping[str, Any]) -> Target:
    """The target of a [pretrain] table: `target = "name"`, or `target = {kind = "name", ...}` with
    its options; of trajectories their own table holds these.

    Raises:
        InputError: no such target, an option that it does not have, or a table of another target.
    """
    given = table.get("target", NormalisedPixels.name)
    name = target_name(table)
    try:
        check_name("target", name, tuple(TARGETS))
        for other in OWN_TABLES:
            if other != name and table.get(other) is not None:
                raise InputError(f"{other} is not used with target {name}; leave it out")
    except InputError as error:
        raise InputError(f"[pretrain] {error}") from None
    options = {key: value for key, value in given.items() if key != "kind"} if name != given else {}
    if TARGETS[name].has_own_table:
        if options:
            raise InputError(
                f"[pretrain.target] does not use {', '.join(options)}; options of {name} are in "
                f"the table {name}"
            )
        own = table.get(name)
        return build(TARGETS[name], options if own is None else own, f"pretrain.{name}")
    return build(TARGETS[name], options, "pretrain.target")


def target_name(table: Mapping[str, Any]) -> str:
    """The name of the target of a [pretrain] table, known or not."""
    given = table.get("target", NormalisedPixels.name)
    return str(given.get("kind") if isinstance(given, Mapping) else given)


def recorded_target(config: Mapping[str, Any]) -> Target | None:
    """The target of a run.

    Args:
        config: of the run, as options.json has it.

    Returns:
        None where it is no target of this version.
    """
    try:
        return build_target(config)
    except InputError:
        return None


def loss_words(config: Mapping[str, Any]) -> LossWords:
    """The loss of a run in words; see `recorded_target`."""
    target = recorded_target(config)
    if target is None:
        return LossWords(target_name(config).replace("_", " "), "zeros", "zeros")
    return target.words
