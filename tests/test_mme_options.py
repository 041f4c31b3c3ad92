"""Options of MME's ablations: HOG beside motion, merged tracks, no normalisation, no loss mask,
shuffled frames, and shares of the clips and tokens."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from errors import refuses
from shard_fixtures import write_moving_squares
from test_targets_motion import MME_RECIPE, random_tracks, random_view
from track_fixtures import add_tracks
from training_fixtures import TINY_RECIPE, tiny_run

from shared.layout import DatasetLayout
from train.clips.few_labels import share_of_clips
from train.clips.table import read_clip_table
from train.finetune import finetune
from train.network.autoencoder import MaskedAutoencoder, VideoEncoder
from train.network.head import VideoClassifier, build_head
from train.network.head_config import HeadConfig
from train.network.model_config import ModelConfig
from train.objectives.tracked_points import (
    STILL_PIXELS,
    _merged,
    scaled,
    standardised,
    trajectory_target,
)
from train.objectives.trajectories import loss_weights
from train.objectives.trajectory_config import UNIT, TrajectoryConfig
from train.options.config import LoaderConfig
from train.options.recipe import (
    RECIPES,
    evaluate_config,
    finetune_config,
    pretrain_config,
    read_recipe,
)
from train.pretrain import pretrain
from train.running.run_folder import RunFolder
from train.running.throughput import finetuning_flops
from train.samples.datasets import PretrainDataset
from train.samples.loading import to_device


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> DatasetLayout:
    layout = write_moving_squares(tmp_path_factory.mktemp("out"), num_clips=20)
    add_tracks(layout)
    (layout.out / "mme.toml").write_text(TINY_RECIPE + MME_RECIPE)
    return layout


def config_of(squares: DatasetLayout, **changes):
    return pretrain_config(read_recipe("squares", squares.out / "mme.toml"), "mme", changes)


def batch_of(squares: DatasetLayout, **trajectories) -> tuple:
    """The configuration, target and weights of a clip, float32 [M, D]."""
    config = config_of(squares, trajectories={"length": 3, **trajectories})
    table = read_clip_table(squares, ["train"], False, config.needed_motion)
    sample = PretrainDataset(table, config, LoaderConfig(workers=0), seed=0)[0, 2]
    batch = to_device(sample, torch.device("cpu"))
    target, weight = config.target.of_batch(batch, int(sample["mask"].sum()), config.cut)
    return config, target[0], weight[0]


# ---------------------------------------------------------------------------------------------
# HOG at fixed positions beside motion (table 5)
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flow", "hof", "mbh", "tracks"])
def test_hog_is_predicted_beside_motion_and_counts_the_same(squares, kind):
    along = {"shape": False} if kind == "tracks" else {}
    _, motion, _ = batch_of(squares, kind=kind, **along)
    _, hog, _ = batch_of(squares, kind="hog")
    config, both, weight = batch_of(squares, kind=kind, fixed_hog=True, **along)
    assert config.needed_motion.hog and config.model.prediction_dim == both.shape[1]
    assert config.target.part_sizes(2) == (motion.shape[1], hog.shape[1])
    assert torch.equal(both, torch.cat([motion, hog], dim=1))
    parts = weight.split([motion.shape[1], hog.shape[1]], dim=1)
    known = [part[part > 0] for part in parts]
    assert all((each == each[0]).all() for each in known)
    # Of the same total weight where all steps count.
    assert known[0][0] * motion.shape[1] == pytest.approx(float(known[1][0]) * hog.shape[1])


def test_hog_can_have_a_decoder_of_its_own(squares):
    config = config_of(squares, trajectories={"kind": "flow", "fixed_hog": True, "decoders": 2})
    model = MaskedAutoencoder(config.model)
    sizes = config.target.part_sizes(config.cut.stride)
    heads = model.decoder.head.out_features, model.second_decoder.head.out_features
    assert heads == sizes == (4 * 6 * 2, 4 * 6 * 9)
    assert "flow and histograms" in config.target.words.target


# ---------------------------------------------------------------------------------------------
# Merged tracks, no normalisation, no loss mask (tables 7b, 7c)
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["mean", "max"])
def test_merged_tracks_are_those_of_loops(how):
    rng = np.random.default_rng(0)
    moves, hog = rng.normal(size=(6, 4, 3, 2)), rng.random((6, 4, 3, 9))
    counts = np.arange(3) < rng.integers(0, 4, (6, 4, 1))
    counts[5] = False
    found = _merged(moves, hog, counts, how)
    for token in range(6):
        if how == "max":
            lengths = [
                sum(np.hypot(*moves[token, k, s]) for s in range(3) if counts[token, k, s])
                for k in range(4)
            ]
            k = int(np.argmax(lengths))
            if max(lengths) > 0:
                np.testing.assert_array_equal(found[0][token, 0], moves[token, k])
                np.testing.assert_array_equal(found[1][token, 0], hog[token, k])
            assert (found[2][token, 0] == counts[token, k]).all() or not max(lengths)
            continue
        for s in range(3):
            known = [k for k in range(4) if counts[token, k, s]]
            assert found[2][token, 0, s] == bool(known)
            if known:
                mean = moves[token, known, s].mean(axis=0)
                np.testing.assert_allclose(found[0][token, 0, s], mean, atol=1e-6)
                np.testing.assert_allclose(
                    found[1][token, 0, s], hog[token, known, s].mean(axis=0), atol=1e-6
                )


@pytest.mark.parametrize("how", ["mean", "max"])
def test_a_merged_target_has_one_track_a_patch(squares, how):
    config, target, weight = batch_of(squares, merge=how)
    assert config.target.part_sizes(2) == (3 * 2, 3 * 9) and target.shape[1] == 33
    assert weight.shape == target.shape and target.abs().max() > 0
    assert not config.target.predicts_displacements


def test_without_normalisation_values_are_those_of_the_tracks():
    rng = np.random.default_rng(1)
    placed, view = random_tracks(rng), random_view(rng, (112, 80))
    arguments = (placed, view, (112, 80), (2, 3))
    config = TrajectoryConfig(length=3)
    ends = config.step_ends(np.arange(4), 2, stride=1)
    plain, counts = trajectory_target(*arguments, replace(config, normalise=False), ends)
    normalised, same = trajectory_target(*arguments, config, ends)
    assert np.array_equal(counts, same)
    moves = plain[:, :24].reshape(-1, 4, 3, 2) * UNIT
    hog = plain[:, 24:].reshape(-1, 4, 3, 9) * UNIT
    assert np.abs(moves).max() > 1 and hog.min() >= 0
    # Normalising these values afterwards gives the usual target.
    again = np.concatenate(
        [
            scaled(moves, counts).reshape(len(hog), -1),
            standardised(hog, counts).reshape(len(hog), -1),
        ],
        axis=1,
    )
    np.testing.assert_allclose(again, normalised, atol=2e-4)


def test_without_a_loss_mask_all_numbers_count():
    counts = torch.zeros(1, 2, 4, 6, dtype=torch.bool)
    counts[0, 0] = True
    masked = loss_weights(counts, TrajectoryConfig(), 1)
    whole = loss_weights(counts, TrajectoryConfig(loss_mask=False), 1)
    assert not masked[0, 1].any() and torch.equal(masked[0, 0], whole[0, 0])
    assert torch.equal(whole[0, 0], whole[0, 1]) and whole.mean() == pytest.approx(1.0)


def test_centred_displacements_are_those_of_loops():
    rng = np.random.default_rng(2)
    moves = rng.normal(size=(5, 4, 3, 2), loc=3.0).astype(np.float32)
    counts = np.arange(3) < rng.integers(0, 4, (5, 4, 1))
    counts[0], counts[4] = True, False
    found = scaled(moves, counts, centred=True)
    for token in range(5):
        known = moves[token][counts[token]]  # [n, 2]
        assert not found[token][~counts[token]].any()
        if len(known):
            rest = known - known.mean(axis=0)
            deviation = np.sqrt(np.mean(rest**2)) + STILL_PIXELS
            np.testing.assert_allclose(found[token][counts[token]], rest / deviation, atol=1e-5)
    assert np.abs(scaled(moves, counts)[0]).mean() > np.abs(found[0]).mean()


@pytest.mark.parametrize("kind", ["tracks", "flow"])
def test_centred_targets_of_clips_sum_to_zero(squares, kind):
    options = {"shape": False} if kind == "tracks" else {"kind": kind}
    config, target, _ = batch_of(squares, **options)
    assert config.target.predicts_displacements == (kind == "tracks")
    config, centred, _ = batch_of(squares, centred=True, **options)
    assert not config.target.predicts_displacements
    sums = [each.unflatten(1, (-1, 2)).sum(dim=1).abs().max() for each in (target, centred)]
    assert sums[0] > 1 and sums[1] < 1e-4


def test_without_equal_parts_each_number_weighs_the_same():
    counts = torch.ones(1, 2, 4, 6, dtype=torch.bool)
    equal = loss_weights(counts, TrajectoryConfig(), 1)
    each = loss_weights(counts, TrajectoryConfig(equal_parts=False), 1)
    assert (each == 1).all() and equal.mean() == pytest.approx(1.0)
    moved = 4 * 6 * 2
    assert equal[..., :moved].sum() == pytest.approx(equal[..., moved:].sum().item())


def test_impossible_options_are_refused():
    for options in ({"normalise": False}, {"positions": False}, {"kind": "mbh"}):
        with refuses("option-unused", "centred", "normalise"):
            TrajectoryConfig(centred=True, **options)
    with refuses("option-unused", "equal_parts"):
        TrajectoryConfig(equal_parts=False, shape=False)
    with refuses("unknown-name", "merge", "sum", "mean, max"):
        TrajectoryConfig(merge="sum")
    with refuses("option-unused", "merge", "flow"):
        TrajectoryConfig("flow", merge="mean")
    for options in ({"kind": "hog"}, {"kind": "tracks"}):
        with refuses("option-conflict", "fixed_hog", options["kind"]):
            TrajectoryConfig(fixed_hog=True, **options)
    with refuses("option-conflict", "decoders is 2"):
        TrajectoryConfig("flow", decoders=2)
    with refuses("unknown-name", "hog_channels", "hsv", "grey, rgb"):
        TrajectoryConfig(hog_channels="hsv")
    with refuses("out-of-range", "hog_cells", 0):
        TrajectoryConfig(hog_cells=0)
    for options in ({"shape": False}, {"kind": "flow"}):
        with refuses("option-unused", "hog_channels", "rgb", "hog_cells", 2):
            TrajectoryConfig(hog_channels="rgb", hog_cells=2, **options)


# ---------------------------------------------------------------------------------------------
# Shuffled frames (fig. 3), a share of the clips (table 10), runs
# ---------------------------------------------------------------------------------------------


def test_shuffled_frames_are_the_same_frames_in_another_order(squares):
    config = config_of(squares, target="normalised_pixels", trajectories=None)
    table = read_clip_table(squares, ["train"], False, None)
    samples = [
        PretrainDataset(table, each, LoaderConfig(workers=0), 0)[3, 1]
        for each in (config, replace(config, shuffle_frames=True))
    ]
    assert torch.equal(samples[0]["mask"], samples[1]["mask"])
    frames = [[frame.numpy().tobytes() for frame in each["pixels"][0]] for each in samples]
    assert sorted(frames[0]) == sorted(frames[1]) and frames[0] != frames[1]
    with refuses("option-conflict", "shuffle_frames", "trajectories"):
        config_of(squares, shuffle_frames=True, trajectories={"interpolate": False})


def test_a_share_of_the_clips_is_nested(squares):
    table = read_clip_table(squares, ["train"], False, None)
    tenth, half = (set(share_of_clips(table, share).ids) for share in (0.1, 0.5))
    assert len(tenth) == 1 and len(half) == len(table) // 2 and tenth < half
    assert share_of_clips(table, 1.0) is table
    for share in (0.0, 1.5):
        with refuses("out-of-range", "clip_share", share):
            config_of(squares, clip_share=share)


def test_runs_train_with_all_of_them_and_older_runs_continue(squares):
    recipe = squares.out / "mme.toml"
    more = (
        *("trajectories.kind=flow", "trajectories.fixed_hog=true", "trajectories.normalise=false"),
        *("trajectories.loss_mask=false", "shuffle_frames=true", "clip_share=0.5"),
    )
    common = replace(tiny_run(squares.out, *more, run="options", epochs=1), recipe=recipe)
    assert pretrain(common, "mme").is_finished
    common = replace(tiny_run(squares.out, run="older", epochs=1, stop_after=0), recipe=recipe)
    folder = pretrain(common, "mme")
    record = RunFolder(folder.path).read_record()
    for name in ("fixed_hog", "merge", "normalise", "loss_mask", "centred", "equal_parts"):
        record["options"]["config"]["trajectories"].pop(name)
    for name in ("clip_share", "shuffle_frames"):
        record["options"]["config"].pop(name)
    folder.options.write_text(json.dumps(record))
    common = replace(tiny_run(squares.out, run="older", epochs=1), recipe=recipe)
    assert pretrain(common, "mme").is_finished


@pytest.mark.parametrize(
    ("dataset", "epochs", "views"),
    [
        ("ssv2", 30, (2, 3)),
        ("k400", 75, (7, 3)),
        ("ucf101", 100, (10, 3)),
        ("hmdb51", 100, (10, 3)),
    ],
)
def test_recipes_of_its_finetuning_have_the_numbers_of_table_9(dataset, epochs, views):
    tables = read_recipe(dataset, RECIPES / "mme" / f"{dataset}.toml")
    config, tested = finetune_config(tables, "mean"), evaluate_config(tables)
    assert (config.epochs, config.batch_size, config.repeats) == (epochs, 128, 2)
    assert (config.augment.rand_magnitude, config.augment.rand_magnitude_std) == (9, 0.5)
    assert (tested.segments, tested.crops) == views
    assert pretrain_config(tables, "mme").target.name == "trajectories"


# ---------------------------------------------------------------------------------------------
# A share of the tokens in finetuning (table 10)
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mean", "mca"])
def test_training_computes_a_share_of_the_tokens_and_testing_all(kind):
    size = {"image_size": 32, "num_frames": 4, "width": 24, "depth": 1, "num_heads": 2}
    config = ModelConfig.from_dict(size)
    encoder = VideoEncoder(config, final_norm=False)
    head = build_head(HeadConfig(kind), config.width, config.head_norm_eps)
    half = VideoClassifier(encoder, head, {"label": 3}, init_scale=1.0, token_share=0.5)
    clips, inside = torch.randn(2, 3, 4, 32, 32), torch.rand(2, config.num_tokens) > 0.5
    seen: list[int] = []
    encoder.register_forward_hook(lambda *call: seen.append(call[2].shape[1]))
    torch.manual_seed(0)
    one, other = half(clips, inside)["label"], half(clips, inside)["label"]
    assert not torch.equal(one, other) and seen == [4, 4] == [config.num_kept(0.5)] * 2
    torch.manual_seed(0)
    assert torch.equal(half(clips, inside)["label"], one)
    whole = VideoClassifier(encoder, head, {"label": 3}, init_scale=1.0)
    whole.load_state_dict(half.state_dict())
    assert torch.equal(half.eval()(clips, inside)["label"], whole.eval()(clips, inside)["label"])
    assert seen[-1] == config.num_tokens == 8
    fewer = finetuning_flops(config, head.config if kind == "mca" else HeadConfig("mean"), 0.5)
    assert fewer < 0.55 * finetuning_flops(config, HeadConfig(kind))


def test_finetuning_with_half_of_the_tokens(squares):
    common = tiny_run(squares.out, "token_share=0.5", run="half-tokens", epochs=1)
    assert finetune(common, "mean", "none").is_finished
    with refuses("out-of-range", "token_share", 0.0):
        finetune_config(read_recipe("squares", common.recipe), "mean", {"token_share": 0.0})
