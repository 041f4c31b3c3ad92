"""Measures the share of a motion loss that falls on patches with hardly any motion.

    make flows METHOD=velocity
    python -m benchmarks.loss_on_rest --dataset toy

The command reads the stored flow of clips of split train, without the motion of the camera, and
groups patches by their motion (root mean square, pixels per frame). For each group it prints the
share of all patches, the share of the energy of the motion, and the share of the loss of predicting
rest. The loss is computed for two targets: flow divided by the motion of its patch plus 0.1 px, as
MME does (train/objectives/fixed_places.py), and shortened velocities
(train/objectives/velocity.py).
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import click
import numpy as np

from shared.errors import user_errors
from shared.layout import DatasetLayout
from train.clips.reader import ClipReader
from train.clips.table import MotionNeeds, read_clip_table
from train.objectives.tracked_points import STILL_PIXELS
from train.objectives.velocity import Velocity

EDGES = (0.0, 0.1, 0.3, 1.0, np.inf)  # pixels per frame


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--dataset", default="toy", metavar="NAME", help="Dataset to read.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="Folder of all datasets.")  # fmt: skip
@click.option("--clips", type=click.IntRange(1), default=400, metavar="CLIPS",
              help="Largest number of clips of split train.")  # fmt: skip
@click.option("--patches", type=click.IntRange(1), default=4, metavar="COUNT",
              help="Number of patches along each side of a frame.")  # fmt: skip
@user_errors
def main(dataset: str, out: Path, clips: int, patches: int) -> None:
    motion = stored_motion(DatasetLayout(out, dataset), clips, patches)
    moves = np.sqrt(np.square(motion).mean(axis=(1, 2)))
    print(f"{len(moves):,} patches; motion in pixels per frame, then percent of")
    print(f"{'':>12} {'patches':>9} {'energy':>9} {'flow':>9} {'velocity':>9}")
    for least, most in itertools.pairwise(EDGES):
        chosen = (moves >= least) & (moves < most)
        cells = [100 * chosen.mean()]
        cells += [100 * loss[chosen].sum() / loss.sum() for loss in losses_of_rest(motion).values()]
        print(f"{least:>4} to {most:>4} " + " ".join(f"{cell:9.1f}" for cell in cells))


def stored_motion(layout: DatasetLayout, clips: int, patches: int) -> np.ndarray:
    """Motion in pixels per frame, float32 [patches of all frames, points of a patch, 2]."""
    table = read_clip_table(
        layout, ["train"], False, MotionNeeds(track_length=1, track_points=patches, stabilised=True)
    )
    reader, found = ClipReader(table, max_open=4), []
    for index in range(min(clips, len(table))):
        first, last = table.frames[index]
        placed = reader.tracks(index, np.arange(last - first - 1))
        rows, columns = (side // patches * patches for side in placed.grid)
        tracks = placed.tracks.at(np.arange(math.prod(placed.grid)), hog=False)
        moves = tracks.displacements[:, :, 0].reshape(-1, *placed.grid, 2)
        parts = moves[:, :rows, :columns].reshape(
            -1, patches, rows // patches, patches, columns // patches, 2
        )
        found.append(np.moveaxis(parts, 3, 2).reshape(-1, rows * columns // patches**2, 2))
    return np.concatenate(found)


def losses_of_rest(motion: np.ndarray) -> dict[str, np.ndarray]:
    """The loss of each patch by target if rest is predicted: its squared values."""
    energy = np.square(motion).mean(axis=(1, 2))
    softness = Velocity().softness
    length = np.linalg.norm(motion, axis=2, keepdims=True)
    return {
        "energy": energy,
        "flow": energy / (np.sqrt(energy) + STILL_PIXELS) ** 2,
        "velocity": np.square(motion / (1 + length / softness)).mean(axis=(1, 2)),
    }


if __name__ == "__main__":
    main()
