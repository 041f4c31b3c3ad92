"""What the pages show is run: commands on rendered stand-ins, blocks of Python as they are."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_blocks import Block, read_blocks
from pages_fixtures import write_stand_ins
from shard_fixtures import write_moving_squares

from preprocess.annotations.readers.manifest_csv import read_manifest_csv
from train.checkpoint import main as checkpoint_command
from train.network.autoencoder import MaskedAutoencoder
from train.network.model_config import ModelConfig
from train.weights.exchange import export_safetensors

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data_manifests/*.md")])
DATASETS = ("mine", "ssv2", "epic100")
GOALS = ("manifest", "flows", "boxes", "pretrain", "finetune")
# A model that trains in a second; what the command itself gives comes first.
SMALL = (
    "--epochs 1 --workers 0 --set model.image_size=64 --set model.width=24 "
    "--set model.depth=2 --set model.num_heads=2"
)
# Own videos are trained on with the page's own batches. The official sets have the recipe's there,
# 2,048 and 512 clips, for which a stand-in of so many videos would be decoded for minutes.
BATCH = {"mine": "", "ssv2": " --batch-size 4", "epic100": " --batch-size 4"}
DECODER = " --set model.decoder_width=12 --set model.decoder_depth=1 --set model.decoder_heads=2"
AFTER_MAKE = {"make", "make test"}  # tests/test_make.py runs the first on a small toy dataset


def readme_blocks() -> list[Block]:
    """The README's blocks of commands: those without a language."""
    return [block for block in read_blocks(ROOT / "README.md") if not block.language]


def readme_commands() -> list[str]:
    """Its command lines, without comments."""
    lines = [line for block in readme_blocks() for line in block.text.splitlines()]
    return [" ".join(shlex.split(line, comments=True)) for line in lines if line.strip()]


def of_dataset(dataset: str) -> list[list[str]]:
    """The README's commands on a dataset, split into words."""
    lines = [line for block in readme_blocks() for line in block.text.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if f"DATASET={dataset}" in line]


