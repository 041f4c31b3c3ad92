"""Frames that the device decodes and cuts, against those of the readers: OpenCV on the CPU.

The same PyTorch code runs on both devices. Here it runs on the CPU, where interpolated and copied
views have the bits of OpenCV. Averages differ by a grey value at most. Frames that libjpeg decodes
smaller are averaged instead, which differs by a few grey values. nvJPEG has no filter for colours
that are stored at half size, so that a GPU differs by some grey values at coloured edges.
"""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from errors import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_fixtures import write_moving_squares
from test_augment import OPTIONS as CROP_OPTIONS
from test_targets_motion import MME_RECIPE, add_tracks
from torch._subclasses.fake_tensor import FakeTensorMode
from training_fixtures import TINY_RECIPE, tiny_run

from shared.manifest import read_classes
from train.clips.sampler import BatchPlan, StepSampler
from train.clips.table import MotionNeeds, read_clip_table
from train.finetune import finetune
from train.options.config import EvaluateConfig, LoaderConfig
from train.options.recipe import finetune_config, pretrain_config, read_recipe
from train.pretrain import pretrain
from train.samples import coded_views, torch_cut
from train.samples.coded_views import CODED, check_decoding, decode_views, decoding_on
from train.samples.datasets import EvaluateDataset, FinetuneDataset, PretrainDataset
from train.samples.loading import make_loader, read_batches, to_device
from train.samples.torch_cut import cut_frames, reduce_frames
from train.samples.views import cut

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
ON_CPU, ON_DEVICE = LoaderConfig(workers=0), LoaderConfig(workers=0, decode="gpu")
PLAIN = {"augment": {"rand_layers": 0, "erase_probability": 0.0}}
# Of the stored frames, for a model of 32 pixels: interpolated; averaged; decoded smaller.
SIZES = {"interpolated": (72, 48), "averaged": (66, 60), "reduced": (150, 130)}
# Largest mean difference in grey values.
TOLERANCES = {"interpolated": 0.0, "averaged": 0.02, "reduced": 1.5}
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


# ---------------------------------------------------------------------------------------------
# One crop, one resize
# ---------------------------------------------------------------------------------------------


def both_cuts(height, width, crop, size, flips, seed):
    """Frames uint8 [2, 3, S, S] of noise, cut by OpenCV and by PyTorch."""
    noise = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    expected = np.empty((2, size, size, 3), np.uint8)
    for frame, out in zip(noise, expected, strict=True):
        cut(frame, crop, out, *flips)
    found = cut_frames(torch.from_numpy(noise).permute(0, 3, 1, 2), crop, size, *flips)
    return expected.transpose(0, 3, 1, 2).astype(int), found.numpy().astype(int)


@settings(deadline=None, max_examples=200)
@given(
    frame=st.tuples(st.integers(8, 150), st.integers(8, 150)),
    corner=st.tuples(st.integers(-6, 90), st.integers(-6, 90)),
    sides=st.tuples(st.integers(5, 130), st.integers(5, 130)),
    size=st.integers(8, 64),
    flips=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 1000),
)
def test_a_cut_is_that_of_opencv(frame, corner, sides, size, flips, seed):
    """Also outside of the frame. An average may differ by one grey value, a few times in 100."""
    (height, width), (y1, x1) = frame, corner
    y1, x1 = min(y1, height - 3), min(x1, width - 3)
    y2, x2 = min(y1 + sides[0], height + 6), min(x1 + sides[1], width + 6)
    expected, found = both_cuts(height, width, (x1, y1, x2, y2), size, flips, seed)
    apart = np.abs(expected - found)
    if min(y2 - y1, x2 - x1) / size > 1.5:
        assert apart.max() <= 1 and (apart > 0).mean() <= 0.05
    else:
        assert np.array_equal(expected, found)


