"""The sections of the report about the dataset: samples, statistics, failures and shards."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.errors import InputError
from shared.grid import TUBE_POSITIONS
from shared.layout import DatasetLayout
from shared.manifest import ClassList, Clip
from shared.run_record import read_jsonl
from shared.shard_index import read_index
from shared.wording import counted
from train.clips.stored_boxes import BoxTable, class_rows, split_rows
from train.pictures.charts import coverage_chart, inside_chart, shares_chart
from train.report_sections.clips import (
    INSIDE_RATIO,
    MaskSettings,
    sample_pictures,
    unusual_pictures,
)

MOST_CLASSES_SHOWN = 40
MOST_FAILURES_SHOWN = 20
BOX_EVALUATION = "box_evaluation.json"
TRIVIAL_NAMES = {
    "iou_full_frame": "the full frame",
    "iou_centre_half": "a centred box of half the size",
    "iou_centre_70": "a centred box of 70 % of the size",
}


@dataclass(frozen=True)
class Dataset:
    """The input of the sections: the clips, their classes, and the boxes if there are any."""

    layout: DatasetLayout
    clips: list[Clip]
    classes: ClassList
    boxes: BoxTable | None


def samples_section(dataset: Dataset, mask: MaskSettings) -> dict:
    """Sample clips with their motion boxes, motion maps and masks."""
    section: dict = {"clips": [], "missing": [], "mask": _mask_sentence(mask)}
    layout, missing = dataset.layout, section["missing"]
    if dataset.boxes is None:
        missing.append(
            f"There are no boxes in {layout.boxes}. `{layout.make('boxes')}` makes them."
        )
        return section
    try:
        if read_index(layout.frames) is None:
            missing.append(f"There are no frames in {layout.frames}, so no clips are shown.")
            return section
        section["clips"] = sample_pictures(
            layout, dataset.boxes, dataset.clips, dataset.classes, mask
        )
        if not section["clips"]:
            missing.append("No clip has a motion box, so no clips are shown.")
        if read_index(layout.flows) is None:
            missing.append(f"There are no flows in {layout.flows}, so no motion maps are shown.")
    except InputError as error:
        missing.append(str(error))
    return section


def _mask_sentence(mask: MaskSettings) -> str:
    text = f"The tube mask hides {percent(mask.mask_ratio)} of all patches"
    if mask.inside_ratio is not None:
        text += (
            f", and {percent(mask.inside_ratio)} of those in the box as far as both are possible"
        )
    return f"{text} (settings of {mask.source})."


def dataset_section(dataset: Dataset, mask: MaskSettings) -> dict:
    """Counts, histograms, classes, unusual clips, and clips that were set aside."""
    layout, table = dataset.layout, dataset.boxes
    section: dict = {"splits": split_rows(dataset.clips), "missing": []}
    shown, left_out = _classes_shown(dataset)
    section |= {"classes": shown, "more_classes": left_out}
    if table is None:
        section["missing"].append(
            f"There are no boxes in {layout.boxes}, so the motion of the clips is unknown. "
            f"`{layout.make('boxes')}` makes them."
        )
    else:
        section["sentence"] = _boxes_sentence(table)
        evaluation = read_box_evaluation(layout)
        if evaluation is not None:
            section["evaluation"] = _evaluation(evaluation)
        section["charts"] = _dataset_charts(table, mask)
        try:
            section["unusual"] = unusual_pictures(layout, table)
        except InputError as error:
            section["missing"].append(str(error))
    try:
        section |= _failures(layout)
    except ValueError as error:
        section["missing"].append(f"{layout.failures} cannot be read: {error}.")
    return section


def read_box_evaluation(layout: DatasetLayout) -> dict[str, float] | None:
    """Read box_evaluation.json, the output of `preprocess.evaluate_boxes --json`.

    Returns:
        None if there is no such file, or it has no IoU.
    """
    path = layout.root / BOX_EVALUATION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    numbers = content if isinstance(content, dict) else {}
    kept = {name: value for name, value in numbers.items() if isinstance(value, (int, float))}
    return kept if {"iou", "clips", "frames"} <= set(kept) else None


def _evaluation(numbers: dict[str, float]) -> dict:
    rows = [("motion box", numbers["iou"])]
    for name, value in numbers.items():
        if name.startswith("iou_"):
            rows.append((TRIVIAL_NAMES.get(name, name.removeprefix("iou_")), value))
    return {
        "sentence": "The boxes are compared with "
        f"{counted(int(numbers['frames']), 'annotated frame')} of "
        f"{counted(int(numbers['clips']), 'clip')}. An annotated frame without a motion box "
        "counts 0. The IoU is averaged over the frames of each clip, and then over the clips.",
        "rows": [(name, f"{value:.3f}") for name, value in rows],
    }


def shards_made(layout: DatasetLayout) -> dict:
    """Counts, size and digest of each folder of shards, and a line for each damaged folder."""
    flows = sorted(path for path in layout.root.glob("flows*") if path.is_dir())
    rows, missing = [], []
    for folder in (layout.frames, *flows, *layout.boxes_folders()):
        try:
            index = read_index(folder)
        except InputError as error:
            missing.append(str(error))
            continue
        if index is not None:
            size = sum(shard.bytes for shard in index.shards)
            rows.append(
                {
                    "name": folder.name,
                    "shards": len(index.shards),
                    "clips": index.num_clips,
                    "size": human_size(size),
                    "digest": index.digest[:16],
                }
            )
    return {"shards": rows, "missing": missing}


def human_size(num_bytes: float) -> str:
    """Bytes in the unit that gives up to three digits: 1234567 is `1.2 MB`."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = min(len(units) - 1, (len(str(int(num_bytes))) - 1) // 3)
    number = num_bytes / 1000**power
    decimals = 0 if power == 0 or number >= 10 else 1
    return f"{number:.{decimals}f} {units[power]}"


