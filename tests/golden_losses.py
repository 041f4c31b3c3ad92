"""The first losses of training: golden values that show when a change alters what is learned.

    python -m tests.golden_losses            writes tests/golden/losses.txt, in about a minute
    python -m tests.golden_losses --clips    renders and preprocesses the clips again first

tests/golden/toy/ holds the shards of 12 clips of the toy dataset, rendered and preprocessed by the
project's own commands. The shards are stored because optical flow, and with it the boxes and masks,
depends on the vector instructions of the CPU. HOG of each colour channel, three times the bytes of
the grey HOG, is computed from the stored frames along the stored tracks. A very small model is
trained on them for 50 steps: pretraining with every method of the toy recipe and the options in
`VARIANTS`, and finetuning with both heads. Everything is computed on the CPU in float32 by one
thread. tests/test_golden_losses.py repeats the runs and compares. Write the file again only after a
change that is meant to alter training, and name that change in the commit.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import cv2
import numpy as np
import torch
from click.testing import CliRunner

from preprocess.flow.options import TrackOptions
from preprocess.flow.tracks import hog_along
from shared.layout import DatasetLayout
from shared.manifest import write_classes, write_manifest
from shared.run_record import read_jsonl
from shared.shard_index import read_index, write_index
from shared.shard_writer import write_shard
from shared.shards import ShardReader
from shared.stored_tracks import read_tracks
from shared.tracks import Tracks, quantised, start_points
from train.finetune import finetune
from train.options.recipe import read_recipe
from train.pretrain import pretrain
from train.running.command import Common

GOLDEN = Path(__file__).resolve().parent / "golden"
FILE = GOLDEN / "losses.txt"
STORED = ("frames", "flows", "flows-motion-vectors-length", "boxes")  # folders of shards

STEPS = 50
BATCH_SIZE = 4
NUM_CLIPS = {"train": 2 * BATCH_SIZE, "val": 4}  # two steps an epoch
HEADS = ("mean", "mca")
RATE = 0.09
"""Base learning rate of every run. The toy recipe's own rate of pretraining hardly lowers the loss
in 50 steps, and then a wrong rate would not show."""
SETTINGS = (
    *("model.width=48", "model.depth=2", "model.num_heads=3"),
    *("loader.log_steps=1", "loader.precision=fp32"),
)
FEW_TRACKS = ("target.points=4", "target.stabilised=false")
ONLY = {"pretrain-velocity": FEW_TRACKS, "pretrain-descriptors": FEW_TRACKS}
"""Further settings of one run: the stored tracks are few, and have the camera's motion."""
VARIANTS = {
    "pretrain-mofo-decodes-motion": ("decoder_mask.kind=motion",),
    "pretrain-mgm-top-before": ("mask.top=4", "mask.before=true"),
    "pretrain-trackmae-by-tubelet": ("target.starts=tubelet", "target.scale=size"),
    "pretrain-mme-colour": ("trajectories.hog_channels=rgb",),
}
"""Further runs of a method, which the name of the run begins with, with settings of their own."""
IN_COLOUR = ("pretrain-mme-colour",)
"""Runs on the clips of `colour_clips`."""
DECODER = ("model.decoder_width=32", "model.decoder_depth=1", "model.decoder_heads=2")


def methods() -> list[str]:
    """The pretraining methods of the toy recipe."""
    tables = read_recipe("toy", None)["pretrain"]
    return [name for name, table in tables.items() if isinstance(table, dict) and "mask" in table]


def run_names() -> list[str]:
    """The recorded runs, in the order of the file's columns."""
    pretraining = [f"pretrain-{name}" for name in methods()]
    return [*pretraining, *VARIANTS, *(f"finetune-{kind}" for kind in HEADS)]


def make_clips(out: Path) -> DatasetLayout:
    """Render the clips and preprocess them for every method, by the project's own commands."""
    from preprocess import boxes, flows, toy
    from preprocess.toy_clips.scene import CLASSES

    layout = DatasetLayout(out, "toy")
    listed = toy.list_clips(toy.ToyOptions(clips=24, seed=0))
    clips = []
    for split, count in NUM_CLIPS.items():
        clips += [clip for clip in listed if clip.split == split][:count]
    for clip in clips:
        toy.write_clip(layout, 0, listed.index(clip), frozenset())
    write_manifest(layout.manifest, clips)
    write_classes(layout.classes, CLASSES)
    where = ["--dataset", layout.dataset, "--out", str(out)]
    # Fewer points and smaller maps than by default: the shards are kept under version control.
    small = ["--track-points", "8", "--map-short-side", "16", "--jpeg-quality", "75"]
    sources = ["--source", "tvl1,motion-vectors", "--lengths", "--trajectories"]
    for command, arguments in (
        (flows.main, [*where, *sources, *small, "--pool", "in-process"]),
        (boxes.main, [*where, "--workers", "1"]),
    ):
        ended = CliRunner().invoke(command, arguments)
        assert ended.exit_code == 0, ended.output
    return layout


def store_clips(layout: DatasetLayout) -> None:
    """Replace the stored clips by those of a dataset, without what training does not read."""
    stored = GOLDEN / layout.dataset
    shutil.rmtree(stored, ignore_errors=True)
    for name in STORED:
        shutil.copytree(
            layout.root / name, stored / name, ignore=shutil.ignore_patterns("options.json", ".*")
        )
    for path in (layout.manifest, layout.classes):
        shutil.copy(path, stored / path.name)


def copy_clips(out: Path) -> DatasetLayout:
    """Copy the stored clips to a folder that runs may be written to."""
    layout = DatasetLayout(out, "toy")
    shutil.copytree(GOLDEN / layout.dataset, layout.root)
    return layout


