"""Compares the methods: pretrains, finetunes and probes each of them on the same toy clips.

    make ablation                                   # all parts, three seeds
    python -m benchmarks.ablation --part methods --seeds 0
    python -m benchmarks.ablation --part methods --rows "random weights" --rows TrackMAE

The command renders a toy dataset of its own with motion vectors and trajectories. It trains every
row of the chosen parts (benchmarks/ablation_rows.py) with every seed and the same budget. Several
trainings run at the same time and share the cores. It prints test top-1 as mean +- standard
deviation over the seeds, of finetuning and of a linear probe, beside random weights. A row takes
one and a half to three minutes for each seed on one core. Finished runs are used again, so a
stopped command continues where it stopped. The tables are written to benchmarks/results/: whole
parts to ablation.json and ablation.md, single rows of a part (`--rows`) to ablation_rows.json and
ablation_rows.md, because a table should hold rows that were trained together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from benchmarks.ablation_rows import PARTS, Row, dataset_name
from benchmarks.options import whole_numbers
from benchmarks.record import machine
from benchmarks.training_runs import ROOT, Trainer, mean_and_spread, summary
from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.run_record import versions
from train.options.config import PRECISIONS

ALL_LABELS = ("--labels-per-class", "0")  # the recipe has few
COLUMNS = ("finetuned", "probe")
RESULTS = Path(__file__).parent / "results"
WHOLE_PARTS, SINGLE_ROWS = RESULTS / "ablation.json", RESULTS / "ablation_rows.json"

Parts = Mapping[str, Sequence[Row]]
"""Rows by the name of their part."""
HEADINGS = {
    WHOLE_PARTS.name: (
        "# Comparison of the methods",
        "",
        "`make ablation`; chance is 12.5 %. Each seed's figure:",
    ),
    SINGLE_ROWS.name: (
        "# Single rows of the comparison of the methods",
        "",
        "`python -m benchmarks.ablation --part PART --rows TEXT`, with a `--rows` for each row of",
        "a table. The rows of a table were trained together; chance is 12.5 %. Each seed's figure:",
    ),
}

Table = Mapping[str, Mapping[str, list[float]]]
"""Figures of each seed by row and column."""

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
@click.option("--rows", "texts", multiple=True, metavar="TEXT",
              help="Train only the rows whose name contains TEXT, in capital or small letters; can "
              "be repeated.  [default: all]")  # fmt: skip
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
    texts: tuple[str, ...],
    seeds: str,
    clips: int,
    pretrain_epochs: int,
    finetune_epochs: int,
    precision: str,
    workers: int | None,
) -> None:
    asked = chosen_rows(parts or tuple(PARTS), texts)
    results = SINGLE_ROWS if texts else WHOLE_PARTS
    budget = Budget(clips, pretrain_epochs, finetune_epochs, precision)
    chosen = list(whole_numbers("--seeds", seeds))
    trainers = {
        flows: Trainer(prepare(DatasetLayout(folder_of(out, flows), "toy"), clips, flows))
        for flows in dict.fromkeys(row.flows for part in asked for row in asked[part])
    }
    cores = os.cpu_count() or 1
    workers = workers or cores
    # With more threads than cores, the trainings would wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // workers)))
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
                for part, rows in asked.items():
                    whole = complete_seeds(rows, chosen, figures)
                    if whole != written.get(part, []):
                        written[part] = whole
                        record(results, part, table_of(rows, whole, figures), whole, budget)
        except BaseException:
            ended.set()  # the other trainings stop after their current row
            pool.shutdown(cancel_futures=True)
            raise
    for part, rows in asked.items():
        print_table(part, chosen, table_of(rows, chosen, figures))
    print(f"results {results}")


def chosen_rows(parts: Sequence[str], texts: Sequence[str]) -> dict[str, tuple[Row, ...]]:
    """The rows of the parts whose names contain one of the texts; without texts all rows.

    Raises:
        InputError: no row has a text in its name.
    """
    for text in texts:
        if not any(_has(row, text) for part in parts for row in PARTS[part]):
            names = dict.fromkeys(row.name for part in parts for row in PARTS[part])
            raise InputError(
                "unknown-name", f"no row has '{text}' in its name. Known: {'; '.join(names)}"
            )
    chosen = {
        part: tuple(
            row for row in PARTS[part] if not texts or any(_has(row, text) for text in texts)
        )
        for part in parts
    }
    return {part: rows for part, rows in chosen.items() if rows}


def _has(row: Row, text: str) -> bool:
    return text.lower() in row.name.lower()


def jobs_of(parts: Parts, seeds: list[int]) -> Iterator[tuple[list[Row], int]]:
    """Groups of rows with one pretraining, which are trained one after the other, and their seed.

    A row that several parts contain comes once.
    """
    rows: dict[str, Row] = {}
    for row in (row for part in parts.values() for row in part):
        known = rows.get(row.run_name, row)
        rows[row.run_name] = replace(
            row,
            is_probed=row.is_probed or known.is_probed,
            is_finetuned=row.is_finetuned or known.is_finetuned,
        )
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
    top1: dict[str, float] = {}
    if row.is_finetuned:
        finetuned = trainer.finetune(
            source,
            seed,
            f"finetune-{row.run_name}-seed{seed}",
            *("--head", row.head, "--epochs", str(budget.finetune_epochs)),
            *ALL_LABELS,
            *settings({**row.finetuning, **precision}),
        )
        top1["finetuned"] = trainer.top1(finetuned)
    if row.is_probed:
        probe = f"probe-{row.pretrained_name}-seed{seed}"
        top1["probe"] = trainer.probed_top1(source, seed, probe, *ALL_LABELS)
    return top1


def settings(values: Mapping[str, object]) -> list[str]:
    """--set options of the training commands."""
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def complete_seeds(rows: Sequence[Row], seeds: list[int], figures: Figures) -> list[int]:
    """The seeds for which all rows are finished."""
    return [seed for seed in seeds if all((row.run_name, seed) in figures for row in rows)]


def table_of(rows: Sequence[Row], seeds: list[int], figures: Figures) -> Table:
    """The figures of all seeds by row and column."""
    return {
        row.name: {
            kind: [figures[row.run_name, seed][kind] for seed in seeds]
            for kind in figures[row.run_name, seeds[0]]
        }
        for row in rows
    }


def print_table(part: str, seeds: list[int], table: Table) -> None:
    print(f"\n{part}: test top-1 in percent, seeds {', '.join(map(str, seeds))} (chance 12.5)")
    print(f"  {'':38} {'finetuned':>14} {'linear probe':>14}")
    for name, kinds in table.items():
        cells = (mean_and_spread(kinds[kind]) if kind in kinds else "" for kind in COLUMNS)
        print(f"  {name:38} " + " ".join(f"{cell:>14}" for cell in cells))


def record(path: Path, part: str, table: Table, seeds: list[int], budget: Budget) -> None:
    """Write the table of a part to a results file, which keeps the other parts."""
    known = json.loads(path.read_text()) if path.exists() else {}
    rows = {
        name: {kind: summary(each) for kind, each in kinds.items()} for name, kinds in table.items()
    }
    known[part] = {
        "seeds": seeds,
        "budget": asdict(budget),
        "machine": machine(),
        "versions": versions(),
        "top1": rows,
    }
    write_atomically(path, json.dumps(known, indent=1).encode() + b"\n")
    write_atomically(path.with_suffix(".md"), tables(path, known).encode())


def tables(path: Path, known: dict[str, Any]) -> str:
    """The content of a results file as Markdown."""
    lines = [*HEADINGS[path.name], f"[{path.name}]({path.name})."]
    for part, content in known.items():
        budget, seeds = content["budget"], content["seeds"]
        over = f"seed {seeds[0]}"
        if len(seeds) > 1:
            over = f"mean +- standard deviation over seeds {', '.join(map(str, seeds))}"
        lines += [
            "",
            f"## {part}",
            "",
            f"Test top-1 in percent, {over}: pretrained for {budget['pretrain_epochs']}",
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
