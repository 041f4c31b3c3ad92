"""Measures on real clips whether pretraining pays: JHMDB-21, by folds of source videos.

    python -m benchmarks.real_video --videos FOLDER --plan       print the cost and stop
    python -m benchmarks.real_video --videos FOLDER              folds 1 to 3; 5, 10 and all labels
    python -m benchmarks.real_video --videos FOLDER --folds 0    the fold on which choices are made

FOLDER holds jhmdb21/ (labels.csv, videos/) and, with --hockey, hockey/videos/. The command computes
frames, flow, velocities and boxes once. On each fold it pretrains every method on the clips of the
other folds with the same number of operations, and tests it with few labels: linear probes on
frozen features, and finetuning. The clips of a fold are never pretrained on for that fold.

You can stop the command at any time, and run it again on another day: it uses every finished run
and continues the one that was stopped. On another machine it continues too, without the runs: the
file of --finished keeps which test clips each cell got right. The tables are written after each
figure, so a part of the cells is a result too; cells that are missing are listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import click
from tqdm import tqdm

from benchmarks.options import known_names, whole_numbers
from benchmarks.real_boxes import prepare_boxes
from benchmarks.real_clips import (
    FOLDS,
    count_clips,
    count_labelled,
    held_out_split,
    list_clips,
    make_fold,
    prepare,
    prepare_tracks,
    read_sources,
)
from benchmarks.real_video_cells import (
    ALL,
    MEASURES,
    METHODS,
    PROBES,
    RECIPE,
    Cell,
    needs_boxes,
    plan_cells,
    usual_methods,
)
from benchmarks.real_video_plan import plan_text
from benchmarks.real_video_record import FinishedCells
from benchmarks.real_video_scores import Results, hours_of, threads_of
from benchmarks.real_video_tables import RESULTS, write_results
from benchmarks.record import command_without
from benchmarks.training_runs import Trainer
from shared.errors import InputError, user_errors
from shared.layout import DatasetLayout
from shared.progress import bar_options
from train.options.config import PRECISIONS
from train.running.run_folder import RunFolder

FINISHED = RESULTS.with_name("real_video_cells.json")
PATHS = ("--videos", "--out", "--finished", "--results", "--boxes")
COSTS = {"epochs": 1, "clips_seen": 0, "teraflops": 2, "hours": 3, "threads": 1}  # and decimals


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--videos", type=click.Path(path_type=Path), required=True, metavar="FOLDER",
              help="Folder that holds jhmdb21/ and hockey/.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/real"), metavar="FOLDER",
              help="Folder for datasets and runs.")  # fmt: skip
@click.option("--methods", default=",".join(usual_methods()), metavar="LIST",
              help="Methods to compare, in the order in which they run. mofo-annotated and "
              "mofo-others need --boxes.")  # fmt: skip
@click.option("--folds", default="1,2,3", metavar="LIST",
              help="Folds to test on. Fold 0 is for choices.")  # fmt: skip
@click.option("--labels", default="all,10,5", metavar="LIST",
              help="Numbers of labelled clips of each class, in the order in which they run. The "
              "features of all serve 10 and 5 too.")  # fmt: skip
@click.option("--draws", type=click.IntRange(1), default=1, metavar="COUNT",
              help="How often the labelled clips of a probe are drawn at random; the figure is "
              "the mean.")  # fmt: skip
@click.option("--measures", default=",".join(MEASURES), metavar="LIST",
              help="How a model is tested: probe (linear, on means of tokens), fisher (linear, on "
              "Fisher vectors of its tokens), predictions (the same of what its decoder "
              "predicts), finetune.")  # fmt: skip
@click.option("--seeds", default="0", metavar="LIST",
              help="Seeds for weights, order, masks and the choice of labels.")  # fmt: skip
@click.option("--teraflops", type=click.FloatRange(min=0, min_open=True), default=20.0,
              metavar="TFLOP", help="Operations of each pretraining, in 10^12.")  # fmt: skip
@click.option("--hockey", is_flag=True,
              help="Pretrain on the hockey clips too, which have no labels.")  # fmt: skip
@click.option("--boxes", type=click.Path(path_type=Path), metavar="FILE",
              help="CSV file with annotated boxes: clip,frame,x1,y1,x2,y2.")  # fmt: skip
@click.option("--source", type=click.Choice(["tvl1", "dis"]), default="tvl1",
              help="Source of the flow of velocities and boxes.")  # fmt: skip
@click.option("--pool", type=click.Choice(["ray", "in-process"]), default="ray",
              help="How preprocess.flows runs its workers.")  # fmt: skip
@click.option("--precision", type=click.Choice(PRECISIONS), default="auto",
              help="loader.precision of each training. bf16 is faster on CPUs that have "
              "instructions for it.")  # fmt: skip
@click.option("--only-tables", is_flag=True,
              help="Write the tables of finished figures, and run nothing.")  # fmt: skip
@click.option("--plan", is_flag=True, help="Print the cost of each pretraining and stop.")
@click.option("--finished", type=click.Path(path_type=Path), default=FINISHED, metavar="FILE",
              show_default="benchmarks/results/real_video_cells.json",
              help="JSON file that keeps the figures of finished cells.")  # fmt: skip
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, metavar="FILE",
              show_default="benchmarks/results/real_video.json",
              help="JSON file to write; tables and pictures lie beside it.")  # fmt: skip
@user_errors
def main(
    videos: Path,
    out: Path,
    methods: str,
    folds: str,
    labels: str,
    draws: int,
    measures: str,
    seeds: str,
    teraflops: float,
    hockey: bool,
    boxes: Path | None,
    source: str,
    pool: str,
    precision: str,
    only_tables: bool,
    plan: bool,
    finished: Path,
    results: Path,
) -> None:
    keys = known_names("--methods", methods, tuple(METHODS))
    asked = known_names("--measures", measures, MEASURES)
    numbers = tuple(map(int, known_names("--folds", folds, tuple(map(str, FOLDS)))))
    chosen_seeds = whole_numbers("--seeds", seeds)
    per_class = tuple(ALL if count == "all" else whole_numbers("--labels", count)[0]
                      for count in labels.split(","))  # fmt: skip
    of_annotations = {METHODS[key].boxes for key in keys} - {""}
    if of_annotations and boxes is None:
        raise InputError(
            "missing-option",
            f"--methods {methods}: the boxes {', '.join(sorted(of_annotations))} need --boxes FILE",
        )
    clips = DatasetLayout(out, "jhmdb-hockey" if hockey else "jhmdb")
    sources = read_sources(videos)

    # ---------------------------------------------------------------------------------------------
    # Plan
    # ---------------------------------------------------------------------------------------------
    if not clips.manifest.is_file():
        list_clips(clips, videos, hockey)
    layouts = {fold: make_fold(clips, videos, fold) for fold in numbers}
    counts = {fold: count_clips(layout) for fold, layout in layouts.items()}
    budget = 1e12 * teraflops
    cells = list(plan_cells(keys, numbers, chosen_seeds, per_class, asked, counts, budget, draws))
    record = FinishedCells(finished, source, precision)
    waiting = [each for each in cells if record.tested(layouts[each.fold], each) is None]
    print(plan_text(cells, waiting, layouts))
    if plan:
        return

    # ---------------------------------------------------------------------------------------------
    # Data: once for all folds
    # ---------------------------------------------------------------------------------------------
    if waiting and not only_tables:
        methods_left = {each.key for each in waiting}
        prepare(clips, videos, hockey, source, pool, any(map(needs_boxes, methods_left)))
        if any(METHODS[key].needs_tracks for key in methods_left):
            prepare_tracks(clips, videos, hockey, pool)
        for name in sorted({METHODS[key].boxes for key in methods_left} - {""}):
            assert boxes is not None
            prepare_boxes(clips, videos, boxes, sources, name)
        layouts = {fold: make_fold(clips, videos, fold) for fold in numbers}
    setting: dict[str, Any] = {
        "command": command_without(PATHS, "FOLDER").replace(" --only-tables", ""),
        "folds": numbers,
        "seeds": chosen_seeds,
        "teraflops": teraflops,
        "flow": source,
        "precision": precision,
    }

    def write_tables() -> None:
        setting["pretrainings"] = pretrainings(cells, layouts, record)
        found = collect(cells, layouts, sources, record)
        write_results(found, missing(cells, layouts, record), setting, results)
        record.write()

    # ---------------------------------------------------------------------------------------------
    # Cells: the tables are written after each
    # ---------------------------------------------------------------------------------------------
    for cell in tqdm([] if only_tables else waiting, "cells", unit="cell", **bar_options()):
        run_cell(layouts[cell.fold], cell, precision, per_class)
        record.mark(layouts[cell.fold], cell)
        write_tables()
    write_tables()
    print(results.with_suffix(".md").read_text())


def run_cell(layout: DatasetLayout, cell: Cell, precision: str, per_class: tuple[int, ...]) -> None:
    """Train what the cell needs, and test it; finished runs are used again.

    A probe takes the features of a finished probe with one of the numbers `per_class` of labels.
    """
    trainer, source = Trainer(layout, RECIPE), "none"
    computing = ("--set", f"loader.precision={precision}")
    if cell.pretraining is not None:
        method = METHODS[cell.key]
        assert method.method is not None
        arguments = ["--epochs", str(cell.pretraining.epochs), *computing]
        for name, value in method.settings.items():
            arguments += ["--set", f"{name}={value}"]
        source = trainer.pretrain(method.method, cell.seed, cell.pretraining.run, *arguments)
    few = ("--labels-per-class", str(cell.labels), "--label-seed", str(cell.label_seed))
    split = held_out_split(cell.fold)
    if cell.is_probe:
        how = PROBES[cell.measure]
        others = [replace(cell, labels=count, draw=0).run for count in per_class]
        lenders = [run for run in others if RunFolder(layout.runs / run).is_finished]
        reuse = ("--reuse", lenders[0]) if lenders else ()
        trainer.probe(source, cell.seed, cell.run, *few, *how, *reuse, "--split", split)
    else:
        head = ("--head", METHODS[cell.key].head)
        trainer.finetune(source, cell.seed, cell.run, *head, *few, *computing)
        trainer.evaluate(cell.run, "--split", split)


def collect(
    cells: Iterable[Cell],
    layouts: Mapping[int, DatasetLayout],
    sources: Mapping[str, str],
    record: FinishedCells,
) -> Results:
    """The figures of all finished cells, which are added to the record."""
    results = Results(sources)
    for cell in cells:
        layout = layouts[cell.fold]
        tested = record.tested(layout, cell)
        if tested is not None:
            record.add(layout, cell, tested)
            results.add(cell, tested, count_labelled(layout, cell.labels))
    return results


def pretrainings(
    cells: Iterable[Cell], layouts: Mapping[int, DatasetLayout], record: FinishedCells
) -> dict[str, dict[str, float]]:
    """What the finished pretrainings of each method took, as means over folds and seeds. They are
    added to the record."""
    found: dict[str, dict[tuple[int, int], Mapping[str, float]]] = {}
    for cell in cells:
        if (each := cell.pretraining) is None:
            continue
        layout = layouts[cell.fold]
        folder = RunFolder(layout.runs / each.run)
        key = record.pretraining_key(layout, each)
        if folder.is_finished and record.is_marked(layout, each.run, key):
            record.add_cost(layout, each, {"epochs": each.epochs, "clips_seen": each.clips_seen,
                                           "teraflops": each.flops / 1e12,
                                           "hours": hours_of(folder),
                                           "threads": threads_of(folder)})  # fmt: skip
        cost = record.cost(layout, each)
        if cost is not None:
            # Costs that were recorded before threads were are those of one thread.
            found.setdefault(cell.key, {})[cell.fold, cell.seed] = {"threads": 1, **cost}
    return {
        key: {"runs": len(those)}
        | {
            name: round(fmean(cost[name] for cost in those.values()), digits)
            for name, digits in COSTS.items()
        }
        for key, those in found.items()
    }


def missing(
    cells: Iterable[Cell], layouts: Mapping[int, DatasetLayout], record: FinishedCells
) -> list[dict[str, Any]]:
    """The cells that are not finished."""
    return [
        {"fold": cell.fold, "method": cell.key, "seed": cell.seed,
         "labels_per_class": cell.labels or "all", "draw": cell.draw, "measure": cell.measure}
        for cell in cells
        if record.tested(layouts[cell.fold], cell) is None
    ]  # fmt: skip


if __name__ == "__main__":
    main()
