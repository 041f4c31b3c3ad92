"""Run folders as training leaves them, without training: random weights, an invented log."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from shared.layout import DatasetLayout
from shared.manifest import read_classes, read_manifest, write_classes, write_manifest
from shared.run_record import JsonlLog, write_options
from train.clips.table import read_clip_table
from train.evaluation.metrics import accuracy
from train.evaluation.score_files import write_scores
from train.network.autoencoder import MaskedAutoencoder
from train.options.recipe import finetune_config, pretrain_config, read_recipe
from train.running.classifier import build_classifier
from train.running.run_folder import RunFolder
from train.tables.typed import to_table
from train.weights.exchange import export_safetensors


def write_pretrain_run(
    layout: DatasetLayout,
    method: str = "mofo",
    weights: bool = True,
    steps: int = 40,
    name: str | None = None,
    level: float = 0.998,
    **changes: Any,
) -> RunFolder:
    """A pretraining run of the toy recipe (64 px, 16 frames) whose loss falls from 1.02 to 0.8,
    and whose loss of zeros is `level`; `changes` are of the recipe."""
    folder = RunFolder(layout.runs / (name or f"pretrain-{method}"))
    config = pretrain_config(read_recipe("toy", None), method, changes)
    options = {"command": "pretrain", "method": method, "init": None, "clips": 12, "seed": 0}
    write_options(folder.options, {**options, "config": to_table(config)})
    log = JsonlLog(folder.log)
    for step in range(1, steps + 1):
        loss = 1.02 - 0.22 * step / steps
        log.write(_event("train", step, loss=loss, mean_predictor_loss=level))
    log.close()
    if weights:
        torch.manual_seed(0)
        export_safetensors(folder.weights, MaskedAutoencoder(config.model))
        folder.finish({"steps": steps})
    return folder


def write_finetune_run(
    layout: DatasetLayout,
    name: str = "finetune-mofo-mean",
    wrong: tuple[int, ...] = (),
    evaluated: bool = True,
    head: str = "mean",
    weights: bool = True,
    kinds: tuple[str, ...] = ("label",),
) -> RunFolder:
    """A finetuned run with random weights; its scores are invented: of the clips of split test,
    those numbered in `wrong` are taken for class 0 (class 1 where that is their own), in each of
    the kinds of label that it learned."""
    folder = RunFolder(layout.runs / name)
    config = finetune_config(read_recipe("toy", None), head, {"labels": list(kinds), "flips": []})
    classes = read_classes(layout.classes)
    counts = {kind: len(getattr(classes, kind)) for kind in kinds}
    options = {"command": "finetune", "from": "pretrain-mofo", "clips": 12, "seed": 0}
    write_options(folder.options, {**options, "classes": counts, "config": to_table(config)})
    log = JsonlLog(folder.log)
    for step in range(1, 31):
        log.write(_event("train", step, loss=2.0 - step / 30))
        if step % 10 == 0:
            log.write({"event": "validate", "step": step, "epoch": step // 10, "top1": 2.0 * step})
    log.close()
    if weights:
        torch.manual_seed(0)
        model = build_classifier(replace(config, init_scale=1.0), counts)
        export_safetensors(folder.best_weights, model)
    folder.finish({"best_top1": 60.0})
    if evaluated:
        table = read_clip_table(layout, ["test"], boxes=True)
        labels = {kind: table.labels[kind] for kind in kinds}
        scores = {}
        for kind, right in labels.items():
            predicted = right.copy()
            predicted[list(wrong)] = (right[list(wrong)] == 0).astype(int)
            scores[kind] = np.eye(counts[kind], dtype=np.float32)[predicted]
        write_scores(folder.scores("test"), table, scores)
        metrics = {"run": name, "split": "test", "clips": len(table)}
        metrics |= accuracy(scores, labels)
        folder.metrics("test").write_text(json.dumps(metrics))
    return folder


def add_verbs_and_nouns(layout: DatasetLayout) -> None:
    """Give the moving squares verbs (their directions, numbered the other way round than their
    labels) and nouns, with names that differ from those of the labels."""
    clips = read_manifest(layout.manifest)
    both = [replace(c, verb=3 - c.label, noun=int(c.clip_id[-1]) % 3) for c in clips]
    write_manifest(layout.manifest, both)
    verbs, nouns = ["sink", "rise", "advance", "retreat"], ["cup", "knife", "sponge"]
    write_classes(layout.classes, replace(read_classes(layout.classes), verb=verbs, noun=nouns))


def _event(event: str, step: int, **figures: float) -> dict:
    pace = {"clips_per_second": 50.0 + step, "data_wait_share": 0.05, "seconds": 2.0 * step}
    return {
        "event": event, "step": step, "epoch": step / 10, "learning_rate": 1e-3 / step,
        **figures, **pace,
    }  # fmt: skip
