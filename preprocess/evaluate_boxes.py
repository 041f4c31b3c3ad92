"""Measure how well motion boxes agree with annotated boxes, and compare them with trivial boxes.

    python -m preprocess.evaluate_boxes --dataset ssv2 --format something-else \\
        --annotations something_else_boxes.json

Every annotated frame counts; a frame without a motion box counts as 0. The mean is taken over the
frames of each clip, then over the clips. IoU is measured against the smallest box around all
annotated boxes of the frame (hands and objects), as in MOFO. Recall and centre hit are measured
against the annotated boxes themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from preprocess.annotated_boxes.formats import FORMATS, open_annotations
from preprocess.annotated_boxes.matching import BoxAnnotations, ClipFrames, Frames, ReadOptions
from preprocess.annotated_boxes.metrics import (
    TRIVIAL_BOXES,
    box_figures,
    clip_to_frame,
    saliency,
    trivial_box,
)
from preprocess.running.options import boxes_options
from shared.errors import InputError, user_errors
from shared.make_commands import make_around
from shared.motion_maps import read_maps
from shared.progress import bar_options
from shared.shard_index import read_index
from shared.shards import ShardReader

FIGURES = ("iou", "centre_hit", "recall", "area")


@dataclass(frozen=True)
class StoredClip:
    """A clip of the shards.

    Attributes:
        frames: id, size and times.
        boxes: float32 [T, 4], motion boxes in source pixels, NaN where nothing moves.
        maps: uint8 [T, h, w], stored motion maps; None without flows. Motion is the square of a
            value, times a factor of the frame.
    """

    frames: ClipFrames
    boxes: np.ndarray
    maps: np.ndarray | None


@dataclass(frozen=True)
class ClipFigures:
    """Means over the annotated frames of a clip.

    Attributes:
        num_frames: number of annotated frames.
        motion: figures of the motion box, by name.
        trivial: figures of each trivial box, by name of the box, then of the figure.
        saliency: None if it is not defined for any frame.
    """

    num_frames: int
    motion: dict[str, float]
    trivial: dict[str, dict[str, float]]
    saliency: float | None


HELP = f"""{__doc__.splitlines()[0]}

