"""Render the toy dataset: short clips of eight motions under a moving camera.

    python -m preprocess.toy --out out

takes about half a minute on two cores for the default 3200 clips (40 MB) and writes

    OUT/toy/videos/<clip_id>.mp4               H.264, 64 px, 16 frames at 12 a second
    OUT/toy/annotations/manifest.csv           labels and splits: input of preprocess.manifest
    OUT/toy/annotations/classes.json           class names, and what flips do to labels
    OUT/toy/truth/boxes/<clip_id>.boxes.csv    frame,x1,y1,x2,y2 of the moving objects (pixels,
                                               half-open; empty if they are out of view)
    OUT/toy/truth/flow/<clip_id>.npz           first, second, flow, valid of some pairs of frames
    OUT/toy/toy.json                           the options, and whether the dataset is complete

A clip depends only on the seed and on its number. Another run keeps the clips that exist.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import av
import click
import cv2
import numpy as np
from tqdm import tqdm

from preprocess.toy_clips.render import make_looks, render, true_flow
from preprocess.toy_clips.scene import CLASSES, FRAMES_PER_SECOND, NUM_FRAMES, make_scene
from shared.errors import InputError, user_errors
from shared.files import remove_leftovers, write_atomically
from shared.layout import DatasetLayout
from shared.manifest import Clip, write_classes, write_manifest
from shared.progress import bar_options
from shared.run_record import RunLock
from shared.temporary_names import temporary_name
from shared.wording import counted

VERSION = 2  # increase it when clips of the same seed change
NUM_CLASSES = len(CLASSES.label)
NUM_FLOW_PAIRS = 24
FLOW_FRAME = NUM_FRAMES // 2  # the pair is this frame and the next
QUALITY = "16"  # x264's constant rate factor: 0 is lossless, 51 worst


@dataclass(frozen=True)
class ToyOptions:
    """The options that decide the content of the dataset.

    Raises:
        InputError: the number of clips is not allowed.
    """

    clips: int
    seed: int
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.clips < 3 * NUM_CLASSES or self.clips % NUM_CLASSES:
            raise InputError(
                "out-of-range",
                f"--clips is {self.clips}; it must be a multiple of {NUM_CLASSES} and at least "
                f"{3 * NUM_CLASSES}, so that train, val and test have every class equally often",
            )


@click.command(
    help=__doc__.split("\n")[0], context_settings={"show_default": True, "max_content_width": 100}
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="Folder that contains the folders of all datasets. The clips go to its folder "
              "toy/.")  # fmt: skip
@click.option("--clips", type=int, default=3200, metavar="COUNT",
              help="Number of clips, a multiple of 8 and at least 24. The split val has 10 % of "
              "them, the split test 15 %, and the split train the others."
              )  # fmt: skip
@click.option("--seed", type=int, default=0, metavar="NUMBER",
              help="Seed of the random numbers that decide the content of the clips.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), metavar="PROCESSES",
              help="Number of processes that render clips.  "
              "[default: one for each core]")  # fmt: skip
@click.option(
    "--overwrite",
    is_flag=True,
    help="Render all clips again. The options may differ from those of the existing clips.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan of the run, and write nothing.")
@user_errors
def main(
    out: Path, clips: int, seed: int, workers: int | None, overwrite: bool, dry_run: bool
) -> None:
    options = ToyOptions(clips, seed)
    layout = DatasetLayout(out, "toy")
    print(f"toy: {counted(clips, 'clip')}, seed {seed}, to {layout.root}")
    if dry_run:
        return
    with RunLock(layout.lock):
        make_dataset(layout, options, workers or len(os.sched_getaffinity(0)), overwrite)


def make_dataset(layout: DatasetLayout, options: ToyOptions, workers: int, overwrite: bool) -> int:
    """Render the clips that do not exist yet.

    Returns:
        the number of rendered clips.

    Raises:
        InputError: the folder has clips that were made with other options, and `overwrite` is not
            set.
    """
    record = layout.root / "toy.json"
    clips = list_clips(options)
    # ------------------------------------------------------------------ keep existing clips
    kept = _kept_clips(layout, record, options, overwrite)
    todo = [index for index, clip in enumerate(clips) if clip.clip_id not in kept]
    if len(todo) < len(clips):
        print(f"reuse: {len(clips) - len(todo)} of {len(clips)} clips exist")
    # ------------------------------------------------------------------ render the others
    write_atomically(record, _record_text(options, complete=False))
    write_one = partial(write_clip, layout, options.seed, flow_clips=flow_clips(clips))
    settings = {"total": len(todo), "desc": "render", "unit": "clip", "disable": not todo}
    with tqdm(**settings, **bar_options()) as progress:
        for _ in _in_processes(write_one, todo, min(workers, len(todo))):
            progress.update()
    # ------------------------------------------------------------------ write the lists
    os.sync()
    write_manifest(layout.root / "annotations" / "manifest.csv", clips)
    write_classes(layout.root / "annotations" / "classes.json", CLASSES)
    write_atomically(record, _record_text(options, complete=True))
    return len(todo)


def list_clips(options: ToyOptions) -> list[Clip]:
    """The manifest. Labels repeat in turn, so that each split is balanced."""
    groups = options.clips // NUM_CLASSES  # one clip of each class
    num_test, num_val = max(1, round(0.15 * groups)), max(1, round(0.1 * groups))
    splits = ["train"] * (groups - num_val - num_test) + ["val"] * num_val + ["test"] * num_test
    return [
        Clip(
            clip_id=f"toy{index:05d}",
            video=f"toy{index:05d}.mp4",
            split=splits[index // NUM_CLASSES],
            label=index % NUM_CLASSES,
        )
        for index in range(options.clips)
    ]


def flow_clips(clips: list[Clip]) -> frozenset[str]:
    """The clips with true flow: the first of val, the split for choosing parameters."""
    return frozenset([clip.clip_id for clip in clips if clip.split == "val"][:NUM_FLOW_PAIRS])


def write_clip(layout: DatasetLayout, seed: int, index: int, flow_clips: frozenset[str]) -> None:
    """Render one clip with its truth. The video is written last, so it shows that all exists."""
    clip_id = f"toy{index:05d}"
    scene = make_scene(seed, index)
    looks = make_looks(seed, index, scene)
    frames, boxes = render(scene, looks)
    _write(_boxes_path(layout, clip_id), _boxes_text(boxes))
    if clip_id in flow_clips:
        flow, valid = true_flow(scene, looks, FLOW_FRAME)
        first, second = (
            cv2.cvtColor(frames[t], cv2.COLOR_RGB2GRAY) for t in (FLOW_FRAME, FLOW_FRAME + 1)
        )
        stream = io.BytesIO()
        np.savez_compressed(stream, first=first, second=second, flow=flow, valid=valid)
        _write(layout.root / "truth" / "flow" / f"{clip_id}.npz", stream.getvalue())
    _write(layout.videos / f"{clip_id}.mp4", encode(frames))


def _write(path: Path, data: bytes) -> None:
    """Write a file completely or not at all, but without the two fsync of `write_atomically`.

    Thousands of fsync can take longer than rendering. One sync before toy.json is enough.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.write_bytes(data)
    os.replace(temporary, path)


