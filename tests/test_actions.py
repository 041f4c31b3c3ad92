"""Verbs and nouns of a model that learned actions, against a loop."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from run_fixtures import write_finetune_run
from shard_fixtures import write_moving_squares

import train.evaluate
from shared.layout import DatasetLayout
from shared.manifest import Clip, read_manifest, write_manifest
from train.evaluation.actions import marginal, marginal_accuracy, parts_of_actions


def clip(label, verb, noun):
    return Clip("c", "c.mp4", label=label, verb=verb, noun=noun)


def test_parts_of_actions_are_those_of_the_clips():
    clips = [clip(0, 2, 1), clip(2, 0, 1), clip(0, 2, 1), clip(None, None, None), clip(9, 5, 5)]
    parts = parts_of_actions(clips, 3)
    assert parts["verb"].tolist() == [2, -1, 0] and parts["noun"].tolist() == [1, -1, 1]


@pytest.mark.parametrize(
    "clips", [[clip(0, 1, 1), clip(0, 2, 1)], [clip(0, None, 1)], [clip(0, 1, None)], []]
)
def test_labels_that_are_no_pairs_have_no_parts(clips):
    assert parts_of_actions(clips, 3) == {}


def test_probabilities_of_the_actions_of_a_verb_are_added_up():
    rng = np.random.default_rng(0)
    probability, part = rng.dirichlet(np.ones(6), 4), np.array([1, 0, 1, -1, 3, 0])
    expected = np.zeros((4, 4))
    for n in range(4):
        for action, verb in enumerate(part):
            if verb >= 0:
                expected[n, verb] += probability[n, action]
    np.testing.assert_allclose(marginal(probability, part), expected, rtol=1e-6)


def test_a_verb_can_be_right_where_the_action_is_wrong(tmp_path):
    """Two actions of verb 0 share what action 2 of verb 1 has less of alone."""
    probability = np.array([[0.3, 0.3, 0.4]])
    clips = [clip(0, 0, 0), clip(1, 0, 1), clip(2, 1, 1)]
    named = [replace(each, clip_id=str(n)) for n, each in enumerate(clips)]
    write_manifest(tmp_path / "manifest.csv", named)
    labels = {"verb": np.array([0]), "noun": np.array([1])}
    found = marginal_accuracy({"label": probability}, labels, tmp_path / "manifest.csv")
    assert (found["verb_top1"], found["noun_top1"]) == (100, 100)
    assert marginal_accuracy({"verb": probability}, labels, tmp_path / "manifest.csv") == {}


def test_evaluate_reports_verbs_and_nouns_of_an_action_model(tmp_path):
    layout: DatasetLayout = write_moving_squares(tmp_path)
    folder = write_finetune_run(layout, evaluated=False)
    record = folder.read_record()
    record["options"] |= {"evaluate": {"split": "test"}, "loader": {"workers": 0}}
    folder.options.write_text(json.dumps(record))
    arguments = ["--dataset", "squares", "--out", str(tmp_path), "--device", "cpu", "--overwrite",
                 "--run", "finetune-mofo-mean"]  # fmt: skip
    done = CliRunner().invoke(train.evaluate.main, arguments)
    assert done.exit_code == 0, done.output
    assert "verb_top1" not in done.output
    clips = read_manifest(layout.manifest)
    pairs = [replace(c, verb=c.label // 2, noun=c.label % 2) for c in clips]
    write_manifest(layout.manifest, pairs)
    done = CliRunner().invoke(train.evaluate.main, arguments)
    assert done.exit_code == 0, done.output
    assert "verb_top1" in done.output and "noun_mean_class_accuracy" in done.output
