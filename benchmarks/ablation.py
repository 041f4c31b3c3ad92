"""Compares the methods: pretrains, finetunes and probes each of them on the same toy clips.

    make ablation                                   # all parts, three seeds
    python -m benchmarks.ablation --part methods --seeds 0

The command renders a toy dataset of its own with motion vectors and trajectories. It trains every
row of the chosen parts (benchmarks/ablation_rows.py) with every seed and the same budget. Several
trainings run at the same time and share the cores. It prints test top-1 as mean +- standard
deviation over the seeds, of finetuning and of a linear probe, beside random weights. A row takes
two to three minutes for each seed on one core. Finished runs are used again, so a stopped command
continues where it stopped. The tables are written to benchmarks/results/.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from benchmarks.ablation_rows import PARTS, Row, dataset_name
from benchmarks.record import machine
from benchmarks.training_runs import ROOT, Trainer, mean_and_spread, summary
from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.run_record import versions
from train.options.config import PRECISIONS

ALL_LABELS = ("--labels-per-class", "0")  # the recipe has few
COLUMNS = ("finetuned", "probe")
RESULTS = Path(__file__).parent / "results" / "ablation.json"
TABLES = RESULTS.with_suffix(".md")

Figures = dict[tuple[str, int], dict[str, float]]
"""Test top-1 in percent by the name of a row's runs and the seed: {"finetuned": 80.4, ...}."""


@dataclass(frozen=True)
class Budget:
    """The budget of each row.

    Attributes:
        clips: number of clips of the dataset, in all splits.
        pretrain_epochs, finetune_epochs: epochs of each pretraining and finetuning.
        precision: loader.precision of each training.
    """

    clips: int
    pretrain_epochs: int
    finetune_epochs: int
    precision: str


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out/ablation"),
    metavar="FOLDER",
    help="Folder for datasets. Rows with further options of preprocess.flows have their own.",
)
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), metavar="PART",
              help=f"Part to run, of {', '.join(PARTS)}; can be repeated.  [default: all]"
              )  # fmt: skip
@click.option("--seeds", default="0,1,2", metavar="LIST",
              help="Seeds for weight initialisation, data order and masks.")  # fmt: skip
@click.option("--clips", default=1600, metavar="COUNT", help="Number of clips in all splits.")
@click.option("--pretrain-epochs", type=click.IntRange(1), default=10, metavar="EPOCHS",
              help="Epochs of each pretraining.")  # fmt: skip
@click.option("--finetune-epochs", type=click.IntRange(1), default=30, metavar="EPOCHS",
              help="Epochs of each finetuning.")  # fmt: skip
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="bf16",
    help="Precision of training. Choose fp32 on CPUs without bf16 instructions.",
)
@click.option("--workers", type=click.IntRange(1), metavar="COUNT",
              help="Number of trainings at the same time.  [default: one per core]")  # fmt: skip
@user_errors
def main(
    out: Path,
    parts: tuple[str, ...],
    seeds: str,
    clips: int,
    pretrain_epochs: int,
    finetune_epochs: int,
    precision: str,
    workers: int | None,
) -> None:
    asked = parts or tuple(PARTS)
    budget = Budget(clips, pretrain_epochs, finetune_epochs, precision)
    chosen = [int(seed) for seed in seeds.split(",")]
    trainers = {
        flows: Trainer(prepare(DatasetLayout(folder_of(out, flows), "toy"), clips, flows))
        for flows in dict.fromkeys(row.flows for part in asked for row in PARTS[part])
    }
    cores = os.cpu_count() or 1
    workers = workers or cores
    # With more threads than cores, the trainings would wait for each other.
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores // workers))
    written: dict[str, list[int]] = {}
    figures: Figures = {}
    jobs, ended = list(jobs_of(asked, chosen)), threading.Event()
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=sum(len(rows) for rows, _ in jobs), unit="row") as bar,
    ):
        try:
            running = [pool.submit(train_rows, trainers, *job, budget, ended) for job in jobs]
            for done in as_completed(running):
                found = done.result()
                figures |= found
                bar.update(len(found))
                for part in asked:
                    whole = complete_seeds(part, chosen, figures)
                    if whole != written.get(part, []):
                        written[part] = whole
                        record(part, whole, figures, budget)
        except BaseException:
            ended.set()  # the other trainings stop after their current row
            pool.shutdown(cancel_futures=True)
            raise
    for part in asked:
        print_table(part, chosen, figures)
    print(f"results {RESULTS}")


def jobs_of(parts: tuple[str, ...], seeds: list[int]) -> Iterator[tuple[list[Row], int]]:
    """Groups of rows with one pretraining, which are trained one after the other, and their seed.

    A row that several parts contain comes once.
    """
    rows: dict[str, Row] = {}
    for row in (row for part in parts for row in PARTS[part]):
        rows[row.run_name] = row if row.is_probed else rows.get(row.run_name, row)
    for seed in seeds:
        for pretrained in dict.fromkeys(row.pretrained_name for row in rows.values()):
            yield [row for row in rows.values() if row.pretrained_name == pretrained], seed


def folder_of(out: Path, flows: str) -> Path:
    """The folder of the dataset that is made with further options of `preprocess.flows`."""
    return out / dataset_name(flows) if flows else out


