"""The folder that `checkpoint export` writes: what lies beside the weights, and who reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from errors import refused
from shard_fixtures import DIRECTIONS, write_moving_squares
from test_weights import CONFIG, autoencoder, classifier, same
from training_fixtures import tiny_run
from video_fixtures import render_video

from shared.manifest import read_classes
from train.checkpoint import main
from train.evaluate import evaluate
from train.finetune import finetune
from train.pretrain import pretrain
from train.running.run_folder import RunFolder
from train.samples.loading import to_device
from train.weights.exchange import export_safetensors, import_weights
from train.weights.files import digest_of
from train.weights.huggingface import FILES, export_huggingface
from train.weights.own_runs import import_run
from train.weights.usage import Usage

NAMES = [f'Aktion {number}, "groß"' for number in range(7)]
USAGE = Usage({"label": NAMES}, {"kind": "dense", "stride": 2}, 5, 3, "squares")


def export(*arguments: object):
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def tested_run(tmp_path_factory) -> RunFolder:
    """A finetuned run of a model that Hugging Face's VideoMAE has a place for."""
    out = tmp_path_factory.mktemp("out")
    layout = write_moving_squares(out, num_clips=20)
    common = tiny_run(out, 'model.positions="sincos-1d"', epochs=2, batch_size=6)
    run = finetune(common, "mean", "none")
    evaluate(layout, run, {}, 0, "cpu")
    return run


# -- others read it -------------------------------------------------------------------------------


def test_the_pipeline_of_transformers_classifies_a_video(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = classifier()
    export_huggingface(tmp_path / "model", model, usage=USAGE)
    video = render_video(tmp_path / "clip.mp4", 12, size=(32, 32))  # no resize, which would differ
    stride = {"frame_sampling_rate": USAGE.frames["stride"]}
    classify = transformers.pipeline("video-classification", str(tmp_path / "model"), **stride)
    # With a video processor torchcodec and FFmpeg would decode, which are not installed here.
    classify.video_processor = None
    found = {each["label"]: each["score"] for each in classify(str(video), top_k=7)}
    with av.open(str(video)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    chosen = np.linspace(0, 4 * 2 - 1, 4).astype(int)  # how the pipeline samples
    pixels = torch.from_numpy(np.stack(pictures)[chosen][None])
    with torch.inference_mode():
        clips = to_device({"pixels": pixels}, torch.device("cpu"))["clips"]
        ours = model(clips)["label"].softmax(dim=1)[0]
    assert found.keys() == set(NAMES)
    for name, score in zip(NAMES, ours.tolist(), strict=True):
        assert found[name] == pytest.approx(score, abs=1e-3)


def test_the_image_processor_standardises_as_this_project_does(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export_huggingface(tmp_path, autoencoder())
    processor = transformers.VideoMAEImageProcessor.from_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    theirs = processor(list(frames), return_tensors="pt")["pixel_values"]
    ours = to_device({"pixels": torch.from_numpy(frames[None])}, torch.device("cpu"))["clips"]
    assert torch.allclose(theirs, ours.transpose(1, 2), atol=1e-5)
    # A larger frame is reduced to the short side, and its centre is cropped.
    wide = rng.integers(0, 256, (4, 64, 96, 3), dtype=np.uint8)
    assert processor(list(wide), return_tensors="pt")["pixel_values"].shape == (1, 4, 3, 32, 32)


# -- runs of this project -------------------------------------------------------------------------


def test_a_run_is_exported_with_its_names_views_and_accuracy(tested_run, tmp_path):
    done = export(tested_run.path, tmp_path / "folder")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == sorted(FILES)
    fields = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert list(fields["id2label"].values()) == list(DIRECTIONS)
    assert fields["mofo"]["frames"] == {"kind": "segments"} and fields["mofo"]["crops"] == 3
    card = (tmp_path / "folder" / "README.md").read_text()
    metrics = json.loads(tested_run.metrics("test").read_text())
    assert f"Top-1 on split test of squares: {metrics['top1']:.1f} % of 4 clips" in card
    assert "one frame of each" in card and "- 3: down" in card
    again = import_weights(tmp_path / "folder")
    assert again.usage.class_names == {"label": list(DIRECTIONS)}
    assert (again.usage.segments, again.usage.dataset) == (2, "squares")


def test_the_best_weights_of_a_finished_run_are_exported(tested_run, tmp_path):
    assert export(tested_run.path, tmp_path / "run.safetensors").exit_code == 0
    found = import_weights(tmp_path / "run.safetensors")
    assert same(found.state_dict, import_weights(tested_run.best_weights).state_dict)
    assert found.usage.class_names == {"label": list(DIRECTIONS)}
    [*_, newest] = sorted(path for path in tested_run.checkpoints.iterdir() if path.is_dir())
    assert export(newest, tmp_path / "last.safetensors").exit_code == 0
    last = import_weights(tmp_path / "last.safetensors")
    assert same(last.state_dict, import_run(tested_run.path).state_dict)


def test_other_weights_do_not_take_over_the_accuracy_of_a_run(tested_run, tmp_path):
    assert export(tested_run.weights, tmp_path / "last").exit_code == 0
    card = (tmp_path / "last" / "README.md").read_text()
    same = digest_of(tested_run.weights) == digest_of(tested_run.best_weights)
    assert ("Top-1" in card) == same
    assert "- 3: down" in card  # the names are those of the run


def test_classes_of_a_file_replace_those_of_the_run(tested_run, tmp_path):
    other = write_moving_squares(tmp_path, num_clips=4, names=["a", "b", "c", "d"])
    done = export(tested_run.path, tmp_path / "folder", "--classes", other.classes)
    assert done.exit_code == 0, done.output
    fields = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert list(fields["id2label"].values()) == read_classes(other.classes).label


def test_a_pretraining_has_a_card_of_its_own(tmp_path):
    out = tmp_path / "out"
    write_moving_squares(out, num_clips=10)
    common = tiny_run(out, 'model.positions="sincos-1d"', epochs=1, batch_size=6)
    run = pretrain(common, "videomae")
    assert export(run.path, tmp_path / "folder").exit_code == 0
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "VideoMAEForPreTraining" in card and "pipeline" not in card
    assert "distance of 2" in card and "squares" in card


# -- the folder itself ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_no_file_of_the_folder_is_replaced_unasked(name, tmp_path):
    export_safetensors(tmp_path / "a.safetensors", autoencoder())
    (tmp_path / name).write_text("mine")
    refused(export(tmp_path / "a.safetensors", tmp_path), "existing-output", tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"
    assert export(tmp_path / "a.safetensors", tmp_path, "--overwrite").exit_code == 0


def test_the_card_names_versions_that_the_project_installs() -> None:
    """The lowest version of setup.cfg, and the one that constraints.txt pins."""
    root = Path(__file__).resolve().parents[1]
    [lowest] = set(re.findall(r"transformers>=([\d.]+)", (root / "setup.cfg").read_text()))
    pinned = re.search(r"^transformers==([\d.]+)", (root / "constraints.txt").read_text(), re.M)
    from train.weights.model_card import READ_BY

    assert f"{lowest} to {pinned[1]}" == READ_BY


def test_long_lists_of_classes_end_with_a_count(tmp_path):
    export_huggingface(tmp_path, classifier(label=40), [f"class-{n}" for n in range(40)])
    card = (tmp_path / "README.md").read_text()
    assert "- 29: class-29" in card and "class-30" not in card and "10 more" in card
    assert CONFIG.image_size == 32 and "32 x 32" in card
