"""The parts of benchmarks.gpu. Each yields its figures one by one, so that a cut keeps the first.

    python -m benchmarks.gpu_parts NAME --device cuda --figures FILE

Each part runs in a process of its own: an error, a hang or a full GPU costs that part alone. On a
CPU the same code runs with small sizes, which shows that it runs, and nothing else.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.record import Figure
from shared.errors import user_errors
from shared.run_record import JsonlLog

BYTES_PER_PIXEL = 64  # that an iteration of TV-L1 through memory moves, preprocess/tvl1_solvers
FLOW_SIZE = (240, 320)
# Relative difference of the gradient from that of float64: rounding of matrix products.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class Place:
    """Where a part runs: its device, its sizes, and a folder for its files."""

    device: torch.device
    scratch: Path
    samples: Path

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"


Part = Callable[[Place], Iterator[Figure]]


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.argument("name")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), required=True,
              help="Device that computes.")  # fmt: skip
@click.option("--figures", type=click.Path(path_type=Path), required=True, metavar="FILE",
              help="File of JSON lines to which the figures are added.")  # fmt: skip
@click.option("--samples", type=click.Path(path_type=Path), required=True, metavar="FOLDER",
              help="Folder of sample clips.")  # fmt: skip
@user_errors
def main(name: str, device: str, figures: Path, samples: Path) -> None:
    log = JsonlLog(figures)
    with tempfile.TemporaryDirectory() as scratch:
        place = Place(torch.device(device), Path(scratch), samples)
        for figure in PARTS[name](place):
            log.write(figure.to_dict())


# ------------------------------------------------------------------------- the same as on a CPU


def same_flow(place: Place) -> Iterator[Figure]:
    """How many values of TV-L1 flow on the device differ from those of the C++ solver."""
    from preprocess.flow.tvl1 import tvl1_flow
    from preprocess.tvl1_solvers import eager, native
    from preprocess.tvl1_solvers.presets import PRESETS

    for height, width in ((240, 427), (37, 53), FLOW_SIZE) if place.is_gpu else ((37, 53),):
        first, second = moving_frames(5, height, width)
        for name in ("fast", "exact", "opencv") if place.is_gpu else ("fast",):
            expected = native.solve(first, second, None, PRESETS[name])
            if place.is_gpu:
                found = tvl1_flow(first.cuda(), second.cuda(), name).cpu()
            else:
                found = eager.solve(first, second, None, PRESETS[name], eager.EAGER)
            different = int((found != expected).sum())
            yield Figure(
                f"TV-L1, preset {name}, {width}x{height}: values that differ from the C++ solver",
                "values",
                different,
                more_is_better=False,
                note=f"of {expected.numel()}, largest difference "
                f"{(found - expected).abs().max():.3g} px; "
                + ("as promised" if not different else "BROKEN PROMISE: bits must be equal"),
            )


def same_training(place: Place) -> Iterator[Figure]:
    """The gradient of a pretraining step on the device against that of float64 on the CPU."""
    from benchmarks.step_contenders import ours
    from train.network.autoencoder import named_config

    sizes = {"image_size": 64, "num_frames": 8, "decoder_depth": 2}
    config = named_config("vit-s", depth=4, **sizes)
    truth = _gradient(ours("pretraining", 2, torch.float64, torch.device("cpu"), config))
    for dtype, tolerance in TOLERANCES.items():
        found = _gradient(ours("pretraining", 2, dtype, place.device, config))
        difference = float((found - truth).norm() / truth.norm())
        yield Figure(
            f"training, {str(dtype).partition('.')[2]}: distance of the gradient from float64's",
            "of its length",
            difference,
            "tolerance",
            tolerance,
            more_is_better=False,
            target=1.0,
        )


def _gradient(contender: object) -> torch.Tensor:
    """The gradient of all weights, float64 on the CPU; the weights are drawn from one seed."""
    from benchmarks.step_contenders import Contender

    assert isinstance(contender, Contender)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in contender.model.parameters():
            drawn = 0.02 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn.to(parameter))
    contender.loss().backward()
    gradients = [each.grad for each in contender.model.parameters() if each.grad is not None]
    return torch.cat([gradient.detach().double().cpu().ravel() for gradient in gradients])


def moving_frames(count: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of grey frames float32 [B, H, W], 0..255: smooth texture that moves by two pixels."""
    import cv2

    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.random((height + 8, width + 8)), (0, 0), 2.0)
    texture = 255 * (texture - texture.min()) / np.ptp(texture)
    noise = rng.normal(0, 2, (count, height, width))
    first = np.clip(texture[4:-4, 4:-4] + noise, 0, 255)
    second = np.clip(texture[3:-5, 2:-6] + noise, 0, 255)
    return torch.from_numpy(first).float(), torch.from_numpy(second).float()


# ------------------------------------------------------------------------------------- TV-L1


