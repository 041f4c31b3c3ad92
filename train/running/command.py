"""Command-line options that pretrain and finetune share, and how they are read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.run_record import RunLock
from shared.scene import INSIDES
from train.network.head_config import BOXES, HEAD_WIDTHS
from train.options.chosen_recipe import choose_recipe
from train.options.config import LoaderConfig
from train.options.merging import merge
from train.options.recipe import MCA_FIELDS, loader_config, parse_changes, read_recipe
from train.running.rerun import EarlierRun, read_earlier
from train.running.run_folder import RunFolder

if TYPE_CHECKING:
    from train.running.engine import Processes

FOLDER = click.Path(path_type=Path)
POSITIVE = click.IntRange(min=1)
RECIPE = "from the recipe"


@dataclass(frozen=True)
class Common:
    """Options of both training commands, as they were given."""

    dataset: str
    out: Path
    recipe: Path | None = None
    settings: tuple[str, ...] = ()
    epochs: int | None = None
    batch_size: int | None = None
    seed: int = 0
    earlier: EarlierRun | None = None
    run: str | None = None
    workers: int | None = None
    device: str = "auto"
    stop_after: float | None = None
    tensorboard: bool = True
    wandb: str | None = None
    profile: bool = False
    overwrite: bool = False
    dry_run: bool = False
    verbose: bool = False
    recipe_line: str | None = None  # says why the recipe was chosen, where nobody named it

    def read_recipe(self) -> dict[str, Any]:
        """The tables of the recipe, or of the earlier run that --like names."""
        if self.earlier is not None:
            return self.earlier.tables()
        return read_recipe(self.dataset, self.recipe)

    def training_changes(self) -> dict[str, Any]:
        """The values of [pretrain] or [finetune] that the command line changes."""
        changes = parse_changes(tuple(s for s in self.settings if not s.startswith("loader.")))
        given = {"epochs": self.epochs, "batch_size": self.batch_size}
        return merge(changes, {name: value for name, value in given.items() if value is not None})

    def loader(self, tables: Mapping[str, Any]) -> LoaderConfig:
        """The [loader] options of the recipe, with the changes of the command line."""
        changes = parse_changes(tuple(s for s in self.settings if s.startswith("loader.")))
        config = loader_config(tables, changes.get("loader"))
        return with_workers(config, self.workers)


def read_common(command: str, like: str | None, **given: Any) -> Common:
    """Read the options of a command line, and the record of the run that `--like` names."""
    seed = given.pop("seed")
    layout = DatasetLayout(given["out"], given["dataset"])
    if like is None:
        given["recipe"], line = choose_recipe(layout, given["recipe"])
        return Common(**given, recipe_line=line, seed=seed or 0)
    if given["recipe"] is not None:
        raise InputError(
            "option-conflict",
            "--recipe and --like both name the options of the run; give one of them, and change "
            "single options with --set",
        )
    earlier = read_earlier(layout, like, command)
    given["run"] = given["run"] or f"{earlier.name}-again"
    seed = earlier.options["seed"] if seed is None else seed
    return Common(**given, seed=seed, earlier=earlier)


def with_workers(config: LoaderConfig, workers: int | None) -> LoaderConfig:
    """The config with the given number of workers.

    Without a number, the recipe's, but no more than there are cores for this process.
    """
    if workers is None:
        workers = min(config.workers, len(os.sched_getaffinity(0)))
    return replace(config, workers=workers)


def run_option(text: str) -> Callable:
    # torchrun reads --run, at any position, as an abbreviation of its own option --run-path.
    return click.option(
        "--run", "--run-name", "run", metavar="NAME", help=f"{text} With torchrun write --run-name."
    )


def data_options(command: Callable) -> Callable:
    """Add the options of every command that reads a dataset."""
    return _add(
        command,
        click.option(
            "--dataset",
            default="toy",
            metavar="NAME",
            help="Name of the dataset, whose folder is in --out.",
        ),
        click.option(
            "--out",
            default="out",
            type=FOLDER,
            metavar="FOLDER",
            help="Folder that contains the folders of all datasets.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=0),
            metavar="PROCESSES",
            help="Number of processes that read clips for each training process. With 0, the "
            "training process reads clips itself.",
            show_default=RECIPE,
        ),
        click.option(
            "--device",
            default="auto",
            type=click.Choice(["auto", "cpu", "cuda"]),
            help="Device that computes. auto is a GPU if there is one, else the CPU.",
        ),
    )


def training_options(command: Callable) -> Callable:
    """Add the options of pretraining and finetuning, which become a `Common`."""
    command = _add(
        command,
        # What is trained
        click.option(
            "--recipe",
            type=FOLDER,
            metavar="RECIPE",
            help="Recipe file, or a name in train/recipes/.  [default: by dataset]",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change a value of the recipe: mask.kind=tube. May be repeated.",
        ),
        click.option(
            "--epochs",
            type=POSITIVE,
            metavar="N",
            show_default=RECIPE,
            help="Number of passes over split train.",
        ),
        click.option(
            "--batch-size",
            type=POSITIVE,
            metavar="CLIPS",
            show_default=RECIPE,
            help="Number of clips in one optimiser step, over all processes.",
        ),
        click.option(
            "--seed",
            type=int,
            metavar="N",
            show_default="0",
            help="Seed for weights, order, augmentation and masks.",
        ),
        click.option(
            "--like",
            metavar="RUN",
            help="Name of a run to repeat with its recorded options and seed, as RUN-again. "
            "Options such as --set change single values.",
        ),
        # How the run goes
        run_option("Name of the run and its folder."),
        click.option(
            "--stop-after",
            type=click.FloatRange(min=0),
            metavar="MINUTES",
            help="Save a checkpoint and stop after this number of minutes. The same command "
            "continues the run.",
        ),
        click.option(
            "--tensorboard/--no-tensorboard",
            default=True,
            help="Write training curves to the folder tensorboard/ of the run.",
        ),
        click.option(
            "--wandb",
            metavar="PROJECT",
            help="Also send curves to this project of Weights & Biases. WANDB_MODE=offline keeps "
            "them in the run folder.",
        ),
        click.option(
            "--profile",
            is_flag=True,
            help="Trace 5 steps with the torch profiler, into trace.json of the run.",
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="Delete an existing run and start again, instead of continuing it.",
        ),
        click.option("--verbose", is_flag=True, help="Print all resolved options before training."),
        click.option(
            "--dry-run", is_flag=True, help="Print all resolved options, and do not train."
        ),
    )
    return data_options(command)


def mca_options(command: Callable) -> Callable:
    """Add --mca-heads and the other options of the head mca, which the head mean refuses."""
    count = click.IntRange(min=1)
    options = (
        click.option("--mca-heads", type=count, metavar="HEADS", show_default=RECIPE,
                     help="Number of attention heads in each layer of the head mca."),
        click.option("--mca-depth", type=count, metavar="LAYERS", show_default=RECIPE,
                     help="Number of cross-attention layers of the head mca."),
        click.option("--mca-width", type=click.Choice(HEAD_WIDTHS), show_default=RECIPE,
                     help="Channels of one attention head: all channels of a token (model), or "
                     "an equal part of them (split)."),
        click.option("--mca-residual/--no-mca-residual", default=None, show_default=RECIPE,
                     help="Add queries to the attention result."),
        click.option("--mca-box", type=click.Choice(BOXES), show_default=RECIPE,
                     help="Motion boxes that the head mca uses: one per clip, or per tubelet."),
        click.option("--mca-inside", type=click.Choice(INSIDES), show_default=RECIPE,
                     help="What is inside for the head mca: the motion box, or the positions that "
                     "move."),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def mca_settings(options: dict[str, Any]) -> tuple[str, ...]:
    """Remove the --mca options from `options`; returns those that were given as --set settings."""
    given = {field: options.pop(name) for name, field in MCA_FIELDS.items()}
    return tuple(
        f"head.{field}={str(value).lower()}" for field, value in given.items() if value is not None
    )


def label_options(command: Callable) -> Callable:
    """Add --labels-per-class and the other options for learning from few labels."""
    return _add(
        command,
        click.option("--labels-per-class", type=click.IntRange(min=0), metavar="CLIPS",
                     show_default=RECIPE,
                     help="Number of labelled clips of each class to learn from. 0 means all."),
        click.option("--label-share", type=click.FloatRange(0, 1, min_open=True), metavar="SHARE",
                     show_default=RECIPE,
                     help="Share of the labelled clips of each class to learn from."),
        click.option("--label-seed", type=int, metavar="N", show_default=RECIPE,
                     help="Seed that chooses the labelled clips, independent of --seed."),
    )  # fmt: skip


def label_settings(options: dict[str, Any]) -> tuple[str, ...]:
    """Remove these options from `options`; returns those that were given as --set settings.

    An option of the command line replaces the other limit, which a recipe may have.
    """
    per_class, share, seed = (
        options.pop(name) for name in ("labels_per_class", "label_share", "label_seed")
    )
    if per_class is not None and share is None:
        share = 1.0
    elif share is not None and per_class is None:
        per_class = 0
    given = {"labels_per_class": per_class, "label_share": share, "label_seed": seed}
    return tuple(f"{name}={value}" for name, value in given.items() if value is not None)


def hold(folder: RunFolder, processes: Processes) -> contextlib.AbstractContextManager:
    """The lock of a run folder, which the first process takes for all."""
    return RunLock(folder.lock) if processes.is_first else contextlib.nullcontext()


def _add(command: Callable, *options: Callable) -> Callable:
    for option in reversed(options):
        command = option(command)
    return command
