"""The benchmark for a borrowed GPU: its parts run on a CPU, and a cut costs one part."""

import json
import time

import pytest
import torch
from click.testing import CliRunner
from errors import refused, refuses

from benchmarks import device_loader, gpu, gpu_parts
from benchmarks.gpu_parts import PARTS, Place, iterated_pixels, moving_frames
from benchmarks.record import Figure
from train.options.recipe import loader_config, parse_changes, read_recipe


@pytest.fixture
def place(tmp_path):
    return Place(torch.device("cpu"), tmp_path, tmp_path / "no-samples")


@pytest.mark.parametrize("name", ["same flow", "loader"])
def test_quick_parts_give_figures(name, place):
    figures = list(PARTS[name](place))
    assert figures and all(figure.ours is not None for figure in figures)
    if name == "same flow":
        assert [figure.ours for figure in figures] == [0] and "as promised" in figures[0].note


def test_the_loader_part_compares_the_same_pixels(place):
    """And the two trainings of a GPU differ in nothing but the decoder."""
    rate, apart = PARTS["loader"](place)
    assert rate.ours > 0 and rate.theirs > 0
    assert apart.ours == 0 and "largest 0" in apart.note  # interpolated: the bits of OpenCV
    changes = parse_changes(device_loader.settings_of("gpu"))["loader"] | {"cache_megabytes": 0}
    loader = loader_config(read_recipe("toy", None), changes)
    assert (loader.workers, loader.decode) == (2, "gpu")
    assert {*device_loader.settings_of("gpu")} ^ {*device_loader.settings_of("cpu")} == {
        "loader.decode=gpu",
        "loader.decode=cpu",
    }


def test_gradients_are_compared_with_those_of_float64(place, monkeypatch):
    monkeypatch.setattr(gpu_parts, "TOLERANCES", {torch.float64: 1e-12, torch.float16: 1e-12})
    same, half = gpu_parts.same_training(place)
    assert same.ours == 0 and half.ours > 1e-4


def test_the_floor_counts_all_levels():
    assert iterated_pixels(240, 320) > 240 * 320 * 3 * 20
    first, second = moving_frames(2, 20, 30)
    assert first.shape == second.shape == (2, 20, 30)
    assert (first[:, 1:, 2:] - second[:, 1:, 2:]).abs().mean() > 3  # they do move


def test_results_are_written_after_each_part(tmp_path, monkeypatch):
    out = tmp_path / "gpu.json"
    seen = []

    def run_part(name, device, samples, seconds):
        seen.append(json.loads(out.read_text())["parts"] if out.exists() else {})
        if name == "tvl1":
            return [Figure("rate", "pairs/s", 3.0).to_dict()], "ended with status -9: no message"
        return [], "whole"

    monkeypatch.setattr(gpu, "run_part", run_part)
    asked = ["--device", "cpu", "--only", "flows,tvl1", "--out", str(out)]
    done = CliRunner().invoke(gpu.main, asked)
    assert done.exit_code == 0 and "status -9" in done.output, done.output
    assert [list(parts) for parts in seen] == [[], ["tvl1"]]  # in order of worth
    record = json.loads(out.read_text())
    assert [(row["part"], row["ours"]) for row in record["figures"]] == [("tvl1", 3.0)]
    assert record["device"] == "cpu" and record["parts"]["flows"]["ended"] == "whole"


def test_a_part_is_stopped_when_the_time_is_over(tmp_path):
    began = time.monotonic()
    assert gpu.run_part("flows", "cpu", tmp_path, 0.1) == ([], "stopped, because the time is over")
    assert time.monotonic() - began < 10
    assert gpu.run_part("flows", "cpu", tmp_path, -1)[1].startswith("skipped")


def test_figures_of_a_part_that_fails_are_kept(tmp_path, monkeypatch):
    def failing(place):
        yield Figure("first", "x", 1.0)
        raise MemoryError

    monkeypatch.setitem(PARTS, "tvl1", failing)
    figures = tmp_path / "figures.jsonl"
    asked = ["tvl1", "--device", "cpu", "--figures", str(figures), "--samples", str(tmp_path)]
    assert isinstance(CliRunner().invoke(gpu_parts.main, asked).exception, MemoryError)
    assert json.loads(figures.read_text())["name"] == "first"


def test_unknown_parts_are_named():
    with refuses("unknown-name", "'lunch'", "same flow, "):
        gpu.chosen_parts("tvl1,lunch", gpu.PARTS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_trial_on_a_cpu_is_named():
    refused(CliRunner().invoke(gpu.main, []), "no-gpu", "--device cpu")
