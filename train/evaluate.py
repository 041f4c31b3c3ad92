"""Accuracy of a finetuned run: several views of each clip, softmax scores averaged.

    python -m train.evaluate --dataset toy --out out --method mofo --head mca
    python -m train.evaluate --dataset toy --run finetune-scratch-mean --split val
    python -m train.evaluate --dataset ucf101 --on hmdb51 --class-map ucf14-hmdb7.csv
    python -m train.evaluate --dataset epic100 --epic-lists epic-kitchens-100-annotations

Reads a finished run below OUT/<dataset>/runs, its best weights by split val (or its last, where
nothing was held out), and writes into its folder metrics-<split>.json, scores-<split>.h5 and
confusion-<split>.png, the confusion matrix (of verbs and of nouns: confusion-<split>-verb.png and
-noun.png). Tested on another dataset or on some classes, the names say so:
metrics-test-hmdb51-<map>.json. Seconds for the toy dataset. The last line is the figure:
`test top-1 93.1 %`, or with --beside a run that began with random weights
`test top-1 93.1 % (random weights 71.4 %)`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import SPLITS, read_classes
from train.clips.table import read_clip_table
from train.evaluation.class_map import ClassMap, match_names, read_class_map
from train.network.head_config import KINDS
from train.options.config import EvaluateConfig, FinetuneConfig, LoaderConfig
from train.options.merging import merge
from train.options.recipe import read_recipe, recorded_finetune_config
from train.running.command import data_options, run_option, with_workers
from train.running.finetune_inputs import labelled, run_name
from train.running.run_folder import RunFolder
from train.tables.typed import build

if TYPE_CHECKING:
    from train.evaluation.epic_lists import EpicLists


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@data_options
@run_option("The run, instead of --method and --head.")
@click.option(
    "--method", metavar="NAME", show_default="mofo", help="Method of the run's pretraining."
)
@click.option(
    "--head",
    type=click.Choice(KINDS),
    show_default="as the recipe has it",
    help="Pooling head of the run.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    show_default="as the run has it",
    help="Split to test on.",
)
@click.option(
    "--segments",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="as the run has it",
    help="Views along time.",
)
@click.option(
    "--crops",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="as the run has it",
    help="Views along the long side.",
)
@click.option(
    "--on",
    metavar="DATASET",
    show_default="the run's own",
    help="Whose clips; classes of the same name are tested, or those of --class-map.",
)
@click.option(
    "--class-map",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="CSV with columns class,stands_for: only these classes, for these of the clips.",
)
@click.option(
    "--epic-lists",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="EPIC-KITCHENS-100's lists of tail classes and unseen participants: figures on them too.",
)
@click.option(
    "--beside",
    metavar="RUN",
    help="Another run that was evaluated in the same way; its top-1 is printed beside this one's.",
)
@click.option("--overwrite", is_flag=True, help="Evaluate again.")
@user_errors
def main(
    dataset: str,
    out: Path,
    workers: int | None,
    device: str,
    run: str | None,
    method: str | None,
    head: str | None,
    split: str | None,
    segments: int | None,
    crops: int | None,
    on: str | None,
    class_map: Path | None,
    epic_lists: Path | None,
    beside: str | None,
    overwrite: bool,
) -> None:
    """Evaluate a finetuned run on a split."""
    layout = DatasetLayout(out, dataset)
    if run and (method or head):
        raise InputError(
            f"--run {run} names the run, and --method and --head choose one by its name; give the "
            "one or the others"
        )
    name = run or run_name(f"pretrain-{method or 'mofo'}", head or _default_head(dataset))
    folder = RunFolder(layout.runs / name)
    given = {"split": split, "segments": segments, "crops": crops}
    changes = {key: value for key, value in given.items() if value is not None}
    clips = Clips(DatasetLayout(out, on) if on else layout, class_map, epic_lists)
    other = RunFolder(layout.runs / beside) if beside else None
    evaluate(layout, folder, changes, workers, device, overwrite, clips, other)


@dataclass(frozen=True)
class Clips:
    """What a run is tested on, where that is not all of its own dataset.

    Attributes:
        layout: of the clips' dataset.
        class_map: file for `read_class_map`, or None.
        epic_lists: folder for `read_epic_lists`, or None.
    """

    layout: DatasetLayout
    class_map: Path | None = None
    epic_lists: Path | None = None


def evaluate(
    layout: DatasetLayout,
    folder: RunFolder,
    changes: dict[str, Any],
    workers: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
    clips: Clips | None = None,
    beside: RunFolder | None = None,
) -> dict[str, Any]:
    """Score a split with a run's weights; returns what metrics-<split>.json holds.

    Args:
        changes: of the EvaluateConfig that the run was made with.
        clips: tested on; None: all of the run's own dataset.
        beside: another run, whose top-1 is printed beside this one's.
    """
    # -----------------------------------------------------------------------------------------
    # Resolve
    # -----------------------------------------------------------------------------------------
    options = folder.options_of("finetune", "is no finetuning; only a classifier has an accuracy")
    if not folder.is_finished:
        raise InputError(
            f"{folder.path} is not finished; run the command that began it again to finish it"
        )
    config = recorded_finetune_config(options["config"])
    views = build(EvaluateConfig, merge(options["evaluate"], changes), "evaluate")
    loader = with_workers(build(LoaderConfig, options["loader"], "loader"), workers)
    loader = replace(loader, cache_megabytes=0)  # each clip is read once
    best = folder.best_weights.is_file()
    weights = folder.best_weights if best else folder.weights
    clips = clips or Clips(layout)
    needs, source = config.needs_boxes, config.box_source
    table = read_clip_table(clips.layout, [views.split], needs, box_source=source)
    classes = _class_map(layout, clips, options["classes"])
    table = classes.take(table) if classes else labelled(table, config, options["classes"])
    lists = _epic_lists(clips, config, views.split)
    name = _name(layout, clips, views.split)
    compared = "" if beside is None else f" ({_top1_beside(beside, name, len(table))})"
    # Imported here, which takes seconds: what is wrong above is reported without waiting for it.
    from train.evaluation.metrics import accuracy
    from train.evaluation.score_files import write_scores
    from train.evaluation.scoring import score_clips
    from train.network.head import VideoClassifier
    from train.running.engine import start_processes
    from train.samples.datasets import EvaluateDataset
    from train.weights.exchange import import_weights
    from train.weights.huggingface import digest_of

    asked = {
        "run": folder.path.name,
        "split": views.split,
        "segments": views.segments,
        "crops": views.crops,
        "views": views.segments * views.crops,
        "clips": len(table),
        "weights": "best on val" if best else "last",
        "weights_digest": digest_of(weights),
        "data": table.data_digest,
        "dataset": clips.layout.dataset,
        "class_map": classes.digest if classes else None,
        "epic_lists": lists.digest if lists else None,
    }
    processes = start_processes(device)
    for key, value in asked.items():
        processes.say(f"  {key:<14}  {value}")
    if best and views.split == "val" and clips.layout == layout:
        processes.say("  these weights were chosen on this very split: the figures flatter them")
    path = folder.metrics(name)
    before = _read_metrics(path)
    names = _class_names(layout, classes, options["classes"])
    if not overwrite and {key: before.get(key) for key in asked} == asked:
        if processes.is_first and not all(folder.confusion(name, kind).is_file() for kind in names):
            _draw_confusion(folder, name, names)
        processes.say(f"{path} has these figures already\n{_top1(before)}{compared}")
        return before

    # -----------------------------------------------------------------------------------------
    # Score
    # -----------------------------------------------------------------------------------------
    model = import_weights(weights).build()
    assert isinstance(model, VideoClassifier)
    dataset = EvaluateDataset(table, config.model, config.frames, views, loader, config.head.box)
    scores = score_clips(model.to(processes.device), dataset, loader, processes, views.split)
    labels = {kind: table.labels[kind] for kind in config.labels}
    if classes:
        scores = {"label": classes.regroup(scores["label"])}
        asked["classes"] = list(classes.names)
    metrics = {**asked, **accuracy(scores, labels)}
    if lists:
        metrics |= lists.figures(scores, labels, table.ids)
    if processes.is_first:
        write_scores(folder.scores(name), table, scores)
        write_atomically(path, json.dumps(metrics, indent=1).encode() + b"\n")
        for key, value in metrics.items():
            if key not in asked:
                print(f"  {key:<24}  {value:.2f} %")
        _draw_confusion(folder, name, names)
        print(f"{_top1(metrics)}{compared}")
    return metrics


def _top1(metrics: dict[str, Any]) -> str:
    return f"{metrics['split']} top-1 {metrics['top1']:.1f} %"


def _top1_beside(run: RunFolder, name: str, num_clips: int) -> str:
    """`random weights 20.3 %`: of another run, or its name in place of what it began with.

    Raises:
        InputError: it was not evaluated, or on other clips.
    """
    began_with = run.options_of("finetune", "is no finetuning; only a classifier has an accuracy")
    metrics = _read_metrics(run.metrics(name))
    if metrics.get("clips") != num_clips:
        raise InputError(
            "not-finished",
            f"--beside {run.path.name}: the run has no figures of these {num_clips} clips; run "
            f"train.evaluate --run {run.path.name} with the same options first",
        )
    words = "random weights" if began_with["from"] == "none" else run.path.name
    return f"{words} {metrics['top1']:.1f} %"


def _class_map(layout: DatasetLayout, clips: Clips, num_classes: dict[str, int]) -> ClassMap | None:
    """None where all classes of the run are tested, on clips of its own dataset."""
    if clips.class_map is None and clips.layout == layout:
        return None
    if set(num_classes) != {"label"}:
        raise InputError(
            f"the run learned {' and '.join(num_classes)}; --on and --class-map are for runs that "
            "learned label"
        )
    classes, tested = (read_classes(each.classes).label for each in (layout, clips.layout))
    if len(classes) != num_classes["label"]:
        raise InputError(
            f"{layout.classes} names {len(classes)} classes, and the run learned "
            f"{num_classes['label']}"
        )
    if clips.class_map is None:
        return match_names(classes, tested)
    return read_class_map(clips.class_map, classes, tested)


def _class_names(
    layout: DatasetLayout, classes: ClassMap | None, num_classes: dict[str, int]
) -> dict[str, list[str]]:
    """Of what is told apart, by kind of label."""
    if classes is not None:
        return {"label": list(classes.names)}
    known = read_classes(layout.classes)
    return {kind: known.class_names(kind, count) for kind, count in num_classes.items()}


def _draw_confusion(folder: RunFolder, name: str, names: dict[str, list[str]]) -> None:
    from train.pictures.confusion import write_confusion  # matplotlib, for these pictures alone

    for path in write_confusion(folder, name, names):
        print(f"  {'confusion matrix':<24}  {path}")


def _epic_lists(clips: Clips, config: FinetuneConfig, split: str) -> EpicLists | None:
    if clips.epic_lists is None:
        return None
    if set(config.labels) != {"verb", "noun"}:
        learned = " and ".join(config.labels)
        raise InputError(f"--epic-lists is for runs that learned verb and noun, not {learned}")
    from train.evaluation.epic_lists import read_epic_lists

    return read_epic_lists(clips.epic_lists, split)


def _name(layout: DatasetLayout, clips: Clips, split: str) -> str:
    """Of the evaluation's files: test, test-hmdb51, test-hmdb51-ucf14-hmdb7."""
    on = [clips.layout.dataset] if clips.layout != layout else []
    return "-".join([split, *on, *([clips.class_map.stem] if clips.class_map else [])])


def _default_head(dataset: str) -> str:
    return read_recipe(dataset, None).get("finetune", {}).get("head", {}).get("kind", "mean")


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


if __name__ == "__main__":
    main()