def train_rows(
    trainers: Mapping[str, Trainer],
    rows: list[Row],
    seed: int,
    budget: Budget,
    ended: threading.Event,
) -> Figures:
    """Train and test each row with one seed; stop before the next row once `ended` is set."""
    figures: Figures = {}
    for row in rows:
        if not ended.is_set():
            figures[row.run_name, seed] = train_row(trainers[row.flows], row, seed, budget)
    return figures


def prepare(layout: DatasetLayout, clips: int, further: str = "") -> DatasetLayout:
    """Render the clips, and compute frames, flow from two sources, trajectories and boxes.

    Args:
        layout: the dataset.
        clips: number of clips in all splits.
        further: further options of `preprocess.flows`.
    """
    out = ("--out", str(layout.out.resolve()))
    data = ("--dataset", "toy", *out)
    flows = (
        *data,
        "--source",
        "tvl1,motion-vectors",
        "--lengths",
        "--trajectories",
        *further.split(),
    )
    for module, arguments in (
        ("toy", (*out, "--clips", str(clips))),
        ("manifest", data),
        ("flows", flows),
        ("boxes", data),
    ):
        done = subprocess.run([sys.executable, "-m", f"preprocess.{module}", *arguments], cwd=ROOT)
        if done.returncode:
            raise InputError(
                "not-finished", f"preprocess.{module} ended with status {done.returncode}"
            )
    return layout


def train_row(trainer: Trainer, row: Row, seed: int, budget: Budget) -> dict[str, float]:
    """Return test top-1 of a row with one seed: {"finetuned": percent, "probe": percent}."""
    precision = {"loader.precision": budget.precision}
    source = "none"
    if row.method != "none":
        source = trainer.pretrain(
            row.method,
            seed,
            f"pretrain-{row.pretrained_name}-seed{seed}",
            *("--epochs", str(budget.pretrain_epochs)),
            *settings({**row.pretraining, **precision}),
        )
    finetuned = trainer.finetune(
        source,
        seed,
        f"finetune-{row.run_name}-seed{seed}",
        *("--head", row.head, "--epochs", str(budget.finetune_epochs)),
        *ALL_LABELS,
        *settings({**row.finetuning, **precision}),
    )
    top1 = {"finetuned": trainer.top1(finetuned)}
    if row.is_probed:
        probe = f"probe-{row.pretrained_name}-seed{seed}"
        top1["probe"] = trainer.probed_top1(source, seed, probe, *ALL_LABELS)
    return top1


def settings(values: Mapping[str, object]) -> list[str]:
    """--set options of the training commands."""
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def complete_seeds(part: str, seeds: list[int], figures: Figures) -> list[int]:
    """The seeds for which every row of a part is finished."""
    return [seed for seed in seeds if all((row.run_name, seed) in figures for row in PARTS[part])]


def table_of(part: str, seeds: list[int], figures: Figures) -> dict[str, dict[str, list[float]]]:
    """The figures of all seeds by row and column."""
    return {
        row.name: {
            kind: [figures[row.run_name, seed][kind] for seed in seeds]
            for kind in figures[row.run_name, seeds[0]]
        }
        for row in PARTS[part]
    }


def print_table(part: str, seeds: list[int], figures: Figures) -> None:
    print(f"\n{part}: test top-1 in percent, seeds {', '.join(map(str, seeds))} (chance 12.5)")
    print(f"  {'':38} {'finetuned':>14} {'linear probe':>14}")
    for name, kinds in table_of(part, seeds, figures).items():
        cells = (mean_and_spread(kinds[kind]) if kind in kinds else "" for kind in COLUMNS)
        print(f"  {name:38} " + " ".join(f"{cell:>14}" for cell in cells))


def record(part: str, seeds: list[int], figures: Figures, budget: Budget) -> None:
    """Write the table of a part to the results file and keep the other parts."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = {
        name: {kind: summary(each) for kind, each in kinds.items()}
        for name, kinds in table_of(part, seeds, figures).items()
    }
    known[part] = {
        "seeds": seeds,
        "budget": asdict(budget),
        "machine": machine(),
        "versions": versions(),
        "top1": rows,
    }
    write_atomically(RESULTS, json.dumps(known, indent=1).encode() + b"\n")
    write_atomically(TABLES, tables(known).encode())


def tables(known: dict[str, Any]) -> str:
    """The content of the results file as Markdown."""
    lines = [
        "# Comparison of the methods",
        "",
        "`make ablation`; chance is 12.5 %. Each seed's figure:",
    ]
    lines += [f"[{RESULTS.name}]({RESULTS.name})."]
    for part, content in known.items():
        budget, seeds = content["budget"], ", ".join(map(str, content["seeds"]))
        lines += [
            "",
            f"## {part}",
            "",
            f"Test top-1 in percent, mean +- standard deviation over seeds {seeds}: pretrained for "
            f"{budget['pretrain_epochs']}",
            f"and finetuned for {budget['finetune_epochs']} epochs in {budget['precision']} on "
            f"{budget['clips']} toy clips (all splits), {content['machine']['processor']}.",
            "",
            "| | finetuned | linear probe |",
            "|---|---|---|",
        ]
        for name, kinds in content["top1"].items():
            cells = (
                mean_and_spread(kinds[kind]["seeds"]) if kind in kinds else "" for kind in COLUMNS
            )
            lines += [f"| {name} | " + " | ".join(cells) + " |"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
