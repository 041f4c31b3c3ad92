"""Validates a finetuning on split val between epochs, and keeps the best weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from train.clips.table import ClipTable
from train.evaluation.metrics import accuracy
from train.evaluation.scoring import score_clips
from train.options.config import EvaluateConfig, FinetuneConfig
from train.running.classifier import build_classifier
from train.running.engine import whole_model
from train.running.run_setup import RunSetup
from train.running.training import Training
from train.samples.datasets import EvaluateDataset
from train.weights.exchange import export_safetensors


class Validation:
    """Measures accuracy on held-out clips, with one view of each clip.

    The weights with the highest top-1 so far are saved as best.safetensors. A run without a better
    top-1 for `early_stop_epochs` stops early.

    Args:
        setup: the run.
        config: the configuration of the finetuning.
        held_out: the labelled clips of split val. With None, no validation is ever due.
        num_classes: number of classes by kind of label.
    """

    def __init__(
        self,
        setup: RunSetup,
        config: FinetuneConfig,
        held_out: ClipTable | None,
        num_classes: dict[str, int],
    ) -> None:
        self._setup, self._config, self._num_classes = setup, config, num_classes
        self._loader = setup.loader
        if setup.loader.workers:  # each validation has its own, and their caches end with them
            self._loader = replace(setup.loader, cache_megabytes=0)
        self._labels = {}
        if held_out is not None:
            one_view = EvaluateConfig(segments=1, crops=1)
            self._labels = {kind: held_out.labels[kind] for kind in config.labels}
            self._clips = EvaluateDataset(
                held_out,
                config.model,
                config.frames,
                one_view,
                self._loader,
                config.head.box,
                inside=config.head.inside,
            )

    @staticmethod
    def initial_progress() -> dict[str, Any]:
        """Return the entries of a run's progress before the first validation."""
        return {"best_top1": -1.0, "best_epoch": 0, "stopped_early": False}

    def is_due(self, step: int) -> bool:
        """Return whether to validate after a step: every `validate_epochs`, and at the end."""
        epoch, steps_left = divmod(step, self._setup.epoch_steps)
        last = step == self._setup.num_steps
        ends = steps_left == 0 and (epoch % self._config.validate_epochs == 0 or last)
        return bool(self._labels) and ends

    def run(self, training: Training) -> None:
        """Score the clips, log the accuracies, and update the best result in the progress."""
        setup, progress = self._setup, training.progress
        epoch = training.step // setup.epoch_steps
        module = training.engine.module
        scores = score_clips(module, self._clips, self._loader, setup.processes, "val")
        figures = accuracy(scores, self._labels)
        training.log_event("validate", epoch=epoch, **figures)
        if figures["top1"] > progress["best_top1"]:
            progress |= {"best_top1": figures["top1"], "best_epoch": epoch}
            better = whole_model(training.engine, build_classifier(self._config, self._num_classes))
            if setup.processes.is_first:
                export_safetensors(setup.folder.best_weights, better)
        waited = epoch - progress["best_epoch"]
        progress["stopped_early"] = 0 < self._config.early_stop_epochs <= waited
