"""Print the option of `flows` that stores only the tracks a method needs, for the Makefile.

    python -m train.track_window --dataset ssv2 --method mme

Prints `--track-window 16x3x2` if the method predicts tracks that start at the tubelets of its
windows, and nothing if it needs others or none. A mistake in a recipe is reported by the training.
"""

from __future__ import annotations

from pathlib import Path

import click

from shared.errors import InputError, user_errors
from shared.layout import DatasetLayout
from train.options.chosen_recipe import choose_recipe
from train.options.recipe import parse_changes, pretrain_config, read_recipe


@click.command(
    help=__doc__.split("\n")[0],
    context_settings={
        "show_default": True,
        "max_content_width": 100,
        "ignore_unknown_options": True,  # they are those of train.pretrain, which checks them
        "allow_extra_args": True,
    },
)
@click.option("--dataset", required=True, metavar="NAME", help="Name of the dataset.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="Folder of all datasets.")  # fmt: skip
@click.option("--method", default="mofo", metavar="NAME", help="Pretraining method.")
@click.option("--recipe", type=click.Path(path_type=Path), metavar="RECIPE",
              help="Recipe file, or a name in train/recipes/.  [default: by dataset]")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
              help="Change a value of the recipe. May be repeated.")  # fmt: skip
@user_errors
def main(
    dataset: str, out: Path, method: str, recipe: Path | None, settings: tuple[str, ...]
) -> None:
    try:
        path, _ = choose_recipe(DatasetLayout(out, dataset), recipe)
        changes = parse_changes(settings)
        needs = pretrain_config(read_recipe(dataset, path), method, changes).needed_motion
    except InputError:
        return
    if needs is not None and needs.track_length and needs.track_window is not None:
        print(f"--track-window {needs.track_window}")


if __name__ == "__main__":
    main()