def tvl1(place: Place) -> Iterator[Figure]:
    """Pairs per second, beside the least time that memory needs for the iterations."""
    from benchmarks.step import device_seconds
    from preprocess.flow.tvl1 import tvl1_flow

    height, width = FLOW_SIZE
    bandwidth = copy_rate(place)
    floor = bandwidth / (BYTES_PER_PIXEL * iterated_pixels(height, width))
    for batch_size in (16, 64, 256) if place.is_gpu else (1,):
        first, second = (x.to(place.device) for x in moving_frames(batch_size, height, width))
        seconds = device_seconds(functools.partial(tvl1_flow, first, second), 2, place.device)
        yield Figure(
            f"TV-L1, {width}x{height}, batches of {batch_size}",
            "pairs/s",
            batch_size / seconds,
            "what memory allows",
            floor,
            note=f"iterations move {BYTES_PER_PIXEL} bytes a pixel, memory {bandwidth / 1e9:.0f} "
            "GB/s; caches can beat that",
        )


def iterated_pixels(height: int, width: int) -> int:
    """Pixels of all levels times the iterations there, for a pair with preset fast."""
    from preprocess.tvl1_solvers.presets import PRESETS, level_sizes

    preset = PRESETS["fast"]
    fine, *coarse = level_sizes(height, width, preset)
    pixels = fine[0] * fine[1] * preset.warps_fine * preset.iterations_fine
    return pixels + sum(h * w * preset.warps * preset.iterations for h, w in coarse)


def copy_rate(place: Place) -> float:
    """Bytes per second that the device reads and writes in a large copy."""
    from benchmarks.step import device_seconds

    source = torch.zeros((1 << 30) if place.is_gpu else (1 << 26), dtype=torch.uint8)
    source = source.to(place.device)
    target = torch.zeros_like(source)
    return 2 * len(source) / device_seconds(lambda: target.copy_(source), 3, place.device)


# -------------------------------------------------------------------------------------- steps


def pretraining_step(place: Place) -> Iterator[Figure]:
    yield from _step("pretraining", place)


def finetuning_step(place: Place) -> Iterator[Figure]:
    yield from _step("finetuning", place)


def _step(task: str, place: Place) -> Iterator[Figure]:
    """The step of ViT-B in bf16 against Hugging Face's, with the share of a matrix product."""
    from benchmarks.step import GPU_BATCHES, at_best_batch
    from benchmarks.step_contenders import VIT_B
    from train.network.autoencoder import named_config

    if place.is_gpu:
        yield from at_best_batch(task, 3, GPU_BATCHES[task], place.device, VIT_B)
    else:
        small = named_config("vit-s", image_size=64, num_frames=4, depth=2, decoder_depth=1)
        for figure in at_best_batch(task, 1, (1, 2), place.device, small):
            yield replace(figure, name=f"trial with a small model: {figure.name}", target=None)


# --------------------------------------------------------------------------- flows, loader, wait


def flows(place: Place) -> Iterator[Figure]:
    """`preprocess.flows` from end to end, on the GPU and on one core."""
    from benchmarks.datasets import make_videos, names_of
    from benchmarks.flows import copied_videos, summary

    name = names_of(place.samples)[-1]
    videos = sorted(make_videos(place.scratch, name, place.samples).rglob("*.mp4"))
    videos = videos[: 16 if place.is_gpu else 2]
    dataset = copied_videos(place.scratch, videos)
    if place.is_gpu:
        times = summary([*dataset, "--num-gpus", "1"], "ray")
    else:
        times = summary(dataset, "in-process")
    num_frames = _stored_frames(place.scratch / "copied")
    yield Figure(
        f"flows, {name}: end to end on the {place.device.type}",
        "frames/s",
        num_frames / times["whole"],
        note=f"{num_frames} frames in {times['whole']:.1f} s, with the start of the command; "
        f"decoding {times['decode']:.1f} s, flow {times['flow']:.1f} s, "
        f"{len(os.sched_getaffinity(0))} cores",
    )


def _stored_frames(root: Path) -> int:
    from shared.shards import ShardReader

    shards = sorted((root / "frames").glob("*.h5"))
    total = 0
    for path in shards:
        with ShardReader(path, "frames") as shard:
            total += int(shard["/clip/frames"][-1, 1])
    return total


def loader(place: Place) -> Iterator[Figure]:
    """Clips that the device decodes and cuts, against OpenCV on one core, and their pixels."""
    from benchmarks.device_loader import measure

    yield from measure(place.device)


def data_wait(place: Place) -> Iterator[Figure]:
    """The share of its time that training waits for data; it uses a GPU if there is one."""
    from benchmarks.data_wait import measure

    yield from measure(place.scratch / "data-wait", steps=60 if place.is_gpu else 20)


def few_readers(place: Place) -> Iterator[Figure]:
    """Training that two readers feed: they decode, or the GPU does."""
    from benchmarks.device_loader import few_readers

    yield from few_readers(place.scratch, place.is_gpu)


# In order of worth: what the project promises of a GPU, then the figures that its plan rests on.
PARTS: dict[str, Part] = {
    "same flow": same_flow,
    "same training": same_training,
    "tvl1": tvl1,
    "pretraining step": pretraining_step,
    "flows": flows,
    "loader": loader,
    "data wait": data_wait,
    "finetuning step": finetuning_step,
    "few readers": few_readers,
}


if __name__ == "__main__":
    main()
