"""Crops, one resize, flips, and colours: the same for all frames, and boxes follow the pixels."""

import random

import cv2
import numpy as np
import torch
from errors import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from shared.grid import View
from shared.randomness import counter_generator
from train.clips.augment import ColourAugment, erase, seeded_globals
from train.clips.reader import decode_jpeg
from train.clips.view_rules import CROPS, square_along
from train.network.model_config import ModelConfig
from train.options.config import AugmentConfig
from train.samples.mixing import ClipMixer
from train.samples.views import cut, jpeg_reduction, source_view

OPTIONS = {
    "multi_scale": {"scales": (1.0, 0.875, 0.75, 0.66)},
    "random_resized": {"area": (0.08, 1.0), "aspect": (0.75, 4 / 3)},
    "shift": {"pixels": 4},
    "centre": {},
}
SIZES = st.integers(16, 400)


def test_every_crop_is_tested():
    assert set(OPTIONS) == set(CROPS)


@settings(deadline=None)
@given(width=SIZES, height=SIZES, kind=st.sampled_from(sorted(CROPS)), seed=st.integers(0, 2**31))
def test_crops_stay_in_the_picture(width, height, kind, seed):
    margin = OPTIONS[kind].get("pixels", 0)
    x1, y1, x2, y2 = CROPS[kind](width, height, counter_generator(seed), **OPTIONS[kind])
    assert -margin <= x1 < x2 <= width + margin
    assert -margin <= y1 < y2 <= height + margin


def test_multi_scale_sides_are_scales_of_the_short_side():
    scales = OPTIONS["multi_scale"]["scales"]
    allowed = [round(120 * scale) for scale in scales]
    seen = set()
    for seed in range(300):
        x1, y1, x2, y2 = CROPS["multi_scale"](160, 120, counter_generator(seed), scales=scales)
        across, down = allowed.index(x2 - x1), allowed.index(y2 - y1)
        assert abs(across - down) <= 1
        seen.add((across, down))
    assert len(seen) == 10  # four equal pairs and six neighbours


def test_random_resized_keeps_to_its_area():
    areas = []
    for seed in range(300):
        crop = CROPS["random_resized"](
            200, 100, counter_generator(seed), area=(0.25, 0.5), aspect=(0.5, 2.0)
        )
        areas.append((crop[2] - crop[0]) * (crop[3] - crop[1]) / 20_000)
    assert 0.24 < min(areas) < 0.3 and 0.45 < max(areas) < 0.51


def test_squares_along_the_long_side():
    assert [square_along(300, 100, i, 3) for i in range(3)] == [
        (0, 0, 100, 100),
        (100, 0, 200, 100),
        (200, 0, 300, 100),
    ]
    assert square_along(100, 300, 0, 1) == (0, 100, 100, 200)


@settings(deadline=None, max_examples=40)
@given(
    crop=st.tuples(st.integers(-8, 40), st.integers(-8, 40), st.integers(16, 50)),
    flips=st.tuples(st.booleans(), st.booleans()),
)
def test_a_box_follows_its_pixels(crop, flips):
    """A bright rectangle stays where `View.apply` says, through crop, border, resize and flips."""
    frame = np.zeros((64, 64, 3), np.uint8)
    box = (24, 20, 40, 44)
    frame[box[1] : box[3], box[0] : box[2]] = 255
    x1, y1, side = crop
    crop = (x1, y1, x1 + side, y1 + side)
    out = np.empty((64, 64, 3), np.uint8)
    cut(frame, crop, out, *flips)
    view = source_view(crop, (64, 64), (64, 64), 64, *flips)
    expected = view.apply(np.array(box, np.float32))
    bright = np.argwhere(out[..., 0] > 127)
    if np.isnan(expected).any():
        assert len(bright) == 0
        return
    found = [*bright.min(axis=0)[::-1], *(bright.max(axis=0)[::-1] + 1)]
    assert np.allclose(found, expected, atol=0.5 * 64 / side + 1)


def test_source_view_is_in_source_pixels():
    view = source_view((10, 0, 110, 100), (200, 100), (400, 200), 50, flip_x=True)
    assert view == View((20.0, 0.0, 220.0, 200.0), (50, 50), flip_x=True)


def test_what_needs_no_resize_is_copied_exactly():
    frame = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    out = np.empty((32, 32, 3), np.uint8)
    cut(frame, (8, 4, 40, 36), out, False, False)
    assert np.array_equal(out, frame[4:36, 8:40])
    cut(frame, (8, 4, 40, 36), out, True, True)
    assert np.array_equal(out, frame[4:36, 8:40][::-1, ::-1])


