"""The sections of the report about training: a pretraining run and a finetuned run."""

from __future__ import annotations

import numpy as np

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.manifest import PLURAL, SINGULAR
from shared.wording import counted
from train.clips.stored_boxes import read_clip
from train.evaluation.score_files import Scores
from train.pictures.charts import curves_chart
from train.pictures.clips import draw_thumbnail
from train.pictures.confusion import confusion_picture, most_confused_picture
from train.pictures.style import Chart, jpeg_uri
from train.report_sections.runs import Run, scores_of
from train.report_sections.sections import Dataset

MOST_PAIRS = 8
FRAMES_OF_PAIR = 4
SAME_LEVEL = 0.01  # largest difference between losses of zeros that one line of a chart shows
THIRD_WIDTH = 3.0  # inches, for three charts beside each other


def pretraining_section(layout: DatasetLayout, run: Run | None) -> dict:
    """Curves of a pretraining run."""
    if run is None:
        made = layout.make("pretrain")
        return {"missing": [f"There is no pretraining run yet. `{made}` makes one."]}
    loss = run.last("loss")
    if loss is None:
        return {"missing": [_no_loss_yet(run)]}
    words, reference = run.loss_words, predictor_level([run])
    sentence = f"{_progress(run)} The loss over the masked patches is {loss:.3f} at the end."
    caption = f"Mean squared error of {words.target} over the masked patches."
    if reference is not None:
        sentence += f" Predicting {words.zeros} scores {reference[0]:.3f}."
        caption += (
            f" Predicting {words.zeros} scores {reference[0]:.3f} (dashed line). The run has "
            "learned something where its loss is lower."
        )
    curves = [run.curve("loss", name="loss")]
    if not curves[0].is_line:
        return {"sentence": sentence, "charts": [], "missing": [_one_point(run)]}
    charts = [
        (
            curves_chart("Pretraining loss", curves, "epoch", "loss", reference=reference),
            caption,
        ),
        *_probe_chart(run),
        *_pace_charts(run, Chart.width),
    ]
    return {"sentence": sentence, "charts": charts, "missing": []}


def _probe_chart(run: Run) -> list[tuple]:
    """What the features were worth during pretraining; nothing without --probe-every."""
    names = {"linear_top1": "linear probe", "knn_top1": "k-NN"}
    curves = [run.curve(key, "probe", name=name) for key, name in names.items()]
    curves = [curve for curve in curves if curve.is_line]
    if not curves:
        return []
    chart = curves_chart("Probes of the features", curves, "epoch", "accuracy, %", from_zero=True)
    return [(chart, "Accuracy on split val of simple classifiers on the frozen features.")]


def predictor_level(runs: list[Run]) -> tuple[float, str] | None:
    """The loss of predicting zeros and its name, for pretraining runs with one kind of target.

    None if it was not logged, or if it differs between the runs. The loss of predicting zero
    trajectories depends on how much moves.
    """
    levels = [run.last("mean_predictor_loss") for run in runs]
    known = [level for level in levels if level is not None]
    if len(known) < len(runs) or max(known) - min(known) > SAME_LEVEL:
        return None
    return sum(known) / len(known), runs[0].loss_words.level


def finetuning_section(dataset: Dataset, run: Run | None) -> dict:
    """Curves, and for each kind of label the confusion matrix and the most confused pairs."""
    if run is None:
        made = dataset.layout.make("finetune")
        return {"missing": [f"There is no finetuned run yet. `{made}` makes one."]}
    section: dict = {"missing": [], "sentence": _progress(run), "charts": []}
    counts = list(run.num_classes.values())
    if run.last("loss") is None:
        section["missing"].append(_no_loss_yet(run))
    elif not run.curve("loss").is_line:
        section["missing"].append(_one_point(run))
    else:
        section["charts"] = [
            (
                curves_chart(
                    "Finetuning loss",
                    [run.curve("loss", name="loss")],
                    "epoch",
                    "loss",
                    reference=(float(np.log(counts).sum()), "guessing") if counts else None,
                    from_zero=True,
                ),
                _loss_caption(run),
            ),
            *_accuracy_chart(run),
        ]
        section["pace"] = _pace_charts(run, THIRD_WIDTH)
    if run.outdated:
        section["missing"].append(f"There are no results: {run.outdated}.")
        return section
    try:
        scores = scores_of(run)
        if not scores:
            command = dataset.layout.make("evaluate", f"--run {run.name}")
            section["missing"].append(
                f"Run {run.name} was not tested on split {run.tested_split}. `{command}` tests it."
            )
        else:
            split = run.tested_split
            section["confusions"] = [_confusion(dataset, each, split) for each in scores]
    except InputError as error:
        section["missing"].append(str(error))
    return section


