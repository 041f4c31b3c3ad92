"""Makes shards of new clips, with the options that a model's own shards were made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.layout import DatasetLayout
from shared.run_record import read_jsonl
from shared.shard_index import read_index
from train.new_videos.commands import run_preprocess
from train.new_videos.listing import DATASET, NewClip, clip_id, write_list

FEW_CLIPS = 16  # starting Ray takes longer than decoding so many short clips in one process
STORED = ("frame_short_side", "jpeg_quality")


@dataclass(frozen=True)
class NewShards:
    """Shards of new clips.

    Attributes:
        layout: the dataset of the shards; its clip ids are those of `clip_id`.
        failures: (clip, reason) of the clips that cannot be decoded.
        notes: sentences about how the shards were made, for the screen.
    """

    layout: DatasetLayout
    failures: list[tuple[NewClip, str]]
    notes: list[str]


def make_shards(
    clips: Sequence[NewClip],
    work: Path,
    like: DatasetLayout | None,
    boxes: Path | None,
    num_gpus: int = 0,
) -> NewShards:
    """Decode new clips, and find their motion boxes if they are needed.

    Args:
        work: folder for the shards. Shards of the same clips and options are used again.
        like: the dataset whose options are taken; None for the defaults.
        boxes: folder of boxes whose options are taken, which need not exist; None if no boxes are
            needed.
        num_gpus: number of GPUs that compute flow.

    Raises:
        InputError: the commands of preprocess/ refused something.
    """
    layout = DatasetLayout(work.resolve(), DATASET)
    root = write_list(clips, layout)
    given = ["--dataset", layout.dataset, "--out", layout.out]
    notes = []
    flows = [*given, "--videos", root]
    if len(clips) < FEW_CLIPS:
        flows += ["--pool", "in-process"]
    if boxes is None:
        flows += ["--source", "none", *_frame_options(like)]
    elif like is not None and (like.flows / "options.json").is_file():
        flows += ["--like", like.flows.resolve()]
    else:
        notes.append("Motion is computed with default options: the run's own are not at hand.")
    if boxes is not None and num_gpus:
        flows += ["--num-gpus", num_gpus]
    run_preprocess("flows", *flows)
    index = read_index(layout.frames)
    if boxes is not None and index is not None and index.num_clips:
        if (note := _why_not_like(boxes)) is None:
            run_preprocess("boxes", *given, "--like", boxes.resolve())
        else:
            notes.append(note)
            run_preprocess("boxes", *given)
    by_id = {clip_id(number): clip for number, clip in enumerate(clips)}
    failures = [
        (by_id[record["clip_id"]], f"{record['reason']} [{record.get('code', '')}]")
        for record in read_jsonl(layout.failures)
    ]
    return NewShards(layout, failures, notes)


def _frame_options(like: DatasetLayout | None) -> list[object]:
    """The options of the frames of a dataset; none if it has no frames here."""
    index = None if like is None else read_index(like.frames)
    found = {} if index is None else index.config
    return [
        word
        for name in STORED
        if name in found
        for word in (f"--{name.replace('_', '-')}", found[name])
    ]


def _why_not_like(boxes: Path) -> str | None:
    """Why the options of a folder of boxes cannot be taken; None if they can."""
    index = read_index(boxes)
    if index is None:
        return "Boxes are computed with default options: the run's own are not at hand."
    if "annotations" in index.config:
        return (
            "Boxes are computed from motion with default options: the model was trained with "
            f"annotated boxes ({boxes})."
        )
    return None
