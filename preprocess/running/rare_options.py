"""Options that most users never need: `--help` leaves them out, `--help-all` shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def rare_option(*names: str, **settings: Any) -> Callable:
    """A `click.option` that only `--help-all` shows."""
    return click.option(*names, hidden=True, **settings)


def help_all_option(command: Callable) -> Callable:
    """Add `--help-all` to a command with rare options."""
    return click.option(
        "--help-all",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_all,
        help="This text with the options that are rarely needed, and exit.",
    )(command)


def _show_all(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if not is_asked or context.resilient_parsing:
        return
    for parameter in context.command.params:
        if isinstance(parameter, click.Option):
            parameter.hidden = False
    click.echo(context.get_help())
    context.exit()
