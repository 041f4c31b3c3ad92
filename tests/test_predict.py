"""`python -m train.predict`: classes of videos that were not preprocessed."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from dataset_fixtures import run_boxes, run_flows
from errors import refused, refuses
from test_foreign_classifiers import CONFIG
from test_weights import classifier
from training_fixtures import tiny_run
from video_fixtures import render_video

from preprocess.boxes import main as make_boxes
from preprocess.flows import main as make_flows
from preprocess.manifest import main as make_manifest
from shared.errors import printed_error
from shared.layout import DatasetLayout
from shared.manifest import COLUMNS as MANIFEST_COLUMNS
from shared.manifest import ClassList, Clip, write_classes, write_manifest
from train.evaluate import evaluate
from train.evaluation.predictions import Guess, likeliest
from train.finetune import finetune
from train.new_videos import listing, shards
from train.new_videos.commands import run_preprocess
from train.predict import main
from train.running.run_folder import RunFolder
from train.weights.huggingface import export_huggingface
from train.weights.usage import Usage

COMMANDS = {"manifest": make_manifest, "flows": make_flows, "boxes": make_boxes}
NAMES = ['still life, with "quotes"', "Öl & Wasser"]


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> DatasetLayout:
    """Videos with shards of options that are not the defaults."""
    layout = DatasetLayout(tmp_path_factory.mktemp("out"), "squares")
    clips = []
    for number in range(8):
        path = layout.videos / NAMES[number % 2].split()[0] / f"{number}.mp4"
        render_video(path, 10 + number, size=(64, 48))
        split = "test" if number >= 6 else "train"
        video = path.relative_to(layout.videos).as_posix()
        clips.append(Clip(f"clip-{number}", video, split=split, label=number % 2))
    write_manifest(layout.manifest, clips)
    write_classes(layout.classes, ClassList(label=NAMES, flip_x=[0, 1]))
    options = ("--jpeg-quality", 70, "--source", "dis", "--frame-short-side", 40)
    assert run_flows(layout, *options).exit_code == 0
    assert run_boxes(layout, "--set", "sigma=2").exit_code == 0
    return layout


@pytest.fixture(scope="module")
def runs(layout) -> dict[str, RunFolder]:
    """A run with each head, tested on split test."""
    found = {}
    for head in ("mean", "mca"):
        common = tiny_run(layout.out, "init_scale=1.0", epochs=1, batch_size=6)
        found[head] = finetune(common, head, "none")
        evaluate(layout, found[head], {}, 0, "cpu")
    return found


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """The same commands with the same arguments, without the seconds that a process starts in.

    `test_commands_run_as_processes` and one of the tests of parity start them as they are started.
    """
    for module in (listing, shards):
        monkeypatch.setattr(module, "run_preprocess", run_here)


def run_here(command: str, *arguments: object) -> None:
    done = CliRunner().invoke(COMMANDS[command], [str(each) for each in arguments])
    if done.exit_code == 1:
        error = printed_error(done.stderr)
        assert error is not None, done.stderr
        raise error
    assert done.exit_code in (0, 3), done.output


def predict(layout: DatasetLayout, *arguments: object):
    given = ["--dataset", layout.dataset, "--out", layout.out, "--device", "cpu", *arguments]
    return CliRunner().invoke(main, [str(each) for each in given])


def scores_of(run: RunFolder) -> np.ndarray:
    with h5py.File(run.scores("test")) as file:
        return file["/label/probability"][:]


@pytest.mark.parametrize("head", ["mean", "mca"])
def test_the_predictions_of_test_clips_are_those_of_evaluate(
    layout, runs, head, tmp_path, monkeypatch
):
    """To the last bit: the same frames, boxes and views, although all are made anew."""
    if head == "mean":
        monkeypatch.setattr(shards, "run_preprocess", run_preprocess)
    videos = sorted(layout.videos.rglob("[67].mp4"), key=lambda path: path.name)
    file = tmp_path / "found.json"
    done = predict(layout, "--run", runs[head].path.name, "--json", file, *videos)
    assert done.exit_code == 0, done.output
    assert ("Boxes" in done.output, "Motion" in done.output) == (False, False)
    found = json.loads(file.read_text())
    scores = scores_of(runs[head])
    assert len(found["clips"]) == len(scores) == 2 and not found["failures"]
    for clip, video, expected in zip(found["clips"], videos, scores, strict=True):
        assert clip["video"] == str(video.resolve())
        by_class = {each["class"]: each for each in clip["predictions"]["label"]}
        assert [by_class[number]["probability"] for number in (0, 1)] == expected.tolist()
        assert [by_class[number]["name"] for number in (0, 1)] == NAMES
        first, second = (each["probability"] for each in clip["predictions"]["label"])
        assert first >= second
    assert found["model"]["segments"] == 2 and found["model"]["crops"] == 3
    for name in NAMES:
        assert name in done.output


def test_folders_and_lists_of_clips(layout, runs, tmp_path):
    """A folder has its videos, a CSV its spans; a damaged video is named, and the others remain."""
    folder = tmp_path / "new videos"
    for number in (5, 7):
        video = next(layout.videos.rglob(f"{number}.mp4"))
        target = folder / "in" / "folders" / video.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, target)
    (folder / "broken.mp4").write_bytes(b"no video")
    with open(tmp_path / "clips.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(MANIFEST_COLUMNS)
        video = next(folder.rglob("7.mp4")).relative_to(folder)
        writer.writerow(["piece", video, 0.25, 1.0, "test", "", "", ""])
        writer.writerow(["lost", "gone.mp4", "", "", "test", "", "", ""])
    rows_file, pictures = tmp_path / "found.csv", tmp_path / "pictures"
    arguments = ["--run", runs["mca"].path, folder, tmp_path / "clips.csv", "--videos", folder]
    outputs = ["--csv", rows_file, "--draw", pictures, "--top", 1, "--crops", 1]
    done = predict(layout, *arguments, *outputs)
    assert done.exit_code == 3, done.output
    assert "broken.mp4: " in done.stderr and "[damaged-file]" in done.stderr
    assert "lost: no video gone" in done.stderr
    with open(rows_file, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 and {row["rank"] for row in rows} == {"1"}
    assert (rows[-1]["clip"], rows[-1]["start_seconds"]) == ("piece", "0.25")
    assert {row["name"] for row in rows} <= set(NAMES)
    drawn = sorted(pictures.glob("*.png"))
    assert len(drawn) == 3 and cv2.imread(str(drawn[0])).std() > 5
    again = predict(layout, *arguments, *outputs)
    refused(again, "existing-output", rows_file, "--overwrite")
    again = predict(layout, *arguments, "--draw", pictures)
    refused(again, "existing-output", drawn[0], "--overwrite")
    refused(predict(layout, *arguments, "--overwrite"), "option-needs-another", "--overwrite")


def test_kept_shards_are_used_again(layout, runs, tmp_path):
    video = next(layout.videos.rglob("7.mp4"))
    arguments = ["--run", runs["mean"].path.name, "--work", tmp_path / "work", video]
    assert predict(layout, *arguments).exit_code == 0
    shard = tmp_path / "work" / "videos" / "frames" / "00000.h5"
    before = shard.stat().st_mtime_ns
    assert predict(layout, *arguments, "--segments", 1).exit_code == 0
    assert shard.stat().st_mtime_ns == before
    other = next(layout.videos.rglob("6.mp4"))
    done = predict(layout, *arguments, other)
    refused(done, "other-manifest", tmp_path / "work")


def test_somebody_elses_model(layout, tmp_path):
    names = [f"action {number}" for number in range(7)]
    export_huggingface(tmp_path / "theirs", classifier(), usage=Usage({"label": names}))
    video = render_video(tmp_path / "clip.mp4", 20)
    done = predict(layout, "--run", tmp_path / "theirs", video, "--top", 7)
    assert done.exit_code == 0, done.output
    for name in names:
        assert name in done.output
    assert CONFIG.image_size == 32  # no recipe of the dataset decides the model
    done = predict(layout, "--run", tmp_path / "theirs", video, "--recipe", "smal")
    refused(done, "unknown-name", "smal", "small")


def test_a_run_whose_dataset_is_elsewhere_takes_the_defaults_and_says_so(runs, tmp_path):
    run = tmp_path / "elsewhere" / "runs" / "copied"
    shutil.copytree(runs["mca"].path, run)
    video = render_video(tmp_path / "clip.mp4", 12)
    layout = DatasetLayout(tmp_path, "elsewhere")
    done = predict(layout, "--run", run, video)
    assert done.exit_code == 0, done.output
    assert "Boxes are computed with default options" in done.output
    assert "Motion is computed with default options" in done.output


def test_mistakes_are_named_before_anything_is_decoded(layout, runs, tmp_path):
    name = runs["mean"].path.name
    refused(predict(layout, "--run", name, tmp_path / "no.mp4"), "missing-file", "no.mp4")
    refused(predict(layout, "--run", "none", tmp_path), "unknown-name", "none", name)
    video = next(layout.videos.rglob("7.mp4"))
    done = predict(layout, "--run", name, video, "--videos", tmp_path)
    refused(done, "option-unused", "--videos")
    done = predict(layout, "--run", name, video, "--recipe", layout.out / "tiny.toml")
    refused(done, "option-unused", "--recipe", name)
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(predict(layout, "--run", name, empty), "empty", empty)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    shutil.copy(video, odd)
    refused(predict(layout, "--run", name, odd), "bad-name", "UTF-8")


def test_commands_run_as_processes(tmp_path):
    given = ("--dataset", "new", "--out", tmp_path / "out", "--videos", tmp_path / "videos")
    with refuses("missing-folder", tmp_path / "videos"):
        run_preprocess("manifest", *given)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").touch()
    run_preprocess("manifest", *given)
    assert DatasetLayout(tmp_path / "out", "new").manifest.is_file()


def test_of_equal_probabilities_the_lower_class_comes_first():
    scores = np.array([0.25, 0.25, 0.5, 0.0], np.float32)
    found = likeliest(scores, ["a", "b", "c", "d"], 3)
    assert found == [Guess(2, "c", 0.5), Guess(0, "a", 0.25), Guess(1, "b", 0.25)]
    assert torch.tensor(scores).sum() == 1
