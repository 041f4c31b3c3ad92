"""Command-line options of `flows` that other commands share, and options of the flow sources.

Each option is declared once. `flows` shows its default. A command that makes clips of a finished
dataset again has no defaults: an option that is not given has the value of the run that made the
dataset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from preprocess.flow.source_options import Declaration, declarations
from preprocess.flow.sources import SOURCES
from preprocess.flow_run.config import POOLS, FlowsConfig

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class _SharedOption:
    """How one option is declared.

    Attributes:
        default: default of `flows`; None = `default_text` describes it.
        is_rare: whether `flows` shows the option only with `--help-all`.
    """

    type: click.ParamType
    help: str
    metavar: str | None = None
    default: Any = None
    default_text: str | None = None
    is_rare: bool = False


# These options decide which clips fail and which processes run, never what is stored.
_SHARED: dict[str, _SharedOption] = {
    "videos": _SharedOption(
        click.Path(path_type=Path),
        "Folder of the videos. Paths in the manifest are relative to this folder.",
        metavar="FOLDER",
        default_text="OUT/NAME/videos",
    ),
    "max_pixels": _SharedOption(
        click.IntRange(256),
        "Set aside clips of videos whose frames have more pixels (width times height) than this "
        "number.",
        metavar="PIXELS",
        default=FlowsConfig.max_pixels,
        is_rare=True,
    ),
    "max_frames": _SharedOption(
        click.IntRange(2),
        "Set aside clips with more frames than this number.",
        metavar="FRAMES",
        default=FlowsConfig.max_frames,
        is_rare=True,
    ),
    "max_seconds": _SharedOption(
        click.FloatRange(0, min_open=True),
        "Set aside clips that last longer than this number of seconds.",
        metavar="SECONDS",
        default=FlowsConfig.max_seconds,
        is_rare=True,
    ),
    "pool": _SharedOption(
        click.Choice(POOLS),
        "Run workers as Ray processes (ray), or do all work in one process on one core "
        "(in-process). In one process, a crash of the decoder ends the run.",
        default=FlowsConfig.pool,
    ),
    "decoders": _SharedOption(
        click.IntRange(1),
        "Number of processes that decode videos.",
        metavar="PROCESSES",
        default_text="one for every four cores, or one for each core if GPUs compute flow; "
        "a fifth of the CPUs of a cluster",
    ),
    "flow_workers": _SharedOption(
        click.IntRange(1),
        "Number of processes that compute flow.",
        metavar="PROCESSES",
        default_text="one for each core, or one for each GPU if GPUs compute flow; "
        "the other CPUs of a cluster",
    ),
    "num_gpus": _SharedOption(
        click.IntRange(0),
        "Number of GPUs that compute flow. With 0, CPU cores compute flow.",
        metavar="GPUS",
        default=FlowsConfig.num_gpus,
    ),
    "clip_timeout": _SharedOption(
        click.FloatRange(0, min_open=True),
        "Kill a worker that gives no answer for this number of seconds. A worker answers about "
        "every 256 frames.",
        metavar="SECONDS",
        default=FlowsConfig.clip_timeout,
        is_rare=True,
    ),
}


def shared_option(name: str) -> Callable[[Function], Function]:
    """Add one shared option to `flows`, with its default."""
    shared = _SHARED[name]
    text = shared.help
    if shared.default_text is not None:
        text += f"  [default: {shared.default_text}]"
    return click.option(
        _flag(name),
        type=shared.type,
        metavar=shared.metavar,
        default=shared.default,
        help=text,
        hidden=shared.is_rare,
    )


def replacing_options(purpose: str = "") -> Callable[[Function], Function]:
    """Add all shared options to a command that makes clips again.

    The command gets None for an option that is not given. The value of the run that made the
    dataset then holds.

    Args:
        purpose: when the options apply, such as "With --repair"; the help of each begins with it.
    """

    def decorated(function: Function) -> Function:
        for name, shared in reversed(_SHARED.items()):
            function = click.option(
                _flag(name),
                type=shared.type,
                metavar=shared.metavar,
                help=_join(purpose, shared.help),
            )(function)
        return function

    return decorated


def source_options(function: Function) -> Function:
    """Add the options that the flow sources declare."""
    declared = [each for source in SOURCES.values() for each in declarations(source.options)]
    for each in reversed(declared):
        function = _source_option(each)(function)
    return function


def _source_option(declared: Declaration) -> Callable[[Function], Function]:
    if declared.value_type is bool:
        return click.option(
            declared.flag, is_flag=True, help=declared.help, hidden=declared.is_rare
        )
    default = declared.default
    return click.option(
        declared.flag,
        type=_click_type(declared),
        metavar=declared.metavar,
        # None if it is not given: an option of a source that is not used is refused.
        default=None,
        show_default=False if default is None else str(default),
        help=declared.help,
        hidden=declared.is_rare,
    )


def _click_type(declared: Declaration) -> click.ParamType:
    if declared.choices:
        return click.Choice(declared.choices)
    if declared.value_type is Path:
        return click.Path(path_type=Path)
    if declared.value_type is int:
        least, most = declared.least, declared.most
        return click.IntRange(
            None if least is None else int(least), None if most is None else int(most)
        )
    if declared.value_type is float:
        return click.FloatRange(declared.least, declared.most)
    return click.STRING


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _join(purpose: str, text: str) -> str:
    return f"{purpose}, {text[0].lower()}{text[1:]}" if purpose else text
