"""Measures on real clips whether pretraining pays: JHMDB-21, by folds of source videos.

    python -m benchmarks.real_video --videos FOLDER --plan       print the cost and stop
    python -m benchmarks.real_video --videos FOLDER              folds 1 to 3; 5, 10 and all labels
    python -m benchmarks.real_video --videos FOLDER --folds 0    the fold on which choices are made

FOLDER holds jhmdb21/ (labels.csv, videos/) and, with --hockey, hockey/videos/. The command computes
frames, flow, velocities and boxes once. On each fold it pretrains every method on the clips of the
other folds with the same number of operations, and tests it with few labels: a linear probe on
frozen features, and finetuning. The clips of a fold are never pretrained on for that fold.

You can stop the command at any time, and run it again on another day: it uses every finished run
and continues the one that was stopped. The tables are written after each figure, so a part of the
cells is a result too; cells that are missing are listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import click
from tqdm import tqdm

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
    RECIPE,
    Cell,
    Pretraining,
    needs_boxes,
    plan_cells,
    usual_methods,
)
from benchmarks.real_video_plan import plan_text
from benchmarks.real_video_scores import Results, hours_of, read_tested, score_file
from benchmarks.real_video_tables import RESULTS, write_results
from benchmarks.training_runs import Trainer
from shared.errors import InputError, user_errors
from shared.layout import DatasetLayout
from shared.progress import bar_options
from shared.run_record import command_line
from train.running.run_folder import RunFolder


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
@click.option("--labels", default="10,5,all", metavar="LIST",
              help="Numbers of labelled clips of each class.")  # fmt: skip
@click.option("--measures", default=",".join(MEASURES), metavar="LIST",
              help="How a model is tested: probe, finetune.")  # fmt: skip
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
@click.option("--only-tables", is_flag=True,
              help="Write the tables of finished figures, and run nothing.")  # fmt: skip
@click.option("--plan", is_flag=True, help="Print the cost of each pretraining and stop.")
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
    measures: str,
    seeds: str,
    teraflops: float,
    hockey: bool,
    boxes: Path | None,
    source: str,
    pool: str,
    only_tables: bool,
    plan: bool,
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
    # Data: once for all folds
    # ---------------------------------------------------------------------------------------------
    if plan or only_tables:
        if not clips.manifest.is_file():
            list_clips(clips, videos, hockey)
    else:
        prepare(clips, videos, hockey, source, pool, any(needs_boxes(key) for key in keys))
        if any(METHODS[key].needs_tracks for key in keys):
            prepare_tracks(clips, videos, hockey, pool)
        for name in sorted(of_annotations):
            assert boxes is not None
            prepare_boxes(clips, videos, boxes, sources, name)
    layouts = {fold: make_fold(clips, videos, fold) for fold in numbers}

    # ---------------------------------------------------------------------------------------------
    # Plan
    # ---------------------------------------------------------------------------------------------
    counts = {fold: count_clips(layout) for fold, layout in layouts.items()}
    budget = 1e12 * teraflops
    cells = list(plan_cells(keys, numbers, chosen_seeds, per_class, asked, counts, budget))
    print(plan_text(cells, layouts))
    if plan:
        return
    setting: dict[str, Any] = {
        "command": shown_command(),
        "folds": numbers,
        "seeds": chosen_seeds,
        "teraflops": teraflops,
        "flow": source,
    }

    def write_tables() -> None:
        setting["pretrainings"] = pretrainings(cells, layouts)
        write_results(collect(cells, layouts, sources), missing(cells, layouts), setting, results)

    # ---------------------------------------------------------------------------------------------
    # Cells: the tables are written after each
    # ---------------------------------------------------------------------------------------------
    waiting = [each for each in cells if not score_file(layouts[each.fold], each).is_file()]
    for cell in tqdm([] if only_tables else waiting, "cells", unit="cell", **bar_options()):
        run_cell(layouts[cell.fold], cell)
        write_tables()
    write_tables()
    print(results.with_suffix(".md").read_text())


def run_cell(layout: DatasetLayout, cell: Cell) -> None:
    """Train what the cell needs, and test it; finished runs are used again."""
    trainer, source = Trainer(layout, RECIPE), "none"
    if cell.pretraining is not None:
        method = METHODS[cell.key]
        assert method.method is not None
        arguments = ["--epochs", str(cell.pretraining.epochs)]
        for name, value in method.settings.items():
            arguments += ["--set", f"{name}={value}"]
        source = trainer.pretrain(method.method, cell.seed, cell.pretraining.run, *arguments)
    few = ("--labels-per-class", str(cell.labels), "--label-seed", str(cell.seed))
    split = held_out_split(cell.fold)
    if cell.measure == "probe":
        trainer.probe(source, cell.seed, cell.run, *few, "--pool", "tokens", "--split", split)
    else:
        head = ("--head", METHODS[cell.key].head)
        trainer.finetune(source, cell.seed, cell.run, *head, *few)
        trainer.evaluate(cell.run, "--split", split)


def collect(
    cells: Iterable[Cell], layouts: Mapping[int, DatasetLayout], sources: Mapping[str, str]
) -> Results:
    """The figures of all finished cells."""
    results = Results(sources)
    for cell in cells:
        layout = layouts[cell.fold]
        tested = read_tested(layout, cell)
        if tested is not None:
            results.add(cell, tested, count_labelled(layout, cell.labels))
    return results


def pretrainings(
    cells: Iterable[Cell], layouts: Mapping[int, DatasetLayout]
) -> dict[str, dict[str, float]]:
    """What the finished pretrainings of each method took, as means over folds and seeds."""
    found: dict[str, dict[tuple[int, int], Pretraining]] = {}
    for cell in cells:
        if (each := cell.pretraining) is not None:
            folder = RunFolder(layouts[cell.fold].runs / each.run)
            if folder.is_finished:
                found.setdefault(cell.key, {})[cell.fold, cell.seed] = each
    return {
        key: {
            "runs": len(those),
            "epochs": fmean(each.epochs for each in those.values()),
            "clips_seen": fmean(each.clips_seen for each in those.values()),
            "teraflops": round(fmean(each.flops for each in those.values()) / 1e12, 2),
            "hours": round(fmean(
                hours_of(RunFolder(layouts[fold].runs / each.run))
                for (fold, _), each in those.items()
            ), 3),
        }
        for key, those in found.items()
    }  # fmt: skip


def missing(cells: Iterable[Cell], layouts: Mapping[int, DatasetLayout]) -> list[dict[str, Any]]:
    """The cells that are not finished."""
    return [
        {"fold": cell.fold, "method": cell.key, "seed": cell.seed,
         "labels_per_class": cell.labels or "all", "measure": cell.measure}
        for cell in cells
        if not score_file(layouts[cell.fold], cell).is_file()
    ]  # fmt: skip


def shown_command() -> str:
    """The command line for the results file, without the folders of this machine."""
    words = [word for word in command_line().split() if word != "--only-tables"]
    for option in ("--videos", "--out", "--results", "--boxes"):
        if option in words:
            words[words.index(option) + 1] = "FOLDER"
    return " ".join(words)


def known_names(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a list with commas; each must be known."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in known:
            raise InputError("unknown-name", f"{option} has {name!r}; allowed: {', '.join(known)}")
    return names


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers from 0 on of a list with commas."""
    for part in text.split(","):
        if not part.strip().isdecimal():
            raise InputError(
                "bad-setting", f"{option} has {part!r}; give whole numbers, such as 5,10"
            )
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    main()
