"""Probes the encoder during pretraining: what frozen features are worth as clips go by.

A falling loss does not say that features become useful (docs/findings.md). With --probe-every the
log has events `probe`: the accuracy on split val of a linear probe (`linear_top1`) and of k-NN
(`knn_top1`) on features of the labelled clips of split train, averaged over each time step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.manifest import read_classes
from shared.wording import counted
from train.clips.table import NO_LABEL, ClipTable, read_clip_table
from train.options.config import EvaluateConfig, PretrainConfig
from train.running.finetune_inputs import refuse_unknown_classes

if TYPE_CHECKING:
    from train.running.run_setup import RunSetup
    from train.running.training import Training

POOL = "steps"
NEIGHBOURS, TEMPERATURE = 20, 0.07  # as in train.probe


class ProbeSeries:
    """Probes a pretraining every so many steps, and after its last step.

    Args:
        layout: the dataset.
        tables: the recipe; its [finetune] says which kind of label is probed.
        config: of the pretraining.
        every: optimiser steps from one probe to the next; 0 never probes.

    Raises:
        InputError: split train or val has no labelled clip, a label is not in classes.json, or
            split train has too few labelled clips or classes for a probe.
    """

    def __init__(
        self,
        layout: DatasetLayout,
        tables: Mapping[str, Any],
        config: PretrainConfig,
        every: int,
    ) -> None:
        self._every, self._frames = every, config.frames
        self._tables: dict[str, ClipTable] = {}
        if every:
            self._kind = tables.get("finetune", {}).get("labels", ["label"])[0]
            self._classes = len(getattr(read_classes(layout.classes), self._kind))
            for split in ("train", "val"):
                self._tables[split] = _labelled(layout, split, self._kind)
                refuse_unknown_classes(self._tables[split], self._kind, self._classes)
            _refuse_too_few(self._tables["train"].labels[self._kind], self._kind)

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether to probe after a step."""
        return bool(self._every) and (step % self._every == 0 or step == num_steps)

    def run(self, training: Training, setup: RunSetup) -> None:
        """Probe the encoder as it is, and write the accuracies to the log."""
        from train.evaluation.features import compute_features
        from train.evaluation.frozen import fit_linear_probe, nearest_neighbours

        encoder, processes = training.engine.module.encoder, setup.processes
        views = EvaluateConfig("val")
        features = {
            split: compute_features(
                encoder, table, self._frames, views, setup.loader, processes, POOL, split
            )
            for split, table in self._tables.items()
        }
        if not processes.is_first:
            return
        known, truth = (self._tables[split].labels[self._kind] for split in ("train", "val"))
        linear = fit_linear_probe(features["train"], known, self._classes, None)(features["val"])
        near = nearest_neighbours(
            features["train"], known, self._classes, features["val"], NEIGHBOURS, TEMPERATURE
        )
        training.log_event(
            "probe",
            epoch=round(training.step / setup.epoch_steps, 4),
            clips=training.step * setup.effective_batch,
            linear_top1=_top1(linear, truth),
            knn_top1=_top1(near, truth),
        )


def _labelled(layout: DatasetLayout, split: str, kind: str) -> ClipTable:
    table = read_clip_table(layout, [split], boxes=False)
    known = np.flatnonzero(table.labels[kind] != NO_LABEL)
    if not len(known):
        raise InputError(
            "missing-label",
            f"--probe-every needs clips with a {kind}, and split {split} of {layout.manifest} has "
            "none; leave --probe-every out, or add labels",
        )
    return table.take(known)


def _refuse_too_few(labels: np.ndarray, kind: str) -> None:
    """Refuse labels of split train that `fit_linear_probe` would refuse at the first probe."""
    from train.evaluation.frozen import FOLDS  # imports torch, which takes seconds

    count, classes = len(labels), len(np.unique(labels))
    if count < 2 * FOLDS or classes < 2:
        raise InputError(
            "too-few-clips",
            f"--probe-every trains a linear probe on the clips of split train that have a {kind}, "
            f"and there are {counted(count, 'clip')} of {counted(classes, 'class', 'classes')}; "
            f"at least {2 * FOLDS} clips and two classes are needed. Leave --probe-every out, or "
            "add labels",
        )


def _top1(scores: np.ndarray, truth: np.ndarray) -> float:
    return round(100 * float((scores.argmax(axis=1) == truth).mean()), 2)