def confused_pairs(matrix: np.ndarray, most: int = MOST_PAIRS) -> list[tuple[int, int, int]]:
    """The largest counts off the diagonal, as (true class, predicted class, clips)."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [np.unravel_index(place, matrix.shape) for place in order]
    return [(int(t), int(p), int(wrong[t, p])) for t, p in pairs if wrong[t, p] > 0]


def _confusion(dataset: Dataset, scores: Scores, split: str) -> dict:
    matrix = scores.confusion()
    names = dataset.classes.class_names(scores.kind, len(matrix))
    one = SINGULAR[scores.kind]
    right, total = int(np.trace(matrix)), int(matrix.sum())
    pairs = []
    for true, predicted, count in confused_pairs(matrix):
        found = np.flatnonzero((scores.label == true) & (scores.predicted == predicted))
        pairs.append(
            {
                "true": names[true],
                "predicted": names[predicted],
                "count": counted(count, "clip"),
                "share": f"{100 * count / matrix[true].sum():.1f} % of the {one}",
                "images": _middle_frames(dataset, [scores.clip_id[i] for i in found]),
            }
        )
    confused = most_confused_picture(scores, names)
    plural = "classes" if scores.kind == "label" else PLURAL[scores.kind]
    named = (
        f"The {plural} that are confused most often, with the number of clips. The last column "
        f"counts clips for which one of the other {plural} was predicted."
    )
    return {
        "more_charts": [] if confused is None else [(confused, named)],
        "of": "" if scores.kind == "label" else f" of {PLURAL[scores.kind]}",
        "chart": confusion_picture(scores, names),
        "caption": f"Clips of split {split} by true and predicted {one}. {right:,} of {total:,} "
        f"are right. The colour shows the share among clips of the true {one}.",
        "pairs": pairs,
    }


def _middle_frames(dataset: Dataset, clip_ids: list[str]) -> list[str]:
    """Thumbnails of the first few clips; none if there are no frames or no boxes."""
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


def _loss_caption(run: Run) -> str:
    text = "Cross-entropy on the augmented training clips."
    kinds = list(run.num_classes)
    return f"{text} It is the sum over {' and '.join(kinds)}." if len(kinds) > 1 else text


def _accuracy_chart(run: Run) -> list[tuple]:
    curves = [run.curve("top1", "validate", name="top-1")]
    if run.chance is not None and run.chance < 20:
        curves.append(run.curve("top5", "validate", name="top-5"))
    curves = [curve for curve in curves if curve.is_line]
    if not curves:
        return []
    reference = None if run.chance is None else (run.chance, "chance")
    chart = curves_chart(
        "Validation accuracy", curves, "epoch", "accuracy, %", reference, from_zero=True
    )
    kinds = list(run.num_classes)
    what = f"Share of clips whose {' and '.join(kinds)} are right" if kinds[1:] else "Accuracy"
    return [(chart, f"{what} on split val. The best weights are those with the highest top-1.")]


def _pace_charts(run: Run, width: float) -> list[tuple]:
    """Charts of learning rate, throughput and time spent waiting for data."""
    rate = run.curve("learning_rate", name="learning rate")
    pace = run.curve("clips_per_second", name="clips/s")
    wait = run.curve("data_wait_share", name="data wait")
    title_of = {
        "Learning rate": (
            rate,
            "learning rate",
            "Of the last parameter group; it rises, then falls as a cosine.",
        ),
        "Throughput": (pace, "clips per second", "Clips per second, of all processes together."),
        "Waiting for data": (
            wait,
            "share of the time",
            "Share of the time that training waits for data.",
        ),
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
        if curve.is_line
    ]


def _progress(run: Run) -> str:
    """A sentence on how long a run has trained, and another one if it is not finished."""
    epochs, planned = run.last("epoch"), run.option("config", "epochs")
    if epochs is None:
        return f"Run {run.name} has not trained a step yet."
    parts = [f"Run {run.name} was trained for {epochs:g}"]
    if not run.folder.is_finished and isinstance(planned, int):
        parts.append(f"of {counted(planned, 'epoch')}")
    else:
        parts.append("epoch" if epochs == 1 else "epochs")
    clips, minutes = run.options.get("clips"), run.minutes
    if isinstance(clips, int):
        parts.append(f"on {counted(clips, 'clip')}")
    if minutes is not None:
        parts.append(f"in {minutes:.1f} minutes")
    device, processes = run.option("device", "kind"), run.option("device", "processes")
    if device is not None:
        parts.append(f"with {counted(processes or 1, 'process', 'processes')} on {device}")
    return " ".join(parts) + "." + ("" if run.folder.is_finished else " It is not finished.")


def _no_loss_yet(run: Run) -> str:
    return f"Run {run.name} has not logged a loss yet."


def _one_point(run: Run) -> str:
    return f"Run {run.name} has logged only one step, so there are no curves."
