"""Wrong options, recipes and files of a run: what was found, what is allowed, what to do."""

from __future__ import annotations

import json

import pytest
from dataset_fixtures import make_dataset, run_flows
from errors import refused, refuses
from training_fixtures import TINY_RECIPE

from shared.layout import DatasetLayout
from shared.manifest import read_classes, read_manifest
from shared.shard_index import DatasetIndex, read_index, write_index
from train.clips.sampler import steps_per_epoch
from train.evaluate import evaluate
from train.options.recipe import finetune_config, pretrain_config, read_recipe
from train.running.engine import start_processes
from train.running.run_folder import RunFolder


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["--track-length", 3], "option-needs-another", ["--track-length", "--trajectories"]),
        (
            ["--pool", "ray", "--num-gpus", 2, "--flow-workers", 3],
            "out-of-range",
            ["--flow-workers", "3", "--num-gpus", "2"],
        ),
        (["--keep-unstabilised"], "option-needs-another", ["--keep-unstabilised", "--stabilise"]),
        (["--transcode"], "option-needs-another", ["--transcode", "--source motion-vectors"]),
        (["--source", "raft"], "missing-option", ["--source raft", "--raft-weights FILE"]),
        (["--source", "raft", "--raft-weights", "no"], "missing-file", ["--raft-weights no"]),
        (["--source", "lk"], "unknown-name", ["'lk'", "tvl1, dis, raft"]),
        (["--source", "dis,dis"], "duplicate", ["dis"]),
        (["--dis-preset", "fast"], "option-needs-another", ["--dis-preset", "--source dis"]),
        (
            ["--source", "motion-vectors", "--trajectories"],
            "option-conflict",
            ["--trajectories", "motion-vectors"],
        ),
    ],
)
def test_wrong_options_of_flows(options, code, named, tmp_path):
    refused(run_flows(make_dataset(tmp_path, num_clips=1), *options), code, *named)


@pytest.mark.parametrize(
    ("before", "after", "code", "named"),
    [
        ("[model]", "[model", "wrong-format", ["tiny.toml"]),
        ("[pretrain]", "[[pretrain]]", "wrong-type", ["tiny.toml", "[pretrain]"]),
        ("[pretrain]", "[pretraining]", "unknown-key", ["pretraining", "extends, model"]),
        ("epochs = 2", "epochs = 0", "out-of-range", ["epochs is 0", "at least 1"]),
        ("epochs = 2", "", "missing-key", ["[pretrain]", "epochs"]),
        ("epochs = 2", 'epochs = "2"', "wrong-type", ["pretrain.epochs", "'2'", "int"]),
        ("stride = 2", "strides = 2", "unknown-key", ["frames", "dense", "strides", "stride"]),
        ('"dense"', '"sparse"', "unknown-name", ["frames.kind", "'sparse'", "dense, segments"]),
        ("mask_ratio = 0.5, inside", "inside", "missing-key", ["mask_ratio", "motion_tube"]),
        ("mask_ratio = 0.5,", "mask_ratio = 1.5,", "out-of-range", ["[mask]", "mask_ratio", 1.5]),
        ('flips = ["x"]', 'flips = ["z"]', "unknown-name", ["flips", "'z'", "x, y, time"]),
        ("width = 24", "width = 25", "out-of-range", ["width 25", "num_heads 2"]),
        ("width = 24", "width = 24\nmlp_ratio = 0.0", "out-of-range", ["mlp_ratio", 0.0]),
        ("width = 24", "width = 4", "out-of-range", ["width is 4", "sincos-3d", 6]),
        ("scales = [1.0", 'scales = ["1"', "wrong-type", ["crop.scales", "'1'", "float"]),
        ("betas = [0.9, 0.95]", "betas = [0.9]", "wrong-type", ["pretrain.optim.betas", 1, 2]),
        ("weight_decay = 0.05", "weight_decay = -1.0", "out-of-range", ["weight_decay", -1.0]),
    ],
)
def test_wrong_recipes(before, after, code, named, tmp_path):
    assert before in TINY_RECIPE
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE.replace(before, after, 1))
    with refuses(code, *named):
        pretrain_config(read_recipe("squares", path), "mofo")