@pytest.mark.parametrize("factors", [(1, 1), (2, 2), (2, 3), (3, 2), (4, 4), (1.14, 1.14)])
def test_whole_factors_are_cut_as_opencv_cuts_them(factors):
    """OpenCV has code of its own for some; halves are rounded up in one and to even in others."""
    sides = [round(48 * factor) for factor in factors]
    expected, found = both_cuts(200, 200, (3, 5, 3 + sides[1], 5 + sides[0]), 48, (True, True), 0)
    exact = factors[0] == factors[1]
    assert np.abs(expected - found).max() <= (0 if exact else 1)


def test_reduced_frames_have_the_size_that_libjpeg_gives():
    frames = torch.arange(5 * 7, dtype=torch.uint8).view(1, 1, 5, 7).expand(2, 3, 5, 7)
    assert reduce_frames(frames, 1) is frames
    half = reduce_frames(frames, 2)
    assert half.shape == (2, 3, 3, 4) and half.dtype == torch.uint8
    assert half[0, 0, 0, 0] == 4 and half[0, 0, 2, 3] == 34  # mean of 0 1 7 8, and a corner alone
    assert reduce_frames(frames, 8).shape == (2, 3, 1, 1)


@pytest.fixture
def no_cached_weights():
    """The caches keep tensors, which must not be those of another device or mode."""
    kept = (torch_cut._linear_weights, torch_cut._area_weights, torch_cut._range)
    for cached in kept:
        cached.cache_clear()
    yield
    for cached in kept:
        cached.cache_clear()


def test_cuts_stay_on_the_device(no_cached_weights):
    """No value is waited for, and no tensor of the CPU meets one of the GPU."""
    with FakeTensorMode():
        frames = torch.zeros(4, 3, 70, 90, dtype=torch.uint8, device=GPU)
        try:
            frames[:, :1]
        except RuntimeError as error:  # PyTorch 2.7 asks the driver for the device of a slice
            pytest.skip(f"this PyTorch needs a GPU here: {str(error).splitlines()[0]}")
        assert reduce_frames(frames, 2).device == GPU
        for crop in [(0, 0, 41, 41), (-2, 0, 65, 67), (0, 0, 32, 32)]:
            found = cut_frames(frames, crop, 32, True, False)
            assert found.device == GPU and found.shape == (4, 3, 32, 32)


# ---------------------------------------------------------------------------------------------
# Samples and batches
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SIZES)
def squares(request, tmp_path_factory):
    """A layout whose views are made in one of three ways, and the name of the way."""
    out = tmp_path_factory.mktemp(request.param)
    layout = write_moving_squares(out, num_clips=10, size=SIZES[request.param], still=(0,))
    add_tracks(layout)
    return layout, request.param


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE + MME_RECIPE)
    return read_recipe("squares", path)


def assert_alike(datasets, keys, way, device=CPU, tolerance=None):
    """Both datasets give the same samples; clips may differ as the way allows."""
    decoded, coded = datasets
    for key in keys:
        whole, message = decoded[key], coded[key]
        assert set(message) - set(CODED) == set(whole) - {"pixels"} and "pixels" not in message
        for name in whole.keys() - {"pixels"}:
            assert torch.equal(whole[name], message[name]), name
        found = decode_views({name: message[name] for name in CODED}, device).cpu()
        assert found.shape == whole["pixels"].shape and found.dtype == torch.uint8
        apart = (found.int() - whole["pixels"].int()).abs().float()
        most = TOLERANCES[way] if tolerance is None else tolerance
        assert apart.mean() <= most, (float(apart.mean()), float(apart.max()))
        one, other = to_device(dict(whole), CPU), to_device(dict(message), device)
        assert one.keys() == other.keys()
        assert one["clips"].shape == other["clips"].shape
        if most == 0:
            assert torch.equal(one["clips"], other["clips"].cpu())


PRETRAININGS = [
    *({"crop": {"kind": kind, **options}} for kind, options in CROP_OPTIONS.items()),
    {"frames": {"kind": "segments"}, "flips": ["x", "y", "time"], "repeats": 3},
    {"frames": {"stride": 9}},  # a clip that is shorter than its window repeats frames
    {"shuffle_frames": True},
]


