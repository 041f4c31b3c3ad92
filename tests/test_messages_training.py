"""Class lists, weights and shards that do not fit a training: what was found and what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from errors import refuses
from training_fixtures import TINY_RECIPE

from preprocess.flow.raft import RaftFlow
from preprocess.toy import ToyOptions, _kept_clips
from shared.layout import DatasetLayout
from shared.manifest import ClassList
from shared.masks import MASKS, Scene
from shared.shard_index import DatasetIndex, write_index
from train.clips.table import NO_LABEL, _read_index
from train.options.recipe import finetune_config, read_recipe
from train.pictures.attention import _check_query
from train.running.finetune_inputs import count_classes, labelled
from train.weights.files import read_json


@pytest.fixture
def layout(tmp_path) -> DatasetLayout:
    return DatasetLayout(tmp_path, "squares")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE)
    return finetune_config(read_recipe("squares", path), "mean")


def test_classes_that_a_finetuning_cannot_learn(config, layout):
    with refuses("missing-label", layout.classes, "label", "MANIFEST=file"):
        count_classes(ClassList(), config, layout)
    flipping = replace(config, flips=("x",))
    with refuses("missing-key", layout.classes, "flip_x"):
        count_classes(ClassList(label=["left", "right"]), flipping, layout)
    classes = ClassList(label=["a", "b"], verb=["c"], noun=["d"], flip_x=[1, 0])
    both = replace(flipping, labels=("verb", "noun"))
    with refuses("option-conflict", "flips", "'x'", "verb, noun"):
        count_classes(classes, both, layout)
    assert count_classes(classes, flipping, layout) == {"label": 2}


class Labels(SimpleNamespace):
    """The labels of a clip table."""

    def __len__(self) -> int:
        return len(self.labels["label"])


def test_clips_that_a_finetuning_cannot_learn_from(config):
    table = Labels(labels={"label": np.array([0, NO_LABEL, 1])})
    with refuses("missing-label", "1 of 3", "label"):
        labelled(table, config, {"label": 2})
    table = Labels(labels={"label": np.array([0, 2])}, frames_folder=Path("nowhere/frames"))
    with refuses("other-classes", "label 2", 2, "make manifest"):
        labelled(table, config, {"label": 2})


def test_shards_of_another_kind(tmp_path):
    write_index(tmp_path, DatasetIndex("flows", "toy", {}, 8, "0" * 64))
    with refuses("other-kind", tmp_path, "flows", "boxes", "make boxes"):
        _read_index(tmp_path, "boxes", "make boxes", "0" * 64)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "missing-file"),
        ("{", "damaged-file"),
        ("[]", "wrong-format"),
    ],
)
def test_wrong_hugging_face_folders(tmp_path, text, code):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with refuses(code, tmp_path / "config.json"):
        read_json(tmp_path / "config.json")


def test_raft_weights_that_are_none(tmp_path):
    with refuses("missing-file", tmp_path / "gone.pth"):
        RaftFlow(tmp_path / "gone.pth", "cpu")
    with refuses("wrong-format", tmp_path):
        RaftFlow(tmp_path, "cpu")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with refuses("wrong-format", tmp_path / "list.pth"):
        RaftFlow(tmp_path / "list.pth", "cpu")


def test_a_damaged_record_of_the_toy_dataset(layout):
    record = layout.root / "annotations" / "toy.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    with refuses("damaged-file", "toy.json"):
        _kept_clips(layout, record, ToyOptions(24, 0), overwrite=False)


def test_numbers_that_masks_and_pictures_refuse(config):
    scene = Scene(2, np.zeros((14, 14), bool))
    rng = np.random.default_rng(0)
    with refuses("out-of-range", "speed", "(2.0, 1.0)"):
        MASKS["smm"].draw(scene, rng, mask_ratio=0.5, speed=(2.0, 1.0))
    steps, last = config.model.time_steps, config.model.grid - 1
    with refuses("out-of-range", f"{steps - 1} {last} {last}"):
        _check_query((steps, 0, 0), config.model)
