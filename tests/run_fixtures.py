"""Run folders as training leaves them, without training: random weights, an invented log."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import torch

from shared.layout import DatasetLayout
from shared.manifest import read_classes
from shared.run_record import JsonlLog, write_options
from train.clip_table import read_clip_table
from train.finetune_inputs import build_classifier
from train.metrics import accuracy
from train.model import MaskedAutoencoder
from train.recipe import finetune_config, pretrain_config, read_recipe
from train.run_folder import RunFolder
from train.scoring import write_scores
from train.typed_tables import to_table
from train.weights import export_safetensors


def write_pretrain_run(
    layout: DatasetLayout, method: str = "mofo", weights: bool = True, steps: int = 40
) -> RunFolder:
    """A pretraining run of the toy recipe (64 px, 16 frames) whose loss falls from 1.02 to 0.8."""
    folder = RunFolder(layout.runs / f"pretrain-{method}")
    config = pretrain_config(read_recipe("toy", None), method)
    options = {"command": "pretrain", "method": method, "init": None, "clips": 12, "seed": 0}
    write_options(folder.options, {**options, "config": to_table(config)})
    log = JsonlLog(folder.log)
    for step in range(1, steps + 1):
        loss = 1.02 - 0.22 * step / steps
        log.write(_event("train", step, loss=loss, mean_predictor_loss=0.998))
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
) -> RunFolder:
    """A finetuned run with random weights; its scores are invented: of the clips of split test,
    those numbered in `wrong` are taken for class 0 (class 1 where that is their own)."""
    folder = RunFolder(layout.runs / name)
    config = finetune_config(read_recipe("toy", None), head)
    classes = len(read_classes(layout.classes).label)
    options = {"command": "finetune", "from": "pretrain-mofo", "clips": 12, "seed": 0}
    write_options(
        folder.options, {**options, "classes": {"label": classes}, "config": to_table(config)}
    )
    log = JsonlLog(folder.log)
    for step in range(1, 31):
        log.write(_event("train", step, loss=2.0 - step / 30))
        if step % 10 == 0:
            log.write({"event": "validate", "step": step, "epoch": step // 10, "top1": 2.0 * step})
    log.close()
    if weights:
        torch.manual_seed(0)
        model = build_classifier(replace(config, init_scale=1.0), {"label": classes})
        export_safetensors(folder.best_weights, model)
    folder.finish({"best_top1": 60.0})
    if evaluated:
        table = read_clip_table(layout, ["test"], boxes=True)
        labels = table.labels["label"]
        predicted = labels.copy()
        predicted[list(wrong)] = (labels[list(wrong)] == 0).astype(int)
        scores = {"label": np.eye(classes, dtype=np.float32)[predicted]}
        write_scores(folder.scores("test"), table, scores)
        metrics = {"run": name, "split": "test", "clips": len(table)}
        metrics |= accuracy(scores, {"label": labels})
        folder.metrics("test").write_text(json.dumps(metrics))
    return folder


def _event(event: str, step: int, **figures: float) -> dict:
    pace = {"clips_per_second": 50.0 + step, "data_wait_share": 0.05, "seconds": 2.0 * step}
    return {
        "event": event, "step": step, "epoch": step / 10, "learning_rate": 1e-3 / step,
        **figures, **pace,
    }  # fmt: skip
