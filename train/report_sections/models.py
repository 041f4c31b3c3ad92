"""The report's pictures of what models do: reconstructions, tracks, GradCAM of mistakes, attention.

They need the weights of runs, and torch, which is imported here alone of the report.
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

NUM_CLIPS = 4  # of a kind of picture
MOST_BESIDE = 2  # further runs that predict the same clips
CLIP_PIXELS = ("image_size", "num_frames", "patch_size", "tubelet_size")


def pretraining_pictures(dataset: Dataset, run: Run | None, runs: list[Run]) -> dict[str, Any]:
    """What a run predicts for hidden patches of held-out clips, and beside it what others do.

    Args:
        runs: of the dataset; those that cut clips as `run` does are put beside it, first those of
            other methods.
    """
    if run is None:
        return {"missing": []}
    if run.picture == "tracks":
        return _or_say(lambda: _tracks(dataset, run))
    if run.picture != "pixels":
        return {"missing": [f"Run {run.name} predicts no pixels, so nothing is reconstructed."]}
    return _or_say(lambda: _reconstructions(dataset, [run, *_comparable(run, runs)]))


def snapshot_pictures(run: Run | None) -> dict[str, Any]:
    """What a pretraining run predicted for the same clips of split train as it learned."""
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
    """GradCAM of the surest mistakes of a finetuned run, and where its encoder looks."""
    if run is None or run.last("loss") is None:
        return {"missing": []}
    mistakes = _or_say(lambda: _mistakes(dataset, run))
    looks = _or_say(lambda: _attention(dataset, run))
    missing = mistakes.pop("missing") + looks.pop("missing")
    return {**mistakes, **looks, "missing": list(dict.fromkeys(missing))}


def surest_mistakes(scores: Scores, most: int = NUM_CLIPS) -> list[str]:
    """Ids of the wrongly classified clips with the highest probabilities, one of a pair of classes
    before a second one of it."""
    wrong = np.flatnonzero((scores.label >= 0) & (scores.predicted != scores.label))
    by_surety = wrong[np.argsort(-scores.probability[wrong], kind="stable")]
    seen: dict[tuple[int, int], int] = {}
    turns = []
    for clip in by_surety:
        pair = (int(scores.label[clip]), int(scores.predicted[clip]))
        turns.append(seen.get(pair, 0))
        seen[pair] = turns[-1] + 1
    order = by_surety[np.argsort(turns, kind="stable")]
    return [scores.clip_id[clip] for clip in order[:most]]


def _reconstructions(dataset: Dataset, runs: list[Run]) -> dict[str, Any]:
    from train.pictures.reconstruction import reconstruct

    clips = reconstruct(dataset.layout, [run.folder for run in runs], NUM_CLIPS)
    note = (
        f"Clips of split {clips[0].split}: what goes in, what the encoder sees of it, and what "
        "comes out. Mean colour and contrast of each hidden patch are given, as in VideoMAE's own "
        "pictures; its content is predicted. The mean colour alone scores a loss of "
        f"{np.mean([clip.mean_loss for clip in clips]):.3f} on these clips."
    )
    if len(runs) > 1:
        note += f" The mask is that of {runs[0].name}, also for the others."
    cards = [_card(dataset, clip, clip.rows(NUM_TIMES), png_uri) for clip in clips]
    return {"reconstructions": cards, "reconstruction_note": note, "missing": []}


def _tracks(dataset: Dataset, run: Run) -> dict[str, Any]:
    from train.pictures.trajectories import tracked_clips

    clips = tracked_clips(dataset.layout, run.folder, NUM_CLIPS)
    note = (
        f"Clips of split {clips[0].split}: how points of hidden patches move in the frames after "
        "the one shown (green), and how the run predicts it (orange). How far a patch moves in all "
        "is given, as are colour and contrast where pixels are predicted."
    )
    cards = [_card(dataset, clip, clip.rows(NUM_TIMES)) for clip in clips]
    return {"reconstructions": cards, "reconstruction_note": note, "missing": []}


def _mistakes(dataset: Dataset, run: Run) -> dict[str, Any]:
    from train.pictures.gradcam import class_maps

    scores = scores_of(run)
    mistakes: list[dict[str, Any]] = []
    missing: list[str] = []
    for of_kind in scores:
        chosen = surest_mistakes(of_kind, NUM_CLIPS // len(scores))
        if not chosen:
            continue
        found = class_maps(
            dataset.layout, run.folder, len(chosen), clip_ids=chosen, kind=of_kind.kind
        )
        if not found:
            missing = [f"The clips of {run.name}'s scores are not in the shards any more."]
            continue
        classes = dataset.classes.class_names(of_kind.kind, len(found[0].probability))
        wrong = f"wrong {PLURAL[of_kind.kind]}" if len(scores) > 1 else "wrong answers"
        note = (
            f"The {wrong} that the run is surest of. Colour is GradCAM of encoder block "
            f"{found[0].block} on its tokens: what speaks for the answer that was given, and for "
            "the true one, each relative to its own strongest token; nothing is laid over what "
            "does not."
        )
        cards = [
            _card(dataset, clip, clip.rows(classes, NUM_TIMES))
            | {"label": f"{classes[clip.label]}, taken for {classes[clip.predicted]}"}
            for clip in found
            if clip.label is not None
        ]
        mistakes.append({"heading": wrong, "note": note, "cards": cards})
    return {"mistakes": mistakes, "missing": missing}


def _attention(dataset: Dataset, run: Run) -> dict[str, Any]:
    from train.pictures.attention import attention_maps

    clips = attention_maps(dataset.layout, run.folder, 2)
    note = (
        f"Attention of encoder block {clips[0].block}, mean of its heads, from the token in the "
        "middle of the motion box (green) to all tokens of the clip."
    )
    cards = [_card(dataset, clip, clip.rows(NUM_TIMES)) for clip in clips]
    return {"attention": cards, "attention_note": note, "missing": []}


def _comparable(run: Run, runs: list[Run]) -> list[Run]:
    """Other runs with weights that predict pixels of clips cut alike: other masks first."""

    def cut(one: Run) -> list[Any]:
        return [one.option("config", "model", name) for name in CLIP_PIXELS]

    alike = [
        other
        for other in runs
        if other.kind == "pretrain"
        and other.name != run.name
        and other.option("config", "target") == "normalised_pixels"
        and other.folder.weights.is_file()
        and cut(other) == cut(run)
    ]
    mask = run.option("config", "mask", "kind")
    alike.sort(key=lambda other: (other.option("config", "mask", "kind") == mask, other.name))
    return alike[:MOST_BESIDE]


def _card(
    dataset: Dataset, clip: Any, rows: list, as_uri: Callable[[np.ndarray], str] = jpeg_uri
) -> dict[str, Any]:
    """Rows of pictures of one clip as the template takes them."""
    shown = [
        (caption, [as_uri(enlarge(picture, TILE_HEIGHT)) for picture in pictures])
        for caption, pictures in rows
    ]
    label = dataset.classes.class_name(clip.label)
    return {"clip_id": clip.clip_id, "label": label, "split": clip.split, "rows": shown}


def _when(run: Run, step: int) -> str:
    """The epoch of a step and the training loss about then, as far as the log tells."""
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
