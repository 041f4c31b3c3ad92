"""The report's sections about training: a pretraining run and a finetuned one."""

from __future__ import annotations

import numpy as np

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.wording import counted
from train.figure_charts import confusion_chart, curves_chart
from train.figure_clips import draw_thumbnail
from train.figure_style import Chart, jpeg_uri
from train.report_dataset import class_name, read_clip
from train.report_runs import Run, Scores, read_scores
from train.report_sections import Dataset

MOST_PAIRS = 8
FRAMES_OF_PAIR = 4
THIRD_WIDTH = 3.0  # inches, of charts of which three lie beside each other
PATCH_MEAN = (1.0, "mean of each patch")


def pretraining_section(layout: DatasetLayout, run: Run | None) -> dict:
    """Curves of a pretraining run."""
    if run is None:
        made = layout.make("pretrain")
        return {"missing": [f"No pretraining run; make one with `{made}`."]}
    loss = run.last("loss")
    if loss is None:
        return {"missing": [f"Run {run.name} has not logged a loss yet."]}
    level = run.last("mean_predictor_loss") or PATCH_MEAN[0]
    state = "" if run.folder.is_finished else " It is not finished."
    sentence = (
        f"Run {run.name}: {_seen(run)}. The loss over the hidden patches ends at {loss:.3f}; "
        f"predicting every patch's mean colour scores {level:.3f}.{state}"
    )
    curves = [run.curve("loss", name="loss")]
    charts = [
        (
            curves_chart("Pretraining loss", curves, "epoch", "loss", reference=PATCH_MEAN),
            "Mean squared error of normalised pixels over the hidden patches. 1.0 is what the mean "
            "colour of each patch scores: only what lies below has been learned.",
        ),
        *_pace_charts(run, Chart.width),
    ]
    return {"sentence": sentence, "charts": charts, "missing": []}


def finetuning_section(dataset: Dataset, run: Run | None) -> dict:
    """Curves, confusion matrix and most confused pairs of a finetuned run."""
    if run is None:
        made = dataset.layout.make("finetune")
        return {"missing": [f"No finetuned run; make one with `{made}`."]}
    section: dict = {"missing": [], "sentence": f"Run {run.name}: {_seen(run)}.", "charts": []}
    num_classes = len(dataset.classes.label)
    if run.last("loss") is None:
        section["missing"].append(f"Run {run.name} has not logged a loss yet.")
    else:
        section["charts"] = [
            (
                curves_chart(
                    "Finetuning loss",
                    [run.curve("loss", name="loss")],
                    "epoch",
                    "loss",
                    reference=(float(np.log(num_classes)), "guessing") if num_classes else None,
                    from_zero=True,
                ),
                "Cross-entropy of the training clips, as augmented.",
            ),
            *_accuracy_chart(dataset, run),
        ]
        section["pace"] = _pace_charts(run, THIRD_WIDTH)
    try:
        scores = read_scores(run)
        if scores is None:
            command = dataset.layout.make("evaluate", f"--run {run.name}")
            section["missing"].append(
                f"Run {run.name} was not evaluated on split {run.tested_split}; `{command}` does "
                "that."
            )
        else:
            section |= _confusion(dataset, scores, run.tested_split)
    except InputError as error:
        section["missing"].append(str(error))
    return section


def confused_pairs(matrix: np.ndarray, most: int = MOST_PAIRS) -> list[tuple[int, int, int]]:
    """(true, predicted, clips) of the largest counts off the diagonal."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [np.unravel_index(place, matrix.shape) for place in order]
    return [(int(t), int(p), int(wrong[t, p])) for t, p in pairs if wrong[t, p] > 0]


def _confusion(dataset: Dataset, scores: Scores, split: str) -> dict:
    num_classes = 1 + max(
        int(scores.label.max(initial=0)),
        int(scores.predicted.max(initial=0)),
        len(dataset.classes.label) - 1,
    )
    matrix = scores.confusion(num_classes)
    names = [class_name(dataset.classes, label) for label in range(num_classes)]
    right, total = int(np.trace(matrix)), int(matrix.sum())
    pairs = []
    for true, predicted, count in confused_pairs(matrix):
        found = np.flatnonzero((scores.label == true) & (scores.predicted == predicted))
        pairs.append(
            {
                "true": names[true],
                "predicted": names[predicted],
                "count": counted(count, "clip"),
                "share": f"{100 * count / matrix[true].sum():.1f} %",
                "images": _middle_frames(dataset, [scores.clip_id[i] for i in found]),
            }
        )
    return {
        "confusion": confusion_chart(matrix, names),
        "confusion_caption": f"Clips of split {split} by true and predicted class: {right:,} of "
        f"{total:,} are right. Colour is the share of the true class.",
        "pairs": pairs,
    }


def _middle_frames(dataset: Dataset, clip_ids: list[str]) -> list[str]:
    """Thumbnails of the first few clips; none where frames or boxes are missing."""
    table = dataset.boxes
    if table is None or not dataset.layout.frames.is_dir():
        return []
    rows = {clip_id: row for row, clip_id in enumerate(table.clip_id)}
    images = []
    for clip_id in clip_ids[:FRAMES_OF_PAIR]:
        if clip_id in rows:
            middle = np.array([table.num_frames[rows[clip_id]] // 2])
            clip = read_clip(dataset.layout, table, rows[clip_id], middle)
            images.append(jpeg_uri(draw_thumbnail(clip)))
    return images


def _accuracy_chart(dataset: Dataset, run: Run) -> list[tuple]:
    curves = [run.curve("top1", "validate", name="top-1")]
    if len(dataset.classes.label) > 5:
        curves.append(run.curve("top5", "validate", name="top-5"))
    curves = [curve for curve in curves if curve.y]
    if not curves:
        return []
    chance = 100 / len(dataset.classes.label) if dataset.classes.label else None
    reference = (chance, "chance") if chance else None
    chart = curves_chart(
        "Validation accuracy", curves, "epoch", "accuracy, %", reference, from_zero=True
    )
    return [(chart, "Accuracy on split val, by which the best weights are chosen.")]


def _pace_charts(run: Run, width: float) -> list[tuple]:
    """Learning rate, throughput and data wait."""
    rate = run.curve("learning_rate", name="learning rate")
    pace = run.curve("clips_per_second", name="clips/s")
    wait = run.curve("data_wait_share", name="data wait")
    title_of = {
        "Learning rate": (rate, "learning rate", "Warm-up, then cosine; the last parameter group."),
        "Throughput": (pace, "clips per second", "Clips trained on, all processes together."),
        "Waiting for data": (wait, "share of the time", "Time in which the loop waited for data."),
    }
    return [
        (
            curves_chart(
                title,
                [curve],
                "epoch",
                y_label,
                as_percent=curve is wait,
                from_zero=True,
                width=width,
            ),
            caption,
        )
        for title, (curve, y_label, caption) in title_of.items()
    ]


def _seen(run: Run) -> str:
    epochs = run.last("epoch")
    parts = [f"{epochs:g} epoch{'' if epochs == 1 else 's'}" if epochs is not None else "not begun"]
    clips, minutes = run.options.get("clips"), run.minutes
    if isinstance(clips, int):
        parts.append(f"over {counted(clips, 'clip')}")
    if minutes is not None:
        parts.append(f"in {minutes:.1f} minutes")
    device = run.option("device", "kind")
    if device is not None:
        processes = run.option("device", "processes")
        parts.append(f"on {device}" + (f" x {processes}" if processes and processes > 1 else ""))
    return " ".join(parts)
