"""Options of the command line for the motion-focused head: short ways to set finetune.head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from train.network.head_config import BOXES, HEAD_WIDTHS

# By name of the option: the field of HeadConfig.
FIELDS = {
    "mca_heads": "num_heads",
    "mca_depth": "depth",
    "mca_width": "head_width",
    "mca_residual": "residual",
    "mca_box": "box",
}
RECIPE = "as the recipe has it"


def mca_options(command: Callable) -> Callable:
    """Adds --mca-heads and the like, which the head mean refuses."""
    count = click.IntRange(min=1)
    options = (
        click.option("--mca-heads", type=count, metavar="HEADS", show_default=RECIPE,
                     help="Attention heads of a layer of the head mca."),
        click.option("--mca-depth", type=count, metavar="LAYERS", show_default=RECIPE,
                     help="Its cross-attention layers."),
        click.option("--mca-width", type=click.Choice(HEAD_WIDTHS), show_default=RECIPE,
                     help="Of one attention head: the token's width, or shared out."),
        click.option("--mca-residual/--no-mca-residual", default=None, show_default=RECIPE,
                     help="Whether queries are added to what attention brings."),
        click.option("--mca-box", type=click.Choice(BOXES), show_default=RECIPE,
                     help="Which motion box inner tokens lie in."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def mca_settings(options: dict[str, Any]) -> tuple[str, ...]:
    """Takes these options out of those of a command; what was given, as for --set."""
    given = {field: options.pop(name) for name, field in FIELDS.items()}
    return tuple(
        f"head.{field}={str(value).lower()}" for field, value in given.items() if value is not None
    )
