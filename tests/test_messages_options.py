"""Wrong options, recipes and files of a run: what was found, what is allowed, what to do."""

from __future__ import annotations

import json

import pytest
from dataset_fixtures import make_dataset, run_flows
from errors import refuses
from training_fixtures import TINY_RECIPE

from shared.errors import InputError
from shared.layout import DatasetLayout
from shared.manifest import read_classes, read_manifest
from shared.shard_index import DatasetIndex, read_index, write_index
from train.clips.sampler import steps_per_epoch
from train.evaluate import evaluate
from train.options.recipe import finetune_config, pretrain_config, read_recipe
from train.running.engine import start_processes
from train.running.run_folder import RunFolder


@pytest.mark.parametrize(
    "options, message",
    [
        (["--track-length", 3], "--track-length: no effect without --trajectories"),
        (
            ["--pool", "ray", "--num-gpus", 2, "--flow-workers", 3],
            "--flow-workers is 3 and --num-gpus is 2",
        ),
        (["--keep-unstabilised"], "--stabilise"),
        (["--transcode"], "--transcode has an effect only with --source motion-vectors"),
        (["--source", "raft"], "--source raft needs --raft-weights FILE"),
        (["--source", "raft", "--raft-weights", "no"], "--raft-weights no: No such file"),
        (["--source", "lk"], "unknown flow source 'lk'; known: tvl1, dis, raft"),
        (["--source", "dis,dis"], "flow source dis is given twice"),
        (["--dis-preset", "fast"], "--dis-preset has an effect only with --source dis"),
        (
            ["--source", "motion-vectors", "--trajectories"],
            "such as --source motion-vectors,tvl1",
        ),
    ],
)
def test_wrong_options_of_flows(options, message, tmp_path):
    result = run_flows(make_dataset(tmp_path, num_clips=1), *options)
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert message in result.output


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("[model]", "[model", "tiny.toml is not TOML"),
        ("[pretrain]", "[[pretrain]]", "; a table [pretrain] is expected"),
        ("[pretrain]", "[pretraining]", "does not use pretraining; allowed: extends, model"),
        ("epochs = 2", "epochs = 0", "epochs is 0; at least 1 is allowed"),
        ("epochs = 2", "", "lacks epochs"),
        ("epochs = 2", 'epochs = "2"', "pretrain.epochs is '2'; a value of type int is expected"),
        ("stride = 2", "strides = 2", "does not use strides; allowed: stride"),
        ('"dense"', '"sparse"', "frames.kind is 'sparse'; allowed: dense, segments"),
        ("mask_ratio = 0.5, inside", "inside", "kind 'motion_tube' needs mask_ratio"),
        ("mask_ratio = 0.5,", "mask_ratio = 1.5,", "mask_ratio is 1.5; a share above 0"),
        ('flips = ["x"]', 'flips = ["z"]', "flips is 'z'; allowed: x, y, time"),
        ("width = 24", "width = 25", "width 25 is not a multiple of num_heads 2"),
        ("width = 24", "width = 24\nmlp_ratio = 0.0", "mlp_ratio is 0.0; it must be above 0"),
        (
            "width = 24",
            "width = 4",
            "width is 4; sincos-3d positions need an even number of at least 6",
        ),
        ("scales = [1.0", 'scales = ["1"', "scales"),
        ("betas = [0.9, 0.95]", "betas = [0.9]", "betas has 1 values; 2 are expected"),
        ("weight_decay = 0.05", "weight_decay = -1.0", "weight_decay is -1.0; at least 0"),
    ],
)
def test_wrong_recipes(before, after, message, tmp_path):
    assert before in TINY_RECIPE
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE.replace(before, after, 1))
    with pytest.raises(InputError) as error:
        pretrain_config(read_recipe("squares", path), "mofo")
    assert message in str(error.value)


def test_missing_tables_and_methods(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE.split("[pretrain]")[0])
    with pytest.raises(InputError, match=r"the recipe has no table \[pretrain\]"):
        pretrain_config(read_recipe("squares", path), "mofo")
    path.write_text(TINY_RECIPE)
    with pytest.raises(InputError, match="method is 'moco'; allowed: mofo, videomae"):
        pretrain_config(read_recipe("squares", path), "moco")
    with pytest.raises(InputError, match="head is 'max'; allowed: mean, mca"):
        finetune_config(read_recipe("squares", path), "max")
    with pytest.raises(InputError, match="no recipe at .*none.toml"):
        read_recipe("squares", tmp_path / "none.toml")


@pytest.mark.parametrize(
    "text, code, named",
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
    with pytest.raises(InputError, match="no run pretrain-mofo in .*; there are: none"):
        folder.read_options()
    layout = DatasetLayout(tmp_path, "mine")
    for name, made in {
        "pretrain-mofo": layout.make("pretrain"),
        "pretrain-mme": layout.make("pretrain", METHOD="mme"),
        "finetune-mofo-mca": layout.make("finetune", HEAD="mca"),
        "finetune-mme-mean": layout.make("finetune", METHOD="mme", HEAD="mean"),
        "finetune-scratch-mean": layout.make("finetune", "--from none", HEAD="mean"),
    }.items():
        with pytest.raises(InputError) as error:
            RunFolder(layout.runs / name).read_options()
        assert str(error.value).endswith(f"; there are: none; `{made}` makes it")
    with pytest.raises(InputError, match="there are: none$"):
        RunFolder(layout.runs / "pretrain-mofo-seed1").read_options()
    folder.begin({"command": "pretrain", "seed": 0}, overwrite=False)
    with pytest.raises(InputError, match="seed is 0 there and 1 now. Give the same options to go"):
        folder.begin({"command": "pretrain", "seed": 1}, overwrite=False)
    layout = make_dataset(tmp_path, num_clips=1)
    with pytest.raises(InputError, match="runs/pretrain-mofo"):
        evaluate(layout, folder, {})
    folder.options.write_text(json.dumps(["not", "a", "record"]))
    with pytest.raises(InputError, match="not readable: it was damaged or edited; begin the run"):
        folder.read_options()
    with pytest.raises(
        InputError, match="3 clips are fewer than a batch of 4; give --batch-size 3"
    ):
        steps_per_epoch(3, 4)


def test_half_a_launcher(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="RANK is set but WORLD_SIZE, .* is not; unset all, or st"):
        start_processes("cpu")
