"""The report's pictures of models: reconstructions, tracks, GradCAM of mistakes, attention.

They need the weights of runs, and torch. The other parts of the report do not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from shared.errors import InputError
from shared.manifest import PLURAL
from train.evaluation.score_files import Scores
from train.pictures.clips import TILE_HEIGHT, enlarge
from train.pictures.style import jpeg_uri, png_uri
from train.report_sections.clips import NUM_TIMES
from train.report_sections.runs import Run, scores_of
from train.report_sections.sections import Dataset

NUM_CLIPS = 4  # clips for each kind of picture
MOST_BESIDE = 2  # other runs that predict the same clips
CLIP_PIXELS = ("image_size", "num_frames", "patch_size", "tubelet_size")


def pretraining_pictures(dataset: Dataset, run: Run | None, runs: list[Run]) -> dict[str, Any]:
    """Predictions of a run for masked patches of held-out clips, with those of other runs.

    Args:
        runs: all runs of the dataset. Those that sample and crop clips as `run` does are compared
            with it, those with another mask first.
    """
    if run is None:
        return {"missing": []}
    if run.picture == "tracks":
        return _or_say(lambda: _tracks(dataset, run))
    if run.picture != "pixels":
        return {
            "missing": [f"Run {run.name} does not predict pixels, so no clip is reconstructed."]
        }
    return _or_say(lambda: _reconstructions(dataset, [run, *_comparable(run, runs)]))


def snapshot_pictures(run: Run | None) -> dict[str, Any]:
    """Predictions for the same clips of split train at several times of a pretraining run."""
    if run is None:
        return {}
    from train.pictures.snapshots import read_snapshots

    found = read_snapshots(run.folder.snapshots, run.option("config", "model", "image_size") or 1)
    names = [name for name in found if name.startswith("step-")]
    if not names:
        return {}
    captions = {"input": "input", "masked": "masked"}
    captions |= {name: _when(run, int(name.removeprefix("step-"))) for name in names}
    cards = []
    for clip in range(len(found[names[0]])):
        rows = []
        for name, caption in captions.items():
            frames = found[name][clip]
            tiles = frames[:: max(1, len(frames) // NUM_TIMES)][:NUM_TIMES]
            rows.append((caption, [png_uri(enlarge(tile, TILE_HEIGHT)) for tile in tiles]))
        cards.append({"label": f"clip {clip + 1} of split train", "clip_id": "", "rows": rows})
    return {"snapshots": cards}


def finetuning_pictures(dataset: Dataset, run: Run | None) -> dict[str, Any]:
    """GradCAM of the most confident mistakes of a finetuned run, and attention of its encoder."""
    if run is None or run.last("loss") is None or run.outdated:
        return {"missing": []}
    mistakes = _or_say(lambda: _mistakes(dataset, run))
    attention = _or_say(lambda: _attention(dataset, run))
    missing = mistakes.pop("missing") + attention.pop("missing")
    return {**mistakes, **attention, "missing": list(dict.fromkeys(missing))}


def confident_mistakes(scores: Scores, most: int = NUM_CLIPS) -> list[str]:
    """Ids of the misclassified clips with the highest probabilities.

    Every pair of classes comes once before a pair comes twice.
    """
    wrong = np.flatnonzero((scores.label >= 0) & (scores.predicted != scores.label))
    by_confidence = wrong[np.argsort(-scores.probability[wrong], kind="stable")]
    seen: dict[tuple[int, int], int] = {}
    turns = []
    for clip in by_confidence:
        pair = (int(scores.label[clip]), int(scores.predicted[clip]))
        turns.append(seen.get(pair, 0))
        seen[pair] = turns[-1] + 1
    order = by_confidence[np.argsort(turns, kind="stable")]
    return [scores.clip_id[clip] for clip in order[:most]]


def _reconstructions(dataset: Dataset, runs: list[Run]) -> dict[str, Any]:
    from train.pictures.reconstruction import reconstruct

    clips = reconstruct(dataset.layout, [run.folder for run in runs], NUM_CLIPS)
    note = (
        f"Clips of split {clips[0].split}: the input, the patches that the encoder sees, and the "
        "prediction. The mean colour and the contrast of each masked patch come from the input, as "
        "in the pictures of VideoMAE; the rest of its content is predicted. Predicting only the "
        f"mean colour scores a loss of {np.mean([clip.mean_loss for clip in clips]):.3f} on these "
        "clips."
    )
    if len(runs) > 1:
        note += f" All runs see the mask of {runs[0].name}."
    cards = [_card(dataset, clip, clip.rows(NUM_TIMES), png_uri) for clip in clips]
    return {"reconstructions": cards, "reconstruction_note": note, "missing": []}


def _tracks(dataset: Dataset, run: Run) -> dict[str, Any]:
    from train.pictures.trajectories import tracked_clips

    clips = tracked_clips(dataset.layout, run.folder, NUM_CLIPS)
    note = (
        f"Clips of split {clips[0].split}. Green lines show how points of masked patches move in "
        "the frames after the one that is drawn. Orange lines show what the run predicts. The "
        "total motion of each patch comes from the input; only its shape is predicted."
    )
    cards = [_card(dataset, clip, clip.rows(NUM_TIMES)) for clip in clips]
    return {"reconstructions": cards, "reconstruction_note": note, "missing": []}


def _mistakes(dataset: Dataset, run: Run) -> dict[str, Any]:
    from train.pictures.gradcam import class_maps

    scores = scores_of(run)
    mistakes: list[dict[str, Any]] = []
    missing: list[str] = []
    for of_kind in scores:
        chosen = confident_mistakes(of_kind, NUM_CLIPS // len(scores))
        if not chosen:
            continue
        found = class_maps(dataset.layout, run.folder, chosen, kind=of_kind.kind)
        if not found:
            missing = [f"The clips that {run.name} was tested on are no longer in the shards."]
            continue
        classes = dataset.classes.class_names(of_kind.kind, len(found[0].probability))
        wrong = f"wrong {PLURAL[of_kind.kind]}" if len(scores) > 1 else "wrong answers"
        note = (
            f"The {wrong} with the highest probability. The colour is GradCAM of encoder block "
            f"{found[0].block} for the middle view of a clip: it shows which tokens support the "
            "class that this view predicts, and which ones support the true class. Each map is "
            "relative to its strongest token. Tokens without colour support neither."
        )
        # The evaluation averages several views, and may predict another class than one view does.
        predicted = dict(zip(of_kind.clip_id, of_kind.predicted.tolist(), strict=True))
        cards = []
        for clip in found:
            if clip.label is not None:
                true, answer = classes[clip.label], classes[predicted[clip.clip_id]]
                card = _card(dataset, clip, clip.rows(classes, NUM_TIMES))
                cards.append(card | {"label": f"true: {true}, predicted: {answer}"})
        mistakes.append({"heading": wrong, "note": note, "cards": cards})
    return {"mistakes": mistakes, "missing": missing}


def _attention(dataset: Dataset, run: Run) -> dict[str, Any]:
    from train.pictures.attention import attention_maps

    clips = attention_maps(dataset.layout, run.folder, 2)
    note = (
        f"Attention of encoder block {clips[0].block} from the token in the middle of the motion "
        "box (green) to all tokens of the clip, averaged over the heads."
    )
    cards = [_card(dataset, clip, clip.rows(NUM_TIMES)) for clip in clips]
    return {"attention": cards, "attention_note": note, "missing": []}


def _comparable(run: Run, runs: list[Run]) -> list[Run]:
    """Other runs with weights that predict pixels of clips of the same shape: other masks first."""

    def shape(one: Run) -> list[Any]:
        return [one.option("config", "model", name) for name in CLIP_PIXELS]

    comparable = [
        other
        for other in runs
        if other.kind == "pretrain"
        and other.name != run.name
        and other.option("config", "target") == "normalised_pixels"
        and other.folder.weights.is_file()
        and shape(other) == shape(run)
    ]
    mask = run.option("config", "mask", "kind")
    comparable.sort(key=lambda other: (other.option("config", "mask", "kind") == mask, other.name))
    return comparable[:MOST_BESIDE]


def _card(
    dataset: Dataset, clip: Any, rows: list, as_uri: Callable[[np.ndarray], str] = jpeg_uri
) -> dict[str, Any]:
    """The rows of pictures of one clip, in the form that the template needs."""
    shown = [
        (caption, [as_uri(enlarge(picture, TILE_HEIGHT)) for picture in pictures])
        for caption, pictures in rows
    ]
    label = dataset.classes.class_name(clip.label)
    return {"clip_id": clip.clip_id, "label": label, "split": clip.split, "rows": shown}


def _when(run: Run, step: int) -> str:
    """The epoch of a step, and the training loss that was logged next to it."""
    logged = [
        line
        for line in run.events
        if line.get("event") == "train" and {"step", "epoch", "loss"} <= set(line)
    ]
    if not logged:
        return f"step {step:,}"
    near = min(logged, key=lambda line: abs(line["step"] - step))
    epoch = near["epoch"] * step / near["step"]
    return f"after epoch {epoch:.0f}, training loss {near['loss']:.3f}"


def _or_say(draw: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return draw()
    except InputError as error:
        return {"missing": [str(error)]}
