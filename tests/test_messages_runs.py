"""Recipes, runs and classes that a training, a picture or a report cannot use."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from errors import refused, refuses
from run_fixtures import write_finetune_run, write_pretrain_run
from shard_fixtures import write_moving_squares
from training_fixtures import TINY_RECIPE

import train.evaluate
import train.figures
import train.finetune
import train.probe
from shared.layout import DatasetLayout
from shared.manifest import ClassList, write_classes
from shared.run_record import write_options
from train.clips.view_rules import random_resized, shift
from train.evaluate import Clips, _class_map
from train.evaluation.class_map import ClassMap, match_names
from train.evaluation.classifiers import Classifier
from train.evaluation.features import _read
from train.network.head_config import HeadConfig
from train.network.model_config import ModelConfig
from train.options.config import AugmentConfig, EvaluateConfig, LoaderConfig
from train.options.recipe import finetune_config, parse_changes, pretrain_config, read_recipe
from train.pictures.gradcam import _maps_of
from train.pictures.overview import overview_rows
from train.pictures.reconstruction import _check_same_shape, _read_config
from train.report_sections.runs import read_run, scores_of
from train.running.engine import start_processes
from train.running.finetune_inputs import refuse_single_clips
from train.running.live_log import LiveLog
from train.running.rerun import read_earlier
from train.running.run_folder import RunFolder
from train.tables.typed import Choice
from train.weights.videomae import _stack


@pytest.fixture
def tables(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE)
    return read_recipe("squares", path)


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> DatasetLayout:
    """Moving squares with a pretrained and a finetuned run of the toy recipe."""
    layout = write_moving_squares(tmp_path_factory.mktemp("out"))
    write_pretrain_run(layout)
    write_finetune_run(layout)
    return layout


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (train.evaluate, "--run a --method mme", "--run a"),
        (train.evaluate, "--run a --head mca", "--run a"),
    ],
)
def test_a_run_that_is_named_twice(command, options, message, tmp_path):
    arguments = ["--dataset", "squares", "--out", str(tmp_path), *options.split()]
    done = CliRunner().invoke(command.main, arguments)
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    assert message in done.stderr


def test_two_names_of_what_a_finetuning_begins_with(tmp_path):
    given = ["--from", "none", "--method", "mme"]
    arguments = ["--dataset", "squares", "--out", str(tmp_path), *given]
    done = CliRunner().invoke(train.finetune.main, arguments)
    refused(done, "option-conflict", "--from none", "--method mme")


# --------------------------------------------------------------------------------------------------
# Recipes


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        (("augment.rand_magnitude=11",), "out-of-range", ["rand_magnitude", 11, 0, 10]),
        (("augment.label_smoothing=1.0",), "out-of-range", ["label_smoothing", 1.0]),
        (("dropout=1.0",), "out-of-range", ["dropout", 1.0]),
        (("augment=strong",), "wrong-type", ["finetune.augment", "'strong'"]),
        (("crop=shift",), "missing-key", ["crop", "pixels", "'shift'"]),
        (("crop.pixels",), "bad-setting", ["--set crop.pixels", "KEY=VALUE"]),
    ],
)
def test_settings_of_finetuning(tables, changes, code, named):
    with refuses(code, *named):
        finetune_config(tables, "mean", parse_changes(changes))


def test_numbers_of_crops_decoders_and_augmentation():
    rng = np.random.default_rng(0)
    with refuses("out-of-range", "(0.5, 2.0)", "(0.75, 1.33)"):
        random_resized(64, 64, rng, area=(0.5, 2.0), aspect=(0.75, 1.33))
    with refuses("out-of-range", "pixels", -1):
        shift(64, 64, rng, pixels=-1)
    with refuses("out-of-range", "second_prediction_dim", 9):
        ModelConfig(prediction_dim=9, second_prediction_dim=9)
    assert AugmentConfig(rand_layers=1, rand_magnitude=10).rand_magnitude == 10


def test_a_clip_alone_is_not_mixed(tables):
    config = finetune_config(tables, "mean", {})
    refuse_single_clips(config, 2)
    refuse_single_clips(replace(config, augment=AugmentConfig()), 1)
    for repeats in (1, 2):  # further views of the same clip are no other clips
        with refuses("out-of-range", "mixup", "loader.micro_batch_size"):
            refuse_single_clips(replace(config, repeats=repeats), 1)


def test_frames_side_by_side_leave_nothing_to_interpolate():
    tables = read_recipe("toy", None)
    with refuses("option-needs-another", "interpolate", "stride", 2):
        pretrain_config(tables, "mme", parse_changes(("trajectories.interpolate=false",)))


def test_a_probe_of_two_runs(layout):
    arguments = ["--dataset", "squares", "--out", str(layout.out), "--from", "a", "--method", "b"]
    done = CliRunner().invoke(train.probe.main, arguments)
    refused(done, "option-conflict", "--from a", "--method b")


def test_a_decoder_of_another_size_than_the_target(tables):
    with refuses("option-conflict", "prediction_dim", 7, "normalised_pixels"):
        pretrain_config(tables, "mofo", parse_changes(("model.prediction_dim=7",)))
    visible = parse_changes(("model.predict_visible=true",))
    with refuses("option-conflict", "predict_visible is true", "normalised_pixels", "leave"):
        pretrain_config(tables, "mofo", visible)
    with refuses("option-unused", "finetuning has no decoder", "predict_visible"):
        finetune_config(tables, "mean", visible)
    toy, hidden = read_recipe("toy", None), parse_changes(("model.predict_visible=false",))
    assert pretrain_config(toy, "velocity", visible).model.predict_visible
    with refuses("option-conflict", "predict_visible is false", "velocity", "visible and masked"):
        pretrain_config(toy, "velocity", hidden)


def test_weights_without_blocks():
    with refuses("wrong-format", "encoder.blocks.0.mlp.fc1.weight"):
        _stack({"encoder.norm.weight": torch.zeros(3)}, "encoder", 3)


def test_a_process_too_many_for_the_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with refuses("no-gpu", "process 1", 1):
        start_processes("cuda")


# --------------------------------------------------------------------------------------------------
# Classes


def test_no_clip_of_a_tested_class():
    classes = match_names(["run", "jump", "swim"], ["Run", "jump!", "fly"])
    assert isinstance(classes, ClassMap)
    table = SimpleNamespace(labels={"label": np.array([2, 2, -1])})
    with refuses("no-match", "Run, jump!"):
        classes.take(table)


def test_a_class_list_that_has_changed_since(layout, tmp_path):
    now = DatasetLayout(tmp_path, "squares")
    now.root.mkdir()
    write_classes(now.classes, ClassList(label=["left", "right"]))
    how = (ModelConfig(), HeadConfig(), Choice("segments", {}), {"label": 4}, {})
    learned = Classifier("old", tmp_path, "last", *how, EvaluateConfig(), LoaderConfig())
    with refuses("other-classes", now.classes, "2 classes", "learned 4"):
        _class_map(now, Clips(layout), learned, {"label": ["left", "right", "2", "3"]})


# --------------------------------------------------------------------------------------------------
# Runs


def test_pictures_of_what_has_none(layout, tmp_path):
    path = layout.root / "runs" / "other"
    write_options(path / "options.json", {"command": "probe"})
    done = CliRunner().invoke(train.figures.main, [str(path)])
    refused(done, "other-kind", path, "'probe'", "pretrain", "finetune")
    empty = DatasetLayout(tmp_path, "squares")
    made = empty.make("boxes")
    with refuses("not-finished", empty.boxes, made):
        overview_rows(empty, RunFolder(layout.runs / "pretrain-mofo"), 1, 4)
    label = SimpleNamespace(clip_id="square-000")
    model = SimpleNamespace(num_classes={"label": 4})
    with refuses("other-classes", "square-000", "class 7", "4 classes"):
        _maps_of(label, "test", 7, model, "label", 0, "output")


def test_pictures_of_runs_that_cut_clips_otherwise(layout):
    folder = write_pretrain_run(layout, "mme", weights=False)
    with refuses("other-kind", folder.path, "trajectories"):
        _read_config(folder)
    first, second = (SimpleNamespace(config=ModelConfig(image_size=size)) for size in (224, 192))
    with refuses("other-model", folder.path, "image_size 224", "192"):
        _check_same_shape(folder, first, second)


def test_files_of_runs_that_are_damaged(layout, tmp_path):
    folder = write_finetune_run(layout, "damaged")
    folder.scores("test").write_bytes(b"no HDF5")
    with refuses("damaged-file", folder.scores("test"), "OSError"):
        scores_of(read_run(folder.path))
    folder.metrics("test").write_text("[]")
    with refuses("damaged-file", "run damaged", "metrics-test.json"):
        read_run(folder.path)
    table = SimpleNamespace(ids=np.array([b"a"], "S64"))
    (tmp_path / "features-test.h5").write_bytes(b"no HDF5")
    with refuses("damaged-file", tmp_path / "features-test.h5", "OSError"):
        _read(tmp_path / "features-test.h5", table)


def test_features_of_other_clips(tmp_path):
    import h5py

    with h5py.File(tmp_path / "features-test.h5", "w") as file:
        file["/clip/id"] = np.array([b"a", b"b"], "S64")
        file["/feature"] = np.zeros((2, 3), np.float32)
    table = SimpleNamespace(ids=np.array([b"a", b"c"], "S64"))
    with refuses("other-clips", tmp_path / "features-test.h5", "--overwrite"):
        _read(tmp_path / "features-test.h5", table)
    table = SimpleNamespace(ids=np.array([b"a", b"b"], "S64"))
    assert _read(tmp_path / "features-test.h5", table).shape == (2, 3)


def test_like_a_run_of_another_command(layout):
    with refuses("other-kind", "finetune-mofo-mean", "train.finetune", "train.pretrain"):
        read_earlier(layout, "finetune-mofo-mean", "pretrain")


def test_weights_and_biases_that_refuse(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def refuse(**_):
        raise wandb.Error("api_key not configured\nmore advice")

    monkeypatch.setattr(wandb, "init", refuse)
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    with refuses("service-refused", "--wandb mofo", "api_key not configured", "WANDB_MODE=offline"):
        LiveLog(folder, True, 0, False, "mofo", {})
