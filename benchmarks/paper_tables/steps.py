"""The commands of a row: pretraining, finetuning, and a test or a linear probe.

Each step names its run, so that rows share what they have in common, and knows its command line.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from shared.layout import DatasetLayout
from train.options.recipe import evaluate_config, read_recipe
from train.running.finetune_inputs import run_name, short_name
from train.running.run_folder import RunFolder

Settings: TypeAlias = Mapping[str, object]
"""Values of a recipe by key, as for --set: {"mask.inside_ratio": 0.5}."""


@dataclass(frozen=True)
class Scale:
    """The size at which steps run.

    Attributes:
        dataset: the dataset of all steps; None for the dataset of each step.
        pretraining, finetuning: further arguments of these commands.
        class_map: the class map of all tests that have one; None for their own.
    """

    dataset: str | None = None
    pretraining: tuple[str, ...] = ()
    finetuning: tuple[str, ...] = ()
    class_map: Path | None = None

    @property
    def is_full(self) -> bool:
        """Whether the steps have the size of the paper."""
        return self.dataset is None

    def dataset_of(self, step: Step) -> str:
        return self.dataset or step.dataset

    def settings_of(self, step: Pretraining | Finetuning) -> Settings:
        return {**step.settings, **(step.full if self.is_full else step.toy)}


FULL = Scale()


@dataclass(frozen=True)
class Pretraining:
    """`make pretrain` with changes to the recipe.

    Attributes:
        settings: changes that the row is about. They are part of the name of the run.
        full: changes that only the full size has: epochs, batches, sizes of models.
        label: word for `full` in the name of the run.
        toy: changes that only the toy size has.
    """

    dataset: str
    method: str
    settings: Settings = field(default_factory=dict)
    full: Settings = field(default_factory=dict)
    label: str = ""
    toy: Settings = field(default_factory=dict)

    module = "train.pretrain"

    def run(self, scale: Scale) -> str:
        words = ["pretrain", self.method, *map(slug, self.settings.items())]
        return "-".join([*words, *([self.label] if self.label and scale.is_full else [])])

    def before(self) -> tuple[Step, ...]:
        return ()

    def arguments(self, out: Path, scale: Scale) -> list[str]:
        options = ["--run-name", self.run(scale), *set_options(scale.settings_of(self))]
        return ["--method", self.method, *options, *scale.pretraining]

    def line(self, out: Path, scale: Scale) -> str:
        layout = DatasetLayout(out, scale.dataset_of(self))
        options = shlex.join(self.arguments(out, scale)[2:])
        return layout.make("pretrain", options, METHOD=self.method)


@dataclass(frozen=True)
class Finetuning:
    """`make finetune` from a pretraining, or from random weights if there is none."""

    dataset: str
    start: Pretraining | None
    head: str = "mean"
    settings: Settings = field(default_factory=dict)
    full: Settings = field(default_factory=dict)
    label: str = ""
    toy: Settings = field(default_factory=dict)

    module = "train.finetune"

    def source(self, out: Path, scale: Scale) -> str:
        """What --from gets: a run of the same dataset by its name, or the folder of a run."""
        return source_of(self.start, self.dataset, out, scale)

    def run(self, scale: Scale) -> str:
        words = [run_name(self.source(Path("out"), scale), self.head)]
        words += map(slug, self.settings.items())
        return "-".join([*words, *([self.label] if self.label and scale.is_full else [])])

    def before(self) -> tuple[Step, ...]:
        return () if self.start is None else (self.start,)

    def arguments(self, out: Path, scale: Scale) -> list[str]:
        settings = set_options(scale.settings_of(self))
        named = ["--from", self.source(out, scale), "--run-name", self.run(scale)]
        return ["--head", self.head, *named, *settings, *scale.finetuning]

    def line(self, out: Path, scale: Scale) -> str:
        layout = DatasetLayout(out, scale.dataset_of(self))
        options = shlex.join(self.arguments(out, scale)[2:])
        return layout.make("finetune", options, HEAD=self.head)


@dataclass(frozen=True)
class Evaluation:
    """`make evaluate` of a finetuning.

    Attributes:
        views: segments and crops, or None for those of the recipe.
        on: the dataset that is tested on, or None for that of the finetuning.
        class_map: file that matches the classes of both.
    """

    finetuning: Finetuning
    views: tuple[int, int] | None = None
    on: str | None = None
    class_map: Path | None = None

    module = "train.evaluate"

    @property
    def dataset(self) -> str:
        return self.finetuning.dataset

    def run(self, scale: Scale) -> str:
        return self.finetuning.run(scale)

    def before(self) -> tuple[Step, ...]:
        return (*self.finetuning.before(), self.finetuning)

    def arguments(self, out: Path, scale: Scale) -> list[str]:
        options = ["--run-name", self.run(scale)]
        if self.views and scale.is_full:
            options += ["--segments", str(self.views[0]), "--crops", str(self.views[1])]
        if self.on:
            options += ["--on", scale.dataset or self.on]
        if self.class_map:
            options += ["--class-map", str(scale.class_map or self.class_map)]
        return options

    def line(self, out: Path, scale: Scale) -> str:
        layout = DatasetLayout(out, scale.dataset_of(self))
        return layout.make("evaluate", shlex.join(self.arguments(out, scale)))

    def metrics(self, out: Path, scale: Scale) -> Path:
        """The file in which train.evaluate leaves the accuracy."""
        dataset = scale.dataset_of(self)
        words = [evaluate_config(read_recipe(dataset, None)).split]
        words += [scale.dataset or self.on] if self.on else []
        words += [(scale.class_map or self.class_map).stem] if self.class_map else []
        folder = RunFolder(DatasetLayout(out, dataset).runs / self.run(scale))
        return folder.metrics("-".join(words))


@dataclass(frozen=True)
class Probing:
    """`python -m train.probe`: a linear classifier on the frozen features of a pretraining."""

    dataset: str
    start: Pretraining | None

    module = "train.probe"

    def run(self, scale: Scale) -> str:
        return f"probe-{short_name(source_of(self.start, self.dataset, Path('out'), scale))}"

    def before(self) -> tuple[Step, ...]:
        return () if self.start is None else (self.start,)

    def arguments(self, out: Path, scale: Scale) -> list[str]:
        source = source_of(self.start, self.dataset, out, scale)
        return ["--from", source, "--run-name", self.run(scale), "--probe", "linear"]

    def line(self, out: Path, scale: Scale) -> str:
        data = ["--dataset", scale.dataset_of(self), "--out", str(out)]
        return shlex.join(["python", "-m", self.module, *data, *self.arguments(out, scale)])

    def metrics(self, out: Path, scale: Scale) -> Path:
        """The file in which train.probe leaves the accuracy."""
        dataset = scale.dataset_of(self)
        split = evaluate_config(read_recipe(dataset, None)).split
        folder = RunFolder(DatasetLayout(out, dataset).runs / self.run(scale))
        return folder.metrics(f"{split}-linear")


Step: TypeAlias = Pretraining | Finetuning | Evaluation | Probing
Result: TypeAlias = Evaluation | Probing


def with_steps_before(result: Result) -> Iterator[Step]:
    """The steps that lead to a result, in the order in which they run."""
    yield from result.before()
    yield result


def source_of(start: Pretraining | None, dataset: str, out: Path, scale: Scale) -> str:
    """The weights of a pretraining, as --from names them for a step on `dataset`."""
    if start is None:
        return "none"
    if scale.dataset or start.dataset == dataset:
        return start.run(scale)
    return str(DatasetLayout(out, start.dataset).runs / start.run(scale))


def set_options(settings: Settings) -> list[str]:
    """--set options of the training commands, with values that TOML reads."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={_toml(value)}")]


def slug(setting: tuple[str, object]) -> str:
    """A setting as a part of the name of a run: inside_ratio_0.5."""
    key, value = setting
    text = _toml(value).translate(str.maketrans(",.", "__", "[]{}\" '="))
    return f"{key.rpartition('.')[2]}_{text}"


def _toml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
