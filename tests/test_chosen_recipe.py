"""The recipe of a training: by path, by name, the dataset's, or by the number of clips."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from errors import refused, refuses
from hypothesis import given
from hypothesis import strategies as st
from shard_fixtures import write_moving_squares
from training_fixtures import TINY_RECIPE, tiny_run

from shared.layout import DatasetLayout
from shared.manifest import Clip, write_manifest
from train.finetune import main as finetune_command
from train.options.chosen_recipe import FEW_CLIPS, choose_recipe, shipped_recipes
from train.options.config import LoaderConfig
from train.options.recipe import RECIPES, pretrain_config, read_recipe
from train.pretrain import main as pretrain_command
from train.pretrain import pretrain
from train.running.run_setup import _with_fitting_batch

SMALL, DEFAULT = RECIPES / "small.toml", RECIPES / "default.toml"


def manifest_of(out: Path, num_train: int) -> DatasetLayout:
    layout = DatasetLayout(out, "mine")
    splits = ["train"] * num_train + ["test"] * 10
    write_manifest(
        layout.manifest, [Clip(f"{i}", f"{i}.mp4", split=s) for i, s in enumerate(splits)]
    )
    return layout


def test_the_number_of_train_clips_chooses_and_is_said(tmp_path):
    path, line = choose_recipe(manifest_of(tmp_path, FEW_CLIPS - 1), None)
    assert path == SMALL and "4,999 clips" in line and "--recipe default" in line
    path, line = choose_recipe(manifest_of(tmp_path, FEW_CLIPS), None)
    assert path == DEFAULT and "5,000 clips" in line and "--recipe small" in line


def test_a_dataset_with_a_recipe_keeps_it(tmp_path):
    for dataset in ("hmdb51", "toy"):
        found = choose_recipe(DatasetLayout(tmp_path, dataset), None)
        assert found == (RECIPES / f"{dataset}.toml", None)
    assert choose_recipe(DatasetLayout(tmp_path, "mine"), None) == (DEFAULT, None)


def test_recipes_are_given_by_name_or_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layout = manifest_of(tmp_path, 3)
    for name in shipped_recipes():
        assert choose_recipe(layout, Path(name)) == (RECIPES / f"{name}.toml", None)
    Path("mine.toml").write_text(TINY_RECIPE)
    assert choose_recipe(layout, Path("mine.toml")) == (Path("mine.toml"), None)
    with refuses("unknown-name", "--recipe", "'smal'", "default", "small"):
        choose_recipe(layout, Path("smal"))
    for path in ("none.toml", "folder/small"):
        with refuses("missing-file", path, "default", "small"):
            choose_recipe(layout, Path(path))


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE, encoding="utf-8-sig")
    assert read_recipe("mine", path)["model"]["image_size"] == 32


@given(st.integers(1, 3000), st.integers(1, 4096), st.integers(1, 64), st.integers(1, 8))
def test_a_batch_is_cut_to_one_that_can_be_divided(num_clips, batch_size, micro, processes):
    config = replace(pretrain_config(read_recipe("toy", None), "mofo"), batch_size=batch_size)
    loader = LoaderConfig(micro_batch_size=micro)
    fitting, line = _with_fitting_batch(config, loader, num_clips, processes)
    if batch_size <= num_clips or num_clips < processes:
        assert fitting is config and line is None
        return
    size = fitting.batch_size
    assert f" {batch_size:,} " in line and f"{size:,}" in line
    assert 0 < size <= num_clips and size % processes == 0
    assert size % (micro * processes) == 0 or size < micro * processes
    assert num_clips - size < micro * processes


def invoke(command, layout: DatasetLayout, *arguments: object):
    options = ["--dataset", layout.dataset, "--out", layout.out, "--device", "cpu", *arguments]
    return CliRunner().invoke(command, list(map(str, options)), catch_exceptions=False)


def test_a_dataset_of_few_clips_gets_the_small_recipe(tmp_path):
    layout = write_moving_squares(tmp_path, "few", num_clips=20)  # 12 of split train
    for command, more in ((pretrain_command, ()), (finetune_command, ("--from", "none"))):
        done = invoke(command, layout, *more, "--dry-run")
        assert done.exit_code == 0, done.output
        assert "The recipe is small, because split train has 12 clips" in done.output
        assert "The batch of 32 clips is cut to 12" in done.output
    refused(invoke(pretrain_command, layout, "--recipe", "tiny"), "unknown-name", "small")


def test_a_run_records_the_batch_that_was_cut(tmp_path):
    layout = write_moving_squares(tmp_path, num_clips=20)
    (tmp_path / "tiny.toml").write_text(TINY_RECIPE)
    asked = ("--recipe", tmp_path / "tiny.toml", "--epochs", 1, "--batch-size", 50)
    done = invoke(pretrain_command, layout, *asked)
    assert done.exit_code == 0 and "The batch of 50 clips is cut to 12" in done.output
    record = json.loads((layout.runs / "pretrain-mofo" / "options.json").read_text())
    assert record["options"]["config"]["batch_size"] == 12


def test_a_run_whose_batch_was_cut_continues_with_less_memory(tmp_path):
    """Micro-batches of 8 clips alone would cut the batch to 24, all clips of split train."""
    write_moving_squares(tmp_path, num_clips=40)
    begun = tiny_run(tmp_path, "loader.micro_batch_size=10", batch_size=50, stop_after=0.0)
    folder = pretrain(begun, "videomae")
    assert not folder.is_finished and folder.read_options()["config"]["batch_size"] == 20
    saving = "loader.micro_batch_size=8", "model.activation_checkpointing=true"
    for changes, stop_after in ((saving, 0.0), (saving[:1], None)):
        pretrain(tiny_run(tmp_path, *changes, batch_size=50, stop_after=stop_after), "videomae")
        assert folder.read_options()["config"]["batch_size"] == 20
    assert folder.is_finished
    with refuses("other-options", "config.batch_size was 20 and is now 12"):
        pretrain(tiny_run(tmp_path, batch_size=12), "videomae")
    again = tiny_run(tmp_path, *saving, batch_size=50, overwrite=True)
    assert pretrain(again, "videomae").read_options()["config"]["batch_size"] == 24


@pytest.mark.parametrize(
    "method",
    ["mofo", "videomae", "videomae_v2", "motion_mae", "random", "block", "smm", "mgm", "mgmae",
     "trackmae", "mme", "velocity", "descriptors"],
)  # fmt: skip
def test_the_small_recipe_is_small(method):
    config = pretrain_config(read_recipe("mine", SMALL), method)
    assert config.batch_size <= 64 and config.model.image_size <= 112
    assert config.flips == ("x",)
