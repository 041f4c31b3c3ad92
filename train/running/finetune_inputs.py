"""What a finetuning begins with: weights, classes and labelled clips, each checked."""

from __future__ import annotations

from pathlib import Path

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
    """finetune-mofo-mca from run pretrain-mofo, finetune-scratch-mca from random weights."""
    return f"finetune-{short_name(source)}-{head}"


def short_name(source: str) -> str:
    """mofo of run pretrain-mofo, vit_b of file vit_b.pth, ucf101-mofo of another dataset's run
    out/ucf101/runs/pretrain-mofo, scratch of random weights."""
    if source == "none":
        return "scratch"
    path = Path(source)
    if path.parent.name == "runs":
        return f"{path.parent.parent.name}-{_without_command(path.name)}"
    return _without_command(path.stem)


def _without_command(run: str) -> str:
    return run.removeprefix("pretrain-").removeprefix("finetune-")


def find_weights(layout: DatasetLayout, source: str) -> Path | None:
    """The file that `--from` names; None for random weights.

    Raises:
        InputError: no such run or file, or the run is not finished.
    """
    if source == "none":
        return None
    run = RunFolder(layout.runs / source)
    if run.options.is_file():
        return _finished(run)
    elsewhere = RunFolder(Path(source))
    if elsewhere.options.is_file():  # a run of another dataset, by its folder
        return _finished(elsewhere)
    if Path(source).exists():
        return Path(source)
    known = sorted(path.parent.name for path in layout.runs.glob("*/weights.safetensors"))
    raise InputError(
        f"--from {source}: no run of that name in {layout.runs} (there are: "
        f"{', '.join(known) or 'none'}) and no such file; `{layout.make('pretrain')}` makes one, "
        "--from none begins with random weights"
    )


def _finished(run: RunFolder) -> Path:
    """The weights of a finished run; of a finetuning those that were best on split val."""
    if not run.is_finished:
        raise InputError(
            f"run {run.path.name} is not finished; run the command that began it again to finish it"
        )
    return run.best_weights if run.best_weights.is_file() else run.weights


def refuse_lone_clips(config: FinetuneConfig, micro_size: int) -> None:
    """Clips are mixed with others of the same forward pass.

    Raises:
        InputError: there is no other.
    """
    mixes = config.augment.mixup_alpha > 0 or config.augment.cutmix_alpha > 0
    if mixes and micro_size < 2:  # further views of the clip itself are no others
        raise InputError(
            "mixup and cutmix mix clips of one forward pass of one process, which has a single one "
            "here; give a larger loader.micro_batch_size or batch, fewer processes, or --set "
            "augment.mixup_alpha=0 --set augment.cutmix_alpha=0"
        )


def refuse_validation(settings: tuple[str, ...]) -> None:
    """Options that look at split val, where it has no labelled clip.

    Raises:
        InputError: one was given by --set.
    """
    for setting in settings:
        key = setting.partition("=")[0].strip()
        if key in ("early_stop_epochs", "validate_epochs"):
            raise InputError(
                f"--set {setting}: no labelled clip of split val, so that nothing is validated; "
                f"leave {key} out, or put clips into split val of the manifest"
            )


def count_classes(
    classes: ClassList, config: FinetuneConfig, layout: DatasetLayout
) -> dict[str, int]:
    """Classes by kind of label.

    Raises:
        InputError: the dataset names none of a kind, or a flip has no map of its labels.
    """
    counts = {kind: len(getattr(classes, kind)) for kind in config.labels}
    for kind, count in counts.items():
        if count == 0:
            raise InputError(
                f"{layout.classes} names no class of kind {kind}, so there is nothing to learn; "
                "sort the videos into folders by class, or give labels in a CSV (MANIFEST=file)"
            )
    for flip in config.flips:
        labels = getattr(classes, f"flip_{flip}")
        if labels is None:
            raise InputError(
                f"flips has {flip!r}, but {layout.classes} does not say what label a clip has "
                f"after it (flip_{flip}); leave it out of the recipe's flips"
            )
        if config.labels != ("label",) and labels != list(range(len(labels))):
            raise InputError(
                f"flips has {flip!r}, which swaps classes of kind label, and what is learned is "
                f"{', '.join(config.labels)}; leave it out of the recipe's flips"
            )
    return counts


def labelled(table: ClipTable, config: FinetuneConfig, num_classes: dict[str, int]) -> ClipTable:
    """The table, after a check that every clip has labels of known classes."""
    for kind in config.labels:
        labels = table.labels[kind]
        without = int((labels == NO_LABEL).sum())
        if without:
            raise InputError(
                f"{without} of {len(table)} clips have no {kind}; each clip of manifest.csv that "
                "is learned from needs one"
            )
        if labels.max() >= num_classes[kind]:
            raise InputError(
                f"a clip has {kind} {labels.max()}, and classes.json names {num_classes[kind]}; "
                f"{make_around(table.frames_folder, 'manifest')} writes manifest.csv and "
                "classes.json together"
            )
    return table


def labelled_part(
    table: ClipTable, config: FinetuneConfig, num_classes: dict[str, int]
) -> tuple[ClipTable, str | None]:
    """The clips of split train that are learned from: those with a label, and of these as many as
    the config asks for.

    Returns:
        their table, and a line on those that are left out (None: nothing is).

    Raises:
        InputError: no clip has a label, or one has a label of no known class.
    """
    labels = np.stack([table.labels[kind] for kind in config.labels], axis=1)
    known = np.flatnonzero((labels != NO_LABEL).all(axis=1))
    if not len(known):
        return labelled(table, config, num_classes), None  # says which label is missing
    chosen = known[config.few_labels.choose(table.ids[known], labels[known])]
    line = say_labels(config.few_labels, len(chosen), len(known), len(table))
    return labelled(table.take(chosen), config, num_classes), line


def read_held_out(
    layout: DatasetLayout, config: FinetuneConfig, num_classes: dict[str, int]
) -> ClipTable | None:
    """The clips of split val; None where there are none, or none has labels."""
    if not any(clip.split == "val" for clip in read_manifest(layout.manifest)):
        return None
    table = read_clip_table(layout, ["val"], config.needs_boxes, box_source=config.box_source)
    if any((table.labels[kind] == NO_LABEL).all() for kind in config.labels):
        return None
    return labelled(table, config, num_classes)
