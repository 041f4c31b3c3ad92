"""`python -m train.embed`: features of clips as HDF5 and Parquet, in parts."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from errors import refused, refuses
from shard_fixtures import write_moving_squares
from test_weights import CONFIG, autoencoder, classifier
from training_fixtures import TINY_RECIPE

import train.evaluation.feature_files as feature_files
from shared.layout import DatasetLayout
from shared.manifest import SPLITS, read_manifest
from train.clips.table import read_clip_table
from train.embed import main
from train.network.autoencoder import VideoEncoder
from train.network.head_config import HeadConfig
from train.options.config import EvaluateConfig, LoaderConfig
from train.samples.datasets import EvaluateDataset
from train.samples.loading import to_device
from train.tables.typed import Choice
from train.weights.exchange import export_safetensors, import_weights, write_safetensors
from train.weights.huggingface import export_huggingface
from train.weights.usage import Usage

PARTS = ("--clips-per-part", 1, "--split", "test")
DENSE = {"kind": "dense", "stride": 2}
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> DatasetLayout:
    out = tmp_path_factory.mktemp("out")
    (out / "tiny.toml").write_text(TINY_RECIPE)
    usage = Usage(frames=DENSE)
    export_safetensors(out / "mean.safetensors", classifier(label=4), usage)
    export_safetensors(out / "mca.safetensors", classifier(HeadConfig("mca"), label=4), usage)
    export_huggingface(out / "videomae", autoencoder(), usage=usage)
    torch.manual_seed(1)
    torch.save({"model": VideoEncoder(CONFIG, final_norm=True).state_dict()}, out / "vit.pth")
    return write_moving_squares(out, num_clips=20)


def arguments(layout: DatasetLayout, source: str, *more: object) -> list[str]:
    given = ["--dataset", "squares", "--out", layout.out, "--from", layout.out / source]
    given += ["--recipe", layout.out / "tiny.toml", "--device", "cpu", "--workers", 0, *more]
    return [str(each) for each in given]


def embed(layout: DatasetLayout, source: str, *more: object):
    return CliRunner().invoke(main, arguments(layout, source, *more))


def read(folder: Path) -> tuple[list[str], np.ndarray]:
    """Ids and features of all parts."""
    ids: list[str] = []
    values = []
    for path in sorted(folder.glob("part-*.h5")):
        with h5py.File(path) as file:
            ids += [each.decode() for each in file["/clip/id"][:]]
            values.append(file["/feature"][:])
    return ids, np.concatenate(values)


def tokens_of(layout: DatasetLayout, source: str, row: int, segments: int = 1):
    """The network of a source, and its input for one clip: clips and inside."""
    network = import_weights(layout.out / source).build().eval()
    table = read_clip_table(layout, SPLITS, boxes=True)
    views, frames = EvaluateConfig("test", segments, 1), Choice("dense", {"stride": 2})
    dataset = EvaluateDataset(table, CONFIG, frames, views, LoaderConfig(workers=0))
    return network, to_device(dict(dataset[row]), torch.device("cpu"))


@pytest.mark.parametrize("source", ["mean.safetensors", "mca.safetensors"])
def test_a_clip_of_a_finetuned_model_has_the_input_of_its_classifier(layout, source):
    done = embed(layout, source, "--segments", 2, "--run", f"clip-{source}")
    assert done.exit_code == 0, done.output
    folder = layout.runs / f"clip-{source}"
    ids, values = read(folder)
    assert ids == [clip.clip_id for clip in read_manifest(layout.manifest)]
    assert values.shape == (20, CONFIG.width) and values.dtype == np.float32
    network, batch = tokens_of(layout, source, 7, segments=2)
    with torch.inference_mode():
        expected = network.features(batch["clips"], batch["inside"]).mean(dim=0)
    assert np.allclose(values[7], expected, atol=1e-5)
    with h5py.File(folder / "part-00000.h5") as file:
        clips = read_manifest(layout.manifest)
        assert [each.decode() for each in file["/clip/split"][:]] == [c.split for c in clips]
        assert file["/clip/label"][:].tolist() == [c.label for c in clips]
        assert "classifier" in file["/feature"].attrs["description"]


@pytest.mark.parametrize("source", ["videomae", "mean.safetensors"])
@pytest.mark.parametrize("per", ["step", "token"])
def test_steps_and_tokens_are_those_of_the_encoder(layout, source, per):
    name = f"{per}-{source}"
    done = embed(layout, source, "--per", per, "--split", "val", "--run", name)
    assert done.exit_code == 0, done.output
    ids, values = read(layout.runs / name)
    assert ids == [c.clip_id for c in read_manifest(layout.manifest) if c.split == "val"]
    network, batch = tokens_of(layout, source, int(ids[1][-3:]))
    with torch.inference_mode():
        tokens = network.encoder(batch["clips"])[0]
    steps = CONFIG.time_steps
    expected = tokens.unflatten(0, (steps, -1)).mean(dim=1) if per == "step" else tokens
    assert values.shape == (4, steps if per == "step" else CONFIG.num_tokens, CONFIG.width)
    assert np.allclose(values[1], expected, atol=1e-5)


def test_an_encoder_alone_has_the_mean_of_its_tokens(tmp_path, layout):
    sizes = {"image_size": 32, "num_frames": 4, "num_heads": 3}
    imported = import_weights(layout.out / "vit.pth", **sizes)
    write_safetensors(layout.out / "vit.safetensors", imported)
    done = embed(layout, "vit.safetensors", "--split", "test", "--dtype", "float16")
    assert done.exit_code == 0, done.output
    _, values = read(layout.runs / "embed-vit")
    assert values.dtype == np.float16 and values.shape == (4, CONFIG.width)
    assert "segments" in done.output  # the recipe's frames, as the file does not say


def test_a_recipe_is_chosen_by_name_or_by_the_number_of_clips(layout):
    """vit.safetensors does not say how it samples frames, and 20 clips are few."""
    imported = import_weights(layout.out / "vit.pth", image_size=32, num_frames=4, num_heads=3)
    write_safetensors(layout.out / "vit.safetensors", imported)
    frames = {}
    for recipe in (None, "small", "ssv2"):
        given = ["--dataset", "squares", "--out", layout.out, "--device", "cpu", "--workers", 0]
        given += ["--from", layout.out / "vit.safetensors", "--split", "test"]
        given += ["--run", f"by-{recipe}", *(["--recipe", recipe] if recipe else [])]
        done = CliRunner().invoke(main, [str(each) for each in given])
        assert done.exit_code == 0, done.output
        options = (layout.runs / f"by-{recipe}" / "options.json").read_text()
        frames[recipe] = json.loads(options)["options"]["frames"]
    assert frames[None] == frames["small"] and DENSE.items() <= frames["small"].items()
    assert frames["ssv2"]["kind"] == "segments"
    refused(embed(layout, "vit.safetensors", "--recipe", "smal"), "unknown-name", "smal", "small")


def test_parquet_has_a_row_for_each_vector(layout):
    parquet = pytest.importorskip("pyarrow.parquet")
    for per, rows in (("clip", 1), ("step", CONFIG.time_steps), ("token", CONFIG.num_tokens)):
        given = ("--per", per, "--formats", "h5,parquet", "--clips-per-part", 3, "--split", "test")
        assert embed(layout, "videomae", *given, "--run", f"tables-{per}").exit_code == 0
        folder = layout.runs / f"tables-{per}"
        ids, values = read(folder)
        table = parquet.read_table(folder / "part-00000.parquet").to_pydict()
        assert len(table["clip_id"]) == 3 * rows and table["clip_id"][::rows] == ids[:3]
        found = np.array(table["feature"], np.float32).reshape(3, *values.shape[1:])
        assert np.array_equal(found, values[:3])
        assert set(table["split"]) == {"test"} and table["verb"] == [None] * 3 * rows
        if per == "token":
            last = [table[name][rows - 1] for name in ("step", "row", "column")]
            assert last == [CONFIG.time_steps - 1, CONFIG.grid - 1, CONFIG.grid - 1]
        assert ("row" in table, "step" in table) == (per == "token", per != "clip")
    assert len(list((layout.runs / "tables-clip").glob("part-*"))) == 4


@pytest.fixture(scope="module")
def whole(layout) -> Path:
    """The folder of a run that nothing disturbed, with four parts."""
    assert embed(layout, "mca.safetensors", *PARTS, "--run", "whole").exit_code == 0
    return layout.runs / "whole"


def assert_same_parts(folder: Path, whole: Path) -> None:
    names = sorted(path.name for path in whole.glob("part-*"))
    assert len(names) == 4 and (folder / "finished").exists()
    assert sorted(path.name for path in folder.glob("part-*")) == names
    for name in names:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_stopped_run_continues_with_the_same_bytes(layout, whole):
    """As a kill leaves it: parts without a line, half a line, and a part that a disk damaged."""
    folder = layout.runs / "stopped"
    shutil.copytree(whole, folder)
    (folder / "finished").unlink()
    lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text("".join(lines[:2]) + lines[2][:20])
    (folder / "part-00001.h5").write_bytes(b"damaged")
    (folder / "part-00003.h5").unlink()
    kept = (folder / "part-00000.h5").stat().st_mtime_ns
    done = embed(layout, "mca.safetensors", *PARTS, "--run", "stopped")
    assert done.exit_code == 0, done.output
    assert (folder / "part-00000.h5").stat().st_mtime_ns == kept
    assert_same_parts(folder, whole)


@pytest.mark.slow
def test_a_killed_run_continues_with_the_same_bytes(layout, whole):
    folder = layout.runs / "killed"
    words = arguments(layout, "mca.safetensors", *PARTS, "--run", "killed")
    process = subprocess.Popen([sys.executable, "-m", "train.embed", *words], cwd=ROOT)
    while not (folder / "part-00001.h5").exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = (folder / "part-00000.h5").stat().st_mtime_ns
    done = embed(layout, "mca.safetensors", *PARTS, "--run", "killed")
    assert done.exit_code == 0, done.output
    assert (folder / "part-00000.h5").stat().st_mtime_ns == kept
    assert_same_parts(folder, whole)


def test_other_options_are_refused_and_mistakes_named(layout, monkeypatch):
    assert embed(layout, "videomae", "--split", "test").exit_code == 0
    folder = layout.runs / "embed-videomae"
    done = embed(layout, "videomae", "--split", "test", "--per", "step")
    refused(done, "other-options", folder, "per", "clip", "step", "--overwrite")
    done = embed(layout, "videomae", "--split", "test", "--per", "step", "--overwrite")
    assert done.exit_code == 0, done.output
    assert read(folder)[1].ndim == 3 and not (folder / ".replaced").exists()
    done = embed(layout, "videomae", "--per", "token", "--crops", 3)
    refused(done, "option-conflict", "--per token", "1 x 3")
    refused(embed(layout, "videomae", "--formats", "csv"), "unknown-name", "csv", "parquet")
    given = ["--dataset", "squares", "--out", str(layout.out), "--from", "pretrain-none"]
    refused(CliRunner().invoke(main, given), "unknown-name", "pretrain-none")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with refuses("missing-package", "pyarrow", "--formats h5"):
        feature_files.import_pyarrow()
