"""Measures training clips per second and core: from frames shards, and decoded from videos.

    python -m benchmarks.loader --samples ../shared/samples

Clips are those of a ViT-B pretraining: 16 frames, multi-scale crop to 224 pixels, standardised
float32 on the device, and a mask. Ours also have motion boxes, which peers do not. Peers decode on
one thread, sample frames as VideoMAE's loader does (a random window with a stride of two), and
transform them as it does (Pillow, frame by frame). The target refers to this. Each peer is measured
a second time with our transforms, so that only decoding differs. Workers hand bytes to a GPU, so
the figures of views leave out the part of the device. It takes about a minute.

MME's clips have targets from stored tracks as well. They are read beside MOFO's, with the frames
and tubelets of MME's recipe, and the size of the tracks is printed for each clip, and projected for
a clip of Something-Something V2.

Then one reader with few open shards reads 10,000 toy clips, to measure memory and open files.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import cv2
import h5py
import numpy as np
import torch

from benchmarks.datasets import make_dataset, make_videos, names_of
from benchmarks.options import out_option, samples_option
from benchmarks.record import Figure, conclude, fastest, resident_megabytes
from benchmarks.video_peers import Decode, available, pillow_transform
from shared.errors import user_errors
from shared.layout import DatasetLayout
from shared.manifest import read_manifest
from shared.masks import MASKS, Scene
from train.clips.table import read_clip_table
from train.clips.view_rules import CROPS, dense
from train.options.config import LoaderConfig
from train.options.recipe import pretrain_config, read_recipe
from train.samples.datasets import PretrainDataset
from train.samples.loading import to_device
from train.samples.views import cut

CPU = torch.device("cpu")
CLIPS = 14  # clips per pass; a smaller dataset is read more than once
STRIDE = 2
OPEN_SHARDS = 2
TARGET = 3.0
MME_SHARE = 0.5  # of MOFO's clips/s
FRAMES, ALL_CLIPS = 45, 220_847  # of Something-Something V2; frames of a clip, about
MOST_KB = 300.0  # of the tracks of such a clip


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@samples_option("Folder of sample clips. Without its ssv2/, only toy clips are used.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    metavar="COUNT",
    help="Number of rounds with all contenders in turn; the fastest one counts.",
)
@click.option(
    "--soak",
    type=click.IntRange(min=0),
    default=10_000,
    metavar="CLIPS",
    help="Clips to read with one reader to see whether memory grows; 0 skips this.",
)
@out_option("loader-HOST")
@user_errors
def main(samples: Path, rounds: int, soak: int, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(Path(scratch), samples, rounds, soak)
    conclude("loader", figures, out)


def measure(scratch: Path, samples: Path, rounds: int, soak: int) -> list[Figure]:
    """All figures of the loader; missing datasets are made below `scratch`."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    figures, layouts = [], []
    for name in names_of(samples):
        layouts.append(make_dataset(scratch, name, samples))
        figures += of_dataset(layouts[-1], make_videos(scratch, name, samples), rounds)
    for name in names_of(samples):
        figures += of_tracks(scratch / "tracks", name, samples, rounds)
    if soak:
        figures += of_memory(layouts[0], soak)
    return figures


# ------------------------------------------------------------------------------------ clips/s