def run(words: list[str], data: Path, out: Path, more: str = "") -> str:
    """Run a command of the README on the stand-ins, with more options in ARGS."""
    words = [word.replace("/data/", f"{data}/") for word in words]
    if more:
        given = next((w.removeprefix("ARGS=") for w in words if w.startswith("ARGS=")), "")
        words = [w for w in words if not w.startswith("ARGS=")] + [f"ARGS={given} {more}".strip()]
    done = subprocess.run(
        [*words, "--no-print-directory", f"OUT={out}"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_stand_ins(folder)
    return folder


def test_every_command_of_the_readme_is_run_by_a_test():
    known = {line for dataset in DATASETS for line in map(" ".join, of_dataset(dataset))}
    assert set(readme_commands()) == known | AFTER_MAKE
    for dataset in DATASETS:
        assert tuple(words[1] for words in of_dataset(dataset)) == GOALS


@pytest.mark.parametrize("dataset", DATASETS)
def test_first_commands_of_the_readme(dataset, data, tmp_path):
    """The manifest is what the other commands need; they run in the slow test."""
    printed = run(of_dataset(dataset)[0], data, tmp_path)
    assert "train" in printed and (tmp_path / dataset / "manifest.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("dataset", DATASETS)
def test_all_commands_of_the_readme(dataset, data, tmp_path):
    manifest, flows, boxes, pretrain, finetune = of_dataset(dataset)
    run(manifest, data, tmp_path)
    run(flows, data, tmp_path, "--pool in-process")
    run(boxes, data, tmp_path)
    assert "pretrained weights are in" in run(
        pretrain, data, tmp_path, SMALL + BATCH[dataset] + DECODER
    )
    assert "Finetuning ended" in run(finetune, data, tmp_path, SMALL + BATCH[dataset])


def test_the_page_of_manifests_shows_clips_and_classes_that_are_read(tmp_path):
    blocks = {block.language: block for block in read_blocks(ROOT / "data_manifests" / "README.md")}
    (tmp_path / "clips.csv").write_text(blocks["csv"].text)
    (tmp_path / "classes.json").write_text(blocks["json"].text)
    found = read_manifest_csv(tmp_path / "clips.csv")
    assert [clip.split for clip in found.clips] == ["train", "train", "test"]
    assert found.classes.flip_time == [1, 0] and found.classes.flip_y is None


WEIGHTS = "Weights of a run elsewhere"
MASKS = "Masks for VideoMAE's own code"  # tests/test_reuse_masks.py runs these


def reuse_blocks() -> list[Block]:
    """The blocks of the reuse page, those of commands left out."""
    return [block for block in read_blocks(ROOT / "docs" / "reuse.md") if block.language]


def test_weights_of_the_reuse_page(tmp_path, monkeypatch, capsys):
    """What the page exports, of a smaller model, is read as the page reads it."""
    pytest.importorskip("transformers")
    config = ModelConfig(
        image_size=64, num_frames=4, width=24, depth=1, num_heads=2,
        decoder_width=12, decoder_depth=1, decoder_heads=2,
    )  # fmt: skip
    export_safetensors(tmp_path / "weights.safetensors", MaskedAutoencoder(config))
    checkpoint_command(
        ["export", str(tmp_path / "weights.safetensors"), str(tmp_path / "videomae-mofo")],
        standalone_mode=False,
    )
    [block] = [b for b in reuse_blocks() if b.heading == WEIGHTS]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    exec(block.text, {})
    assert float(re.search(r"tensor\(([\d.]+)", capsys.readouterr().out)[1]) > 0


@pytest.mark.slow
def test_python_of_the_reuse_page(tmp_path):
    """The blocks follow one another, as somebody would paste them, beside a dataset called toy."""
    write_moving_squares(tmp_path / "out", dataset="toy", still=(3,))
    blocks = [b for b in reuse_blocks() if b.heading not in (WEIGHTS, MASKS)]
    assert {block.language for block in blocks} == {"python"} and len(blocks) == 4
    code = "\n".join(block.text for block in blocks)
    code = code.replace("num_workers=2", "num_workers=0")  # a program given with -c cannot spawn
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "square-000" in done.stdout and "torch.Size([8, 16, 4])" in done.stdout
    assert re.search(r"num_rows: 20\b", done.stdout)
    assert len((tmp_path / "boxes.csv").read_text().splitlines()) == 1 + 20 * 16


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_pages_name_exist(page):
    text = page.read_text()
    for name in re.findall(r"\b((?:preprocess|shared|train|benchmarks|tests)/[\w/]+\.\w+)", text):
        assert (ROOT / name).exists() or page.stem in ("CONTRIBUTING", "extending"), name
    for module in re.findall(r"python -m ((?:preprocess|train|benchmarks)[\w.]+)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module


def test_methods_name_functions_that_exist():
    """`function`, file.py: what the page says is where it says."""
    text = (ROOT / "docs" / "methods.md").read_text()
    pairs = re.findall(r"((?:`\w+`(?:, )?)+), ((?:preprocess|shared|train)/[\w/]+\.py)", text)
    assert len(pairs) > 10
    for names, file in pairs:
        source = (ROOT / file).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(def|class) {name}\b|^{name}\b", source, re.MULTILINE), (
                name,
                file,
            )


def sources() -> str:
    """Every text of the programs, joined as it is shown; what is filled in is one character."""
    files = [ROOT / ".preflight.py"]
    files += [
        path for name in ("preprocess", "shared", "train") for path in (ROOT / name).rglob("*.py")
    ]
    texts = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(_shown(part) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(text.replace("\n", " ") for text in texts)


def _shown(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "…"


def test_troubleshooting_quotes_messages_that_exist():
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert len(quoted) > 30
    shown = sources()
    for message in quoted:
        pattern = ".*".join(re.escape(part) for part in re.split("…|%s", message))
        assert re.search(pattern, shown), message
