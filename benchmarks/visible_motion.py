"""Measures how much of what moves stays visible under each mask.

    make boxes DATASET=toy
    python -m benchmarks.visible_motion --dataset toy

The command draws one training view and one mask for each clip of split train and each method, with
the masks of the recipe. Masks that follow tracks cannot be drawn here. A token moves if its stored
motion is at least half of the largest of its clip. For each method the command prints, in percent:
tokens that are visible, the share of the motion that is visible, clips in which no moving token is
visible, and clips in which one is visible in every time step where any moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from shared.errors import user_errors
from shared.layout import DatasetLayout
from shared.masks import MASKS
from shared.progress import bar_options
from shared.randomness import counter_generator
from shared.scene import Scene
from train.clips.table import MotionNeeds, read_clip_table
from train.options.config import PretrainConfig
from train.options.recipe import loader_config, pretrain_config, read_recipe
from train.samples.views import StoredClip, open_reader

METHODS = "videomae,mofo,random,smm,velocity"
MOVES = 0.5  # of the largest motion of a token of the clip
SEED = 0


@dataclass(frozen=True)
class Visible:
    """What is visible of one clip, as shares 0..1 and as yes or no."""

    tokens: float
    motion: float
    nothing_that_moves: bool
    always_something_that_moves: bool


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--dataset", default="toy", metavar="NAME", help="Dataset to read.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="Folder of all datasets.")  # fmt: skip
@click.option("--recipe", type=click.Path(path_type=Path), metavar="FILE",
              help="Recipe file.  [default: that of the dataset]")  # fmt: skip
@click.option("--clips", type=click.IntRange(1), default=400, metavar="CLIPS",
              help="Largest number of clips of split train.")  # fmt: skip
@click.option("--methods", default=METHODS, metavar="LIST", help="Methods of the recipe.")
@user_errors
def main(dataset: str, out: Path, recipe: Path | None, clips: int, methods: str) -> None:
    layout, tables = DatasetLayout(out, dataset), read_recipe(dataset, recipe)
    table = read_clip_table(layout, ["train"], True, MotionNeeds())
    chosen = range(min(clips, len(table)))
    columns = ("tokens", "motion", "clips without", "clips with in every step")
    print(f"{'percent visible:':16} " + " ".join(f"{name:>24}" for name in columns))
    for method in methods.split(","):
        config = pretrain_config(tables, method)
        reader = open_reader(table, loader_config(tables))
        bar = tqdm(chosen, method, unit="clip", leave=False, **bar_options(delay=1))
        found = list(visible(config, (StoredClip(table, n, reader, config.model) for n in bar)))
        means = (
            100 * float(np.mean([getattr(each, name) for each in found]))
            for name in Visible.__dataclass_fields__
        )
        print(f"{method:16} " + " ".join(f"{mean:24.1f}" for mean in means), flush=True)


def visible(config: PretrainConfig, clips: Iterator[StoredClip]) -> Iterator[Visible]:
    """What the mask of one random view of each clip leaves visible."""
    entry = MASKS[config.mask.kind]
    for clip in clips:
        key = (SEED, 0, clip.clip_id, 0)
        view, _ = clip.random_view(config, counter_generator(*key, "view"))
        motion = clip.motion(view)
        scene = Scene(config.model.time_steps, clip.inside(view), motion)
        mask = entry.draw(scene, counter_generator(*key, "mask"), **config.mask.options)
        if motion.max() > 0:
            yield seen(motion.reshape(len(motion), -1), ~mask.reshape(len(motion), -1))


def seen(motion: np.ndarray, shown: np.ndarray) -> Visible:
    """What is visible, from motion float [T', n] and visible tokens bool [T', n]."""
    moves = motion >= MOVES * motion.max()
    steps = (moves & shown).any(axis=1)[moves.any(axis=1)]
    return Visible(
        tokens=float(shown.mean()),
        motion=float(motion[shown].sum() / motion.sum()),
        nothing_that_moves=not steps.any(),
        always_something_that_moves=bool(steps.all()),
    )


if __name__ == "__main__":
    main()
