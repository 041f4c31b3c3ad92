"""Command-line options that several commands share, rare ones, and former names of options.

`--help` leaves rare options out, and `--help-all` shows them. No help shows former names.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from shared.errors import InputError
from shared.layout import DatasetLayout

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
        if isinstance(parameter, click.Option) and not isinstance(parameter, FormerOption):
            parameter.hidden = False
    click.echo(context.get_help())
    context.exit()


class FormerOption(click.Option):
    """A former name of an option, which no help shows."""


def former_name(
    old: str, new: str, parameter: str, **settings: Any
) -> Callable[[Function], Function]:
    """Keep the former name of an option for one version: it works, with a warning.

    Place it below `user_errors`.

    Args:
        old, new: the names on the command line.
        parameter: the parameter of the command that the option sets.
        settings: of `click.option`, such as the type.
    """
    kept = "former_" + old.strip("-").replace("-", "_")

    def add(function: Function) -> Function:
        @functools.wraps(function)
        def wrapped(*arguments: Any, **given: Any) -> Any:
            value = given.pop(kept)
            if value is not None:
                source = click.get_current_context().get_parameter_source(parameter)
                if source is click.core.ParameterSource.COMMANDLINE:
                    raise InputError(
                        "option-conflict", f"{old} is the former name of {new}; give only {new}"
                    )
                print(
                    f"warning: {old} is now called {new}; the old name works in this version only",
                    file=sys.stderr,
                )
                given[parameter] = value
            return function(*arguments, **given)

        text = f"Former name of {new}."
        option = click.option(old, kept, hidden=True, cls=FormerOption, help=text, **settings)
        return cast("Function", option(wrapped))

    return add


def boxes_options(function: Function) -> Function:
    """Add options that name a folder of boxes, which the command gets as `boxes`.

    The boxes are those of a dataset (--dataset, --out, --name), or lie in any folder (--boxes), as
    copies on another machine do. Place it below `user_errors`.
    """

    @functools.wraps(function)
    def wrapped(
        dataset: str | None, out: Path | None, name: str | None, boxes: Path | None, **given: Any
    ) -> Any:
        named = {"--dataset": dataset, "--out": out, "--name": name}
        if boxes is None and dataset is None:
            raise InputError(
                "missing-option",
                "the boxes are not named; give --dataset NAME, or --boxes FOLDER for a copy "
                "outside of a dataset",
            )
        if boxes is not None:
            for option, value in named.items():
                if value is not None:
                    raise InputError(
                        "option-conflict", f"--boxes and {option} both name the boxes; give one"
                    )
            return function(boxes=boxes, **given)
        layout = DatasetLayout(out or Path("out"), str(dataset))
        folder = layout.boxes if name is None else layout.boxes_of(name)
        return function(boxes=folder, **given)

    path = click.Path(path_type=Path)
    for option in (
        click.option("--boxes", type=path, metavar="FOLDER",
                     help="Folder of boxes shards, instead of a dataset."),
        click.option("--name", metavar="NAME",
                     help="Read the folder boxes-NAME/ of the dataset instead of boxes/."),
        click.option("--out", type=path, metavar="FOLDER",
                     help="Folder that contains the folders of all datasets.  [default: out]"),
        click.option("--dataset", metavar="NAME", help="Name of the dataset."),
    ):  # fmt: skip
        wrapped = option(wrapped)
    return cast("Function", wrapped)
