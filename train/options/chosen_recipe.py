"""Which recipe a training uses: a given one, the dataset's, or one by the number of clips."""

from __future__ import annotations

from pathlib import Path

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.manifest import read_manifest
from train.options.recipe import RECIPES
from train.tables.nested import check_name

SMALL, DEFAULT = "small", "default"
FEW_CLIPS = 5000
"""A dataset has few clips if split train has fewer. The ViT-B of the default recipe needs many
more, and GPUs for days."""


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with the program."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def choose_recipe(layout: DatasetLayout, given: Path | None) -> tuple[Path, str | None]:
    """The file of a recipe, and a line for the screen if it was chosen by the number of clips.

    Args:
        layout: the dataset; its manifest is read only if it has no recipe of its own.
        given: path of a recipe (TOML) or name of a shipped one; None = the recipe of the dataset,
            or `small` if it has few clips, or else `default`.

    Raises:
        InputError: `given` is neither a file nor the name of a shipped recipe.
    """
    if given is not None:
        return _given_recipe(given), None
    own = RECIPES / f"{layout.dataset}.toml"
    if own.is_file():
        return own, None
    if not layout.manifest.is_file():  # the command says so
        return RECIPES / f"{DEFAULT}.toml", None
    num_clips = sum(clip.split == "train" for clip in read_manifest(layout.manifest))
    name, other = (SMALL, DEFAULT) if num_clips < FEW_CLIPS else (DEFAULT, SMALL)
    limit = f"{'fewer than' if name == SMALL else 'at least'} {FEW_CLIPS:,}"
    line = (
        f"The recipe is {name}, because split train has {num_clips:,} clips, {limit}, and "
        f"{layout.dataset} has no recipe of its own; --recipe {other} gives the other one."
    )
    return RECIPES / f"{name}.toml", line


def _given_recipe(given: Path) -> Path:
    """A path with a suffix or a folder is a file; a word alone is a name."""
    if given.is_file() or given.suffix or len(given.parts) != 1:
        if not given.is_file():
            raise InputError(
                "missing-file",
                f"the recipe {given} does not exist; shipped recipes are "
                f"{', '.join(shipped_recipes())}",
            )
        return given
    check_name("--recipe", given.name, tuple(shipped_recipes()))
    return RECIPES / f"{given.name}.toml"
