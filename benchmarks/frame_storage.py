"""Measures ways to store frames: size, time to decode, fidelity, motion boxes and accuracy.

    python -m benchmarks.frame_storage
    python -m benchmarks.frame_storage --only probe,finetune --runs FOLDER

A way to store frames is a short side, a JPEG quality and a chroma format. Fidelity is that of what
a model of 224 pixels is shown: the frame of the source, resized as one of VideoMAE's crops is
(its side is 1, 0.875, 0.75 or 0.66 of the short side), against the stored frame, resized to the
same size. Time is that of reading a clip of 16 frames: decoding, a crop, and the resize, in seconds
of the processor; all ways take turns. Motion boxes are compared with annotated ones. Accuracy is
that of JHMDB-21 on two folds (benchmarks/frame_storage_accuracy.py).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import torch

from benchmarks.annotated_sets import AnnotatedSet, annotated_sets, make_flows, read_clips
from benchmarks.datasets import run
from benchmarks.frame_storage_accuracy import MEASURES, Encoding, measure_accuracy
from benchmarks.options import chosen_parts, known_names, parts_option, samples_option
from benchmarks.real_clips import FOLDS
from benchmarks.record import RESULTS, command_without, fastest
from preprocess.annotated_boxes.metrics import box_figures
from preprocess.video.decode import decode_clip
from preprocess.video.frame_chunks import DecodeOptions
from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import Clip
from shared.run_record import git_commit, versions
from train.clips.reader import decode_jpeg
from train.clips.view_rules import multi_scale
from train.samples.views import cut

OUTPUT = 224
SCALES = (1.0, 0.875, 0.75, 0.66)
FRAMES = 16
STRIDE = 2
WHOLE = 4320  # a short side that no sample has: frames stay as they are
CHROMA = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}
SETS = {"davis": "davis/*.mp4", "ssv2": "ssv2/*.mp4", "epic100": "epic100/*.mp4"}


@dataclass(frozen=True)
class Way:
    """A way to store frames.

    Attributes:
        short_side: pixels; smaller videos are not enlarged.
        quality: JPEG quality 1..100; None = without loss.
        chroma: 4:2:0 stores colours at half size, 4:4:4 at full size.
    """

    short_side: int
    quality: int | None
    chroma: str = "4:2:0"

    @property
    def dataset(self) -> str:
        """A name for a dataset whose frames are stored so."""
        return f"{self.short_side}-q{self.quality}"

    def encode(self, frame: np.ndarray) -> np.ndarray:
        """The file uint8 [bytes] of a frame uint8 [H, W, 3]."""
        assert self.quality is not None, "a way without loss has no JPEG files"
        options = [cv2.IMWRITE_JPEG_QUALITY, self.quality,
                   cv2.IMWRITE_JPEG_SAMPLING_FACTOR, CHROMA[self.chroma]]  # fmt: skip
        return cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)[1].ravel()


# The first is what `flows` stores by default. OpenCV stores 4:2:0 unless it is told otherwise.
WAYS = (
    Way(256, 90),
    Way(256, 90, "4:4:4"),
    Way(256, 80),
    Way(240, 90),
    Way(240, 80),
    Way(224, 90),
    Way(256, None),
)


BOX_WAYS = {
    "davis": (Way(256, 90), Way(256, 80), Way(240, 90), Way(224, 90)),
    "ssv2": (Way(256, 90), Way(256, 80)),
}


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@samples_option("Folder of sample clips.")
@parts_option
@click.option("--rounds", type=click.IntRange(min=1), default=5, metavar="COUNT",
              help="Number of rounds in which the ways to store frames take turns; the fastest one "
              "counts.")  # fmt: skip
@click.option("--folds", default="1,2", metavar="LIST",
              help="Folds of JHMDB to test the accuracy on.")  # fmt: skip
@click.option("--runs", type=click.Path(path_type=Path), metavar="FOLDER",
              show_default="a temporary folder",
              help="Folder for datasets and runs of the accuracy. Finished runs are used "
              "again.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "frame_storage.json",
              metavar="FILE", show_default="benchmarks/results/frame_storage.json",
              help="JSON file to write; parts that do not run now keep their rows.")  # fmt: skip
@user_errors
def main(
    samples: Path, only: str | None, rounds: int, folds: str, runs: Path | None, out: Path
) -> None:
    numbers = tuple(map(int, known_names("--folds", folds, tuple(map(str, FOLDS)))))
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
            "views": partial(measure_views, samples, rounds),
            "boxes": partial(measure_boxes, samples, Path(scratch)),
            **{
                measure: partial(accuracies, samples, runs or Path(scratch), measure, numbers)
                for measure in MEASURES
            },
        }
        for name in chosen_parts(only, parts):
            rows = []
            for row in parts[name]():
                rows.append(row)
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            _write(out, name, rows)
    print(out)


def _write(out: Path, part: str, rows: list[dict[str, Any]]) -> None:
    """Add the rows of a part to the file, with the command that measured them."""
    content = json.loads(out.read_text()) if out.is_file() else {}
    content[part] = {
        "command": command_without(("--samples", "--runs", "--out"), "PATH"),
        "versions": versions(),
        "git_commit": git_commit(),
        "rows": rows,
    }
    write_atomically(out, json.dumps(content, indent=1).encode() + b"\n")


# -------------------------------------------------------------------- size, time and fidelity


def measure_views(samples: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """A row for each set of clips and way to store frames."""
    for name, pattern in SETS.items():
        paths = sorted(samples.glob(pattern))
        if not paths:
            raise InputError("missing-file", f"{samples} has no {pattern}; give --samples FOLDER")
        sources = [chosen_frames(path, WHOLE) for path in paths]
        short = min(sources[0].shape[1:3])
        # A short side that the videos do not reach is that of the present default.
        ways = [
            way for way in WAYS if short > way.short_side or (way.quality and way.short_side == 256)
        ]
        stored = {way: [chosen_frames(path, way.short_side) for path in paths] for way in ways}
        files = {
            way: [[way.encode(frame) for frame in clip] for clip in stored[way]]
            for way in ways
            if way.quality is not None
        }
        seconds = fastest({str(way): partial(decode_and_cut, files[way]) for way in files}, rounds)
        for way in ways:
            row = {"set": name, "clips": len(paths), "size": _size(sources[0]), **asdict(way)}
            decoded = stored[way]
            if way in files:
                sizes = [len(file) for clip in files[way] for file in clip]
                row["kilobytes_a_frame"] = round(float(np.mean(sizes)) / 1e3, 2)
                row["milliseconds_a_clip"] = round(1e3 * seconds[str(way)] / len(paths), 1)
                decoded = [np.stack([decode_jpeg(file, 1) for file in clip]) for clip in files[way]]
            psnr, ssim = fidelity(sources, decoded)
            yield row | {"psnr": round(psnr, 2), "ssim": round(ssim, 4)}


def _size(clip: np.ndarray) -> str:
    return f"{clip.shape[2]}x{clip.shape[1]}"


def chosen_frames(path: Path, short_side: int) -> np.ndarray:
    """The first window of a clip, uint8 [16, H, W, 3], decoded as `flows` decodes it."""
    options = DecodeOptions(short_side=short_side)
    frames: list[np.ndarray] = []
    for chunk in decode_clip(Clip("clip", path.name), path.parent, options):
        frames += list(chunk.rgb)
        if len(frames) >= FRAMES * STRIDE:
            break
    return np.stack(frames[: FRAMES * STRIDE : STRIDE])


def decode_and_cut(clips: list[list[np.ndarray]]) -> None:
    """Decode, crop and resize clips as a reader does; the crops are the same for every way."""
    rng = np.random.default_rng(0)
    pixels = np.empty((OUTPUT, OUTPUT, 3), np.uint8)
    for clip in clips:
        crop = None
        for file in clip:
            frame = decode_jpeg(file, 1)
            crop = crop or multi_scale(frame.shape[1], frame.shape[0], rng, scales=SCALES)
            cut(frame, crop, pixels, False, False)


def fidelity(sources: list[np.ndarray], stored: list[np.ndarray]) -> tuple[float, float]:
    """Mean PSNR in dB and mean SSIM of stored frames as a model sees them.

    Whole frames are resized by the factor by which a crop is: they have no border that must fall on
    a whole pixel.
    """
    psnr, ssim = [], []
    for source, clip in zip(sources, stored, strict=True):
        height, width = source.shape[1:3]
        for scale in SCALES:
            factor = OUTPUT / scale / min(height, width)
            shape = (round(height * factor), round(width * factor), 3)
            for true_frame, frame in zip(source, clip, strict=True):
                expected, found = (resized(each, shape) for each in (true_frame, frame))
                psnr.append(cv2.PSNR(expected, found))
                ssim.append(structural_similarity(expected, found))
    return float(np.mean(psnr)), float(np.mean(ssim))


def resized(frame: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    out = np.empty(shape, np.uint8)
    cut(frame, (0, 0, frame.shape[1], frame.shape[0]), out, False, False)
    return out


def structural_similarity(first: np.ndarray, second: np.ndarray) -> float:
    """SSIM of the grey values of two frames uint8 [H, W, 3] (Wang et al. 2004).

    Windows have 11 pixels and a deviation of 1.5; the constants are 0.01 and 0.03.
    """
    x, y = (cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(np.float64) for each in (first, second))

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(values, (11, 11), 1.5)

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    a, b = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + a) * (2 * covariance + b)
    return float((similarity / ((mean_x**2 + mean_y**2 + a) * (var_x + var_y + b))).mean())


# --------------------------------------------------------------------------- boxes and accuracy


def measure_boxes(samples: Path, scratch: Path) -> Iterator[dict[str, Any]]:
    """The IoU of motion boxes with annotated boxes, for each set and way that `flows` can store.

    Flow is computed from decoded frames that are resized to the short side, before they become
    JPEG files. Boxes also weigh the flow by the texture of the stored frames.
    """
    sets = annotated_sets(samples, None, scratch)
    for name, ways in BOX_WAYS.items():
        present: dict[str, float] = {}
        for way in ways:
            ious = box_ious(sets[name], DatasetLayout(scratch, f"{name}-{way.dataset}"), way)
            present = present or ious
            apart = [ious[clip] - present[clip] for clip in ious]
            yield {
                "set": name,
                "clips": len(ious),
                "short_side": way.short_side,
                "quality": way.quality,
                "iou": round(float(np.mean(list(ious.values()))), 4),
                "difference": round(float(np.mean(apart)), 4),
                "lowest": round(min(apart), 3),
                "highest": round(max(apart), 3),
            }


def box_ious(of_set: AnnotatedSet, layout: DatasetLayout, way: Way) -> dict[str, float]:
    """The mean IoU of each clip, with boxes made by the project's commands."""
    stored = ("--frame-short-side", str(way.short_side), "--jpeg-quality", str(way.quality))
    make_flows(layout, of_set.videos, *stored)
    run("preprocess.boxes", "--dataset", layout.dataset, "--out", str(layout.out))
    return {
        clip.clip_id: float(
            box_figures(clip.boxes[clip.frames], clip.annotated, clip.size)["iou"].mean()
        )
        for clip in read_clips(layout.boxes, of_set)
    }


def accuracies(
    samples: Path, runs: Path, measure: str, folds: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    """The top-1 of JHMDB with quality 90, the default, and 80."""
    encodings = [Encoding(90), Encoding(80)]
    yield from measure_accuracy(samples / "actions", runs, encodings, measure, folds)


if __name__ == "__main__":
    main()