def test_reduced_decoding_fills_the_output_and_looks_the_same():
    assert [jpeg_reduction((0, 0, side, 300), 32) for side in (31, 63, 64, 128, 256, 999)] == [
        1, 1, 2, 4, 8, 8,
    ]  # fmt: skip
    texture = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    picture = cv2.resize(texture, (256, 128))
    jpeg = cv2.imencode(".jpg", picture[..., ::-1])[1].ravel()
    assert np.abs(decode_jpeg(jpeg, 1).astype(int) - picture).mean() < 3
    for reduction in (2, 4, 8):
        small = decode_jpeg(jpeg, reduction)
        averaged = cv2.resize(
            picture, (256 // reduction, 128 // reduction), interpolation=cv2.INTER_AREA
        )
        assert small.shape == averaged.shape
        assert np.abs(small.astype(int) - averaged).mean() < 3
    odd = cv2.imencode(".jpg", picture[:127, :255])[1].ravel()
    assert decode_jpeg(odd, 2).shape == (64, 128, 3)  # sizes round up
    with refuses("damaged-file", "JPEG", "make verify"):
        decode_jpeg(np.zeros(100, np.uint8), 1)


def test_colours_treat_all_frames_alike():
    frame = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    clip = np.repeat(frame[None], 4, axis=0)
    augment = ColourAugment(7, 4, 0.5)
    changed = 0
    for seed in range(20):
        out = augment(clip, counter_generator(seed))
        assert out.shape == clip.shape and out.dtype == np.uint8
        # A sharpened frame's first and last row see the neighbouring frame; the rest is equal.
        assert np.array_equal(out[0, 4:-4], out[3, 4:-4])
        assert np.array_equal(out, augment(clip, counter_generator(seed)))
        changed += not np.array_equal(out, clip)
    assert changed > 10


def test_erasing_covers_the_same_place_in_all_frames():
    shares = []
    for seed in range(100):
        clip = np.zeros((3, 40, 40, 3), np.uint8)
        erase(clip, 1.0, counter_generator(seed))
        covered = clip.any(axis=-1)
        rows, columns = np.nonzero(covered.any(axis=0))
        area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert all(frame.sum() > 0.9 * area for frame in covered)
        shares.append(area / 1600)
    assert 0.01 < min(shares) and max(shares) < 0.36
    clip = np.zeros((3, 40, 40, 3), np.uint8)
    erase(clip, 0.0, counter_generator(0))
    assert not clip.any()


def test_erasing_fills_with_noise_that_is_normal_after_standardisation():
    clip = np.zeros((8, 120, 120, 3), np.uint8)
    erase(clip, 1.0, counter_generator(3))
    filled = clip[clip.any(axis=-1)].astype(np.float64) / 255
    assert len(filled) > 2000
    standard = (filled - IMAGENET_DEFAULT_MEAN) / IMAGENET_DEFAULT_STD
    # Bytes end at 0 and 255, about two deviations from the mean, which takes a little off.
    assert np.allclose(standard.mean(axis=0), 0, atol=0.05)
    assert np.allclose(standard.std(axis=0), 0.96, atol=0.04)
    middle = np.abs(standard) < 1
    assert np.allclose(middle.mean(axis=0), 0.683, atol=0.02)
    assert not np.array_equal(clip[0], clip[1])


def test_seeding_leaves_no_trace():
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    drawn = []
    for _ in range(2):
        with seeded_globals(counter_generator(5)):
            drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1]
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])


# ---------------------------------------------------------------------------------------------
# Mixup and cutmix
# ---------------------------------------------------------------------------------------------

MODEL = ModelConfig(image_size=64, num_frames=2, tubelet_size=1, width=24, num_heads=2)


def mixed(config: AugmentConfig, seed: int):
    """A batch of two clips, black with its box in the left half and white with it in the right."""
    clips = torch.stack([torch.zeros(3, 2, 64, 64), torch.ones(3, 2, 64, 64)])
    left = torch.zeros(4, 4, dtype=torch.bool)
    left[:, :2] = True
    inside = torch.stack([left.ravel().repeat(2), ~left.ravel().repeat(2)])
    mixer = ClipMixer(config, MODEL, {"label": 5})
    labels = {"label": torch.tensor([1, 3])}
    return (*mixer(clips, inside, labels, counter_generator(seed)), inside)


def test_without_alphas_only_labels_are_smoothed():
    clips, inside, targets, before = mixed(AugmentConfig(label_smoothing=0.1), 0)
    assert clips[0].max() == 0 and clips[1].min() == 1 and torch.equal(inside, before)
    assert torch.allclose(targets["label"][0], torch.tensor([0.02, 0.92, 0.02, 0.02, 0.02]))


def test_mixup_shows_both_motions():
    for seed in range(10):
        clips, inside, targets, _ = mixed(AugmentConfig(mixup_alpha=0.8), seed)
        share = targets["label"][0, 1]
        assert torch.allclose(clips[0], (1 - share).expand_as(clips[0]), atol=1e-6)
        assert torch.allclose(targets["label"].sum(1), torch.ones(2))
        assert inside.all()


def test_cutmix_pastes_boxes_with_pixels():
    pasted_somewhere = False
    for seed in range(20):
        clips, inside, targets, before = mixed(AugmentConfig(cutmix_alpha=1.0), seed)
        white = clips[0].mean()
        assert torch.isclose(targets["label"][0, 3], white, atol=1e-5)
        centres = clips[0, 0, :, 8::16, 8::16].reshape(-1)  # the pixel right of a patch's centre
        pasted = centres == 1
        assert torch.equal(inside[0], torch.where(pasted, before[1], before[0]))
        pasted_somewhere |= bool(pasted.any())
    assert pasted_somewhere


def test_both_kinds_of_mixing_take_turns():
    config = AugmentConfig(mixup_alpha=0.8, cutmix_alpha=1.0)
    kinds = {len(mixed(config, seed)[0][0].unique()) > 1 for seed in range(20)}
    assert kinds == {True, False}  # cutmix leaves black and white, mixup one grey


def test_a_slight_reduction_loses_no_pixel_and_moves_nothing():
    """256 lines to 224 are interpolated: like averaging, to a grey value or two of real detail."""
    texture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    frame = cv2.resize(texture, (256, 256), interpolation=cv2.INTER_CUBIC)
    out = np.empty((224, 224, 3), np.uint8)
    cut(frame, (0, 0, 256, 256), out, False, False)
    averaged = cv2.resize(frame, (224, 224), interpolation=cv2.INTER_AREA)
    assert np.abs(out.astype(int) - averaged).mean() < 2
    for y in range(0, 256, 7):  # every line of the frame shows in the output
        line = np.zeros((256, 256, 3), np.uint8)
        line[y] = 255
        cut(line, (0, 0, 256, 256), out, False, False)
        assert out.max() > 30, y
