"""The first losses of training: golden values that show when a change alters what is learned.

    python -m tests.golden_losses            writes tests/golden/losses.txt, in about a minute

The command renders and preprocesses 40 clips of the toy dataset and trains a very small model on
them for 50 steps: pretraining with every method of the toy recipe, and finetuning with both heads.
Everything is computed on the CPU in float32 by one thread. tests/test_golden_losses.py repeats the
runs and compares. Write the file again only after a change that is meant to alter training, and
name that change in the commit.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner

from shared.layout import DatasetLayout
from shared.run_record import read_jsonl
from train.finetune import finetune
from train.network.head_config import KINDS
from train.options.recipe import read_recipe
from train.pretrain import pretrain
from train.running.command import Common

FILE = Path(__file__).resolve().parent / "golden" / "losses.txt"
STEPS = 50
NUM_CLIPS = 40  # 24 of them are split train: 2 steps of 12 clips an epoch

SETTINGS = (
    *("model.width=48", "model.depth=2", "model.num_heads=3"),
    *("loader.log_steps=1", "loader.precision=fp32"),
)
DECODER = ("model.decoder_width=32", "model.decoder_depth=1", "model.decoder_heads=2")
RATE = 0.03
"""Base learning rate of every run. The toy recipe's own rate of pretraining hardly lowers the loss
in 50 steps, and then a wrong rate would not show."""


def methods() -> list[str]:
    """The pretraining methods of the toy recipe."""
    tables = read_recipe("toy", None)["pretrain"]
    return [name for name, table in tables.items() if isinstance(table, dict) and "mask" in table]


def run_names() -> list[str]:
    """The recorded runs, in the order of the file's columns."""
    return [f"pretrain-{name}" for name in methods()] + [f"finetune-{kind}" for kind in KINDS]


def make_clips(out: Path) -> DatasetLayout:
    """Render the clips and preprocess them for every method, by the project's own commands."""
    from preprocess import boxes, flows, manifest, toy

    layout = DatasetLayout(out, "toy")
    where = ["--dataset", "toy", "--out", str(out)]
    sources = ["--source", "tvl1,motion-vectors", "--lengths", "--trajectories"]
    with one_thread():
        for command, arguments in (
            (toy.main, ["--out", str(out), "--clips", str(NUM_CLIPS), "--workers", "1"]),
            (manifest.main, where),
            (flows.main, [*where, *sources, "--pool", "in-process"]),
            (boxes.main, [*where, "--workers", "1"]),
        ):
            ended = CliRunner().invoke(command, arguments)
            assert ended.exit_code == 0, ended.output
    return layout


def first_losses(layout: DatasetLayout, run: str, *settings: str, threads: int = 1) -> np.ndarray:
    """Train one run from its beginning.

    Args:
        layout: what `make_clips` made.
        run: one of `run_names()`.
        settings: changes of the recipe, as for --set.

    Returns:
        float64 [STEPS], the loss of every step.
    """
    command, _, what = run.partition("-")
    decoder = DECODER if command == "pretrain" else ()
    common = Common(
        layout.dataset,
        layout.out,
        settings=(*SETTINGS, *decoder, f"optim.base_learning_rate={RATE}", *settings),
        epochs=STEPS // 2,
        batch_size=12,
        run=run,
        workers=0,
        device="cpu",
        tensorboard=False,
        overwrite=True,
    )
    with one_thread(threads):
        if command == "pretrain":
            folder = pretrain(common, what)
        else:
            folder = finetune(common, what, "none")
    events = [event for event in read_jsonl(folder.log) if event["event"] == "train"]
    assert [event["step"] for event in events] == list(range(1, STEPS + 1))
    return np.array([event["loss"] for event in events])


def deviation(recorded: np.ndarray, found: np.ndarray) -> float:
    """The largest relative difference between two lists of losses."""
    return float(np.max(np.abs(found - recorded) / np.abs(recorded)))


@contextmanager
def one_thread(threads: int = 1) -> Iterator[None]:
    """PyTorch computes with so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_golden() -> dict[str, np.ndarray]:
    """The recorded losses: by name of the run, float64 [STEPS]."""
    [names, *rows] = [line.split() for line in FILE.read_text().splitlines() if line[0] != "#"]
    table = np.array([[float(value) for value in row] for row in rows])
    assert table[:, 0].tolist() == list(range(1, STEPS + 1)), "the file lacks steps"
    return dict(zip(names[1:], table[:, 1:].T, strict=True))


def write_golden(losses: dict[str, np.ndarray]) -> None:
    """Write the file: one line for every step, one column for every run."""
    lines = [
        "# The loss of the first training steps, written by `python -m tests.golden_losses`.",
        "# Each column is a run on the same small toy set: CPU, float32, one thread.",
        "step " + " ".join(losses),
    ]
    for step, row in enumerate(zip(*losses.values(), strict=True), start=1):
        cells = [f"{value:{len(name)}.6f}" for name, value in zip(losses, row, strict=True)]
        lines.append(f"{step:4d} " + " ".join(cells))
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text("\n".join(lines) + "\n")


def main() -> None:
    out = Path(tempfile.mkdtemp(prefix="golden-losses-"))
    try:
        layout = make_clips(out)
        write_golden({run: first_losses(layout, run) for run in run_names()})
    finally:
        shutil.rmtree(out)
    print(f"wrote {FILE}")


if __name__ == "__main__":
    main()