@pytest.mark.parametrize("changes", PRETRAININGS)
def test_pretraining_sees_the_same_clips(squares, recipe, changes):
    layout, way = squares
    config = pretrain_config(recipe, "mofo", {"repeats": 2} | changes)
    table = read_clip_table(layout, ["train"], boxes=True)
    datasets = [PretrainDataset(table, config, loader, 3) for loader in (ON_CPU, ON_DEVICE)]
    assert_alike(datasets, [(epoch, index) for epoch in range(3) for index in range(4)], way)


def test_targets_of_tracks_go_with_the_message(squares, recipe):
    layout, way = squares
    config = pretrain_config(recipe, "mme")
    table = read_clip_table(layout, ["train"], config.needs_boxes, config.needed_motion)
    datasets = [PretrainDataset(table, config, loader, 3) for loader in (ON_CPU, ON_DEVICE)]
    assert_alike(datasets, [(0, index) for index in range(4)], way)


@pytest.mark.parametrize("box", ["clip", "tubelet"])
def test_finetuning_sees_the_same_clips(squares, recipe, box):
    layout, way = squares
    config = finetune_config(recipe, "mca", {"head": {"box": box}, "repeats": 2} | PLAIN)
    table = read_clip_table(layout, ["train"], boxes=True)
    classes = read_classes(layout.classes)
    datasets = [
        FinetuneDataset(table, classes, config, loader, 3) for loader in (ON_CPU, ON_DEVICE)
    ]
    assert_alike(datasets, [(epoch, index) for epoch in range(3) for index in range(4)], way)


def test_evaluation_sees_the_same_clips(squares, recipe):
    layout, way = squares
    config = finetune_config(recipe, "mca")
    table = read_clip_table(layout, ["test"], boxes=True, motion=MotionNeeds())
    views = EvaluateConfig(segments=2, crops=3)
    datasets = [
        EvaluateDataset(table, config.model, config.frames, views, loader)
        for loader in (ON_CPU, ON_DEVICE)
    ]
    assert_alike(datasets, range(len(table)), way)


def batches_of(layout, recipe, loader):
    config = pretrain_config(recipe, "mofo", {"repeats": 2})
    table = read_clip_table(layout, ["train"], boxes=True)
    order = StepSampler(table.shard, BatchPlan(3, 1, 1), 0, 0, 4, 0, 2)
    dataset = PretrainDataset(table, config, loader, 0)
    return [
        to_device(batch, CPU)["clips"]
        for batch in read_batches(make_loader(dataset, order, loader, False))
    ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("frames_per_call", [1, 9, 1024])
def test_messages_are_joined_into_batches(squares, recipe, workers, frames_per_call, monkeypatch):
    """Whatever the number of workers, and of frames that are decoded together."""
    layout, way = squares
    monkeypatch.setattr(coded_views, "FRAMES_PER_CALL", frames_per_call)
    decoded = batches_of(layout, recipe, ON_CPU)
    coded = batches_of(layout, recipe, replace(ON_DEVICE, workers=workers))
    assert len(decoded) == len(coded) == 4
    for one, other in zip(decoded, coded, strict=True):
        assert one.shape == other.shape == (6, 3, 4, 32, 32)
        # A standard deviation is about 57 grey values.
        assert (one - other).abs().mean() <= TOLERANCES[way] / 50


def test_a_message_is_small(tmp_path):
    """Eight frames of 256 lines of a textured picture for a model of 224 pixels."""
    texture = np.random.default_rng(0).integers(0, 256, (64, 114, 3), dtype=np.uint8)
    picture = cv2.resize(texture, (455, 256), interpolation=cv2.INTER_CUBIC)
    file = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].ravel()
    message = {
        "jpegs": torch.from_numpy(np.tile(file, 8)),
        "jpeg_bytes": torch.full((8,), len(file)),
        "view_frames": torch.arange(8)[None],
        "view_cuts": torch.tensor([[99, 0, 355, 256, 0, 0, 224, 1]]),
        "clip_counts": torch.tensor([[8, 1]]),
    }
    pixels = decode_views(message, CPU)
    num_bytes = sum(values.nbytes for values in message.values())
    assert pixels.shape == (1, 8, 224, 224, 3) and num_bytes < pixels.nbytes / 2.5
    expected = np.empty((224, 224, 3), np.uint8)
    cut(cv2.imdecode(file, cv2.IMREAD_COLOR_RGB), (99, 0, 355, 256), expected, False, False)
    assert np.array_equal(pixels[0, 7].numpy(), expected)