def encode(frames: np.ndarray) -> bytes:
    """Encode RGB frames uint8 [T, H, W, 3] as H.264 mp4. The same frames give the same bytes."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        # Without B-frames and weighted prediction: with them, x264 165 encodes such small frames
        # differently from run to run, even in one thread.
        video.options = {
            "crf": QUALITY,
            "preset": "veryfast",
            "threads": "1",
            "x264-params": "bframes=0:weightp=0",
        }
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode(None))
    return stream.getvalue()


def _in_processes(write_one: partial, todo: list[int], workers: int) -> Iterator[None]:
    """Write each clip, in any order; in this process if there is one worker."""
    if workers <= 1:
        yield from map(write_one, todo)
        return
    with multiprocessing.get_context("spawn").Pool(workers, _start_worker) as pool:
        yield from pool.imap_unordered(write_one, todo, chunksize=8)


def _start_worker() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process stops its workers


def _kept_clips(
    layout: DatasetLayout, record: Path, options: ToyOptions, overwrite: bool
) -> set[str]:
    """The ids of clips that need no rendering; with `overwrite`, existing clips are removed."""
    made_with = None if overwrite else _read_record(record)
    videos = list(layout.videos.glob("*.mp4")) if layout.videos.is_dir() else []
    if overwrite:
        for path in [*videos, *layout.root.glob("truth/*/toy*")]:
            path.unlink()
    elif made_with != asdict(options) and (made_with or videos):
        raise InputError(
            "other-options",
            f"{layout.root} was made with {_listed(made_with)}, and the options are now "
            f"{_listed(asdict(options))}; give another --out, or --overwrite to replace it",
        )
    for folder in (layout.videos, *layout.root.glob("truth/*")):
        remove_leftovers(folder)
    if overwrite:
        return set()
    return {path.stem for path in videos if _boxes_path(layout, path.stem).is_file()}


def _read_record(record: Path) -> dict | None:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return content["options"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            "damaged-file", f"{record} is damaged; remove {record.parent}, and run again"
        ) from None


def _record_text(options: ToyOptions, complete: bool) -> bytes:
    return json.dumps({"options": asdict(options), "complete": complete}).encode() + b"\n"


def _listed(options: dict | None) -> str:
    if options is None:
        return "unknown options"
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _boxes_path(layout: DatasetLayout, clip_id: str) -> Path:
    return layout.root / "truth" / "boxes" / f"{clip_id}.boxes.csv"


def _boxes_text(boxes: np.ndarray) -> bytes:
    rows = ["frame,x1,y1,x2,y2"]
    for frame, box in enumerate(boxes):
        values = ["" if np.isnan(value) else f"{value:g}" for value in box]
        rows.append(",".join([str(frame), *values]))
    return ("\n".join(rows) + "\n").encode()


if __name__ == "__main__":
    main()
