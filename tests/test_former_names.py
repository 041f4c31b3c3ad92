"""Options have one name in all commands; former names work for one version, with a warning."""

from __future__ import annotations

import json
from importlib import import_module

import click
import pytest
from click.testing import CliRunner
from dataset_fixtures import run_boxes
from errors import refused
from shard_fixtures import write_moving_squares

from preprocess.export import main as export
from preprocess.running.options import former_name
from shared.errors import user_errors

PRESETS = {  # the option that chooses the parameters of TV-L1, and of the motion boxes
    "preprocess.flows": ("--preset", None),
    "preprocess.boxes": (None, "--motion-preset"),
    "preprocess.show": ("--preset", "--motion-preset"),
}


def options_of(module: str) -> dict[str, click.Option]:
    main = import_module(module).main
    options = [option for option in main.params if isinstance(option, click.Option)]
    return {name: option for option in options for name in option.opts if not option.hidden}


@pytest.mark.parametrize(("module", "names"), PRESETS.items())
def test_presets_have_one_name_in_all_commands(module, names):
    known = options_of(module)
    assert {name for name in known if "preset" in name} - {"--dis-preset"} == {*names} - {None}


@pytest.mark.parametrize("module", ["preprocess.export", "preprocess.evaluate_boxes"])
def test_boxes_are_named_by_dataset_and_out(module):
    assert {"--dataset", "--out", "--name", "--boxes"} <= options_of(module).keys()


@pytest.fixture
def command():
    @click.command()
    @click.option("--to", default="here")
    @user_errors
    @former_name("--out", "--to", "to", type=str)
    def main(to: str) -> None:
        print(to)

    return lambda *given: CliRunner().invoke(main, given)


def test_a_former_name_works_with_a_warning(command):
    done = command("--out", "there")
    assert done.stdout == "there\n" and "--out is now called --to" in done.stderr
    assert command("--to", "there").stderr == "" and command().stdout == "here\n"
    refused(command("--out", "a", "--to", "b"), "option-conflict", "--out", "--to")
    assert "--out" not in command("--help").output


def test_former_names_of_the_commands(tmp_path):
    layout = write_moving_squares(tmp_path, num_clips=2)
    done = run_boxes(layout, "--preset", "paper", "--name", "paper", "--dry-run")
    assert done.exit_code == 0 and "--preset is now called --motion-preset" in done.stderr
    other = run_boxes(layout, "--motion-preset", "paper", "--name", "paper", "--dry-run")
    assert other.stdout == done.stdout and not other.stderr


def test_boxes_are_exported_by_dataset_or_folder(tmp_path):
    layout = write_moving_squares(tmp_path, "mine", num_clips=2)

    def run(*given: object):
        return CliRunner().invoke(export, ["--formats", "coco", *map(str, given)])

    written = layout.root / "export" / "boxes.coco.json"
    of_dataset = run("--dataset", "mine", "--out", tmp_path)
    first = json.loads(written.read_text())
    assert of_dataset.exit_code == 0 and run("--boxes", layout.boxes).stdout == of_dataset.stdout
    assert json.loads(written.read_text()) == first
    layout.boxes.rename(layout.boxes_of("other"))
    assert run("--dataset", "mine", "--out", tmp_path, "--name", "other").exit_code == 0
    refused(run(), "missing-option", "--dataset", "--boxes")
    refused(run("--boxes", "a", "--name", "b"), "option-conflict", "--boxes", "--name")
    refused(run("--boxes", "a", "--dataset", "b"), "option-conflict", "--boxes", "--dataset")
