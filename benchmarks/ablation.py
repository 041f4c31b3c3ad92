"""What the methods do: every method pretrained, finetuned and probed on the same toy clips.

    make ablation                                   # all parts, three seeds
    python -m benchmarks.ablation --part methods --seeds 0

renders its own toy dataset with motion vectors and trajectories, trains every row of the chosen
parts (benchmarks/ablation_rows.py) with every seed and the same budget, and prints test top-1 as
mean +- standard deviation over seeds, finetuned and by linear probe, beside random weights.
A row takes some minutes a seed on two cores. Runs that are finished are used as they are, so that
the command can be stopped and goes on. The tables go to benchmarks/results/.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from benchmarks.ablation_rows import PARTS, Row
from benchmarks.record import machine
from benchmarks.training_runs import ROOT, Trainer, mean_and_spread, summary
from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.run_record import versions

COLUMNS = ("finetuned", "probe")
RESULTS = Path(__file__).parent / "results" / "ablation.json"


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/ablation"),
              metavar="FOLDER", help="the dataset goes to FOLDER/toy")  # fmt: skip
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)),
              help="[default: all]")  # fmt: skip
@click.option("--seeds", default="0,1,2", metavar="LIST", help="of weights, order and masks")
@click.option("--clips", default=1600, metavar="COUNT", help="clips of the dataset, all splits")
@click.option("--pretrain-epochs", type=click.IntRange(1), default=10, metavar="EPOCHS",
              help="of each pretraining")  # fmt: skip
@click.option("--finetune-epochs", type=click.IntRange(1), default=30, metavar="EPOCHS",
              help="of each finetuning")  # fmt: skip
@user_errors
def main(
    out: Path,
    parts: tuple[str, ...],
    seeds: str,
    clips: int,
    pretrain_epochs: int,
    finetune_epochs: int,
) -> None:
    layout = DatasetLayout(out, "toy")
    budget = {"clips": clips, "pretrain": pretrain_epochs, "finetune": finetune_epochs}
    chosen = [int(seed) for seed in seeds.split(",")]
    prepare(layout, clips)
    trainer = Trainer(layout)
    for part in parts or PARTS:
        rows = PARTS[part]
        figures: dict[str, dict[str, list[float]]] = {row.name: {} for row in rows}
        bar = tqdm(total=len(chosen) * len(rows), desc=part, unit="row")
        for number, seed in enumerate(chosen, 1):
            for row in rows:
                for kind, top1 in train_row(trainer, row, seed, budget).items():
                    figures[row.name].setdefault(kind, []).append(top1)
                bar.update()
            record(part, figures, chosen[:number], budget)
        bar.close()
        print_table(part, figures, chosen)
    print(f"results {RESULTS}")


def prepare(layout: DatasetLayout, clips: int) -> None:
    """Render the clips, and make frames, flow by two sources, trajectories and boxes."""
    out = ("--out", str(layout.out.resolve()))
    data = ("--dataset", "toy", *out)
    flows = (*data, "--source", "tvl1,motion-vectors", "--lengths", "--trajectories")
    for module, arguments in (
        ("toy", (*out, "--clips", str(clips))),
        ("manifest", data),
        ("flows", flows),
        ("boxes", data),
    ):
        done = subprocess.run([sys.executable, "-m", f"preprocess.{module}", *arguments], cwd=ROOT)
        if done.returncode:
            raise InputError(f"preprocess.{module} ended with status {done.returncode}")


def train_row(trainer: Trainer, row: Row, seed: int, budget: dict[str, int]) -> dict[str, float]:
    """Test top-1 of a row with one seed: {"finetuned": percent, "probe": percent}."""
    source = "none"
    if row.method != "none":
        source = trainer.pretrain(
            row.method,
            seed,
            f"pretrain-{row.pretrained_name}-seed{seed}",
            *("--epochs", str(budget["pretrain"])),
            *settings(row.pretraining),
        )
    finetuned = trainer.finetune(
        source,
        seed,
        f"finetune-{row.run_name}-seed{seed}",
        *("--head", row.head, "--epochs", str(budget["finetune"])),
        *settings(row.finetuning),
    )
    top1 = {"finetuned": trainer.top1(finetuned)}
    if row.is_probed:
        top1["probe"] = trainer.probed_top1(source, seed, f"probe-{row.pretrained_name}-seed{seed}")
    return top1


def settings(values: Mapping[str, object]) -> list[str]:
    """--set options of the training commands."""
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def print_table(part: str, figures: dict[str, dict[str, list[float]]], seeds: list[int]) -> None:
    print(f"\n{part}: test top-1 in percent, seeds {', '.join(map(str, seeds))} (chance 12.5)")
    print(f"  {'':38} {'finetuned':>14} {'linear probe':>14}")
    for name, kinds in figures.items():
        cells = (mean_and_spread(kinds[kind]) if kind in kinds else "" for kind in COLUMNS)
        print(f"  {name:38} " + " ".join(f"{cell:>14}" for cell in cells))


def record(part: str, figures: dict[str, Any], seeds: list[int], budget: dict[str, int]) -> None:
    """Put a part's table into the results file; other parts in it stay."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = {
        name: {kind: summary(each) for kind, each in kinds.items()}
        for name, kinds in figures.items()
    }
    known[part] = {
        "seeds": seeds,
        "budget": budget,
        "machine": machine(),
        "versions": versions(),
        "top1": rows,
    }
    write_atomically(RESULTS, json.dumps(known, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