def _classes_shown(dataset: Dataset) -> tuple[list[dict], str | None]:
    """Rows of the class table: the largest classes, and a sentence on those that are left out."""
    rows: list[dict[str, Any]] = [
        {"name": name, "total": sum(counts.values()), **counts}
        for name, counts in class_rows(dataset.clips, dataset.classes)
    ]
    if not any(row["total"] for row in rows):
        return [], None
    most = max(row["total"] for row in rows)
    for row in rows:
        row["bar"] = round(100 * row["total"] / most, 1)
    if len(rows) <= MOST_CLASSES_SHOWN:
        return rows, None
    by_size = sorted(rows, key=lambda row: -row["total"])
    rest = by_size[MOST_CLASSES_SHOWN:]
    return by_size[:MOST_CLASSES_SHOWN], (
        f"These are the {MOST_CLASSES_SHOWN} largest of {len(rows)} classes. The others have "
        f"{rest[-1]['total']:,} to {rest[0]['total']:,} clips each."
    )


def _boxes_sentence(table: BoxTable) -> str:
    num_clips = len(table.clip_id)
    num_frames = int(table.num_frames.sum())
    still_frames = float((np.nan_to_num(table.still_share) * table.num_frames).sum())
    without = table.num_without_motion
    text = (
        f"There are motion boxes of {counted(num_clips, 'clip')} with "
        f"{counted(num_frames, 'frame')}. "
    )
    if still_frames == 0:
        text += "Every frame has a box."
    else:
        text += (
            f"{counted(without, 'clip')} ({percent(without / num_clips)}) and "
            f"{percent(still_frames / max(1, num_frames))} of all frames have no box."
        )
    if without < num_clips:
        text += (
            f" The median box of a clip covers {percent(float(np.nanmedian(table.clip_share)))} of "
            f"the frame and {np.median(table.num_inside):.0f} of {TUBE_POSITIONS} patch positions."
        )
    return text


def _dataset_charts(table: BoxTable, mask: MaskSettings) -> list[tuple]:
    inside_ratio = INSIDE_RATIO if mask.inside_ratio is None else mask.inside_ratio
    inside = (
        inside_chart(table.num_inside, TUBE_POSITIONS, mask.mask_ratio, inside_ratio),
        "Bars: how many of the 14 x 14 patch positions lie inside the box of a clip. Lines: the "
        "shares that MOFO's mask hides inside and outside the box, with "
        f"{percent(mask.mask_ratio)} of all positions and {percent(inside_ratio)} of those inside. "
        "For large boxes both shares are not possible; the mask then keeps the total.",
    )
    if len(table.frame_shares) == 0:
        return [inside]
    areas = {"box of the clip": table.clip_share, "box of one frame": table.frame_shares}
    return [
        (
            shares_chart(
                "Area of the motion boxes", areas, "share of the frame", "share of clips or frames"
            ),
            "Area of the motion boxes of whole clips (quartiles over time) and of single frames.",
        ),
        (
            coverage_chart(table.coverage),
            "Where the motion is. A stronger colour means that the boxes of more frames cover this "
            f"part of the picture (at most {percent(float(table.coverage.max()))} of the frames).",
        ),
        (
            shares_chart(
                "Position of the motion boxes",
                {
                    "from left to right": table.frame_centres[:, 0],
                    "from top to bottom": table.frame_centres[:, 1],
                },
                "centre of the box, share of the frame's width or height",
                "share of frames",
            ),
            "Where the centres of the boxes of single frames lie.",
        ),
        inside,
        (
            shares_chart(
                "Motion energy inside the box",
                {"clips": table.score},
                "share of the motion energy inside the box",
                "share of clips",
            ),
            "Share of a frame's motion inside its box, averaged over each clip. It is low if the "
            "camera or many objects move.",
        ),
    ]


def _failures(layout: DatasetLayout) -> dict:
    failures = [line for line in read_jsonl(layout.failures) if isinstance(line, dict)]
    stages = Counter(str(failure.get("stage", "unknown")) for failure in failures)
    by_stage = ", ".join(f"{count:,} in {stage}" for stage, count in stages.most_common())
    verb = "was" if len(failures) == 1 else "were"
    sentence = f"{counted(len(failures), 'clip')} {verb} set aside: {by_stage}."
    if len(failures) > MOST_FAILURES_SHOWN:
        sentence += f" These are the first {MOST_FAILURES_SHOWN}:"
    shown = [
        {name: str(failure.get(name, "")) for name in ("clip_id", "stage", "reason")}
        for failure in failures[:MOST_FAILURES_SHOWN]
    ]
    return {"failures": shown, "failure_sentence": sentence}


def percent(share: float) -> str:
    """0.931 as `93.1 %`, 0.9 as `90 %`."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"