IoU is measured against the smallest box around all annotated boxes of a frame (hands and objects).
An annotated frame without a motion box counts as 0. The mean is taken over the frames of each clip,
then over the clips. The trivial boxes are the whole frame, and centred boxes with 50 % and 70 % of
its width and height.
"""


@click.command(help=HELP, context_settings={"show_default": True, "max_content_width": 100})
@click.option("--format", "box_format", required=True, type=click.Choice(list(FORMATS)),
              help="Format of the annotation files.")  # fmt: skip
@click.option("--annotations", required=True, type=click.Path(path_type=Path), metavar="PATH",
              help="Annotation file, or folder of such files. Files of the format csv are called "
              "<clip_id>.boxes.csv.")  # fmt: skip
@click.option("--flows", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Folder of flows shards, for the saliency score: the mean motion inside the "
              "annotated boxes, divided by the mean motion outside.  [default: flows/ beside "
              "the "
              "boxes]")  # fmt: skip
@click.option("--min-score", type=click.FloatRange(0, 1), metavar="SCORE",
              help="Ignore detections whose score is below this value. Only for "
              "epic-hand-objects.  [default: 0.5]"
              )  # fmt: skip
@click.option("--annotation-fps", type=click.FloatRange(0, min_open=True), metavar="RATE",
              help="Frame rate, in frames per second, of the frame numbers in the formats "
              "epic-hand-objects and epic55.  [default: the rate of the video for epic55; "
              "for epic-hand-objects 50 for videos such as P01_101, and 60 for videos such "
              "as P01_01]"
              )  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
@user_errors
@boxes_options
def main(
    boxes: Path,
    box_format: str,
    annotations: Path,
    flows: Path | None,
    min_score: float | None,
    annotation_fps: float | None,
    as_json: bool,
) -> None:
    options = ReadOptions(min_score, annotation_fps)
    figures = evaluate(boxes, box_format, annotations, flows, options)
    print(json.dumps(summary(figures), indent=1) if as_json else table(figures))


def evaluate(
    boxes: Path, box_format: str, annotations: Path, flows: Path | None, options: ReadOptions
) -> dict[str, ClipFigures]:
    """Compute the figures of every clip that has boxes and annotations.

    Args:
        boxes: folder of boxes shards.
        box_format: a key of FORMATS.
        annotations: file, or folder of files.
        flows: folder of flows shards; None = flows/ beside the boxes, if it is finished.
        options: options for reading the annotations.

    Raises:
        InputError: there are no boxes or no annotations, or no clip has both.
    """
    clip_ids = _clip_ids(boxes)
    annotated = open_annotations(box_format, annotations, frozenset(clip_ids), options)
    figures = {}
    with tqdm(total=len(clip_ids), desc="boxes", unit="clip", **bar_options()) as progress:
        for clip in _stored_clips(boxes, _flows_folder(boxes, flows), annotated):
            progress.update()
            found = clip_figures(clip, annotated.of(clip.frames))
            if found is not None:
                figures[clip.frames.clip_id] = found
    if not figures:
        raise InputError(
            "no-match",
            f"no frame of {boxes} is annotated in {annotations}: the clips here are "
            f"{clip_ids[0]}, ..., and the annotated ones are {annotated.examples}",
        )
    return figures


def clip_figures(clip: StoredClip, annotated: Frames) -> ClipFigures | None:
    """Compute the figures of one clip; None if no annotated box lies inside its frame.

    Annotated frames after the last frame of the clip count as frames without a motion box.
    """
    size = clip.frames.size
    stacked = _stack(annotated)
    seen = ~np.isnan(clip_to_frame(stacked, size)).all(axis=(1, 2))
    indices, stacked = np.array(sorted(annotated), int)[seen], stacked[seen]
    if not len(indices):
        return None
    stored = indices < len(clip.boxes)
    boxes = np.full((len(indices), 4), np.nan)
    boxes[stored] = clip.boxes[indices[stored]]
    scores = np.empty(0)
    if clip.maps is not None:
        motion = clip.maps[indices[stored]].astype(np.float64) ** 2
        scores = saliency(motion, stacked[stored], size)
        scores = scores[~np.isnan(scores)]
    trivial = {
        name: box_figures(np.tile(trivial_box(share, size), (len(boxes), 1)), stacked, size)
        for name, share in TRIVIAL_BOXES.items()
    }
    return ClipFigures(
        num_frames=len(indices),
        motion=_means(box_figures(boxes, stacked, size)),
        trivial={name: _means(values) for name, values in trivial.items()},
        saliency=float(scores.mean()) if len(scores) else None,
    )


def summary(figures: dict[str, ClipFigures]) -> dict:
    """The content of the output of `--json`: means over clips, and each clip in `per_clip`."""
    per_clip = {clip_id: _row(1, one) for clip_id, one in figures.items()}
    return _row(len(figures), mean_figures(figures)) | {"per_clip": per_clip}


def mean_figures(figures: dict[str, ClipFigures]) -> ClipFigures:
    """The mean over clips, with the total number of frames."""
    clips = list(figures.values())
    scores = [clip.saliency for clip in clips if clip.saliency is not None]
    return ClipFigures(
        num_frames=sum(clip.num_frames for clip in clips),
        motion={name: _mean(clip.motion[name] for clip in clips) for name in FIGURES},
        trivial={
            box: {name: _mean(clip.trivial[box][name] for clip in clips) for name in FIGURES}
            for box in TRIVIAL_BOXES
        },
        saliency=_mean(scores) if scores else None,
    )


def table(figures: dict[str, ClipFigures]) -> str:
    """The figures as text."""
    mean = mean_figures(figures)
    rows = {"motion box": mean.motion} | {
        name.replace("_", " "): values for name, values in mean.trivial.items()
    }
    lines = [f"{len(figures)} clips, {mean.num_frames} annotated frames (mean over clips)", ""]
    lines.append(f"{'':14}{'IoU':>8}{'centre hit':>12}{'recall':>8}{'area':>8}")
    for name, values in rows.items():
        lines.append(
            f"{name:14}{values['iou']:8.3f}{values['centre_hit']:12.3f}{values['recall']:8.3f}"
            f"{values['area']:8.3f}"
        )
    score = "not measured" if mean.saliency is None else f"{mean.saliency:.2f}"
    return "\n".join([*lines, "", f"saliency (motion inside / outside annotated boxes): {score}"])


def _row(num_clips: int, figures: ClipFigures) -> dict:
    return {
        "clips": num_clips,
        "frames": figures.num_frames,
        "iou": figures.motion["iou"],
        **{f"iou_{name}": values["iou"] for name, values in figures.trivial.items()},
        **{name: figures.motion[name] for name in FIGURES[1:]},
        "saliency": figures.saliency,
    }


def _clip_ids(boxes: Path) -> list[str]:
    index = read_index(boxes)
    if index is None or not index.num_clips:
        made = make_around(boxes, "boxes")
        raise InputError("not-finished", f"no finished boxes at {boxes}; make them with {made}")
    clip_ids = []
    for shard in index.shards:
        with ShardReader(boxes / shard.name, "boxes") as reader:
            clip_ids += reader.clip_ids()
    return clip_ids


def _flows_folder(boxes: Path, flows: Path | None) -> Path | None:
    """The folder of flows to read; that beside the boxes only if it is finished."""
    if flows is not None:
        if read_index(flows) is None:
            made = make_around(flows, "flows")
            raise InputError("not-finished", f"no finished flows at {flows}; make them with {made}")
        return flows
    beside = boxes.parent / "flows"
    return beside if read_index(beside) is not None else None


def _stored_clips(
    boxes: Path, flows: Path | None, annotated: BoxAnnotations
) -> Iterator[StoredClip]:
    """Yield the clips in the order of the shards; maps are read only for annotated clips."""
    index = read_index(boxes)
    assert index is not None, boxes
    for shard in index.shards:
        with ExitStack() as stack:
            reader = stack.enter_context(ShardReader(boxes / shard.name, "boxes"))
            maps = None
            if flows is not None:
                maps = stack.enter_context(ShardReader(flows / shard.name, "flows"))
                if maps.clip_ids() != reader.clip_ids():
                    raise InputError(
                        "other-clips", f"{maps.path} does not hold the same clips as {reader.path}"
                    )
            for number, clip_id in enumerate(reader.clip_ids()):
                wanted = annotated.name_of(clip_id) is not None
                yield _stored_clip(reader, maps if wanted else None, number, clip_id)


def _stored_clip(
    reader: ShardReader, maps: ShardReader | None, number: int, clip_id: str
) -> StoredClip:
    first, last = reader.pair("/clip/frames", number)
    times = reader.rows("/frame/pts_seconds", first, last)
    frames = ClipFrames(clip_id, reader.pair("/clip/size", number), times)
    boxes = reader.rows("/box/xyxy", first, last)
    if maps is None:
        return StoredClip(frames, boxes, None)
    values, _ = read_maps(maps, number, *maps.pair("/clip/frames", number))
    return StoredClip(frames, boxes, values)


def _means(values: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(of_frames.mean()) for name, of_frames in values.items()}


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _stack(annotated: Frames) -> np.ndarray:
    """float64 [F, K, 4]: the boxes of annotated frames, padded with NaN to the largest K."""
    most = max((len(boxes) for boxes in annotated.values()), default=0)
    stacked = np.full((len(annotated), most, 4), np.nan)
    for row, index in enumerate(sorted(annotated)):
        stacked[row, : len(annotated[index])] = annotated[index]
    return stacked


if __name__ == "__main__":
    main()
