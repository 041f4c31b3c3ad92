"""Resolves the command lines of steps: options and recipe are read as the commands read them."""

from __future__ import annotations

import importlib
from itertools import pairwise
from pathlib import Path

import click

from benchmarks.paper_tables.steps import Finetuning, Pretraining, Scale, Step
from shared.errors import InputError
from train.options.config import FinetuneConfig, PretrainConfig
from train.options.recipe import finetune_config, parse_changes, pretrain_config, read_recipe


def pretraining_config(step: Pretraining, scale: Scale) -> PretrainConfig:
    """The options of a pretraining, from the recipe of its dataset."""
    tables = read_recipe(scale.dataset_of(step), None)
    return pretrain_config(tables, step.method, _changes(step, scale))


def finetuning_config(step: Finetuning, scale: Scale) -> FinetuneConfig:
    """The options of a finetuning, from the recipe of its dataset."""
    tables = read_recipe(scale.dataset_of(step), None)
    return finetune_config(tables, step.head, _changes(step, scale))


def resolve(step: Step, out: Path, scale: Scale) -> None:
    """Check the command line of a step without running it, and without its data.

    Raises:
        InputError: the command has no such option, or the recipe refuses a setting.
    """
    command: click.Command = importlib.import_module(step.module).main
    arguments = [*_data(step, out, scale), *step.arguments(out, scale)]
    try:
        command.make_context(step.module, arguments)
    except click.ClickException as error:
        raise InputError(
            "bad-setting", f"{step.module} {' '.join(arguments)}: {error.format_message()}"
        ) from None
    if isinstance(step, Pretraining):
        pretraining_config(step, scale)
    elif isinstance(step, Finetuning):
        finetuning_config(step, scale)


def whole_command(step: Step, out: Path, scale: Scale) -> list[str]:
    """The arguments of Python that run a step: ["-m", "train.pretrain", "--dataset", ...]."""
    return ["-m", step.module, *_data(step, out, scale), *step.arguments(out, scale)]


def _data(step: Step, out: Path, scale: Scale) -> list[str]:
    return ["--dataset", scale.dataset_of(step), "--out", str(out)]


def _changes(step: Pretraining | Finetuning, scale: Scale) -> dict:
    arguments = step.arguments(Path("out"), scale)
    given = [value for key, value in pairwise(arguments) if key == "--set"]
    return parse_changes(tuple(given))
