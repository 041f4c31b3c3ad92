"""Clips that one finetuned run gets right and another gets wrong, with the GradCAM of both.

MOFO shows such clips of VideoMAE and MOFO (fig. 6). Reads the score files of both runs, which
`train.evaluate` wrote for the same split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared.errors import InputError
from shared.layout import DatasetLayout
from train.evaluation.score_files import Scores, read_scores
from train.pictures.gradcam import OUTPUT, class_maps
from train.running.run_folder import RunFolder


def gained_clips(ours: Scores, theirs: Scores) -> list[str]:
    """Ids of the clips that `ours` gets right and `theirs` wrong, the surest of `ours` first.

    Raises:
        InputError: the two were computed on other clips.
    """
    if ours.clip_id != theirs.clip_id:
        raise InputError(
            "other-clips",
            f"one run was tested on {len(ours.clip_id)} clips and the other on "
            f"{len(theirs.clip_id)} others; test both on the same split with `train.evaluate`",
        )
    known = ours.label >= 0
    gained = known & (ours.predicted == ours.label) & (theirs.predicted != ours.label)
    chosen = np.flatnonzero(gained)
    order = np.argsort(-ours.probability[chosen], kind="stable")
    return [ours.clip_id[index] for index in chosen[order]]


def gained_rows(
    layout: DatasetLayout,
    ours: RunFolder,
    theirs: RunFolder,
    names: list[str],
    num_clips: int,
    num_times: int,
    block: int | None = None,
    layer: str = OUTPUT,
    kind: str = "label",
) -> list[tuple[str, list]]:
    """Title and rows of pictures (see rows.py) of the surest gained clips.

    Args:
        names: class names.
        num_clips, num_times: numbers of clips, and of frames of a clip.
        block, layer: as for `class_maps`.

    Raises:
        InputError: a run was not tested, the runs were tested on other clips, or no clip is gained.
    """
    mine, other = (_scores(folder, kind) for folder in (ours, theirs))
    ids = gained_clips(mine, other)[:num_clips]
    if not ids:
        raise InputError(
            "no-match",
            f"{ours.path.name} gets no clip right that {theirs.path.name} gets wrong; compare it "
            "with another run",
        )
    pictures = []
    maps = [class_maps(layout, folder, ids, block, kind, layer) for folder in (ours, theirs)]
    for right, wrong in zip(*maps, strict=True):
        assert right.label is not None
        rows = right.rows(names, num_times)[:1]
        for folder, found in ((ours, right), (theirs, wrong)):
            for caption, frames in found.rows(names, num_times)[1:]:
                rows.append((f"{folder.path.name}, {caption}", frames))
        title = (
            f"{names[right.label]}, clip {right.clip_id}: {theirs.path.name} says "
            f"{names[wrong.predicted]}"
        )
        pictures.append((title, rows))
    return pictures


def _scores(folder: RunFolder, kind: str) -> Scores:
    """The scores of the split that the run is tested on."""
    split = folder.read_options().get("evaluate", {}).get("split", "test")
    path: Path = folder.scores(split)
    found = {scores.kind: scores for scores in read_scores(path)}
    if kind not in found:
        raise InputError(
            "not-finished",
            f"{folder.path} has no {path.name}; `python -m train.evaluate --run "
            f"{folder.path.name}` writes it",
        )
    return found[kind]
