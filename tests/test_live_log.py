"""log.jsonl, TensorBoard and Weights & Biases have the same figures under the same names."""

import sys

import cv2
import numpy as np
import pytest
from errors import refuses
from shard_fixtures import write_moving_squares
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from training_fixtures import tiny_run

from shared.run_record import read_jsonl
from train.finetune import finetune
from train.running.live_log import LiveLog
from train.running.run_folder import RunFolder


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    write_moving_squares(folder)
    return folder


def curves(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder.tensorboard), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(point.step, point.value) for point in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_has_what_the_log_has(out):
    folder = finetune(tiny_run(out, run="curves"), "mean", "none")
    found = curves(folder)
    for event in read_jsonl(folder.log):
        for name, value in event.items():
            if name not in ("event", "step", "started"):
                points = found[f"{event['event']}/{name}"]
                assert (event["step"], pytest.approx(value, rel=1e-6)) in points
    assert {"train/loss", "train/learning_rate", "validate/top1"} <= set(found)


def test_steps_that_come_again_are_there_once(tmp_path):
    folder = RunFolder(tmp_path / "run")
    for first_step, losses in ((0, (3.0, 2.0, 1.0)), (1, (2.5, 1.5))):
        log = LiveLog(folder, True, first_step, True, None, {})
        for step, loss in enumerate(losses, start=first_step + 1):
            log.write({"event": "train", "step": step, "loss": loss})
        log.close()
    assert curves(folder) == {"train/loss": [(1, 3.0), (2, 2.5), (3, 1.5)]}


def test_tensorboard_has_options_and_pictures(tmp_path):
    folder = RunFolder(tmp_path / "run")
    options = {"seed": 3, "config": {"epochs": 10, "rate": 1e-3, "frames": [0, 15], "init": None}}
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    log = LiveLog(folder, True, 0, True, None, options)
    log.write_picture("snapshots/input", picture, 7)
    log.close()
    events = EventAccumulator(str(folder.tensorboard), size_guidance={"images": 0}).Reload()
    [shown] = events.Images("snapshots/input")
    encoded = np.frombuffer(shown.encoded_image_string, np.uint8)
    assert shown.step == 7
    np.testing.assert_array_equal(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1], picture)
    found = HParamsPluginData.FromString(
        events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    ).session_start_info.hparams
    assert {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()} == {
        "seed": 3.0,
        "config.epochs": 10.0,
        "config.rate": 1e-3,
        "config.frames": "[0, 15]",
        "config.init": "null",
    }


def test_curves_can_be_left_out_and_others_write_nothing(tmp_path):
    for is_first in (True, False):
        folder = RunFolder(tmp_path / f"{is_first}")
        log = LiveLog(folder, is_first, 0, False, None, {})
        log.write({"event": "train", "step": 1, "loss": 1.0})
        log.close()
        assert folder.log.exists() == is_first and not folder.tensorboard.exists()


def test_wandb_that_is_not_installed_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with refuses("missing-package", "wandb", ".venv/bin/pip install wandb"):
        LiveLog(RunFolder(tmp_path), True, 0, False, "project", {})


@pytest.mark.slow
def test_wandb_works_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = RunFolder(tmp_path / "run")
    log = LiveLog(folder, True, 0, False, "project", {"seed": 0})
    log.write({"event": "train", "step": 1, "loss": 0.5})
    log.close()
    (written,) = (folder.path / "wandb").glob("offline-run-*/*.wandb")
    assert b"train/loss" in written.read_bytes()
