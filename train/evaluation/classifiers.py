"""Finetuned models of any origin: runs of this project, and weights of others.

A run records how it sees clips. A Hugging Face folder or a file of weights may record it too, if
this project exported it; otherwise a recipe says how frames are sampled and how many views a clip
gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import InputError
from shared.layout import DatasetLayout
from train.clips.table import DEFAULT_BOXES
from train.clips.view_rules import FRAME_RULES
from train.network.head_config import HeadConfig
from train.network.model_config import ModelConfig
from train.options.config import EvaluateConfig, LoaderConfig
from train.options.merging import merge
from train.options.recipe import (
    evaluate_config,
    finetune_config,
    loader_config,
    recorded_finetune_config,
)
from train.running.run_folder import RunFolder
from train.tables.typed import Choice, build, choose, convert

if TYPE_CHECKING:
    from train.network.head import VideoClassifier
    from train.weights.exchange import ImportedWeights


@dataclass(frozen=True)
class Classifier:
    """A finetuned model, and how it sees clips.

    Attributes:
        name: name of the run, or of the file or folder without suffix.
        weights: the file or folder of weights.
        which: "best on val", "last", or "imported".
        model, head: the network.
        frames: the rule that samples frames.
        num_classes: number of classes by kind of label.
        class_names: names of the classes by kind of label; a kind without names is left out.
        views: the test views.
        loader: how clips are read.
        box_source: source of the motion boxes, if the head needs them.
        run: the run, or None for weights of others.
        options: options.json of the run.
        imported: the weights, if they have been read.
    """

    name: str
    weights: Path
    which: str
    model: ModelConfig
    head: HeadConfig
    frames: Choice
    num_classes: dict[str, int]
    class_names: dict[str, list[str]]
    views: EvaluateConfig
    loader: LoaderConfig
    box_source: str = DEFAULT_BOXES
    run: RunFolder | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    imported: ImportedWeights | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The kinds of label that it knows."""
        return tuple(self.num_classes)

    @property
    def needs_boxes(self) -> bool:
        return self.head.needs_boxes

    def with_views(self, changes: Mapping[str, Any]) -> Classifier:
        """The same model with other test views: values of EvaluateConfig by name."""
        values = merge(vars(self.views), changes)
        return replace(self, views=build(EvaluateConfig, values, "evaluate"))

    def name_of(self, kind: str, number: int) -> str:
        """The name of a class; `class 3` if it has none."""
        names = self.class_names.get(kind)
        return names[number] if names else f"{'class' if kind == 'label' else kind} {number}"

    def build(self) -> VideoClassifier:
        """The network with its weights, on the CPU."""
        from train.network.head import VideoClassifier
        from train.weights.exchange import import_weights

        model = (self.imported or import_weights(self.weights)).build()
        assert isinstance(model, VideoClassifier)
        return model


def find_classifier(source: str, layout: DatasetLayout, tables: Mapping[str, Any]) -> Classifier:
    """Find a finetuned model.

    Args:
        source: name of a run of the dataset, path of a run folder, or path of weights: a Hugging
            Face folder, a .safetensors file or a .pth file of VideoMAE.
        layout: the dataset.
        tables: the recipe that says how weights of others see clips, unless they say it.

    Raises:
        InputError: there is no such run or path; or it holds no classifier.
    """
    for run in (RunFolder(layout.runs / source), RunFolder(Path(source))):
        if run.options.is_file():
            return run_classifier(run)
    if Path(source).exists():
        return foreign_classifier(Path(source), tables)
    known = sorted(path.parent.name for path in layout.runs.glob("*/options.json"))
    raise InputError(
        "unknown-name",
        f"--run {source}: there is no run of this name in {layout.runs}, which has: "
        f"{', '.join(known) or 'none'}; and no file or folder at this path",
    )


def run_classifier(folder: RunFolder) -> Classifier:
    """The model of a finished finetuned run: its best weights on split val, or its last ones.

    Raises:
        InputError: there is no such run, or it is not finished, or not finetuned.
    """
    options = folder.options_of("finetune", "is not a finetuned run; only those have an accuracy")
    if not folder.is_finished:
        raise InputError(
            "not-finished", f"{folder.path} is not finished; run its command again to finish it"
        )
    config = recorded_finetune_config(options["config"])
    best = folder.best_weights.is_file()
    return Classifier(
        name=folder.path.name,
        weights=folder.best_weights if best else folder.weights,
        which="best on val" if best else "last",
        model=config.model,
        head=config.head,
        frames=config.frames,
        num_classes={kind: options["classes"][kind] for kind in config.labels},
        class_names={kind: list(each) for kind, each in (options.get("class_names") or {}).items()},
        views=build(EvaluateConfig, options.get("evaluate", {}), "evaluate"),
        loader=build(LoaderConfig, options.get("loader", {}), "loader"),
        box_source=config.box_source,
        run=folder,
        options=options,
    )


def frames_of(imported: ImportedWeights, otherwise: Choice, path: Path) -> Choice:
    """The rule that samples frames: that of imported weights, or `otherwise` if they have none.

    Raises:
        InputError: the rule of the weights at `path` is none of those that exist.
    """
    if imported.usage.frames is None:
        return otherwise
    try:
        return choose(FRAME_RULES, convert(imported.usage.frames, Choice, "frames"), "frames")
    except InputError as error:
        raise error.at(path) from None


def foreign_classifier(path: Path, tables: Mapping[str, Any]) -> Classifier:
    """The model of a file or folder of weights.

    Raises:
        InputError: the weights cannot be read, or are not those of a classifier.
    """
    from train.weights.exchange import import_weights  # it imports PyTorch, which takes seconds

    imported = import_weights(path)
    if imported.kind != "classification":
        raise InputError(
            "other-kind",
            f"{path} holds a model for {imported.kind}, which has no classes; give a finetuned "
            "model, or finetune this one with `python -m train.finetune --from`",
        )
    usage = imported.usage
    frames = frames_of(imported, finetune_config(tables, None).frames, path)
    views = evaluate_config(tables)
    views = replace(
        views, segments=usage.segments or views.segments, crops=usage.crops or views.crops
    )
    for kind, names in usage.class_names.items():
        if len(names) != imported.num_classes.get(kind):
            raise InputError(
                "other-classes",
                f"{path} names {len(names)} classes of kind {kind}, and its classifier has "
                f"{imported.num_classes.get(kind, 0)}; correct the names",
            )
    return Classifier(
        name=_name(path.resolve()),
        weights=path,
        which="imported",
        model=imported.config,
        head=imported.head,
        frames=frames,
        num_classes=imported.num_classes,
        class_names=usage.class_names,
        views=views,
        loader=loader_config(tables),
        imported=imported,
    )


def _name(path: Path) -> str:
    """The name of the file without suffix, or of the folder that has a model.safetensors."""
    if path.is_file():
        return path.parent.name if path.stem == "model" else path.stem
    return path.name
