"""Measures `loader.decode = "gpu"`: a device that decodes, crops and resizes, against one CPU core.

    python -m benchmarks.gpu --only "loader,few readers"

Clips are those of ViT-B: 16 frames of 455x256 pixels, a crop at several scales, 224 pixels,
standardised on the device. Two readers feed a ViT-B: once they decode, and once the GPU does. On a
CPU the same PyTorch code decodes, which shows how near its pixels are to those of OpenCV, and a
small model is trained.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.data_wait import VIT_B, pretrain
from benchmarks.datasets import run
from benchmarks.record import Figure
from benchmarks.step import device_seconds
from shared.layout import DatasetLayout
from train.clips.reader import decode_jpeg
from train.clips.view_rules import Box, multi_scale
from train.samples.coded_views import decode_views
from train.samples.loading import to_device
from train.samples.views import cut

SIZE = (455, 256)  # width and height, what `flows` stores of a video of 16:9
OUTPUT = 224
FRAMES = 16
QUALITY = 90  # the default of `flows`
SCALES = (1.0, 0.875, 0.75, 0.66)  # of VideoMAE's multi-scale crop; none is reduced in decoding
READERS = 2
STEPS = 60
TRIAL = ("model.image_size=64", "loader.workers=1", "loader.micro_batch_size=32")
VIDEOS = 60  # 75 % are in split train: a batch of 32, and some more
CPU = torch.device("cpu")


@dataclass(frozen=True)
class CodedClip:
    """A clip as its shard has it: JPEG files uint8 [bytes], and the crop of one view."""

    files: list[np.ndarray]
    crop: Box

    def pixels(self) -> Tensor:
        """What a reader that decodes hands over, uint8 [1, T, S, S, 3]."""
        pixels = np.empty((1, len(self.files), OUTPUT, OUTPUT, 3), np.uint8)
        for file, out in zip(self.files, pixels[0], strict=True):
            cut(decode_jpeg(file, 1), self.crop, out, False, False)
        return torch.from_numpy(pixels)

    def message(self) -> dict[str, Tensor]:
        """What a reader hands over to a device that decodes; see train/samples/coded_views.py."""
        return {
            "jpegs": torch.from_numpy(np.concatenate(self.files)),
            "jpeg_bytes": torch.tensor([len(file) for file in self.files]),
            "view_frames": torch.arange(len(self.files))[None],
            "view_cuts": torch.tensor([[*self.crop, 0, 0, OUTPUT, 1]]),
            "clip_counts": torch.tensor([[len(self.files), 1]]),
        }


def measure(device: torch.device) -> Iterator[Figure]:
    """Clips per second of the device, and how near its pixels are."""
    cv2.setNumThreads(1)
    num_clips = 32 if device.type == "cuda" else 2
    clips = coded_clips(num_clips)
    messages = [clip.message() for clip in clips]
    batch = {name: torch.cat([each[name] for each in messages]) for name in messages[0]}

    def on_device() -> Tensor:
        return to_device(batch, device)["clips"]

    def by_a_reader() -> Tensor:
        return to_device({"pixels": torch.cat([clip.pixels() for clip in clips])}, device)["clips"]

    on_core = device_seconds(by_a_reader, 2, device)
    whole = device_seconds(on_device, 2, device)
    decoding = device_seconds(lambda: decode_views(batch, device), 2, device)
    name = f"loader.decode=gpu on the {device.type}"
    sizes = [sum(each.nbytes for each in message.values()) for message in messages]
    yield Figure(
        f"{name}: clips of {FRAMES} frames, {SIZE[0]}x{SIZE[1]} to {OUTPUT} px",
        "clips/s",
        num_clips / whole,
        "a reader that decodes, one core",
        num_clips / on_core,
        note=f"micro-batches of {num_clips}; without the standardisation "
        f"{num_clips / decoding:.4g} clips/s; a clip is {statistics.mean(sizes) / 1e3:.0f} kB in "
        f"the message, {clips[0].pixels().nbytes / 1e3:.0f} kB as pixels",
    )
    found = decode_views(batch, device).cpu().int()
    apart = (found - torch.cat([clip.pixels() for clip in clips]).int()).abs()
    yield Figure(
        f"{name}: mean difference from the pixels of a reader that decodes",
        "grey values",
        float(apart.float().mean()),
        more_is_better=False,
        note=f"largest {int(apart.max())}",
    )


def few_readers(scratch: Path, is_gpu: bool) -> Iterator[Figure]:
    """Clips per second and the wait for data of a pretraining that few readers feed.

    A CPU trains a small model, and its readers decode: no figure of a GPU.
    """
    layout = textured_dataset(scratch)
    lines = {
        decode: pretrain(layout, f"decode-{decode}", STEPS, settings_of(decode))
        if is_gpu
        else pretrain(layout, "trial", 20, TRIAL)
        for decode in (("gpu", "cpu") if is_gpu else ("cpu",))
    }
    for key, unit, factor in (("clips_per_second", "clips/s", 1), ("data_wait_share", "%", 100)):
        means = [factor * statistics.mean(line[key] for line in each) for each in lines.values()]
        if is_gpu:
            yield Figure(
                f"pretraining of ViT-B, {READERS} readers, the GPU decodes: {key}",
                unit,
                means[0],
                "readers decode",
                means[1],
                more_is_better=key == "clips_per_second",
                note="the GPU's decoding is part of a step, not of the wait",
            )
        else:
            yield Figure(f"trial with a small model, whose readers decode: {key}", unit, means[0])


def settings_of(decode: str) -> tuple[str, ...]:
    """Settings of a pretraining of ViT-B with few readers."""
    return *VIT_B, f"loader.workers={READERS}", f"loader.decode={decode}"


def coded_clips(count: int) -> list[CodedClip]:
    """Clips of one textured colour frame each, with random crops."""
    rng = np.random.default_rng(0)
    clips = []
    for _ in range(count):
        file = cv2.imencode(".jpg", texture(rng), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].ravel()
        clips.append(CodedClip([file] * FRAMES, multi_scale(*SIZE, rng, scales=SCALES)))
    return clips


def texture(rng: np.random.Generator) -> np.ndarray:
    """A smooth random picture uint8 [H, W, 3]."""
    picture = cv2.GaussianBlur(rng.random((*SIZE[::-1], 3)).astype(np.float32), (0, 0), 1.5)
    return (255 * (picture - picture.min()) / np.ptp(picture)).astype(np.uint8)


def textured_dataset(scratch: Path) -> DatasetLayout:
    """Frames shards of videos in which a texture moves by three pixels a frame."""
    rng = np.random.default_rng(0)
    videos = scratch / "textured-videos"
    videos.mkdir(parents=True)
    for number in range(VIDEOS):
        still = texture(rng)
        path = str(videos / f"{number}.avi")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 12, SIZE)
        for step in range(2 * FRAMES):
            writer.write(np.roll(still, 3 * step, axis=1))
        writer.release()
    place = ("--dataset", "textured", "--out", str(scratch))
    run("preprocess.manifest", *place, "--videos", str(videos))
    run("preprocess.flows", *place, "--videos", str(videos), "--source", "none",
        "--pool", "in-process")  # fmt: skip
    return DatasetLayout(scratch, "textured")
