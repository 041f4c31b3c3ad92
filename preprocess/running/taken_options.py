"""Options of `preprocess.flows` for commands that make clips of a finished dataset again.

Those that are not given are as they were when the dataset was made.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from preprocess import flows

# They decide which clips fail and who works, never what is stored.
TAKEN = (
    *("videos", "max_pixels", "max_frames", "max_seconds"),
    *("pool", "decoders", "flow_workers", "num_gpus", "clip_timeout"),
)


def flows_options(purpose: str = "") -> Callable[[Any], Any]:
    """Decorate a command with TAKEN; an option that is not given is None: as that run had it.

    Args:
        purpose: what begins their help.
    """

    def decorated(command: Any) -> Any:
        for param in flows.main.params:
            if param.name in TAKEN:
                assert isinstance(param, click.Option) and param.help
                # The default is another here.
                text = purpose + re.sub(r"\s*\[default: .*\]$", "", param.help)
                option = click.Option(param.opts, type=param.type, metavar=param.metavar, help=text)
                command.params.append(option)
        return command

    return decorated
