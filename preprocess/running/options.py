"""Command-line options that several commands share, and options that most users never need.

`--help` leaves rare options out; `--help-all` shows them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def dataset_options(content: str) -> Callable[[Function], Function]:
    """Add --dataset and --out.

    Args:
        content: what the folder of the dataset must contain, for the help.
    """
    dataset = click.option(
        "--dataset",
        required=True,
        metavar="NAME",
        help=f"Name of the dataset. Its folder in --out has {content}.",
    )
    out = click.option(
        "--out",
        type=click.Path(path_type=Path),
        default=Path("out"),
        show_default=True,
        metavar="FOLDER",
        help="Folder that contains the folders of all datasets.",
    )
    return lambda function: dataset(out(function))


def rare_option(*names: str, **settings: Any) -> Callable[[Function], Function]:
    """A `click.option` that only `--help-all` shows."""
    return click.option(*names, hidden=True, **settings)


def help_all_option(function: Function) -> Function:
    """Add `--help-all` to a command with rare options."""
    return click.option(
        "--help-all",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_all,
        help="Show this message with the rarely needed options too, and exit.",
    )(function)


def _show_all(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if not is_asked or context.resilient_parsing:
        return
    for parameter in context.command.params:
        if isinstance(parameter, click.Option):
            parameter.hidden = False
    click.echo(context.get_help())
    context.exit()
