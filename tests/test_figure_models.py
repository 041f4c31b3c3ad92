"""Pictures of what models do: GradCAM, attention from a patch, predicted trajectories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from errors import refused, refuses
from run_fixtures import write_finetune_run, write_pretrain_run
from shard_fixtures import write_moving_squares
from track_fixtures import add_tracks

from shared.grid import canonical_view
from shared.layout import DatasetLayout
from train.clips.reader import ClipReader
from train.evaluation.score_files import Scores
from train.figures import main
from train.network.autoencoder import VideoEncoder
from train.network.head import VideoClassifier
from train.objectives.tracked_points import trajectory_target
from train.options.recipe import finetune_config, pretrain_config, read_recipe
from train.pictures.attention import attention_from, attention_maps, head_weights
from train.pictures.clips import overlay_tokens
from train.pictures.gained import gained_clips
from train.pictures.gradcam import NORM1, class_maps, grad_cam
from train.pictures.inputs import choose_block, read_held_out
from train.pictures.trajectories import TrackedClip, pixels_per_unit, starts_of, tracked_clips
from train.running.classifier import build_classifier
from train.running.run_folder import RunFolder


def run_figures(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--no-report"])


def classifier(head: str = "mean", **model: object) -> VideoClassifier:
    torch.manual_seed(0)
    config = finetune_config(read_recipe("toy", None), head)
    config = replace(config, model=replace(config.model, **model), init_scale=1.0)
    return build_classifier(config, {"label": 5}).eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    """Runs of the toy recipe with random weights on moving squares that have tracks."""
    layout = write_moving_squares(tmp_path_factory.mktemp("out"))
    add_tracks(layout)
    write_pretrain_run(layout, "mofo")
    write_pretrain_run(layout, "mme")
    write_finetune_run(layout, wrong=(1,))
    write_finetune_run(layout, "finetune-mofo-mca", head="mca")
    return layout


# ---------------------------------------------------------------------------------------------
# GradCAM
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tubelet", "shape"), [(2, (8, 4, 4)), (8, (2, 4, 4))])
@pytest.mark.parametrize("head", ["mean", "mca"])
def test_gradcam_has_a_value_a_token(head: str, tubelet: int, shape: tuple[int, ...]) -> None:
    model = classifier(head, tubelet_size=tubelet)
    clips = torch.randn(1, 3, 16, 64, 64)
    inside = torch.zeros(1, np.prod(shape), dtype=torch.bool)
    inside[:, ::3] = True
    for block in (1, 4):
        scores, maps = grad_cam(model, clips, inside, block, "label", lambda scores: [1, 3])
        torch.testing.assert_close(scores, model(clips, inside)["label"][0])
        assert list(maps) == [1, 3] and all(cells.shape == shape for cells in maps.values())
        assert all((cells >= 0).all() and cells.isfinite().all() for cells in maps.values())
        assert sum(float(cells.sum()) for cells in maps.values()) > 0
        assert (maps[1] != maps[3]).any()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradcam_of_the_last_block_is_its_equations() -> None:
    """Under a mean head every token of the last block has the same gradient, that of the head."""
    model = classifier()
    clips = torch.randn(1, 3, 16, 64, 64)
    tokens = model.encoder(clips).detach()  # no norm follows the last block
    pooled = tokens.mean(dim=1).requires_grad_()
    score = model.classifiers["label"](model.head.norm(pooled))[0, 2]
    (gradient,) = torch.autograd.grad(score, pooled)
    expected = (tokens[0] @ (gradient[0] / tokens.shape[1])).relu()
    _, found = grad_cam(model, clips, None, 4, "label", lambda scores: [2])
    torch.testing.assert_close(found[2].flatten(), expected, rtol=1e-4, atol=1e-7)


def test_gradcam_shows_the_token_that_decides() -> None:
    """Only one token leaves the block with the direction in which the class lies."""
    model = classifier()
    tokens = torch.zeros(1, 32, 128)
    tokens[0, 16 + 2 * 4 + 1] = model.classifiers["label"].weight[3].detach()
    handle = model.encoder.blocks[3].register_forward_hook(
        lambda module, arguments, out: 0 * out + tokens
    )
    clips = torch.randn(1, 3, 16, 64, 64)
    _, maps = grad_cam(model, clips, None, 4, "label", lambda scores: [3])
    handle.remove()
    assert np.argwhere(maps[3].numpy() > 0).tolist() == [[1, 2, 1]]


def test_gradcam_of_a_first_norm_is_its_equations() -> None:
    """The gradient goes through the attention of the block, and the residual past the norm."""
    model = classifier()
    clips = torch.randn(1, 3, 16, 64, 64)
    block = model.encoder.blocks[3]
    seen: list[torch.Tensor] = []
    handle = block.norm1.register_forward_hook(lambda module, arguments, out: seen.append(out))
    score = model(clips)["label"][0, 2]
    handle.remove()
    (gradient,) = torch.autograd.grad(score, seen[0])
    expected = (seen[0].detach()[0] @ gradient[0].mean(dim=0)).relu()
    _, found = grad_cam(model, clips, None, 4, "label", lambda scores: [2], NORM1)
    torch.testing.assert_close(found[2].flatten(), expected, rtol=1e-4, atol=1e-7)
    _, others = grad_cam(model, clips, None, 4, "label", lambda scores: [2])
    assert (found[2] - others[2]).abs().max() > 1e-6


def test_class_maps_explain_the_guess_and_the_truth(trained: DatasetLayout) -> None:
    found = class_maps(trained, RunFolder(trained.runs / "finetune-mofo-mca"), shown=4)
    assert [clip.label for clip in found] == [0, 1, 2, 3] and found[0].block == 4
    for clip in found:
        assert clip.predicted == clip.probability.argmax()
        assert list(clip.maps) == list(dict.fromkeys([clip.predicted, clip.label]))
        assert all(cells.max() in (0.0, 1.0) for cells in clip.maps.values())
        rows = clip.rows(["a", "b", "c", "d"], num_times=3)
        assert [len(frames) for _, frames in rows] == [3] * (1 + len(clip.maps))
    again = class_maps(
        trained,
        RunFolder(trained.runs / "finetune-mofo-mca"),
        ["not there", found[2].clip_id],
    )
    assert [clip.clip_id for clip in again] == [found[2].clip_id]
    np.testing.assert_array_equal(again[0].maps[2], found[2].maps[2])


def test_overlay_is_strong_where_the_map_is() -> None:
    frame = np.full((64, 64, 3), 90, np.uint8)
    cells = np.zeros((4, 4))
    cells[1, 2] = 1.0
    picture = overlay_tokens(frame, cells).astype(int)
    side = picture.shape[0] // 4
    assert picture.shape[0] >= 168 and picture.shape[0] == picture.shape[1] == 4 * side
    changed = np.abs(picture - 90).max(axis=2) > 3
    assert changed[side : 2 * side, 2 * side : 3 * side].all() and changed.sum() == side**2


# ---------------------------------------------------------------------------------------------
# Attention
# ---------------------------------------------------------------------------------------------


def test_head_weights_are_those_of_the_block() -> None:
    attention = classifier().encoder.blocks[0].attn
    with torch.no_grad():
        attention.q_bias.normal_()
        attention.v_bias.normal_()
        tokens = torch.randn(2, 7, 128)
        weights = head_weights(attention, tokens)
        values = torch.nn.functional.linear(
            tokens, attention.qkv.weight[256:], attention.v_bias
        ).unflatten(2, (4, 32))
        mixed = torch.einsum("bhqk,bkhd->bqhd", weights, values).flatten(2)
        torch.testing.assert_close(attention.proj(mixed), attention(tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["joint", "divided"])
def test_attention_finds_the_token_that_is_alike(attention: str) -> None:
    """With queries and keys that are the tokens themselves, a token looks where one is like it."""
    torch.manual_seed(0)
    config = replace(classifier().encoder.config, attention=attention, num_heads=1)
    encoder = VideoEncoder(config, final_norm=False).eval()
    block = encoder.blocks[0]
    parts = [block.attn] + ([block.temporal_attn] if attention == "divided" else [])
    tokens = torch.zeros(2, 4, 4, 128)
    tokens[..., 0] = 1.0
    for place in ((0, 3, 2), (1, 1, 2), (1, 3, 2)):
        tokens[place][:3] = torch.tensor([0.0, 1.0, 0.0])
    with torch.no_grad():
        encoder.positions.zero_()
        for part in parts:
            part.qkv.weight.zero_()
            part.qkv.weight[:128] = 9 * torch.eye(128)
            part.qkv.weight[128:256] = torch.eye(128)
    encoder.patch_embed.forward = lambda clips, visible=None: tokens.reshape(1, 32, 128)
    weights = attention_from(encoder, torch.zeros(1, 3, 16, 64, 64), 1, (1, 1, 2))
    assert weights.shape == (2, 4, 4) and np.isclose(weights.sum(), 1.0)
    alike = {(1, 1, 2), (1, 3, 2), (0, 3, 2)}
    strongest = [tuple(place) for place in np.argwhere(weights > 0.05).tolist()]
    assert set(strongest) == alike


def test_attention_starts_in_the_motion_box(trained: DatasetLayout) -> None:
    for run in ("pretrain-mofo", "finetune-mofo-mca"):
        found = attention_maps(trained, RunFolder(trained.runs / run), shown=2)
        for clip in found:
            assert clip.query[0] == 1 and np.isclose(clip.weights.sum(), 1.0, atol=1e-5)
            assert [len(frames) for _, frames in clip.rows(4)] == [4, 4]
    named = attention_maps(trained, RunFolder(trained.runs / run), 1, block=2, query=(0, 3, 1))[0]
    assert named.query == (0, 3, 1) and named.block == 2


def test_blocks_and_tokens_beyond_the_model_are_refused(trained: DatasetLayout) -> None:
    encoder = classifier().encoder
    assert choose_block(encoder, None) == 4  # has no fifth
    with refuses("out-of-range", "--block 5", "1 to 4"):
        choose_block(encoder, 5)
    run = trained.runs / "finetune-mofo-mean"
    for options in (("--block", 9), ("--query", 2, 0, 0)):
        refused(run_figures(run, *options), "out-of-range", " ".join(map(str, options)))


# ---------------------------------------------------------------------------------------------
# Trajectories
# ---------------------------------------------------------------------------------------------


def test_true_tracks_are_those_of_the_squares(trained: DatasetLayout) -> None:
    """Points in the square move with it by 2 pixels a frame, all others rest."""
    found = tracked_clips(trained, RunFolder(trained.runs / "pretrain-mme"), shown=4)
    directions = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
    for clip in found:
        assert clip.frames.shape == (2, 64, 64, 3) and clip.hidden.shape == (2, 4, 4)
        num_hidden = int(clip.hidden.sum())
        assert clip.true.shape == clip.predicted.shape == (num_hidden, 4, 6, 2)
        moves = clip.true[clip.counts]
        expected = 2 * directions[clip.label]
        still = np.abs(moves).max(axis=1) < 0.01
        np.testing.assert_allclose(moves[~still], np.tile(expected, (sum(~still), 1)), atol=0.01)
        assert 0 < still.sum() < len(still)
        assert clip.loss > clip.zeros_loss  # random weights
        assert [len(frames) for _, frames in clip.rows(8)] == [2, 2]


def test_divisor_of_a_target_is_found_from_the_target(trained: DatasetLayout) -> None:
    config = pretrain_config(read_recipe("toy", None), "mme")
    table, _ = read_held_out(trained, False, config.needed_motion)
    placed = ClipReader(table, 1).tracks(0, np.array([0, 8]))
    view = canonical_view(64, 64, size=64)
    ends = np.array([[0], [8]]) + np.arange(7)
    target, counts = trajectory_target(placed, view, (64, 64), (4, 4), config.target, ends)
    displacements = target[:, : 4 * 6 * 2].reshape(-1, 4, 6, 2)
    restored = displacements * pixels_per_unit(displacements, counts)[:, None, None, None]
    assert set(np.abs(restored).round(3).ravel().tolist()) == {0.0, 2.0}


def test_tracks_are_drawn_from_where_they_start() -> None:
    starts = starts_of((1, 2), 16.0, 4)
    assert starts.tolist() == [[36, 20], [44, 20], [36, 28], [44, 28]]
    hidden = np.zeros((2, 4, 4), bool)
    hidden[1, 1, 2] = True
    moves = np.zeros((1, 4, 3, 2), np.float32)
    moves[0, 0] = [5, 0]
    counts = np.ones((1, 4, 3), bool)
    counts[0, 1:] = False
    counts[0, 0, 2] = False
    clip = TrackedClip(
        "a",
        "test",
        0,
        np.zeros((2, 64, 64, 3), np.uint8),
        hidden,
        moves,
        moves,
        counts,
        1.0,
        1.0,
        "rest",
    )
    first, second = clip.rows(8)[0][1]
    assert not first.any()
    rows, columns = np.nonzero(second.max(axis=2) > 100)
    factor = second.shape[0] / 64
    assert abs(columns.max() / factor - (36 + 10)) < 1  # two known steps of 5 pixels
    assert np.abs(rows / factor - 20).max() < 1 and abs(columns.min() / factor - 36) < 1


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "names"),
    [
        ("finetune-mofo-mca", ["gradcam.png", "attention.png"]),
        ("pretrain-mme", ["trajectories.png", "attention.png"]),
    ],
)
def test_figures_of_a_run(trained: DatasetLayout, run: str, names: list[str]) -> None:
    result = run_figures(trained.runs / run, "--clips", 2)
    assert result.exit_code == 0, result.output
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert [path.name for path in paths[-2:]] == names
    for path in paths:
        assert cv2.imread(str(path)).std() > 5


@pytest.mark.parametrize("changes", [{"kind": "flow"}, {"positions": False}])
def test_runs_without_displacements_get_their_other_figures(
    trained: DatasetLayout, changes: dict[str, object]
) -> None:
    name = f"pretrain-mme-{next(iter(changes))}"
    folder = write_pretrain_run(trained, "mme", name=name, trajectories=changes)
    result = run_figures(folder.path, "--clips", 1)
    assert result.exit_code == 0, result.output
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert paths[-1].name == "attention.png" and cv2.imread(str(paths[-1])).std() > 5
    assert not (folder.path / "figures" / "trajectories.png").exists()
    (line,) = result.stderr.splitlines()
    assert str(folder.path) in line and "no trajectories" in line


def test_gained_clips_are_right_here_and_wrong_there_the_surest_first() -> None:
    ids, label = list("abcde"), np.array([0, 1, 2, -1, 1])
    ours = Scores(
        "label", 3, ids, label, np.array([0, 1, 2, 0, 0]), np.array([0.4, 0.9, 0.8, 1, 1])
    )
    theirs = replace(ours, predicted=np.array([1, 0, 2, 1, 1]))
    assert gained_clips(ours, theirs) == ["b", "a"]
    with refuses("other-clips", 5, 4):
        gained_clips(ours, replace(theirs, clip_id=ids[:4]))


def test_figures_show_clips_that_another_run_gets_wrong(trained: DatasetLayout) -> None:
    names = {"right": (), "wrong": (0, 2)}
    for name, wrong in names.items():
        write_finetune_run(trained, f"finetune-{name}-mean", wrong=wrong)
    run, other = (trained.runs / f"finetune-{name}-mean" for name in names)
    result = run_figures(run, "--wrong-in", other, "--layer", "norm1", "--clips", 3)
    assert result.exit_code == 0, result.output
    [path] = [Path(line) for line in result.stdout.splitlines() if line.endswith("gained.png")]
    assert cv2.imread(str(path)).std() > 5
    result = run_figures(other, "--wrong-in", run)
    refused(result, "no-match", "finetune-wrong-mean", "finetune-right-mean")
    result = run_figures(trained.runs / "pretrain-mofo", "--wrong-in", run, "--layer", "norm1")
    refused(result, "option-unused", "--layer and --wrong-in")


def test_trajectories_of_pixels_are_refused(trained: DatasetLayout) -> None:
    with refuses("other-kind", trained.runs / "pretrain-mofo"):
        tracked_clips(trained, RunFolder(trained.runs / "pretrain-mofo"), 1)
    result = run_figures(trained.runs / "pretrain-mme", "--beside", trained.runs / "pretrain-mofo")
    refused(result, "option-unused", "--beside", trained.runs / "pretrain-mme")
