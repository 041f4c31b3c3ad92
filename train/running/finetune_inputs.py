"""The inputs of finetuning, checked: pretrained weights, classes and labelled clips."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.make_commands import make_around
from shared.manifest import ClassList, read_manifest
from train.clips.few_labels import say_labels
from train.clips.table import NO_LABEL, ClipTable, read_clip_table
from train.options.config import FinetuneConfig
from train.running.run_folder import RunFolder


def run_name(source: str, head: str) -> str:
    """The name of a run: finetune-mofo-mca if it starts from the run pretrain-mofo,
    finetune-scratch-mca if it starts from random weights."""
    return f"finetune-{short_name(source)}-{head}"


def short_name(source: str) -> str:
    """A short name of weights: mofo for the run pretrain-mofo, vit_b for the file vit_b.pth,
    ucf101-mofo for out/ucf101/runs/pretrain-mofo of another dataset, scratch for random weights."""
    if source == "none":
        return "scratch"
    path = Path(source)
    if path.parent.name == "runs":
        return f"{path.parent.parent.name}-{_without_command(path.name)}"
    return _without_command(path.stem)


def _without_command(run: str) -> str:
    return run.removeprefix("pretrain-").removeprefix("finetune-")


def find_weights(layout: DatasetLayout, source: str) -> Path | None:
    """Find the file of weights that `--from` names; None for random weights.

    Raises:
        InputError: there is no such run or file, or the run is not finished.
    """
    if source == "none":
        return None
    run = RunFolder(layout.runs / source)
    if run.options.is_file():
        return _finished(run)
    elsewhere = RunFolder(Path(source))
    if elsewhere.options.is_file():  # the folder of a run of another dataset
        return _finished(elsewhere)
    if Path(source).exists():
        return Path(source)
    known = sorted(path.parent.name for path in layout.runs.glob("*/weights.safetensors"))
    raise InputError(
        "unknown-name",
        f"--from {source}: there is no such file and no such run in {layout.runs}, which has: "
        f"{', '.join(known) or 'none'}; `{layout.make('pretrain')}` makes a run, and --from none "
        "starts from random weights",
    )


def _finished(run: RunFolder) -> Path:
    """The weights of a finished run; for finetuning the best weights on split val."""
    if not run.is_finished:
        raise InputError(
            "not-finished",
            f"run {run.path.name} is not finished; run its command again to finish it",
        )
    return run.best_weights if run.best_weights.is_file() else run.weights


def refuse_single_clips(config: FinetuneConfig, micro_size: int) -> None:
    """Refuse mixup and cutmix for forward passes of a single clip, because they mix two clips.

    Raises:
        InputError: a forward pass has a single clip, and clips are mixed.
    """
    mixes = config.augment.mixup_alpha > 0 or config.augment.cutmix_alpha > 0
    if mixes and micro_size < 2:  # further views of the same clip do not count
        raise InputError(
            "out-of-range",
            "mixup and cutmix mix the clips of one forward pass of one process, and here it has "
            "only one clip; give a larger loader.micro_batch_size, a larger batch or fewer "
            "processes, or --set augment.mixup_alpha=0 --set augment.cutmix_alpha=0",
        )


def refuse_validation(settings: tuple[str, ...]) -> None:
    """Refuse options about split val if it has no labelled clip.

    Raises:
        InputError: --set gives such an option.
    """
    for setting in settings:
        key = setting.partition("=")[0].strip()
        if key in ("early_stop_epochs", "validate_epochs"):
            raise InputError(
                "option-unused",
                f"--set {setting}: split val has no labelled clip, so that there is no validation; "
                f"leave {key} out, or add clips to split val of the manifest",
            )


def count_classes(
    classes: ClassList, config: FinetuneConfig, layout: DatasetLayout
) -> dict[str, int]:
    """The number of classes of each kind of label.

    Raises:
        InputError: the dataset has no class of a kind, or classes.json does not say which label a
            flipped clip has.
    """
    counts = {kind: len(getattr(classes, kind)) for kind in config.labels}
    for kind, count in counts.items():
        if count == 0:
            raise InputError(
                "missing-label",
                f"{layout.classes} has no class of kind {kind}, so that there is nothing to learn; "
                "sort the videos into folders by class, or give labels in a CSV (MANIFEST=file)",
            )
    for flip in config.flips:
        labels = getattr(classes, f"flip_{flip}")
        if labels is None:
            raise InputError(
                "missing-key",
                f"flips has {flip!r}, but {layout.classes} has no flip_{flip}, the labels of "
                f"flipped clips; leave {flip!r} out of the recipe's flips",
            )
        if config.labels != ("label",) and labels != list(range(len(labels))):
            raise InputError(
                "option-conflict",
                f"flips has {flip!r}, which swaps classes of kind label, and this run learns "
                f"{', '.join(config.labels)}; leave {flip!r} out of the recipe's flips",
            )
    return counts


class HasLabels(Protocol):
    """What has kinds of label: a configuration or a model."""

    @property
    def labels(self) -> tuple[str, ...]: ...


def labelled(table: ClipTable, config: HasLabels, num_classes: dict[str, int]) -> ClipTable:
    """The same table, after a check that each clip has labels, and that classes.json has these."""
    for kind in config.labels:
        labels = table.labels[kind]
        num_unlabelled = int((labels == NO_LABEL).sum())
        if num_unlabelled:
            raise InputError(
                "missing-label",
                f"{num_unlabelled} of {len(table)} clips have no {kind}; add it to manifest.csv, "
                "because finetuning needs it for each clip",
            )
        refuse_unknown_classes(table, kind, num_classes[kind])
    return table


def refuse_unknown_classes(table: ClipTable, kind: str, num_classes: int) -> None:
    """Refuse labels of one kind that classes.json does not have."""
    highest = table.labels[kind].max()
    if highest >= num_classes:
        raise InputError(
            "other-classes",
            f"a clip has {kind} {highest}, and classes.json has {num_classes} classes; "
            f"{make_around(table.frames_folder, 'manifest')} writes manifest.csv and classes.json "
            "together",
        )


def labelled_part(
    table: ClipTable, config: FinetuneConfig, num_classes: dict[str, int]
) -> tuple[ClipTable, str | None]:
    """The clips of split train that finetuning uses: labelled clips, as many as the config says.

    Returns:
        The table of these clips, and a line about clips that are left out (None if there are none).

    Raises:
        InputError: no clip has a label, or a label is not in classes.json.
    """
    labels = np.stack([table.labels[kind] for kind in config.labels], axis=1)
    known = np.flatnonzero((labels != NO_LABEL).all(axis=1))
    if not len(known):
        return labelled(table, config, num_classes), None  # this names the missing label
    chosen = known[config.few_labels.choose(table.ids[known], labels[known])]
    line = say_labels(config.few_labels, len(chosen), len(known), len(table))
    return labelled(table.take(chosen), config, num_classes), line


def read_held_out(
    layout: DatasetLayout, config: FinetuneConfig, num_classes: dict[str, int]
) -> ClipTable | None:
    """The clips of split val; None if there are none, or if none of them has labels."""
    if not any(clip.split == "val" for clip in read_manifest(layout.manifest)):
        return None
    table = read_clip_table(layout, ["val"], config.needs_boxes, box_source=config.box_source)
    if any((table.labels[kind] == NO_LABEL).all() for kind in config.labels):
        return None
    return labelled(table, config, num_classes)
