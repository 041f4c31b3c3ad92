"""Benchmarks of pretraining: what stays visible of motion, and the time to the same accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from shard_fixtures import write_moving_squares
from training_fixtures import TINY_RECIPE

from benchmarks import time_to_accuracy, visible_motion
from benchmarks.accuracy_contenders import HuggingFace, Ours
from train.options.recipe import read_recipe

STEPS = 5


def test_what_is_visible_of_motion():
    motion = np.array([[4.0, 0.0, 1.0], [0.0, 3.0, 0.0]], np.float32)  # two tokens move
    shown = np.array([[True, False, False], [False, False, True]])
    found = visible_motion.seen(motion, shown)
    assert found.tokens == pytest.approx(1 / 3) and found.motion == pytest.approx(0.5)
    assert not found.nothing_that_moves and not found.always_something_that_moves
    assert visible_motion.seen(motion, motion > 2).always_something_that_moves
    assert visible_motion.seen(motion, motion < 2).nothing_that_moves
    still = np.array([[4.0, 0.0, 1.0], [0.0, 0.0, 0.0]], np.float32)  # nothing in the second step
    assert visible_motion.seen(still, shown).always_something_that_moves


def test_each_mask_has_a_line(tmp_path: Path):
    layout = write_moving_squares(tmp_path, num_clips=8)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY_RECIPE)
    given = ["--dataset", layout.dataset, "--out", str(tmp_path), "--recipe", str(recipe)]
    given += ["--methods", "videomae,mofo"]
    done = CliRunner().invoke(visible_motion.main, given)
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()[1:]}
    assert list(rows) == ["videomae", "mofo"]
    for cells in rows.values():
        assert all(0.0 <= float(cell) <= 100.0 for cell in cells)


def test_contenders_of_the_same_accuracy_begin_equal_and_learn_alike():
    """Loss and features of ours and of Hugging Face's are those of the same model, step by step."""
    pytest.importorskip("transformers")
    config = time_to_accuracy.comparable_config(read_recipe("toy", None), epochs=1)
    ours, theirs = Ours(config, STEPS, whole=True), HuggingFace(config, STEPS)
    half = Ours(config, STEPS, whole=False)
    model = config.model
    clips = torch.randn(2, 3, model.num_frames, model.image_size, model.image_size)
    mask = torch.ones(2, model.num_tokens, dtype=torch.bool)
    mask[:, ::8] = False
    decoded = mask.clone()
    decoded[:, 1::2] = False
    batch = {"clips": clips, "mask": mask, "decoded": decoded}
    for step in range(STEPS):
        assert ours.loss(batch).item() == pytest.approx(theirs.loss(batch).item(), rel=1e-4)
        for contender in (ours, theirs, half):
            contender.step(step, batch)
    one, other, third = (each.encoder().eval()(clips) for each in (ours, theirs, half))
    assert torch.allclose(one, other, atol=1e-3)
    assert not torch.allclose(one, third, atol=1e-3)  # it learned from fewer tokens
    assert 0.0 < half.seconds and 0.0 < theirs.seconds


def test_the_time_to_an_accuracy_is_that_of_three_probes_in_a_row():
    curve = [
        {"clips": 64.0 * n, "seconds": 10.0 * n, "top1": top1}
        for n, top1 in enumerate((20.0, 50.0, 30.0, 40.0, 50.0, 60.0), 1)
    ]
    assert time_to_accuracy.mean_of_last(curve) == 50.0
    assert time_to_accuracy.seconds_to(curve, 40.0) == 40.0
    assert time_to_accuracy.seconds_to(curve, 50.0) == 60.0
    assert time_to_accuracy.seconds_to(curve, 50.1) is None
    slower = [probe | {"seconds": 2 * probe["seconds"]} for probe in curve]
    curves = {time_to_accuracy.PEER: slower, time_to_accuracy.OURS: curve}
    figures = time_to_accuracy.compare(curves | {time_to_accuracy.PART: curve[:1]})
    ratios = {figure.name: figure.ratio for figure in figures}
    assert ratios["ours: time to a probe of 50.0 %"] == 2.0
    assert ratios[f"{time_to_accuracy.PART}: time to a probe of 50.0 %"] is None
