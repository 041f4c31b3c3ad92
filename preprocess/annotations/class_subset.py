"""Leaves the clips of some classes of a dataset, numbered anew."""

from __future__ import annotations

from dataclasses import replace

from preprocess.annotations.base import Annotations
from preprocess.annotations.dataset_spec import DatasetSpec
from shared.errors import InputError
from shared.wording import counted, listed


def only_classes(annotations: Annotations, spec: DatasetSpec) -> Annotations:
    """The annotations of the classes that `only` of [classes] lists, in the order of that list.

    Clips of other classes and clips without a label are left out. Without `only`, nothing changes.

    Raises:
        InputError: a class of `only` is not a class of the dataset.
    """
    if not spec.only:
        return annotations
    names = annotations.classes.label
    if unknown := [name for name in spec.only if name not in names]:
        raise InputError(
            "unknown-name",
            f"data_manifests/{spec.name}.toml: [classes] only has {listed(unknown)}; the official "
            f"files list {listed(names)}",
        )
    number_of = {names.index(name): number for number, name in enumerate(spec.only)}
    clips = [
        replace(clip, label=number_of[clip.label])
        for clip in annotations.clips
        if clip.label in number_of
    ]
    left_out = len(annotations.clips) - len(clips)
    note = (
        f"{len(spec.only)} of {len(names)} classes: {counted(left_out, 'clip')} of others left out"
    )
    classes = spec.class_list(list(spec.only))
    return Annotations(clips, classes, [*annotations.notes, note])
