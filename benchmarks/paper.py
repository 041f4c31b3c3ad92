"""Prints a published table of MOFO, MGM or MME: its figures, and the commands that make each row.

    python -m benchmarks.paper                     # the list of tables
    python -m benchmarks.paper mofo-2              # rows, commands, data and projected hours
    python -m benchmarks.paper mofo-2 --dry-run    # check that every command resolves
    python -m benchmarks.paper mofo-2 --toy        # run the whole table at toy size (minutes)

A cell is `paper / here`. `here` is the accuracy of a run in OUT, if there is one. A figure is shown
only if a text was found that has it, which is named below the table; a cell without such a text has
`-`. The hours count the matrix products of the models (train/running/throughput.py) on GPUs of
which each reaches --share of --tflops, without loss from distribution; they are not measured.

A toy run says that every command of the table works, and hardly what a method is worth: it trains
for few epochs on few clips (`make ablation` compares methods). Finished runs are used again, so a
stopped command continues where it stopped.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from benchmarks.paper_tables import mgm, mme, mofo
from benchmarks.paper_tables.costs import GPUS, hours
from benchmarks.paper_tables.data import data_lines
from benchmarks.paper_tables.resolve import resolve
from benchmarks.paper_tables.rows import Cell, PaperTable, unique
from benchmarks.paper_tables.steps import FULL, Result, Scale, with_steps_before
from benchmarks.paper_tables.toy import run_toy, toy_scale
from shared.errors import user_errors
from shared.wording import counted

TABLES: dict[str, PaperTable] = {**mofo.TABLES, **mgm.TABLES, **mme.TABLES}
NOTHING = "-"
EPOCHS = click.IntRange(min=1)


@click.command(
    help=__doc__.split("\n")[0], context_settings={"show_default": True, "max_content_width": 100}
)
@click.argument("table", required=False, type=click.Choice(list(TABLES)))
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), metavar="FOLDER",
              help="Folder of all datasets, whose runs fill the table. With --toy, the toy dataset "
              "is made in FOLDER/paper.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check that every command resolves, and run nothing.")
@click.option("--toy", is_flag=True, help="Run the whole table at toy size.")
@click.option("--clips", type=click.IntRange(min=80), default=400, metavar="COUNT",
              help="Number of clips of the toy dataset, in all splits.")  # fmt: skip
@click.option("--pretrain-epochs", type=EPOCHS, default=2, metavar="EPOCHS",
              help="Epochs of each pretraining at toy size.")  # fmt: skip
@click.option("--finetune-epochs", type=EPOCHS, default=4, metavar="EPOCHS",
              help="Epochs of each finetuning at toy size.")  # fmt: skip
@click.option("--tflops", type=click.FloatRange(0, min_open=True), default=989.0,
              metavar="TFLOP/S",
              help="Rate of a GPU for bf16 matrix products, as a data sheet has it.")  # fmt: skip
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=0.4, metavar="0..1",
              help="Share of this rate that training reaches.")  # fmt: skip
@user_errors
def main(
    table: str | None,
    out: Path,
    dry_run: bool,
    toy: bool,
    clips: int,
    pretrain_epochs: int,
    finetune_epochs: int,
    tflops: float,
    share: float,
) -> None:
    if table is None:
        for name, each in TABLES.items():
            print(f"{name:7} {each.title}")
        return
    chosen = TABLES[table]
    scale = toy_scale(out / "paper", pretrain_epochs, finetune_epochs) if toy else FULL
    place = out / "paper" if toy else out
    if dry_run:
        for step in chosen.steps():
            resolve(step, place, scale)
        print(f"{table}: {counted(len(chosen.steps()), 'command')} resolve")
        return
    if toy:
        run_toy(chosen, place, scale, clips)
    print("\n".join(shown(table, chosen, place, scale)))
    if not toy:
        print("\n".join(how(chosen, place, tflops * share * 1e12)))


def shown(name: str, table: PaperTable, out: Path, scale: Scale) -> list[str]:
    """The table as Markdown, and where its figures are from."""
    size = "" if scale.is_full else f", at toy size ({' '.join(scale.pretraining)} to pretrain)"
    lines = [
        f"{name}: {table.title}{size}",
        "",
        _line(["paper / here, top-1 in %", *table.columns]),
    ]
    lines += ["|---|" + "---|" * len(table.columns)]
    for row in table.rows:
        cells = [row.cells.get(column) for column in table.columns]
        lines += [_line([row.name, *(_text(cell, out, scale) for cell in cells)])]
    sources = [cell.published.source for cell in table.cells if cell.published]
    lines += ["", *(f"source: {source}" for source in dict.fromkeys(sources))]
    return lines + [f"note: {note}" for note in table.notes]


def how(table: PaperTable, out: Path, flops: float) -> list[str]:
    """The data, the commands of each row, and the projected hours."""
    lines = ["", "data:", *(f"  {line}" for line in data_lines(table.steps(), out))]
    for row in table.rows:
        results = [cell.result for cell in row.cells.values()]
        steps = list(unique(step for result in results for step in with_steps_before(result)))
        lines += ["", f"{row.name} ({_hours(hours(steps, flops))}):"]
        lines += [f"  {step.line(out, FULL)}" for step in steps]
    total = _hours(hours(table.steps(), flops))
    return [*lines, "", f"whole table, runs that rows share counted once: {total}"]


def figure(cell: Cell, out: Path, scale: Scale) -> float | None:
    """The accuracy of the run of a cell in percent, or None if there is no such run."""
    result: Result = cell.result
    try:
        metrics = json.loads(result.metrics(out, scale).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    value = metrics.get(cell.metric_at(scale))
    return None if value is None else float(value)


def _text(cell: Cell | None, out: Path, scale: Scale) -> str:
    if cell is None:
        return ""
    paper = cell.published.percent if cell.published else None
    return " / ".join(
        NOTHING if value is None else f"{value:.1f}" for value in (paper, figure(cell, out, scale))
    )


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _hours(each: list[float]) -> str:
    return ", ".join(
        f"{value:,.{0 if value >= 10 else 1}f} h on {counted(gpus, 'GPU')}"
        for gpus, value in zip(GPUS, each, strict=True)
    )


if __name__ == "__main__":
    main()
