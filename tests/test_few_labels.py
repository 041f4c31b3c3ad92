"""Learning from few labels: which clips are chosen, and that finetuning and probing use them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from errors import refused, refuses
from shard_fixtures import write_moving_squares
from training_fixtures import TINY_RECIPE, tiny_run

from shared.manifest import read_manifest, write_manifest
from train.clips.few_labels import FewLabels, say_labels
from train.finetune import finetune
from train.finetune import main as finetune_command
from train.pretrain import pretrain
from train.probe import main as probe_command

SIZES = (40, 12, 3)  # clips of each class


@pytest.fixture
def clips() -> tuple[np.ndarray, np.ndarray]:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), SIZES))
    return np.array([f"clip{i:03d}".encode() for i in range(len(labels))], "S64"), labels[:, None]


def counts(labels: np.ndarray, chosen: np.ndarray) -> list[int]:
    return np.bincount(labels[chosen, 0], minlength=3).tolist()


def test_labels_per_class_are_nested_and_seeded(clips):
    ids, labels = clips
    chosen = {k: FewLabels(per_class=k).choose(ids, labels) for k in (1, 5, 10, 30)}
    assert counts(labels, chosen[5]) == [5, 5, 3]  # all of a class that has fewer
    assert counts(labels, chosen[30]) == [30, 12, 3]
    for fewer, more in ((1, 5), (5, 10), (10, 30)):
        assert set(chosen[fewer]) < set(chosen[more])
    assert all((np.diff(rows) > 0).all() for rows in chosen.values())
    other = FewLabels(per_class=5, seed=1).choose(ids, labels)
    assert counts(labels, other) == [5, 5, 3] and set(other) != set(chosen[5])


def test_a_share_is_of_each_class_and_nested(clips):
    ids, labels = clips
    tenth, quarter = (FewLabels(share=share).choose(ids, labels) for share in (0.1, 0.25))
    assert counts(labels, tenth) == [4, 1, 1]  # at least one
    assert counts(labels, quarter) == [10, 3, 1]
    assert set(tenth) < set(quarter) < set(FewLabels().choose(ids, labels))


def test_the_choice_depends_on_the_clips_of_a_class_alone(clips):
    ids, labels = clips
    few = FewLabels(per_class=5)
    shuffled = np.random.default_rng(1).permutation(len(ids))
    there = ids[shuffled][few.choose(ids[shuffled], labels[shuffled])]
    assert set(there) == set(ids[few.choose(ids, labels)])
    without = labels[:, 0] != 2
    alone = ids[without][few.choose(ids[without], labels[without])]
    assert set(alone) == {clip for clip in there if labels[ids == clip, 0] != 2}


def test_pairs_of_labels_are_classes():
    ids = np.array([b"a", b"b", b"c", b"d", b"e"], "S64")
    verbs_and_nouns = np.array([[0, 0], [0, 0], [0, 1], [1, 1], [1, 1]])
    chosen = FewLabels(per_class=1).choose(ids, verbs_and_nouns)
    assert len(chosen) == 3
    assert len(np.unique(verbs_and_nouns[chosen], axis=0)) == 3


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ({"per_class": -1}, "out-of-range", ("labels_per_class", -1)),
        ({"share": 0.0}, "out-of-range", ("label_share", 0.0)),
        ({"share": 1.5}, "out-of-range", ("label_share", 1.5)),
        ({"per_class": 5, "share": 0.5}, "option-conflict", (5, 0.5)),
    ],
)
def test_impossible_numbers_are_refused(options, code, named):
    with refuses(code, *named):
        FewLabels(**options)


def test_the_line_says_what_is_left_out():
    assert say_labels(FewLabels(), 9, 9, 9) is None
    line = say_labels(FewLabels(per_class=2), 4, 9, 12)
    assert "4 of 9 labelled clips are used (2 of each class, seed 0)" in line
    assert "3 clips without a label" in line
    assert "1 clip without a label" in say_labels(FewLabels(), 9, 9, 10)


# ---------------------------------------------------------------------------------------------
# In the commands
# ---------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    return write_moving_squares(tmp_path, num_clips=20)  # 12 of split train


def invoke(command, layout, *arguments: str):
    recipe = layout.out / "tiny.toml"
    recipe.write_text(TINY_RECIPE)
    given = ["--dataset", layout.dataset, "--out", str(layout.out), "--recipe", str(recipe)]
    given += ["--device", "cpu", "--from", "none", *arguments]
    return CliRunner().invoke(command, given, catch_exceptions=False)


def options_of(layout, run: str) -> dict:
    return json.loads((layout.runs / run / "options.json").read_text())["options"]


def test_finetuning_uses_and_records_few_labels(own):
    asked = ("--labels-per-class", "2", "--epochs", "1")
    done = invoke(finetune_command, own, *asked)
    assert done.exit_code == 0, done.output
    made = options_of(own, "finetune-scratch-mean")
    assert "8 of 12 labelled clips are used (2 of each class, seed 0)" in done.output
    assert made["clips"] == 8 and made["config"]["labels_per_class"] == 2
    again = invoke(finetune_command, own, *asked)
    assert again.exit_code == 0 and "is finished" in again.output
    other = invoke(finetune_command, own, "--labels-per-class", "1", "--epochs", "1")
    refused(other, "other-options", "labels_per_class was 2 and is now 1")


def test_one_limit_takes_the_place_of_the_recipes_other(own):
    done = invoke(finetune_command, own, "--set", "labels_per_class=1", "--label-share", "0.7",
                  "--dry-run")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "8 of 12 labelled clips are used (70 % of each class, seed 0)" in done.output


def test_a_run_of_an_earlier_version_continues_with_all_labels(own):
    folder = finetune(tiny_run(own.out, epochs=1), "mean", "none")
    record = json.loads(folder.options.read_text())
    for name in ("labels_per_class", "label_share", "label_seed"):
        del record["options"]["config"][name]  # as it was before they existed
    folder.options.write_text(json.dumps(record))
    finetune(tiny_run(own.out, epochs=1), "mean", "none")
    with refuses("other-options", "clips was 12 and is now 8"):
        finetune(tiny_run(own.out, "labels_per_class=2", epochs=1), "mean", "none")


def test_clips_without_a_label_are_pretrained_on_and_not_finetuned_on(own, capsys):
    clips = read_manifest(own.manifest)
    unlabelled = {clip.clip_id for clip in [c for c in clips if c.split == "train"][:4]}
    write_manifest(
        own.manifest,
        [replace(c, label=None) if c.clip_id in unlabelled else c for c in clips],
    )
    pretrained = pretrain(tiny_run(own.out, epochs=1), "videomae")
    assert json.loads(pretrained.options.read_text())["options"]["clips"] == 12
    finetuned = finetune(tiny_run(own.out, epochs=1), "mean", "pretrain-videomae")
    assert json.loads(finetuned.options.read_text())["options"]["clips"] == 8
    assert "4 clips without a label" in capsys.readouterr().out


def test_probing_uses_and_records_few_labels(own):
    asked = ("--labels-per-class", "2", "--probe", "knn")
    done = invoke(probe_command, own, *asked)
    assert done.exit_code == 0, done.output
    made = options_of(own, "probe-scratch")
    assert made["few_labels"] == {"per_class": 2, "share": 1.0, "seed": 0}
    assert made["clips"]["train"] == 8
    with_all = invoke(probe_command, own, "--probe", "knn", "--run", "all")
    assert with_all.exit_code == 0 and options_of(own, "all")["clips"]["train"] == 12
