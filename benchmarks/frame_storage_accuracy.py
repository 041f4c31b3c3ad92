"""The accuracy of JHMDB-21 with frames that are stored in different ways, on the same clips.

benchmarks/frame_storage.py calls it. The models start from random weights: a linear probe on their
features, and finetuning. Folds are those of benchmarks/real_video.py, by source video. Encodings
have the same seed, clips and labels, and their difference has a paired interval over sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paired_bootstrap import Accuracies, Resampler
from benchmarks.real_clips import SHARDS, list_clips, make_fold, read_sources, run_preprocess
from benchmarks.real_video_cells import RECIPE
from benchmarks.training_runs import Trainer
from shared.layout import DatasetLayout
from shared.shard_index import read_index
from train.evaluation.score_files import read_scores
from train.running.run_folder import RunFolder

SEED = 0
LABELS = 10  # of each class, for finetuning; a probe learns from all
EPOCHS = 20  # of finetuning
MEASURES = ("probe", "finetune")


@dataclass(frozen=True)
class Encoding:
    """How frames are stored by `preprocess.flows`: JPEG quality, 1 to 100."""

    quality: int

    @property
    def dataset(self) -> str:
        return f"jhmdb-q{self.quality}"


def measure_accuracy(
    actions: Path, out: Path, encodings: list[Encoding], measure: str, folds: tuple[int, ...]
) -> list[dict[str, Any]]:
    """The top-1 of each encoding over the test clips of folds, and its difference from the first.

    Args:
        actions: the folder that holds jhmdb21/.
        out: folder for the datasets and runs; finished runs are used again.
        measure: probe or finetune.
    """
    correct = {each: _correct(actions, out, each, measure, folds) for each in encodings}
    first = correct[encodings[0]]
    ids = sorted(first)
    sources = read_sources(actions)
    labels = np.array([first[clip_id][0] for clip_id in ids])
    resampler = Resampler([sources[clip_id] for clip_id in ids], labels)
    right = {each: np.array([found[clip_id][1] for clip_id in ids], np.float64)
             for each, found in correct.items()}  # fmt: skip
    rows = []
    for each in encodings:
        row = {"measure": measure, "folds": list(folds), "quality": each.quality, "clips": len(ids)}
        row |= _shown("top1", resampler.accuracies(right[each]))
        if each != encodings[0]:
            row |= _shown("difference", resampler.difference(right[each], right[encodings[0]]))
            row["clips_decided_otherwise"] = int((right[each] != right[encodings[0]]).sum())
        rows.append(row)
    return rows


def _shown(name: str, found: Accuracies) -> dict[str, Any]:
    top1 = found.top1
    return {
        name: round(top1.value, 2),
        f"{name}_interval": [round(top1.low, 2), round(top1.high, 2)],
    }


def _correct(
    actions: Path, out: Path, encoding: Encoding, measure: str, folds: tuple[int, ...]
) -> dict[str, tuple[int, bool]]:
    """The label of each test clip of the folds, and whether it was recognised."""
    clips = DatasetLayout(out, encoding.dataset)
    if read_index(clips.frames) is None:
        list_clips(clips, actions, hockey=False)
        run_preprocess(
            "flows", clips, "--videos", str(actions.resolve()), "--source", "none", *SHARDS,
            "--jpeg-quality", str(encoding.quality), "--pool", "in-process",
        )  # fmt: skip
    found: dict[str, tuple[int, bool]] = {}
    for fold in folds:
        layout = make_fold(clips, actions, fold)
        trainer, run = Trainer(layout, RECIPE), f"{measure}-seed{SEED}"
        scores = RunFolder(layout.runs / run).scores(
            "test-linear" if measure == "probe" else "test"
        )
        if not scores.is_file() and measure == "probe":
            trainer.probe("none", SEED, run, "--pool", "tokens", "--split", "test")
        elif not scores.is_file():
            few = ("--labels-per-class", str(LABELS), "--label-seed", str(SEED))
            trainer.finetune("none", SEED, run, "--head", "mean", "--epochs", str(EPOCHS), *few)
            trainer.evaluate(run, "--split", "test")
        tested = read_scores(scores)[0]
        for clip_id, label, predicted in zip(
            tested.clip_id, tested.label, tested.predicted, strict=True
        ):
            found[clip_id] = int(label), bool(label == predicted)
    return found
