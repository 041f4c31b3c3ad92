"""Check that COUNT GPUs can be used, before `make NUM_GPUS=COUNT` starts several processes.

    python -m train.gpus 8

Prints nothing and exits with status 0 if they can be used. Otherwise it prints the reason once and
exits with status 1.
"""

from __future__ import annotations

import click

from shared.errors import user_errors
from shared.gpus import refuse_too_few


@click.command(
    help=__doc__.split("\n")[0],
    context_settings={"show_default": True, "max_content_width": 100},
)
@click.argument("count", type=click.IntRange(min=1))
@user_errors
def main(count: int) -> None:
    import torch

    refuse_too_few(torch.cuda, count, "NUM_GPUS")


if __name__ == "__main__":
    main()
