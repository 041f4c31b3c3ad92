"""Every method of pretraining end to end, by the command that users run."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from errors import refused
from shard_fixtures import write_moving_squares
from track_fixtures import add_tracks
from training_fixtures import TINY_RECIPE

from shared.layout import DatasetLayout
from shared.run_record import read_jsonl
from train.options.recipe import RECIPES, pretrain_config, read_recipe
from train.pretrain import main
from train.weights.exchange import import_weights

METHODS = """
[pretrain.random]
mask = {kind = "random", mask_ratio = 0.9}

[pretrain.block]
mask = {kind = "block", mask_ratio = 0.75}

[pretrain.smm]
mask = {kind = "smm", mask_ratio = 0.75}

[pretrain.mgm]
mask = {kind = "mgm", mask_ratio = 0.75}

[pretrain.mme]
target = "trajectories"
mask = {kind = "tube", mask_ratio = 0.7}
"""
DATASETS = sorted(path.stem for path in RECIPES.glob("*.toml"))


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    write_moving_squares(folder, num_clips=20)
    (folder / "methods.toml").write_text(TINY_RECIPE + METHODS)
    squares = DatasetLayout(folder, "squares")
    add_tracks(squares)
    for name in ("motion-vectors", "motion-vectors-length"):
        shutil.copytree(squares.flows, squares.flows_of(name))
    return folder


def run(out: Path, method: str, *settings: str, name: str | None = None):
    arguments = ["--dataset", "squares", "--out", str(out), "--recipe", str(out / "methods.toml")]
    arguments += ["--method", method, "--device", "cpu", "--epochs", "1"]
    for setting in settings:
        arguments += ["--set", setting]
    return CliRunner().invoke(main, arguments + (["--run", name] if name else []))


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("random", ()),
        ("block", ()),
        ("smm", ()),
        ("smm", ("mask.pattern=sparse",)),
        ("smm", ("model.attention=divided",)),
        ("mgm", ()),
        ("mgm", ("mask.pattern=sparse",)),
        ("mgm", ("motion_source=motion-vectors", "model.attention=divided")),
        ("mgm", ("motion_source=motion-vectors-length",)),
        ("random", ("decoder_mask=running_cell",)),
        ("mgm", ("decoder_mask=motion", "repeats=2")),
        ("mme", ("decoder_mask=motion", "trajectories.decoders=2")),
        ("mme", ("motion_source=motion-vectors",)),
        ("mme", ("mask.kind=cube", "mask.mask_ratio=0.4")),
        ("mme", ("trajectories.shape=false",)),
        ("mme", ("trajectories.positions=false", "trajectories.points=9")),
        ("mme", ("trajectories.interpolate=false", "repeats=2")),
        ("mme", ("trajectories.decoders=2", "trajectories.length=4")),
        ("mme", ("trajectories.kind=flow",)),
        ("mme", ("trajectories.kind=hog", "frames.stride=3")),
        ("mme", ("trajectories.kind=hof", "trajectories.interpolate=false")),
        ("mme", ("trajectories.kind=mbh", "trajectories.points=9")),
    ],
)
def test_a_method_pretrains(out, method, settings):
    name = "-".join((method, *(setting.replace(".", "-") for setting in settings)))
    done = run(out, method, *settings, name=name)
    assert done.exit_code == 0, done.output
    assert "pretraining loss" in done.stdout
    assert ("predicting every patch's mean colour " in done.stdout) == (method != "mme")
    folder = out / "squares" / "runs" / name
    events = read_jsonl(folder / "log.jsonl")
    assert len(events) == 3
    for event in events:  # hardly anything is learned in three steps
        assert event["loss"] == pytest.approx(event["mean_predictor_loss"], abs=0.8)
    assert import_weights(folder / "weights.safetensors").kind == "pretraining"


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("method", ["random", "block", "smm", "mgm", "mme"])
def test_every_recipe_knows_the_method(dataset, method):
    config = pretrain_config(read_recipe(dataset, None), method)
    assert config.mask.kind == {"mme": "tube"}.get(method, method) and not config.needs_boxes
    assert (config.needed_motion is not None) == (method in ("mgm", "mme"))
    assert (config.target.name == "trajectories") == (method == "mme")


def test_a_mask_that_hides_everything_is_refused(out):
    done = run(out, "smm", "mask.mask_ratio=0.95", "mask.pattern=sparse")
    refused(done, "out-of-range", "[mask]", "smm", "8 of 8", "2 x 2")


def test_a_motion_source_that_is_not_there_names_the_command_that_makes_it(out):
    done = run(out, "mgm", "motion_source=dis")
    command = f"`make flows DATASET=squares OUT={out} ARGS='--source tvl1,dis'`"
    refused(done, "not-finished", "squares/flows-dis", command)
    done = run(out, "mgm", "motion_source=tvl1-length")
    refused(done, "not-finished", "ARGS='--source tvl1 --lengths'`")


def test_a_motion_source_that_nothing_looks_at_is_refused(out):
    done = run(out, "smm", "motion_source=motion-vectors")
    refused(done, "option-unused", "motion_source", "motion-vectors", "smm", "normalised_pixels")
