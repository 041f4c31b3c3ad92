"""Whether so many GPUs can be used, asked before several processes are started: `make NUM_GPUS=8`.

    python -m train.gpus 8

Prints nothing and exits 0 where they can; otherwise says why not, once, and exits 1.
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
