"""The worked examples of CONTRIBUTING.md and docs/extending.md, run as they stand in a copy."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from errors import refused
from markdown_blocks import Block, read_blocks
from video_fixtures import render_video

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
PAGES = (ROOT / "docs" / "extending.md", PAGE)  # the mask is tried on the dataset
PLACE = re.compile(r"^`(?P<path>[\w./-]+)`(?:, (?P<how>in|above|imported)(?: `(?P<name>\w+)`)?)?$")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the programs with every example of the page put in, and videos of two classes."""
    root = tmp_path_factory.mktemp("project")
    for folder in ("data_manifests", "preprocess", "shared", "train"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    for block in blocks():
        if block.language:
            put(root, block)
    names = [f"v_{number:02d}" for number in range(12)]
    for number, name in enumerate(names):
        render_video(root / "videos" / f"{name}.mp4", 16 + number % 2, size=(64, 64))
    lines = [f"{name}.mp4 {('waving', 'nodding')[i % 2]}\n" for i, name in enumerate(names)]
    (root / "labels").mkdir()
    (root / "labels" / "train.txt").write_text("".join(lines[:8]))
    (root / "labels" / "test.txt").write_text("".join(lines[8:]))
    return root


def put(root: Path, block: Block) -> None:
    """Put a block where the line above it says."""
    found = PLACE.match(block.above)
    assert found, f"the line above a block says no place: {block.above!r}"
    path, how, name = root / found["path"], found["how"], found["name"]
    if how is None:
        path.write_text(block.text)
        return
    lines = path.read_text().splitlines(keepends=True)
    first = r"from (preprocess|shared|train)\b" if how == "imported" else rf"{name}\b.* = "
    place = next(i for i, line in enumerate(lines) if re.match(first, line))
    assert name is None or sum(bool(re.match(first, line)) for line in lines) == 1, block.above
    gap = "\n\n" if how == "above" else ""
    lines.insert(place + (how == "in"), block.text + gap)
    path.write_text("".join(lines))


def run(project: Path, command: str, *more: str) -> str:
    program, *arguments = shlex.split(command)
    assert program == "python", command
    done = subprocess.run(
        [sys.executable, *arguments, *more],
        cwd=project,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def blocks() -> list[Block]:
    return [block for page in PAGES for block in read_blocks(page)]


def commands() -> list[str]:
    """The command lines of the pages, in order."""
    shell = [block for block in blocks() if not block.language]
    return [line for block in shell for line in block.text.splitlines()]


def test_every_kind_of_addition_has_an_example():
    places = [block.above for block in blocks() if block.language]
    assert any("preprocess/annotations/readers/" in place for place in places)
    for table in ("SOURCES", "MASKS", "TARGETS"):
        assert any(place.endswith(f"in `{table}`") for place in places), table
        assert f"`{table}`" in PAGE.read_text()
    assert len(PAGE.read_text().splitlines()) <= 72  # one page


LOOK = """
import numpy as np
import torch
from preprocess.flow.sources import make_source
from shared.masks import MASKS, Scene
from train.options.recipe import pretrain_config, read_recipe
from pathlib import Path

still = torch.zeros(2, 32, 32, dtype=torch.uint8)
print(make_source("farneback")(still, still).abs().max().item())
scene = Scene(2, np.zeros((14, 14), bool))
print(MASKS["middle"].draw(scene, np.random.default_rng(0), mask_ratio=0.75).sum())
for method in ("middle", "change"):
    print(pretrain_config(read_recipe("gestures", Path(f"{method}.toml")), method).model.output_dim)
"""


def test_the_examples_fit_in(project):
    """The dataset is read; source, mask and target are found by name."""
    assert "written" in run(project, commands()[0])
    classes = json.loads((project / "out/gestures/classes.json").read_text())
    assert classes["label"] == ["nodding", "waving"]
    printed = run(project, f"python -c {shlex.quote(LOOK)}").split()
    assert printed == ["0.0", str(2 * 147), str(3 * 8 * 16 * 16), str(3 * 16 * 16)]


def test_an_option_of_a_new_source_is_found_everywhere(project):
    """The command line knows it and its range; the config records it, and only where it is used."""
    run(project, commands()[0])
    flows = [*shlex.split(commands()[1])[1:], "--dry-run", "--verbose"]

    def output(*options: str) -> str:
        done = subprocess.run(
            [sys.executable, *flows, *options], cwd=project, capture_output=True, text=True
        )
        return done.stdout + done.stderr

    by_default = output().splitlines()
    assert "  flows/ flow_source: farneback" in by_default
    assert "  flows/ farneback_window: 9" in by_default
    changed = output("--farneback-window", "15").splitlines()
    assert "  flows/ farneback_window: 15" in changed
    assert "5<=x<=99" in output("--farneback-window", "4")
    named = ("--farneback-window", "--source farneback")
    refused(output("--source", "dis"), "option-needs-another", *named)
    assert "--farneback-window PIXELS" in output("--help-all")


@pytest.mark.slow
def test_the_examples_run(project):
    manifest, flows, boxes, *training = commands()
    run(project, manifest)
    run(project, flows, "--pool", "in-process")
    index = json.loads((project / "out/gestures/flows/dataset.json").read_text())
    assert index["config"]["flow_source"] == "farneback"
    assert index["config"]["farneback_window"] == 9
    run(project, boxes)
    assert len(training) == 2
    for line in training:
        assert "pretraining loss" in run(project, line, "--workers", "0")
