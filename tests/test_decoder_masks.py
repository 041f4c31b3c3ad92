"""Decoder masks: exact counts, their places, and a model that decodes only those tokens."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from errors import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_fixtures import write_moving_squares
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from training_fixtures import TINY_RECIPE, losses, tiny_run

from shared.decoder_masks import DECODER_MASKS, num_decoded
from shared.layout import DatasetLayout
from shared.masks import MASKS, Scene
from shared.randomness import counter_generator
from train.clips.table import read_clip_table
from train.network.autoencoder import MaskedAutoencoder, split_mask
from train.network.model_config import ModelConfig
from train.objectives.pixels import normalised_pixels
from train.options.config import LoaderConfig
from train.options.recipe import pretrain_config, read_recipe
from train.pretrain import pretrain
from train.running.run_folder import RunFolder
from train.running.throughput import pretraining_flops
from train.samples.datasets import PretrainDataset, token_counts
from train.samples.loading import to_device

SHARES = ("running_cell", "random", "motion")
SMALL = ModelConfig(
    image_size=64, num_frames=8, width=48, depth=2, num_heads=2,
    decoder_width=24, decoder_depth=1, decoder_heads=2, decoder_mlp_ratio=2.0,
)  # fmt: skip


def scene_of(rng: np.random.Generator, time_steps: int, rows: int, columns: int) -> Scene:
    motion = rng.gamma(0.3, size=(time_steps, rows, columns)).astype(np.float32)
    motion *= rng.random(motion.shape) < 0.6
    return Scene(time_steps, np.zeros((rows, columns), np.bool_), motion)


def draw(kind: str, scene: Scene, hidden: np.ndarray, *key, **options) -> np.ndarray:
    return DECODER_MASKS[kind].draw(scene, hidden, counter_generator(*key), **options)


def tube(scene: Scene, *key: int) -> np.ndarray:
    return MASKS["tube"].draw(scene, counter_generator(*key), mask_ratio=0.9)


# ---------------------------------------------------------------------------------------------
# Which tokens
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHARES)
@given(
    size=st.tuples(st.integers(1, 8), st.integers(1, 15), st.integers(1, 15)),
    hides=st.floats(0.05, 1.0),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=150, deadline=None)
def test_the_number_is_exact_and_all_are_hidden(kind, size, hides, share, seed):
    rng = np.random.default_rng(seed)
    scene = scene_of(rng, *size)
    hidden = np.zeros(np.prod(size), np.bool_)
    hidden[rng.permutation(hidden.size)[: max(1, int(hides * hidden.size))]] = True
    before = hidden.copy()
    decoded = draw(kind, scene, hidden, seed, share=share)
    assert decoded.dtype == np.bool_ and decoded.shape == hidden.shape
    assert decoded.sum() == num_decoded(share, int(hidden.sum())) >= 1
    assert not (decoded & ~hidden).any() and (hidden == before).all()
    assert np.array_equal(decoded, draw(kind, scene, hidden, seed, share=share))


def running_cells(time_steps: int, grid: int, start: int, share: float) -> np.ndarray:
    """VideoMAE V2's pattern, token by token: a queue of ones (left out) and zeros (decoded) is laid
    into each 2 x 2 cell, and moves on by one place with each time step."""
    left_out = 4 - int(4 * share)
    queue = [True] * left_out + [False] * (4 - left_out)
    kept = np.zeros((time_steps, grid, grid), np.bool_)
    for t in range(time_steps):
        moved = queue[(start + 1 + t) % 4 :] + queue[: (start + 1 + t) % 4]
        for row in range(grid):
            for column in range(grid):
                kept[t, row, column] = not moved[(row % 2) * 2 + column % 2]
    return kept


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_running_cells_are_those_of_videomae_v2(share):
    """Under a tube, whose hidden tokens they divide exactly."""
    starts = set()
    for number in range(40):
        scene = scene_of(np.random.default_rng(number), 8, 14, 14)
        hidden = tube(scene, number).reshape(8, 14, 14)
        decoded = draw("running_cell", scene, hidden.ravel(), number, share=share).reshape(
            8, 14, 14
        )
        assert (decoded.sum(axis=0)[hidden[0]] == 8 * share).all()  # each position as often
        fits = [
            start
            for start in range(4)
            if np.array_equal(decoded, hidden & running_cells(8, 14, start, share))
        ]
        assert len(fits) == 1
        starts.update(fits)
    assert starts == {0, 1, 2, 3}


def test_motion_decodes_what_moves_first_and_most_what_moves_most():
    moves = np.zeros((2, 4, 4), np.float32)
    moves[0, 0, :3], moves[1, 3, 3] = [1.0, 3.0, 100.0], 2.0
    scene = Scene(2, np.zeros((4, 4), np.bool_), moves)
    hidden = np.ones(32, np.bool_)
    hidden[2] = False  # what moves most is visible
    for number in range(20):  # of 31 tokens 3 move and are hidden; 8 are decoded
        decoded = draw("motion", scene, hidden, number, share=0.25)
        assert decoded.sum() == 8 and decoded[[0, 1, 31]].all() and not decoded[2]
    first = np.zeros(32)
    for number in range(3000):
        first += draw("motion", scene, hidden, number, share=0.01)
    np.testing.assert_allclose(first[[0, 1, 31]] / 3000, [1 / 6, 3 / 6, 2 / 6], atol=0.03)


def test_random_tokens_are_equally_likely():
    scene = scene_of(np.random.default_rng(0), 2, 4, 4)
    hidden = np.arange(32) % 4 > 0
    counts = np.zeros(32)
    for number in range(4000):
        counts += draw("random", scene, hidden, number)
    assert not counts[~hidden].any()
    np.testing.assert_allclose(counts[hidden] / 4000, 0.5, atol=0.04)


# ---------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------


def inputs(config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    clips = torch.randn(2, 3, config.num_frames, config.image_size, config.image_size)
    scene = scene_of(np.random.default_rng(0), config.time_steps, config.grid, config.grid)
    masks = [tube(scene, row) for row in range(2)]
    decoded = [draw("random", scene, mask, row) for row, mask in enumerate(masks)]
    return clips, torch.from_numpy(np.stack(masks)), torch.from_numpy(np.stack(decoded))


@pytest.mark.parametrize("predict_visible", [False, True])
def test_the_decoder_sees_visible_and_decoded_tokens_alone(predict_visible):
    """Against a decoder that is given its tokens one by one."""
    config = replace(SMALL, predict_visible=predict_visible)
    clips, mask, decoded = inputs(config)
    model = MaskedAutoencoder(config).eval()
    torch.nn.init.normal_(model.mask_token)
    with torch.inference_mode():
        found = model(clips, mask, int(mask[0].sum()), decoded, int(decoded[0].sum()))
        for row in range(2):
            seen = [token for token in range(config.num_tokens) if not mask[row, token]]
            asked = [token for token in range(config.num_tokens) if decoded[row, token]]
            one = clips[row : row + 1]
            known = model.encoder_to_decoder(model.encoder(one, torch.tensor([seen])))[0]
            tokens = [
                known[place] + model.decoder_positions[0, token] for place, token in enumerate(seen)
            ]
            tokens += [model.mask_token[0, 0] + model.decoder_positions[0, k] for k in asked]
            number = len(tokens) if predict_visible else len(asked)
            expected = model.decoder(torch.stack(tokens)[None], number)[0]
            torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-4)
        assert torch.equal(model(clips, mask, None, mask), model(clips, mask))


def test_pixels_that_are_neither_seen_nor_decoded_change_nothing():
    clips, mask, decoded = inputs(SMALL)
    model = MaskedAutoencoder(SMALL).eval()
    left_out = (mask & ~decoded)[0].nonzero().flatten()[0].item()
    t, place = divmod(left_out, SMALL.grid**2)
    row, column = divmod(place, SMALL.grid)
    changed = clips.clone()
    side = SMALL.patch_size
    changed[
        0, :, 2 * t : 2 * t + 2, row * side : (row + 1) * side, column * side : (column + 1) * side
    ] += 1
    assert torch.equal(model(clips, mask, decoded=decoded), model(changed, mask, decoded=decoded))
    targets = (normalised_pixels(each, SMALL)[0][decoded[0]] for each in (clips, changed))
    assert torch.equal(*targets)


def test_operations_are_those_that_pytorch_counts():
    clips, mask, decoded = (each[:1] for each in inputs(SMALL))
    counts = int(mask.sum()), int(decoded.sum())
    model = MaskedAutoencoder(SMALL)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(clips, mask, counts[0], decoded, counts[1]).sum().backward()
    assert pretraining_flops(SMALL, *counts) == pytest.approx(counter.get_total_flops(), rel=0.03)
    assert pretraining_flops(SMALL, *counts) < 0.8 * pretraining_flops(SMALL, counts[0])


# ---------------------------------------------------------------------------------------------
# Recipes, batches and runs
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> DatasetLayout:
    return write_moving_squares(tmp_path_factory.mktemp("squares"), num_clips=20)


def config_of(squares: DatasetLayout, **changes):
    recipe = squares.out / "tiny.toml"
    recipe.write_text(TINY_RECIPE)
    return pretrain_config(read_recipe("squares", recipe), "mofo", changes)


@pytest.mark.parametrize("kind", SHARES)
def test_batches_name_the_tokens_whose_target_they_hold(squares, kind):
    config = config_of(squares, decoder_mask=kind, repeats=2)
    assert config.decoder_mask.options == {"share": 0.5}
    assert (config.needed_motion is not None) == (kind == "motion")
    table = read_clip_table(squares, ["train"], True, config.needed_motion)
    sample = PretrainDataset(table, config, LoaderConfig(), 0)[0, 0]
    everything = config_of(squares, repeats=2)
    plain = PretrainDataset(
        read_clip_table(squares, ["train"], True), everything, LoaderConfig(), 0
    )[0, 0]
    assert torch.equal(sample["mask"], plain["mask"]) and "decoded" not in plain
    assert token_counts(sample) == (4, 2) and token_counts(plain) == (4, 4)
    assert not (sample["decoded"] & ~sample["mask"]).any()
    batch = to_device(sample, torch.device("cpu"))
    target, weight = config.target.of_batch(batch, 2, config.cut)
    whole = normalised_pixels(batch["clips"], config.model)
    assert weight is None
    assert torch.equal(target, whole[batch["decoded"]].reshape(2, 2, -1))


def test_impossible_options_are_refused(squares):
    with refuses("unknown-name", "decoder_mask", "cell", "running_cell", "motion"):
        config_of(squares, decoder_mask="cell")
    for share in (0.0, 1.0, 1.5):
        with refuses("out-of-range", "[decoder_mask]", "share", share):
            config_of(squares, decoder_mask={"kind": "random", "share": share})
    with refuses("unknown-key", "decoder_mask", "share"):
        config_of(squares, decoder_mask={"kind": "all", "share": 0.5})
    with refuses("wrong-type", "decoder_mask", 5):
        config_of(squares, decoder_mask=5)
    with refuses("option-unused", "motion_source", "tvl1-length", "decoder mask random"):
        config_of(squares, decoder_mask="random", motion_source="tvl1-length")


def test_a_run_decodes_half(squares):
    whole = pretrain(tiny_run(squares.out, run="all"), "videomae")
    half = pretrain(tiny_run(squares.out, "decoder_mask=running_cell", run="half"), "videomae")
    first, second = losses(whole.log), losses(half.log)
    assert first.keys() == second.keys()
    assert all(0.0 < abs(first[step] - second[step]) < 0.5 for step in first)


def test_runs_of_versions_without_decoder_masks_continue(squares):
    common = tiny_run(squares.out, run="older", stop_after=0)
    folder = pretrain(common, "videomae")
    record = RunFolder(folder.path).read_record()
    assert record["options"]["config"].pop("decoder_mask") == {"kind": "all"}
    folder.options.write_text(json.dumps(record))
    assert pretrain(tiny_run(squares.out, run="older"), "videomae").is_finished
    with refuses("other-options", "decoder_mask"):
        pretrain(tiny_run(squares.out, "decoder_mask=random", run="older"), "videomae")


def test_split_mask_finds_decoded_tokens_in_order():
    _, mask, decoded = inputs(SMALL)
    order = split_mask(decoded)[1]
    assert (order.diff(dim=1) > 0).all() and decoded.gather(1, order).all()
    assert mask.gather(1, order).all()