def test_damage_is_one_line(squares, recipe):
    layout, _ = squares
    config = pretrain_config(recipe, "mofo")
    table = read_clip_table(layout, ["train"], boxes=True)
    sample = PretrainDataset(table, config, ON_DEVICE, 0)[0, 0]
    cut_short = dict(sample, jpegs=sample["jpegs"].clone())
    cut_short["jpegs"][: int(sample["jpeg_bytes"][0])] = 7
    with refuses("damaged-file", "JPEG", "make verify") as caught:
        to_device(cut_short, CPU)
    assert "\n" not in caught.value.message
    other_size = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].ravel()
    rest = sample["jpegs"][int(sample["jpeg_bytes"][0]) :]
    mixed = dict(sample, jpegs=torch.cat([torch.from_numpy(other_size), rest]))
    mixed["jpeg_bytes"] = sample["jpeg_bytes"].clone()
    mixed["jpeg_bytes"][0] = len(other_size)
    with refuses("damaged-file", "2 sizes", "make verify"):
        to_device(mixed, CPU)


# ---------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------


def test_a_cpu_is_no_gpu(tmp_path):
    write_moving_squares(tmp_path, num_clips=10)
    with refuses("no-gpu", "loader.decode is gpu", "loader.decode=cpu"):
        pretrain(tiny_run(tmp_path, "loader.decode=gpu"), "mofo")
    assert not (tmp_path / "squares" / "runs").exists()
    check_decoding(ON_CPU, CPU)


@without_gpu
def test_a_torchvision_that_cannot_decode_is_named():
    with refuses("no-gpu", "torchvision", "cuda:0", "loader.decode=cpu"):
        check_decoding(ON_DEVICE, GPU)


def test_a_run_is_tested_on_any_machine():
    """A run that was trained with a GPU's decoder is tested with the CPU's where there is none."""
    assert decoding_on(CPU, ON_DEVICE).decode == "cpu"
    assert decoding_on(CPU, ON_CPU) == ON_CPU


def test_augmentation_of_workers_is_refused(tmp_path):
    layout = write_moving_squares(tmp_path, num_clips=10)
    run = tiny_run(tmp_path, "loader.decode=gpu")
    with refuses("option-conflict", "rand_layers is 2", "augment.rand_layers=0"):
        finetune(run, "mean", "none")
    run = replace(run, settings=(*run.settings, "augment.rand_layers=0"))
    with refuses("option-conflict", "erase_probability is 0.25", "augment.erase_probability=0"):
        finetune(run, "mean", "none")
    config = finetune_config(run.read_recipe(), "mean")
    table = read_clip_table(layout, ["train"], boxes=False)
    with refuses("option-conflict", "rand_layers"):
        FinetuneDataset(table, read_classes(layout.classes), config, ON_DEVICE, 0)


def test_a_cache_of_decoded_frames_is_refused():
    with refuses("option-conflict", "cache_megabytes is 5", "cache_megabytes=0"):
        LoaderConfig(decode="gpu", cache_megabytes=5)
    with refuses("unknown-name", "nvjpeg", "cpu", "gpu"):
        LoaderConfig(decode="nvjpeg")


# ---------------------------------------------------------------------------------------------
# On a GPU
# ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_sees_the_same_clips(squares, recipe):
    """Up to nvJPEG's rounding, and its colours at half size."""
    layout, way = squares
    check_decoding(ON_DEVICE, GPU)
    config = pretrain_config(recipe, "mofo", {"repeats": 2, "flips": ["x", "y"]})
    table = read_clip_table(layout, ["train"], boxes=True)
    datasets = [PretrainDataset(table, config, loader, 3) for loader in (ON_CPU, ON_DEVICE)]
    keys = [(epoch, index) for epoch in range(3) for index in range(4)]
    assert_alike(datasets, keys, way, GPU, tolerance=3.0)
