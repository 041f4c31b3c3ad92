"""The page on reuse: masks for VideoMAE's pretraining, of shared/ alone."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from markdown_blocks import read_blocks
from shard_fixtures import write_moving_squares

from shared.grid import View, inside_boxes
from shared.shards import ShardReader

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = [b for b in read_blocks(ROOT / "docs" / "reuse.md") if b.heading.startswith("Masks for")]
WINDOW = (8, 4, 4)  # tubelets, rows and columns of 64 px


class GroupMultiScaleCrop:
    """As VideoMAE's transforms.py has it: draws a crop, and hands the second item through."""

    def __init__(self, input_size: int, scales: list[float]) -> None:
        self.scales = scales

    def __call__(self, pair):
        frames, second = pair
        width, height, left, top = self._sample_crop_size(frames[0].size)
        box = (left, top, left + width, top + height)
        return [frame.crop(box) for frame in frames], second

    def _sample_crop_size(self, im_size):
        side = int(min(im_size) * random.choice(self.scales))
        return (
            side,
            side,
            random.randint(0, im_size[0] - side),
            random.randint(0, im_size[1] - side),
        )


class Frame:
    """What VideoMAE asks of a picture."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def crop(self, box: tuple[int, ...]) -> Frame:
        return Frame((box[2] - box[0], box[3] - box[1]))


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Path:
    return write_moving_squares(tmp_path_factory.mktemp("out"), still=(3,)).boxes


@pytest.fixture(scope="module")
def generator(boxes):
    [block] = [block for block in BLOCKS if block.language == "python"]
    names: dict = {}
    exec(block.text, names)
    return names["MotionMaskingGenerator"](WINDOW, 0.75, boxes, inside_ratio=0.5)


def stored(boxes: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in boxes.glob("[0-9]*.h5"):
        with ShardReader(path, "boxes") as shard:
            for clip_id, (first, last) in zip(shard.clip_ids(), shard["/clip/frames"], strict=True):
                found[clip_id] = shard["/box/xyxy"][first:last]
    return found


def test_masks_follow_the_boxes_of_each_clip(generator, boxes):
    half = (32, 32)  # frames at half of the size of the videos
    for clip_id, of_clip in stored(boxes).items():
        mask = generator(clip_id, half, (0, 0, 32, 32))
        assert mask.dtype == np.float64 and mask.shape == (8 * 16,) and mask.sum() == 8 * 12
        tubes = mask.reshape(8, 16).astype(bool)
        assert (tubes == tubes[0]).all()
        inside = inside_boxes(of_clip, View((0, 0, 64, 64), (64, 64))).ravel()
        if clip_id == "square-003":
            assert not inside.any()
        elif inside.sum() <= 8:
            assert tubes[0][inside].sum() == np.floor(0.5 * inside.sum() + 0.5)
    np.random.seed(1)
    first = generator("square-000", half, (0, 0, 32, 32))
    other = generator("square-000", half, (0, 0, 32, 32))
    np.random.seed(1)
    again = generator("square-000", half, (0, 0, 32, 32))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_the_changes_of_the_page_give_videomae_such_masks(generator):
    """The added lines, in an augmentation with the parts that VideoMAE has around them."""
    [block] = [block for block in BLOCKS if block.language == "diff"]
    added = {}
    for line in block.text.splitlines():
        if line.startswith("---"):
            place = line
        elif line.startswith("+"):
            added.setdefault(place, []).append(line[1:])
    imported, *remembered = added["--- datasets.py"]
    assert imported == "from motion_masking import MotionMaskingGenerator"
    called = added[[*added][-1]]
    code = "\n".join(["import os", *remembered, "def call(self, images):", *called])
    names = {"GroupMultiScaleCrop": GroupMultiScaleCrop}
    exec(code, names)

    class Augmentation:
        train_augmentation = names["RememberedCrop"](64, [1, 0.875, 0.75, 0.66])
        transform = train_augmentation
        masked_position_generator = staticmethod(generator)
        __call__ = names["call"]

    for number in range(20):
        pair = [Frame((128, 96))] * 16, f"/data/videos/square-{number:03d}.mp4"
        frames, mask = Augmentation()(pair)
        assert mask.sum() == 8 * 12 and len(frames) == 16


def test_the_page_needs_shared_alone(boxes, tmp_path):
    [block] = [block for block in BLOCKS if block.language == "python"]
    assert block.above == "`motion_masking.py`"
    shutil.copytree(ROOT / "shared", tmp_path / "shared", ignore=lambda *_: ["__pycache__"])
    (tmp_path / "motion_masking.py").write_text(block.text)
    code = f"""
import sys
from motion_masking import MotionMaskingGenerator
generator = MotionMaskingGenerator((8, 14, 14), 0.9, {str(boxes)!r})
mask = generator("square-000", (64, 64), (0, 0, 64, 64))
others = {{"torch", "av", "cv2", "preprocess", "train"}}
print(mask.shape, int(mask.sum()), *sorted(others & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "(1568,) 1408\n", done.stderr