def of_dataset(layout: DatasetLayout, videos: Path, rounds: int) -> list[Figure]:
    dataset = our_dataset(layout, repeats=1)
    several = our_dataset(layout, repeats=4)
    coded = our_dataset(layout, repeats=1, decode="gpu")
    indices = np.resize(np.arange(len(dataset.table)), CLIPS)
    paths = {clip.clip_id: videos / clip.video for clip in read_manifest(layout.manifest)}
    chosen = [paths[dataset.table.clip_id(int(i))] for i in indices]
    peers, missing = available(chosen[0])
    works: dict[str, Callable] = {
        "ours": lambda: read_ours(dataset, indices, CPU),
        "1 view": lambda: read_ours(dataset, indices, None),
        "4 views": lambda: read_ours(several, indices, None),
        "coded": lambda: read_ours(coded, indices, None),
    }
    for peer, decode in peers.items():
        for transforms in ("ours", "VideoMAE's"):
            works[f"{peer}, {transforms}"] = _reading(decode, chosen, dataset, transforms)
    for work in works.values():
        work()  # open, compile, warm up
    seconds = fastest(works, rounds)

    rate = {name: CLIPS / each for name, each in seconds.items()}
    what = f"loader, {layout.dataset}"
    figures = [
        Figure(
            f"{what}: against {peer} and {transforms} transforms",
            "clips/s",
            rate["ours"],
            peer,
            rate[f"{peer}, {transforms}"],
            target=TARGET if peer == "decord" and transforms != "ours" else None,
            note="per core",
        )
        for peer in peers
        for transforms in ("ours", "VideoMAE's")
    ]
    figures += [
        Figure(f"{what}: against {peer}", "clips/s", rate["ours"], peer, note=reason)
        for peer, reason in missing.items()
    ]
    figures.append(
        Figure(
            f"{what}: views as bytes, 4 of one read",
            "views/s",
            4 * rate["4 views"],
            "each read by itself",
            rate["1 view"],
            note="per core",
        )
    )
    figures.append(
        Figure(
            f"{what}: views as JPEG files, which a GPU decodes",
            "views/s",
            rate["coded"],
            "decoded by the reader",
            rate["1 view"],
            note="per core, without the GPU's part",
        )
    )
    return figures


def our_dataset(layout: DatasetLayout, repeats: int, decode: str = "cpu") -> PretrainDataset:
    """The clips of split train as `train.pretrain` reads them for ViT-B."""
    changes = {"repeats": repeats, "frames": {"stride": STRIDE}}
    config = pretrain_config(read_recipe("ssv2", None), "mofo", changes)
    table = read_clip_table(layout, ["train"], boxes=True)
    return PretrainDataset(
        table, config, LoaderConfig(workers=0, open_shards=16, decode=decode), seed=0
    )


def read_ours(dataset: PretrainDataset, indices: np.ndarray, device: torch.device | None) -> None:
    """Read samples as workers do, and standardise them on the device, if any."""
    for epoch, index in enumerate(indices):
        sample = dataset[(epoch, int(index))]
        if device is not None:
            to_device(sample, device)


def _dense(length: int, place: np.ndarray) -> np.ndarray:
    """What a video of this length gives: `place` float64 [T] of 0..1 -> frame numbers int64 [T]."""
    return dense(length, len(place), place, stride=STRIDE)


def _reading(
    decode: Decode, paths: list[Path], dataset: PretrainDataset, transforms: str
) -> Callable[[], None]:
    config = dataset.config
    scales, size = config.crop.options["scales"], config.model.image_size
    scene = Scene(config.model.time_steps, np.zeros((config.model.grid,) * 2, np.bool_), None)

    def read() -> None:
        rng = np.random.default_rng(0)
        for path in paths:
            place = rng.random(config.model.num_frames)
            frames = decode(path, partial(_dense, place=place))
            if transforms == "ours":
                crop = CROPS["multi_scale"](*frames.shape[2:0:-1], rng, scales=scales)
                pixels = np.empty((1, len(frames), size, size, 3), np.uint8)
                for frame, out in zip(frames, pixels[0], strict=True):
                    cut(frame, crop, out, False, False)
                to_device({"pixels": torch.from_numpy(pixels)}, CPU)
            else:
                pillow_transform(frames, scales, size, rng)
            MASKS["tube"].draw(scene, rng, mask_ratio=0.9)

    return read


# ------------------------------------------------------------------------------------- tracks


