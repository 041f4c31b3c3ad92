"""`--like FOLDER`: take the options that decide what shards hold from shards that exist already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from shared.errors import InputError, fail

Function = TypeVar("Function", bound=Callable[..., Any])


def like_option(
    kind: str, read: Callable[[Path], Mapping[str, Any]], is_rare: bool = False
) -> Callable[[Function], Function]:
    """Add `--like` to a command. Options that are given beside it replace those of the folder.

    Args:
        kind: the kind of shards, for the help.
        read: returns the value of each option of the command that is taken from a folder, by the
            name of its parameter. It raises InputError if the folder has no record of them.
        is_rare: whether only `--help-all` shows the option.
    """

    def take(context: click.Context, _: click.Parameter, folder: Path | None) -> None:
        if folder is None or context.resilient_parsing:
            return
        try:
            recorded = read(folder)
        except InputError as error:  # the command has not started, and does not catch it
            fail(error.code, error.message)
        context.default_map = {name: value for name, value in recorded.items() if value is not None}

    return click.option(
        "--like",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        is_eager=True,  # it decides the defaults of the others
        expose_value=False,
        hidden=is_rare,
        callback=take,
        help=f"Take every option that decides what is stored from the {kind} shards of this "
        "folder. Options that are given too replace them.",
    )