def test_missing_tables_and_methods(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE.split("[pretrain]")[0])
    with refuses("missing-key", "[pretrain]"):
        pretrain_config(read_recipe("squares", path), "mofo")
    path.write_text(TINY_RECIPE)
    with refuses("unknown-name", "method", "'moco'", "mofo, videomae"):
        pretrain_config(read_recipe("squares", path), "moco")
    with refuses("unknown-name", "head", "'max'", "mean, mca"):
        finetune_config(read_recipe("squares", path), "max")
    with refuses("missing-file", tmp_path / "none.toml"):
        read_recipe("squares", tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("clip_id,split\na,train\n", "missing-key", ["row 1", "video, start_seconds"]),
        (
            "clip_id,video,{}\na,a.mp4,,,train,-1,,\n",
            "out-of-range",
            ["row 2", "label", "-1", "99999"],
        ),
        (
            "clip_id,video,{}\na,a.mp4,2,1,train,,,\n",
            "out-of-range",
            ["row 2", "stop_seconds 1.0", "start_seconds 2.0"],
        ),
        (
            "clip_id,video,{}\na,a.mp4,,,dev,,,\n",
            "unknown-name",
            ["row 2", "split", "'dev'", "train, val, test"],
        ),
        ("clip_id,video,{}\na,../a.mp4,,,train,,,\n", "unsafe-path", ["row 2", "'../a.mp4'"]),
        (
            "clip_id,video,{}\na,a.mp4,,,train,,,\na,b.mp4,,,train,,,\n",
            "duplicate",
            ["row 3", "'a'", "row 2"],
        ),
        ("clip_id,video,{}\na,a.mp4,x,,train,,,\n", "wrong-type", ["row 2", "start_seconds"]),
    ],
)
def test_wrong_manifests(text, code, named, tmp_path):
    columns = "start_seconds,stop_seconds,split,label,verb,noun"
    (tmp_path / "manifest.csv").write_text(text.replace("{}", columns))
    with refuses(code, tmp_path / "manifest.csv", *named):
        read_manifest(tmp_path / "manifest.csv")


def test_wrong_class_lists_and_indexes(tmp_path):
    (tmp_path / "classes.json").write_text("{")
    with refuses("wrong-format", tmp_path / "classes.json", "JSON"):
        read_classes(tmp_path / "classes.json")
    write_index(tmp_path, DatasetIndex("boxes", "toy", {"sigma": 1}, 8, "0" * 64))
    path = tmp_path / "dataset.json"
    path.write_text(path.read_text().replace('"sigma": 1', '"sigma": 2'))
    with refuses("damaged-file", path, "digest"):
        read_index(tmp_path)


def test_wrong_runs(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "pretrain-mofo")
    with refuses("unknown-name", "pretrain-mofo", tmp_path / "runs"):
        folder.read_options()
    layout = DatasetLayout(tmp_path, "mine")
    for name, made in {
        "pretrain-mofo": layout.make("pretrain"),
        "pretrain-mme": layout.make("pretrain", METHOD="mme"),
        "finetune-mofo-mca": layout.make("finetune", HEAD="mca"),
        "finetune-mme-mean": layout.make("finetune", METHOD="mme", HEAD="mean"),
        "finetune-scratch-mean": layout.make("finetune", "--from none", HEAD="mean"),
    }.items():
        with refuses("unknown-name", name, f"`{made}`"):
            RunFolder(layout.runs / name).read_options()
    with refuses("unknown-name", "pretrain-mofo-seed1", layout.runs) as error:
        RunFolder(layout.runs / "pretrain-mofo-seed1").read_options()
    assert "make" not in error.value.message  # no command makes a run of this name
    folder.begin({"command": "pretrain", "seed": 0}, overwrite=False)
    with refuses("other-options", folder.path, "seed was 0 and is now 1"):
        folder.begin({"command": "pretrain", "seed": 1}, overwrite=False)
    layout = make_dataset(tmp_path, num_clips=1)
    with refuses("other-kind", folder.path):
        evaluate(layout, folder, {})
    folder.options.write_text(json.dumps(["not", "a", "record"]))
    with refuses("damaged-file", folder.options, "--overwrite"):
        folder.read_options()
    with refuses("too-few-clips", "3 clips", "batch of 4", "--batch-size 3"):
        steps_per_epoch(3, 4)


def test_half_a_launcher(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with refuses("other-processes", "RANK", "WORLD_SIZE", "MASTER_PORT"):
        start_processes("cpu")