def of_tracks(scratch: Path, name: str, samples: Path, rounds: int) -> list[Figure]:
    """Clips/s of MME beside MOFO, both by the recipe of ssv2, and the bytes of MME's tracks."""
    config = pretrain_config(read_recipe("ssv2", None), "mme")
    needs = config.needed_motion
    assert needs is not None and needs.track_window is not None
    options = ("--trajectories", "--stabilise", "warp", "--track-window", str(needs.track_window))
    layout = make_dataset(scratch, name, samples, *options)
    loader = LoaderConfig(workers=0, open_shards=16)
    table = read_clip_table(layout, ["train"], boxes=False, motion=needs)
    mme = PretrainDataset(table, config, loader, seed=0)
    mofo = our_dataset(layout, repeats=1)
    indices = np.resize(np.arange(len(table)), CLIPS)
    works = {
        "MME": lambda: read_ours(mme, indices, CPU),
        "MOFO": lambda: read_ours(mofo, indices, CPU),
    }
    for work in works.values():
        work()
    seconds = fastest(works, rounds)

    num_bytes, starts = stored_tracks(layout)
    what, num_clips = f"loader, {layout.dataset}", len(read_manifest(layout.manifest))
    figures = [
        Figure(
            f"{what}: MME against MOFO",
            "clips/s",
            CLIPS / seconds["MME"],
            "MOFO",
            CLIPS / seconds["MOFO"],
            target=MME_SHARE,
            note="per core",
        ),
        Figure(
            f"{what}: tracks of a clip",
            "kB",
            round(num_bytes / num_clips / 1000, 1),
            more_is_better=False,
            note=f"{starts / num_clips:.1f} frames of a clip have tracks",
        ),
    ]
    if name == "ssv2":
        clip_bytes = num_bytes / starts * len(needs.track_window.starts(FRAMES))
        figures.append(
            Figure(
                f"{what}: tracks of a clip of {FRAMES} frames, projected",
                "kB",
                round(clip_bytes / 1000, 1),
                "limit",
                MOST_KB,
                more_is_better=False,
                target=1.0,
                note=f"{clip_bytes * ALL_CLIPS / 1e9:.0f} GB for all {ALL_CLIPS:,} clips",
            )
        )
    return figures


def stored_tracks(layout: DatasetLayout) -> tuple[int, int]:
    """Bytes of the tracks of a dataset in its files, and the number of frames that have tracks."""
    num_bytes = starts = 0
    for path in sorted(layout.flows.glob("*.h5")):
        with h5py.File(path) as shard:
            num_bytes += sum(each.id.get_storage_size() for each in shard["track"].values())
            starts += int(np.count_nonzero(np.diff(shard["track/offsets"])))
    return num_bytes, starts


# ------------------------------------------------------------------------------------- memory


def of_memory(layout: DatasetLayout, num_clips: int) -> list[Figure]:
    """Memory and open files of a new process that reads many clips with few open shards."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seen = pool.apply(_soak, (layout, num_clips))
        pool.close()
        pool.join()
    early, last = seen[len(seen) // 10], seen[-1]
    growth = last[1] - early[1]
    return [
        Figure(
            f"loader: memory gained from clip {early[0]:,} to {last[0]:,}",
            "MB",
            round(growth, 2),
            more_is_better=False,
            note=f"of {last[1]:.0f} MB; shard files open at most "
            f"{max(files for *_, files in seen)} of {2 * OPEN_SHARDS} allowed (frames, boxes)",
        )
    ]


def _soak(layout: DatasetLayout, num_clips: int) -> list[tuple[int, float, int]]:
    """(clips read, resident MB, open shard files) at a hundred times."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    dataset = our_dataset(layout, repeats=1)
    dataset = PretrainDataset(
        dataset.table, dataset.config, LoaderConfig(workers=0, open_shards=OPEN_SHARDS), seed=0
    )
    seen = []
    for number in range(num_clips):
        dataset[(number, number % len(dataset.table))]
        if (number + 1) % max(1, num_clips // 100) == 0:
            seen.append((number + 1, resident_megabytes(), _open_shards()))
    return seen


def _open_shards() -> int:
    """HDF5 files that this process has open."""
    descriptors = Path("/proc/self/fd").iterdir()
    targets = [os.readlink(path) for path in descriptors if path.is_symlink()]
    return sum(target.endswith(".h5") for target in targets)


if __name__ == "__main__":
    main()