def colour_clips(layout: DatasetLayout) -> DatasetLayout:
    """The clips with HOG of each colour channel along their tracks, as `flows --track-channels rgb`
    stores it; made once, in the folder colour/ beside them."""
    made = DatasetLayout(layout.out / "colour", layout.dataset)
    if made.root.exists():
        return made
    shutil.copytree(GOLDEN / layout.dataset, made.root)
    index = read_index(made.flows)
    [entry] = index.shards
    path = made.flows / entry.name
    with (
        ShardReader(path, "flows") as reader,
        ShardReader(made.frames / entry.name, "frames") as frames,
    ):
        arrays = {name: reader[name] for name in reader._fields}
        options = TrackOptions(
            int(reader.attributes["track_length"]),
            int(reader.attributes["track_points"]),
            cell=int(reader.attributes["track_cell"]),
            channels="rgb",
        )
        hog = [
            _colour_hog(reader, frames, clip, options) for clip in range(len(arrays["/clip/id"]))
        ]
        attributes = reader.attributes | options.config()
    arrays["/track/hog"] = np.concatenate(hog)
    num_bytes, sha256 = write_shard(path, "flows", arrays, attributes)
    entry = replace(entry, bytes=num_bytes, sha256=sha256)
    write_index(made.flows, replace(index, shards=[entry], config=index.config | options.config()))
    return made


def _colour_hog(
    reader: ShardReader, frames: ShardReader, clip: int, options: TrackOptions
) -> np.ndarray:
    """/track/hog of one clip, in the order of its tracks."""
    first, last = reader["/clip/frames"][clip]
    tracks = read_tracks(reader, range(first, last)).whole()
    (width, height), grid = reader["/clip/track_size"][clip], reader["/clip/track_grid"][clip]
    starts = start_points((int(height), int(width)), tuple(grid))
    moved = np.cumsum(tracks.displacements, axis=2) - tracks.displacements
    positions = torch.from_numpy(starts[:, None] + moved)
    jpegs = frames.ragged("/jpeg/offsets", "/jpeg/values", first, last)
    colour = torch.from_numpy(
        np.stack([cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB) for jpeg in jpegs])
    )
    assert colour.shape[1:3] == (height, width), "the frames were tracked at another size"
    steps = torch.from_numpy(tracks.num_steps.astype(np.int64))
    numbers = torch.arange(int(last - first))
    hog = [hog_along(each, numbers, positions, steps, options) for each in colour.unbind(-1)]
    found = Tracks(tracks.displacements, tracks.num_steps, torch.cat(hog, dim=-1).numpy())
    return quantised(found)["hog"].ravel()


def first_losses(layout: DatasetLayout, run: str, *settings: str, threads: int = 1) -> np.ndarray:
    """Train one run from its beginning.

    Args:
        layout: what `copy_clips` returns.
        run: one of `run_names()`.
        settings: changes of the recipe, as for --set.

    Returns:
        float64 [STEPS], the loss of every step.
    """
    command, what = run.split("-")[:2]
    if run in IN_COLOUR:
        layout = colour_clips(layout)
    decoder = DECODER if command == "pretrain" else ()
    common = Common(
        layout.dataset,
        layout.out,
        settings=(
            *SETTINGS,
            *decoder,
            f"optim.base_learning_rate={RATE}",
            *ONLY.get(run, ()),
            *VARIANTS.get(run, ()),
            *settings,
        ),
        epochs=STEPS * BATCH_SIZE // NUM_CLIPS["train"],
        batch_size=BATCH_SIZE,
        run=run,
        workers=0,
        device="cpu",
        tensorboard=False,
        overwrite=True,
    )
    with one_thread(threads):
        folder = pretrain(common, what) if command == "pretrain" else finetune(common, what, "none")
    events = [event for event in read_jsonl(folder.log) if event["event"] == "train"]
    assert [event["step"] for event in events] == list(range(1, STEPS + 1))
    return np.array([event["loss"] for event in events])


def deviation(recorded: np.ndarray, found: np.ndarray) -> float:
    """The largest relative difference between two lists of losses."""
    return float(np.max(np.abs(found - recorded) / np.abs(recorded)))


@contextmanager
def one_thread(threads: int = 1) -> Iterator[None]:
    """PyTorch computes with so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_golden() -> dict[str, np.ndarray]:
    """The recorded losses: by name of the run, float64 [STEPS]."""
    [names, *rows] = [line.split() for line in FILE.read_text().splitlines() if line[0] != "#"]
    table = np.array([[float(value) for value in row] for row in rows])
    assert table[:, 0].tolist() == list(range(1, STEPS + 1)), "the file lacks steps"
    return dict(zip(names[1:], table[:, 1:].T, strict=True))


def write_golden(losses: dict[str, np.ndarray]) -> None:
    """Write the file: one line for every step, one column for every run."""
    lines = [
        "# The loss of the first training steps, written by `python -m tests.golden_losses`.",
        "# Each column is a run on the clips in tests/golden/toy: CPU, float32, one thread.",
        "step " + " ".join(losses),
    ]
    for step, row in enumerate(zip(*losses.values(), strict=True), start=1):
        cells = [f"{value:{len(name)}.6f}" for name, value in zip(losses, row, strict=True)]
        lines.append(f"{step:4d} " + " ".join(cells))
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text("\n".join(lines) + "\n")


@click.command(context_settings={"max_content_width": 100})
@click.option("--clips", is_flag=True, help="Render and preprocess the stored clips again first.")
def main(clips: bool) -> None:
    """Write tests/golden/losses.txt."""
    with tempfile.TemporaryDirectory(prefix="golden-losses-") as folder:
        if clips:
            store_clips(make_clips(Path(folder) / "made"))
        layout = copy_clips(Path(folder) / "out")
        write_golden({run: first_losses(layout, run) for run in run_names()})
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
