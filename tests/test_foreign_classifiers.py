"""`evaluate --run` on finetuned models of others: Hugging Face folders and files of tensors."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from errors import refused, refuses
from shard_fixtures import DIRECTIONS, write_moving_squares
from test_weights import CONFIG, autoencoder, classifier, shaken, videomae_names
from training_fixtures import TINY_RECIPE, tiny_run

from shared.layout import DatasetLayout
from train.clips.table import read_clip_table
from train.evaluate import main
from train.evaluation.classifiers import find_classifier, foreign_classifier, run_classifier
from train.finetune import finetune
from train.network.head_config import HeadConfig
from train.options.config import EvaluateConfig
from train.options.recipe import read_recipe
from train.report import main as report
from train.samples.datasets import EvaluateDataset
from train.samples.loading import to_device
from train.weights.exchange import export_safetensors, import_weights
from train.weights.huggingface import export_huggingface
from train.weights.usage import Usage

NAMES = ["up", "left", "down", "right", "none of these"]  # another order than the dataset has
VIEWS = {"segments": 2, "crops": 3, "frames": {"kind": "dense", "stride": 2}}


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> DatasetLayout:
    return write_moving_squares(tmp_path_factory.mktemp("out"), num_clips=20)


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """A VideoMAEForVideoClassification of transformers with random weights, and its folder."""
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=32,
        patch_size=8,
        num_frames=4,
        hidden_size=36,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=52,
        id2label=dict(enumerate(NAMES)),
        label2id={name: number for number, name in enumerate(NAMES)},
    )
    torch.manual_seed(0)
    model = shaken(transformers.VideoMAEForVideoClassification(config))
    folder = tmp_path_factory.mktemp("theirs") / "somebody-elses.model"
    model.save_pretrained(folder)
    return model, folder


def run(layout: DatasetLayout, source: object, *more: str):
    arguments = ["--dataset", layout.dataset, "--out", str(layout.out), "--run", str(source)]
    arguments += ["--device", "cpu", "--workers", "0", *more]
    return CliRunner().invoke(main, arguments)


def scores_of(folder: Path, name: str = "test") -> tuple[list[str], np.ndarray]:
    with h5py.File(folder / f"scores-{name}.h5") as file:
        return [each.decode() for each in file["/clip/id"][:]], file["/label/probability"][:]


def test_scores_are_those_of_the_peer(layout, peer):
    model, folder = peer
    done = run(layout, folder, "--segments", "2", "--crops", "3")
    assert done.exit_code == 0, done.output
    results = layout.runs / "evaluate-somebody-elses.model"
    metrics = json.loads((results / "metrics-test.json").read_text())
    assert done.stdout.splitlines()[-1] == f"test top-1 {metrics['top1']:.1f} %"
    assert metrics["classes"] == list(DIRECTIONS) and metrics["other_classes"] == [NAMES[4]]
    found = foreign_classifier(folder, read_recipe("default", None))
    assert (found.frames.kind, found.frames.options["stride"]) == ("dense", 4)  # of default.toml
    table = read_clip_table(layout, ["test"], boxes=False)
    views = EvaluateConfig("test", 2, 3)
    dataset = EvaluateDataset(table, found.model, found.frames, views, found.loader)
    _, scores = scores_of(results)
    for row in range(len(table)):
        clips = to_device(dict(dataset[row]), torch.device("cpu"))["clips"]
        with torch.inference_mode():
            theirs = model(clips.transpose(1, 2)).logits.softmax(dim=1).mean(dim=0)
        by_name = dict(zip(NAMES, theirs.tolist(), strict=True))
        expected = [by_name[name] for name in (*DIRECTIONS, NAMES[4])]
        assert np.allclose(scores[row], expected, atol=1e-5)


def test_the_results_are_reused_and_do_not_disturb_the_report(layout, peer):
    _, folder = peer
    assert run(layout, folder, "--crops", "1", "--segments", "1").exit_code == 0
    again = run(layout, folder, "--crops", "1", "--segments", "1")
    assert "has these results already" in again.output
    arguments = ["--dataset", layout.dataset, "--out", str(layout.out)]
    done = CliRunner().invoke(report, arguments)
    assert done.exit_code == 0, done.output


def test_a_file_of_tensors_with_the_names_of_others_is_read(layout, peer, tmp_path):
    model, folder = peer
    refused(run(layout, tmp_path / "no.safetensors"), "unknown-name", "no.safetensors")
    file = folder / "model.safetensors"  # config.json lies beside it
    assert foreign_classifier(file, read_recipe("default", None)).class_names == {"label": NAMES}
    alone = tmp_path / "finetuned.safetensors"
    safetensors.torch.save_file(dict(model.state_dict()), alone)
    sizes = {"image_size": 32, "num_frames": 4, "num_heads": 3}
    imported = import_weights(alone, **sizes)
    assert imported.num_classes == {"label": 5} and not imported.usage.class_names
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.inference_mode():
        ours = imported.build().eval()(clips)["label"]
        assert torch.allclose(ours, model(clips.transpose(1, 2)).logits, atol=1e-5)
    original = classifier(label=4)
    safetensors.torch.save_file(videomae_names(original), alone)
    with torch.inference_mode():
        ours = import_weights(alone, **sizes).build().eval()(clips)["label"]
        assert torch.allclose(ours, original(clips)["label"], atol=1e-5)
    safetensors.torch.save_file({"a": torch.zeros(1)}, alone)
    with refuses("wrong-format", alone, "patch_embed.proj.weight"):
        import_weights(alone)


def test_unnamed_classes_are_taken_by_number(layout, tmp_path):
    export_huggingface(tmp_path / "four", classifier(label=4))
    done = run(layout, tmp_path / "four", "--segments", "1", "--crops", "1")
    assert done.exit_code == 0, done.output
    metrics = json.loads((layout.runs / "evaluate-four" / "metrics-test.json").read_text())
    assert "classes" not in metrics and metrics["class_map"] is None
    export_huggingface(tmp_path / "three", classifier(label=3))
    refused(run(layout, tmp_path / "three"), "other-classes", layout.classes, 4, 3)


def test_weights_that_this_project_exported_say_how_they_see_clips(layout, tmp_path):
    names = {"label": list(DIRECTIONS)}
    usage = Usage(names, VIEWS["frames"], VIEWS["segments"], VIEWS["crops"], "squares")
    head = HeadConfig("mca")
    export_safetensors(tmp_path / "a.safetensors", classifier(head, label=4), usage)
    export_huggingface(tmp_path / "b", classifier(label=4), usage=usage)
    for source, has_boxes in ((tmp_path / "a.safetensors", True), (tmp_path / "b", False)):
        found = foreign_classifier(source, read_recipe("default", None))
        assert found.class_names == names and found.needs_boxes is has_boxes
        assert (found.frames.kind, found.frames.options["stride"]) == ("dense", 2)
        assert (found.views.segments, found.views.crops) == (2, 3)
        assert run(layout, source).exit_code == 0
    found, scores = scores_of(layout.runs / "evaluate-a")
    assert scores.shape == (4, 4) and np.allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_what_is_no_classifier_is_refused(layout, tmp_path):
    export_safetensors(tmp_path / "a.safetensors", autoencoder())
    done = run(layout, tmp_path / "a.safetensors")
    refused(done, "other-kind", tmp_path / "a.safetensors", "pretraining")
    usage = Usage({"label": ["one"]})
    export_safetensors(tmp_path / "misnamed.safetensors", classifier(label=4), usage)
    refused(run(layout, tmp_path / "misnamed.safetensors"), "other-classes", 1, 4)
    usage = Usage(frames={"kind": "sparse"})
    export_safetensors(tmp_path / "c.safetensors", classifier(label=4), usage)
    refused(run(layout, tmp_path / "c.safetensors"), "unknown-name", "sparse", "dense")
    assert not (layout.runs / "evaluate-misnamed").exists()


def test_a_run_is_found_by_name_and_by_path(tmp_path):
    layout = write_moving_squares(tmp_path, num_clips=10)
    (tmp_path / "tiny.toml").write_text(TINY_RECIPE)
    folder = finetune(tiny_run(tmp_path, epochs=1, batch_size=6), "mean", "none")
    by_name = find_classifier(folder.path.name, layout, {})
    elsewhere = DatasetLayout(tmp_path, "elsewhere")
    by_path = find_classifier(str(folder.path), elsewhere, {})
    expected = run_classifier(folder)
    for found in (by_name, by_path):
        assert (found.weights, found.frames) == (expected.weights, expected.frames)
        assert found.name_of("label", 1) == "right"
    assert CONFIG.num_frames == expected.model.num_frames
