"""Finetuning and evaluation end to end on small shards."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from errors import refused, refuses
from shard_fixtures import write_moving_squares
from training_fixtures import assert_same_weights, losses, tiny_run

import train.evaluate
import train.evaluation.validation
import train.finetune
from shared.layout import DatasetLayout
from shared.manifest import read_classes, read_manifest, write_classes, write_manifest
from shared.run_record import read_jsonl
from train.clips.table import read_clip_table
from train.evaluate import evaluate
from train.evaluation.metrics import accuracy
from train.evaluation.scoring import score_clips
from train.finetune import finetune
from train.options.config import EvaluateConfig, LoaderConfig
from train.options.recipe import finetune_config, read_recipe
from train.pretrain import pretrain
from train.running.checkpoints import complete_checkpoints
from train.running.engine import Processes
from train.running.finetune_inputs import run_name
from train.running.run_folder import RunFolder
from train.samples.datasets import EvaluateDataset, FinetuneDataset
from train.samples.loading import to_device
from train.weights.exchange import import_weights

ROOT = Path(__file__).resolve().parents[1]
LEARNS = (
    *("augment.mixup_alpha=0.0", "augment.cutmix_alpha=0.0", "augment.rand_layers=0"),
    *("augment.erase_probability=0.0", "model.drop_path=0.0", "init_scale=1.0"),
    *('crop={kind="centre"}', "optim.base_learning_rate=0.3", "optim.layer_decay=1.0"),
)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    write_moving_squares(folder, num_clips=80, still=(0,))
    return folder


@pytest.fixture(scope="module")
def layout(out) -> DatasetLayout:
    return DatasetLayout(out, "squares")


@pytest.fixture(scope="module")
def pretrained(out) -> RunFolder:
    return pretrain(tiny_run(out, run="pretrain-mofo", epochs=1, batch_size=8), "mofo")


@pytest.fixture(scope="module")
def finetuned(out, pretrained) -> RunFolder:
    """With everything the recipe can do: mixing, erasing, layer decay, drop path, validation."""
    return finetune(tiny_run(out, batch_size=8), "mca", "pretrain-mofo")


# ---------------------------------------------------------------------------------------------
# Finetuning
# ---------------------------------------------------------------------------------------------


def test_a_run_leaves_its_record_and_weights(finetuned, pretrained):
    assert finetuned.path.name == "finetune-mofo-mca" and finetuned.is_finished
    events = read_jsonl(finetuned.log)
    assert len(losses(finetuned.log)) == 12
    validations = [event for event in events if event["event"] == "validate"]
    assert [event["epoch"] for event in validations] == [1, 2]
    best = json.loads(finetuned.finished.read_text())
    assert best["best_top1"] == max(event["top1"] for event in validations)
    for path in (finetuned.weights, finetuned.best_weights):
        weights = import_weights(path)
        assert weights.kind == "classification" and weights.num_classes == {"label": 4}
        assert weights.head.kind == "mca" and weights.config.drop_path == 0.1
    assert finetuned.read_options()["from"] == "pretrain-mofo"


def test_it_starts_from_the_pretrained_encoder(out, pretrained):
    """At a learning rate of nearly nothing the encoder stays what it was."""
    settings = ("optim.base_learning_rate=1e-12",)
    folder = finetune(tiny_run(out, *settings, run="frozen", epochs=1), "mean", "pretrain-mofo")
    before, after = (import_weights(f.weights).state_dict for f in (pretrained, folder))
    kept = [name for name in after if name.startswith("encoder.")]
    assert len(kept) > 20
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in kept)


@pytest.mark.parametrize("head", ["mean", "mca"])
def test_it_learns(out, head):
    run = tiny_run(out, *LEARNS, "validate_epochs=10", batch_size=8, epochs=40)
    folder = finetune(run, head, "none")
    found = list(losses(folder.log).values())
    assert np.mean(found[-10:]) < 0.7 * np.mean(found[:10])


def test_a_stopped_run_continues_exactly(out, finetuned):
    """Mixing, drop path and validation included."""
    for _ in range(3):
        folder = finetune(
            tiny_run(out, run="halves", batch_size=8, stop_after=0.0), "mca", "pretrain-mofo"
        )
    assert not folder.is_finished
    folder = finetune(tiny_run(out, run="halves", batch_size=8, workers=2), "mca", "pretrain-mofo")
    assert losses(folder.log) == pytest.approx(losses(finetuned.log), abs=1e-6)
    assert_same_weights(folder.weights, finetuned.weights)
    assert_same_weights(folder.best_weights, finetuned.best_weights)


def test_it_stops_early_and_keeps_the_best(out, monkeypatch):
    top1 = iter([30.0, 50.0, 40.0, 45.0, 50.0, 60.0])
    real = train.evaluation.validation.accuracy
    monkeypatch.setattr(
        train.evaluation.validation, "accuracy", lambda *given: {**real(*given), "top1": next(top1)}
    )
    run = tiny_run(out, "early_stop_epochs=3", run="early", batch_size=8, epochs=6)
    folder = finetune(run, "mean", "none")
    finished = json.loads(folder.finished.read_text())
    assert finished["best_top1"] == 50.0 and finished["best_epoch"] == 2
    assert finished["stopped_early"] and finished["step"] == 5 * 6
    best, last = (import_weights(p).state_dict for p in (folder.best_weights, folder.weights))
    assert any(not torch.equal(best[name], last[name]) for name in best)
    assert complete_checkpoints(folder.checkpoints)[-1].name == "step-00000030"
    # Killed after the last checkpoint it does not train on.
    folder.finished.unlink(), folder.weights.unlink()
    assert json.loads(finetune(run, "mean", "none").finished.read_text()) == finished
    assert len(losses(folder.log)) == 30 and folder.weights.is_file()


@pytest.mark.parametrize(("workers", "cached"), [(0, 5), (2, 0)])
def test_readers_that_end_with_a_validation_keep_no_frames(out, monkeypatch, workers, cached):
    real, seen = EvaluateDataset, []
    monkeypatch.setattr(
        train.evaluation.validation,
        "EvaluateDataset",
        lambda *given, **more: seen.append(given[4].cache_megabytes) or real(*given, **more),
    )
    options = {"batch_size": 8, "epochs": 1, "workers": workers, "overwrite": True}
    finetune(tiny_run(out, "loader.cache_megabytes=5", run="cached", **options), "mean", "none")
    assert seen == [cached]


def test_the_head_by_options_of_its_own(out, pretrained):
    arguments = [
        *("--dataset", "squares", "--out", str(out), "--recipe", str(out / "tiny.toml")),
        *("--device", "cpu", "--dry-run", "--from", "none"),
        *("--mca-heads", "4", "--mca-depth", "2", "--mca-width", "split", "--no-mca-residual"),
        *("--mca-box", "tubelet", "--mca-inside", "positions"),
    ]
    done = CliRunner().invoke(train.finetune.main, [*arguments, "--head", "mca"])
    assert done.exit_code == 0, done.output
    resolved = dict(
        line.split(None, 1) for line in done.stdout.splitlines() if "config.head" in line
    )
    assert resolved == {
        "config.head.kind": "mca", "config.head.num_heads": "4", "config.head.depth": "2",
        "config.head.head_width": "split", "config.head.residual": "False",
        "config.head.block": "True",
        "config.head.mlp_ratio": "4.0", "config.head.box": "tubelet",
        "config.head.inside": "positions",
    }  # fmt: skip
    refused(
        CliRunner().invoke(train.finetune.main, [*arguments, "--head", "mean"]),
        "option-unused",
        *("--mca-box", "--mca-depth", "--mca-width", "--mca-heads", "--mca-residual"),
        "--mca-inside",
        "--head mca",
    )


def test_repeats_are_views_of_one_read_that_differ(out, layout, monkeypatch):
    """Each view of a clip has its own crop, and all keep its label; no frame is decoded twice."""
    tiny_run(out)
    config = finetune_config(read_recipe("squares", out / "tiny.toml"), "mean", {"repeats": 3})
    table = read_clip_table(layout, ["train"], boxes=False)
    classes = read_classes(layout.classes)
    dataset = FinetuneDataset(table, classes, config, LoaderConfig(workers=0), seed=0)
    read, decoded = dataset.reader.frames, []
    monkeypatch.setattr(
        dataset.reader, "frames", lambda *given: decoded.append(given[1]) or read(*given)
    )
    sample = dataset[0, 5]
    assert len(decoded) == 1 and len(set(decoded[0])) == len(decoded[0])
    assert sample["pixels"].shape[0] == 3 and sample["index"].tolist() == [5, 5, 5]
    views = sample["pixels"]
    assert not any(torch.equal(views[a], views[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    label = int(table.labels["label"][5])
    assert set(sample["label"].tolist()) <= {label, classes.flip_x[label]}
    run = tiny_run(out, "repeats=2", run="repeated", batch_size=8, epochs=1)
    folder = finetune(run, "mean", "none")
    assert len(losses(folder.log)) == 6  # as many steps as without


def test_accumulation_changes_nothing_but_rounding(out):
    plain = ("augment.mixup_alpha=0.0", "augment.cutmix_alpha=0.0", "model.drop_path=0.0")
    runs = [
        tiny_run(out, *plain, f"loader.micro_batch_size={size}", run=f"by-{size}", batch_size=8)
        for size in (8, 2)
    ]
    whole, parts = (losses(finetune(run, "mean", "none").log) for run in runs)
    assert parts == pytest.approx(whole, abs=1e-5)


def test_a_loss_that_is_not_finite_names_step_rate_and_clips(out, monkeypatch):
    real, calls = torch.nn.functional.cross_entropy, []

    def sometimes_infinite(*tensors):
        calls.append(1)
        return real(*tensors) * (float("inf") if len(calls) == 2 else 1.0)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", sometimes_infinite)
    with refuses("not-finite", "loss inf", "step 2", "square-"):
        finetune(tiny_run(out, run="diverged", batch_size=8), "mean", "none")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_count_every_clip_once(out, layout, finetuned, processes):
    """16 clips shared out evenly and unevenly: figures and scores are those of one process."""
    alone = evaluate(layout, finetuned, {}, workers=0, device="cpu", overwrite=True)
    with h5py.File(finetuned.scores("test")) as file:
        ids, scores = file["/clip/id"][:], file["/label/probability"][:]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", *launcher, "train.evaluate", "--dataset", "squares"),
            *("--out", str(out), "--run-name", finetuned.path.name, "--device", "cpu"),
            *("--workers", "0", "--overwrite"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines().count(f"test top-1 {alone['top1']:.1f} %") == 1
    assert json.loads(finetuned.metrics("test").read_text()) == pytest.approx(alone)
    with h5py.File(finetuned.scores("test")) as file:
        assert np.array_equal(file["/clip/id"][:], ids)
        assert np.allclose(file["/label/probability"][:], scores, atol=1e-5)


@pytest.mark.slow
def test_several_processes_finetune_as_one(out, pretrained):
    """Losses, validations and the best epoch are those of one process. What each process draws for
    itself (mixing, drop path) is off."""
    plain = ("augment.mixup_alpha=0.0", "augment.cutmix_alpha=0.0", "model.drop_path=0.0")
    options = {"batch_size": 6, "epochs": 2}
    alone = finetune(tiny_run(out, *plain, run="alone", **options), "mca", "pretrain-mofo")
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m"]
    settings = [word for setting in plain for word in ("--set", setting)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", *launcher, "train.finetune", "--dataset", "squares"),
            *("--out", str(out), "--recipe", str(out / "tiny.toml"), "--device", "cpu"),
            *("--run-name", "shared", "--head", "mca", "--batch-size", "6", "--epochs", "2"),
            *settings,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    together = RunFolder(alone.path.parent / "shared")
    assert losses(together.log) == pytest.approx(losses(alone.log), abs=1e-5)
    found, expected = (
        [event for event in read_jsonl(folder.log) if event["event"] == "validate"]
        for folder in (together, alone)
    )
    assert len(found) == 2 and found == [pytest.approx(event) for event in expected]
    best = [json.loads(folder.finished.read_text()) for folder in (together, alone)]
    assert best[0] == pytest.approx(best[1])


def test_another_pretraining_is_another_run(out, layout, finetuned, pretrained):
    weights = pretrained.weights.read_bytes()
    try:
        other = pretrain(tiny_run(out, run="other", epochs=1, seed=7), "mofo")
        pretrained.weights.write_bytes(other.weights.read_bytes())
        with refuses("other-options", "from_digest"):
            finetune(tiny_run(out, batch_size=8), "mca", "pretrain-mofo")
    finally:
        pretrained.weights.write_bytes(weights)


def test_the_weights_it_starts_from_must_exist_and_fit(out, layout, pretrained):
    with refuses("unknown-name", "pretrain-mae", "pretrain-mofo", layout.runs):
        finetune(tiny_run(out, run="x"), "mean", "pretrain-mae")
    with refuses("other-model", "width 24 in the weights, 48 here"):
        finetune(tiny_run(out, "model.width=48", run="x"), "mean", "pretrain-mofo")
    pretrain(tiny_run(out, run="cut-short", stop_after=0.0), "mofo")
    with refuses("not-finished", "cut-short"):
        finetune(tiny_run(out, run="x"), "mean", "cut-short")


def test_weights_of_a_file_will_do(out, pretrained, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(pretrained.weights.read_bytes())
    folder = finetune(tiny_run(out, epochs=1, stop_after=0.0), "mean", str(path))
    assert folder.path.name == "finetune-mine-mean"


def test_run_names():
    assert run_name("none", "mca") == "finetune-scratch-mca"
    assert run_name("pretrain-videomae", "mean") == "finetune-videomae-mean"
    assert run_name("/some/where/vit_b.pth", "mean") == "finetune-vit_b-mean"


@pytest.fixture
def own(tmp_path) -> DatasetLayout:
    return write_moving_squares(tmp_path, num_clips=20)


def change_clips(layout: DatasetLayout, **changes) -> None:
    clips = read_manifest(layout.manifest)
    write_manifest(layout.manifest, [replace(clip, **changes) for clip in clips])


def test_labels_and_classes_are_checked(own):
    classes = read_classes(own.classes)
    fewer = replace(classes, label=classes.label[:2], flip_x=[1, 0])
    for changed, code, *named in (
        (replace(classes, flip_x=None), "missing-key", "flip_x", own.classes),
        (type(classes)(), "missing-label", "label", own.classes),
        (fewer, "other-classes", "label 3", "classes.json", 2, "make manifest"),
    ):
        write_classes(own.classes, changed)
        with refuses(code, *named):
            finetune(tiny_run(own.out), "mean", "none")
    write_classes(own.classes, classes)
    change_clips(own, label=None)
    with refuses("missing-label", "12 of 12", "label"):
        finetune(tiny_run(own.out), "mean", "none")


def test_without_held_out_clips_the_last_weights_count(own, capsys):
    change_clips(own, split="train")
    folder = finetune(tiny_run(own.out, epochs=1), "mean", "none")
    assert "Split val has no labelled clip" in capsys.readouterr().out
    assert folder.weights.is_file() and not folder.best_weights.exists()
    for asked in ("early_stop_epochs=3", "validate_epochs=2"):
        with refuses("option-unused", f"--set {asked}", "val"):
            finetune(tiny_run(own.out, asked, epochs=1, run="refused"), "mean", "none")


# ---------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def metrics(layout, finetuned):
    return evaluate(layout, finetuned, {}, workers=0, device="cpu")


def test_metrics_are_those_of_the_scores(layout, finetuned, metrics):
    assert metrics == json.loads(finetuned.metrics("test").read_text())
    assert (metrics["split"], metrics["views"], metrics["clips"]) == ("test", 6, 16)
    assert metrics["weights"] == "best on val"
    with h5py.File(finetuned.path / "scores-test.h5") as file:
        ids = [clip_id.decode() for clip_id in file["/clip/id"][:]]
        scores, labels = file["/label/probability"][:], file["/label/label"][:]
    clips = {clip.clip_id: clip for clip in read_manifest(layout.manifest)}
    assert ids == [name for name, clip in clips.items() if clip.split == "test"]
    assert labels.tolist() == [clips[name].label for name in ids]
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert metrics["top1"] == pytest.approx(100 * np.mean(scores.argmax(1) == labels))


def test_scores_are_the_mean_over_views(layout, finetuned):
    table = read_clip_table(layout, ["test"], boxes=True)
    recipe = {"model": {}, "finetune": finetuned.read_options()["config"]}
    config = finetune_config(recipe, "mca")
    model = import_weights(finetuned.best_weights).build()
    alone = Processes(0, 1, torch.device("cpu"))

    def scores(segments, crops):
        views = EvaluateConfig(segments=segments, crops=crops)
        dataset = EvaluateDataset(
            table, config.model, config.frames, views, LoaderConfig(workers=0)
        )
        return dataset, score_clips(model, dataset, LoaderConfig(workers=0), alone, "test")["label"]

    dataset, found = scores(2, 3)
    sample = dataset[3]
    batch = to_device(dict(sample), torch.device("cpu"))
    with torch.inference_mode():
        each = model.eval()(batch["clips"], batch["inside"])["label"].softmax(1)
    assert np.allclose(found[3], each.mean(0), atol=1e-6)


def test_an_evaluation_is_used_again_until_asked_otherwise(layout, finetuned, metrics, capsys):
    before = finetuned.metrics("test").stat().st_mtime_ns
    assert evaluate(layout, finetuned, {}, 0, "cpu") == metrics
    assert f"{layout.runs / 'finetune-mofo-mca'}/metrics-test.json has" in capsys.readouterr().out
    assert finetuned.metrics("test").stat().st_mtime_ns == before
    held_out = evaluate(layout, finetuned, {"split": "val"}, 0, "cpu")
    assert (held_out["split"], held_out["clips"]) == ("val", 16)
    assert finetuned.metrics("test").stat().st_mtime_ns == before
    assert evaluate(layout, finetuned, {"split": "val"}, 0, "cpu") == held_out
    assert "the weights were chosen on split val" in capsys.readouterr().out
    other = evaluate(layout, finetuned, {"crops": 1}, 0, "cpu")
    assert other["views"] == 2
    assert evaluate(layout, finetuned, {}, 0, "cpu") == metrics


def test_the_command_ends_with_the_figure(out, metrics, finetuned):
    arguments = [
        *("--dataset", "squares", "--out", str(out), "--head", "mca"),
        *("--workers", "0", "--device", "cpu"),
    ]
    done = CliRunner().invoke(train.evaluate.main, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == f"test top-1 {metrics['top1']:.1f} %"


def test_only_finished_classifiers_are_evaluated(layout, pretrained, finetuned, out):
    with refuses("other-kind", pretrained.path):
        evaluate(layout, pretrained, {})
    with refuses("unknown-name", "nothing", layout.runs, "finetune-mofo-mca"):
        evaluate(layout, RunFolder(layout.runs / "nothing"), {})
    unfinished = finetune(tiny_run(out, run="unfinished", stop_after=0.0), "mean", "none")
    with refuses("not-finished", "unfinished"):
        evaluate(layout, unfinished, {})


# ---------------------------------------------------------------------------------------------
# Figures
# ---------------------------------------------------------------------------------------------


def test_accuracy_of_a_worked_example():
    scores = np.eye(6, dtype=np.float32)[[0, 0, 1, 2]] + np.linspace(0.1, 0, 6, dtype=np.float32)
    labels = np.array([0, 1, 1, 5])
    figures = accuracy({"label": scores}, {"label": labels})
    # Recalled of class 0: all; of class 1: half; of class 5: none, since it ranks last of six.
    assert figures == pytest.approx({"top1": 50.0, "top5": 75.0, "mean_class_accuracy": 50.0})


@pytest.mark.parametrize("num_classes", [2, 3, 5, 6, 9])
def test_accuracy_agrees_with_counting(num_classes):
    rng = np.random.default_rng(num_classes)
    scores = rng.random((50, num_classes)).astype(np.float32)
    labels = rng.integers(0, num_classes, 50)
    order = np.argsort(-scores, axis=1)
    figures = accuracy({"label": scores}, {"label": labels})
    for k in (1, 5):
        hit = np.mean([label in ranked[:k] for label, ranked in zip(labels, order, strict=True)])
        assert figures[f"top{k}"] == pytest.approx(100 * hit)


def test_actions_count_pairs():
    rng = np.random.default_rng(0)
    scores = {"verb": rng.dirichlet(np.ones(7), 60), "noun": rng.dirichlet(np.ones(9), 60)}
    labels = {"verb": rng.integers(0, 7, 60), "noun": rng.integers(0, 9, 60)}
    figures = accuracy(scores, labels)
    pairs = (scores["verb"][:, :, None] * scores["noun"][:, None, :]).reshape(60, -1)
    pair = labels["verb"] * 9 + labels["noun"]
    ranks = (pairs > pairs[np.arange(60), pair][:, None]).sum(axis=1)
    for k in (1, 5):
        assert figures[f"top{k}"] == pytest.approx(100 * np.mean(ranks < k))
    assert {"verb_top1", "noun_mean_class_accuracy"} <= set(figures)
