"""Options that several benchmarks share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from shared.errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


def samples_option(text: str) -> Callable[[Function], Function]:
    """Add --samples, the folder of sample clips; `text` is its help."""
    default = Path("../shared/samples")
    return click.option("--samples", type=PATH, default=default, metavar="FOLDER", help=text)


def out_option(default: str) -> Callable[[Function], Function]:
    """Add --out, the JSON file to write; `default` is its name in benchmarks/results, for help."""
    text = f"JSON file to write.  [default: benchmarks/results/{default}.json]"
    return click.option("--out", type=PATH, metavar="FILE", help=text)


def parts_option(function: Function) -> Function:
    """Add --only, the parts of a benchmark to run; see `chosen_parts`."""
    text = "Parts to run, separated by commas.  [default: all]"
    return click.option("--only", metavar="NAMES", help=text)(function)


def chosen_parts(only: str | None, known: Iterable[str]) -> list[str]:
    """Names of the parts to run, in the order in which they are known.

    Args:
        only: names separated by commas, as a user gave them; None = all.
        known: the names of all parts.

    Raises:
        InputError: a name is unknown.
    """
    names = list(known)
    asked = names if only is None else [name.strip() for name in only.split(",")]
    for name in asked:
        if name not in names:
            raise InputError("unknown-name", f"no part {name!r}; there are: {', '.join(names)}")
    return [name for name in names if name in asked]


def known_names(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a list with commas, each once; each must be known."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise InputError("unknown-name", f"{option} has {name!r}; allowed: {', '.join(known)}")
    return names


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers from 0 on of a list with commas, each once."""
    for part in text.split(","):
        if not part.strip().isdecimal():
            raise InputError(
                "bad-setting", f"{option} has {part!r}; give whole numbers, such as 5,10"
            )
    return tuple(dict.fromkeys(map(int, text.split(","))))
