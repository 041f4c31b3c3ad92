"""Tests a finetuned model: averages the softmax scores of several views of each clip.

    python -m train.evaluate --dataset toy --out out --method mofo --head mca
    python -m train.evaluate --dataset toy --run finetune-scratch-mean --split val
    python -m train.evaluate --dataset ucf14 --on hmdb51 --class-map data_manifests/ucf14-hmdb7.csv
    python -m train.evaluate --dataset epic100 --epic-lists epic-kitchens-100-annotations
    python -m train.evaluate --dataset k400 --run videomae-base-finetuned-kinetics

--run names a run, or weights of others: a Hugging Face folder of VideoMAE with a classifier, a
.safetensors file or a .pth file. Results of such weights go to OUT/<dataset>/runs/evaluate-<name>/.
Their classes are matched to those of the dataset by name. The recipe of the dataset, or
default.toml where it has none, says how frames are sampled and how many views a clip gets, unless a
folder that this project exported says it.

Reads a finished run below OUT/<dataset>/runs and uses its best weights on split val, or its last
weights where split val has no labelled clips. Writes into the folder of the run
metrics-<split>.json, scores-<split>.h5 and the confusion matrix confusion-<split>.png. A run with
verbs and nouns has two matrices: confusion-<split>-verb.png and confusion-<split>-noun.png. File
names include the dataset and the class map where these are not the run's own:
metrics-test-hmdb51-<map>.json. Where classes are matched, a run that prefers a class which the
target lacks is wrong; `--among-target-classes` leaves such classes out. A run that learned
actions, pairs of verb and noun, also gets the accuracy of verbs and of nouns: the probabilities of
the actions of each are added up. It takes seconds for the toy dataset. The last line is the result:
`test top-1 93.1 %`.

A run belongs to the manifest, the clips of split train and the classes that it was trained with. If
its dataset has others now, the run is refused. `--on DATASET` with the name of its own dataset
tests it on the present clips, with classes matched by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import SPLITS, ClassList, read_classes
from shared.run_record import write_options
from train.clips.table import ClipTable, read_clip_table
from train.evaluation.class_map import ClassMap, match_names, read_class_map
from train.evaluation.classifiers import Classifier, find_classifier, run_classifier
from train.evaluation.run_classes import check_same_dataset, class_names
from train.network.head_config import KINDS
from train.options.config import STARTS
from train.options.recipe import read_recipe
from train.running.command import data_options, run_option, with_workers
from train.running.finetune_inputs import labelled, run_name
from train.running.run_folder import RunFolder
from train.tables.typed import to_table

if TYPE_CHECKING:
    import numpy as np

    from train.evaluation.epic_lists import EpicLists


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@data_options
@run_option(
    "Name of the finetuned run to test, instead of --method and --head; or the path of somebody "
    "else's finetuned model, a Hugging Face folder or a .safetensors file."
)
@click.option(
    "--method",
    metavar="NAME",
    show_default="mofo",
    help="Pretraining method of the finetuned run to test.",
)
@click.option(
    "--head",
    type=click.Choice(KINDS),
    show_default="that in the recipe of the dataset, or in default.toml",
    help="Pooling head of the finetuned run to test.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    show_default="the split in the run's recipe",
    help="Split whose clips are tested.",
)
@click.option(
    "--segments",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="as in the run's recipe",
    help="Number of views of each clip, at even distances in time. The softmax scores of all "
    "views are averaged.",
)
@click.option(
    "--crops",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="as in the run's recipe",
    help="Number of square crops of each view along the long side of the frame. 1 is the centre; "
    "3 are both ends and the centre.",
)
@click.option(
    "--starts",
    type=click.Choice(STARTS),
    show_default="as in the run's recipe",
    help="Where dense windows may start: at any frame, or at multiples of the stride only, as in "
    "VideoMAE's code.",
)
@click.option(
    "--on",
    metavar="DATASET",
    show_default="the run's dataset",
    help="Name of the dataset whose clips are tested. Its classes are matched to those of the run "
    "by name, or by --class-map.",
)
@click.option(
    "--class-map",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="CSV file with the columns class,stands_for. Each row has a class of the run, and the "
    "tested class for which it stands.",
)
@click.option(
    "--among-target-classes",
    is_flag=True,
    help="With --on or --class-map, let the run choose only among the tested classes. Without this "
    "option a clip counts as wrong if the run prefers a class that the target lacks.",
)
@click.option(
    "--epic-lists",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also report the accuracy on EPIC-KITCHENS-100's tail classes and unseen participants. "
    "This folder has the official lists of both.",
)
@click.option(
    "--overwrite", is_flag=True, help="Test again, and replace results that exist already."
)
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
    starts: str | None,
    on: str | None,
    class_map: Path | None,
    among_target_classes: bool,
    epic_lists: Path | None,
    overwrite: bool,
) -> None:
    """Test a finetuned model on a split, and write the results into the folder of the run."""
    layout = DatasetLayout(out, dataset)
    if among_target_classes and on is None and class_map is None:
        raise InputError(
            "option-needs-another",
            "--among-target-classes says how classes are matched, and nothing is matched without "
            "--on or --class-map; give one of them",
        )
    if run and (method or head):
        raise InputError(
            "option-conflict",
            f"--run {run} names the run, and --method and --head choose it by its name; give "
            "either --run or these two",
        )
    name = run or run_name(f"pretrain-{method or 'mofo'}", head or _default_head(dataset))
    classifier = find_classifier(run, layout, read_recipe(dataset, None)) if run else None
    folder = RunFolder(layout.runs / name)
    if classifier is not None:
        folder = classifier.run or RunFolder(layout.runs / f"evaluate-{classifier.name}")
    given = {"split": split, "segments": segments, "crops": crops, "starts": starts}
    changes = {key: value for key, value in given.items() if value is not None}
    tested = DatasetLayout(out, on) if on else layout
    clips = Clips(
        tested, class_map, epic_lists, by_name=on is not None, among_tested=among_target_classes
    )
    evaluate(layout, folder, changes, workers, device, overwrite, clips, classifier)


@dataclass(frozen=True)
class Clips:
    """The clips and classes that a run is tested on.

    Attributes:
        layout: the dataset of the clips.
        class_map: file for `read_class_map`, or None.
        epic_lists: folder for `read_epic_lists`, or None.
        by_name: match classes by name where there is no class map, even on the run's own dataset,
            which may then have another manifest than the run was trained with.
        among_tested: see `ClassMap.regroup`. It is used only where classes are matched.
    """

    layout: DatasetLayout
    class_map: Path | None = None
    epic_lists: Path | None = None
    by_name: bool = False
    among_tested: bool = False


def evaluate(
    layout: DatasetLayout,
    folder: RunFolder,
    changes: dict[str, Any],
    workers: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
    clips: Clips | None = None,
    classifier: Classifier | None = None,
) -> dict[str, Any]:
    """Score a split with a run's weights; returns the content of metrics-<split>.json.

    Args:
        folder: the run, or the folder for the results of weights of others.
        changes: changes to the EvaluateConfig of the run.
        clips: the clips to test on; None for those of the run's own dataset.
        classifier: weights of others; None for those of the run.
    """
    # -----------------------------------------------------------------------------------------
    # Resolve
    # -----------------------------------------------------------------------------------------
    tested = (classifier or run_classifier(folder)).with_views(changes)
    views, weights = tested.views, tested.weights
    loader = replace(with_workers(tested.loader, workers), cache_megabytes=0)  # clips are read once
    clips = clips or Clips(layout)
    needs, source = tested.needs_boxes, tested.box_source
    table = read_clip_table(clips.layout, [views.split], needs, box_source=source)
    now = read_classes(layout.classes)
    if tested.run and clips.layout == layout and not clips.by_name:
        check_same_dataset(
            layout, folder, tested.options, now, table.manifest_digest, table.row_digests
        )
    learned = _learned(tested, now)
    classes = _class_map(layout, clips, tested, learned)
    kinds = tested.labels
    table = classes.take(table) if classes else labelled(table, tested, tested.num_classes)
    lists = _epic_lists(clips, kinds, views.split)
    name = _name(layout, clips, views.split)
    names = {"label": classes.columns(clips.among_tested)} if classes else learned
    # Imported here, which takes seconds: what is wrong above is reported without waiting for it.
    from train.evaluation.metrics import accuracy
    from train.evaluation.score_files import write_scores
    from train.evaluation.scoring import score_clips
    from train.running.engine import start_processes
    from train.samples.coded_views import decoding_on
    from train.samples.datasets import EvaluateDataset
    from train.weights.files import digest_of

    asked = {
        "run": folder.path.name,
        "split": views.split,
        "segments": views.segments,
        "crops": views.crops,
        "views": views.segments * views.crops,
        # None is what the files of earlier versions have.
        "starts": None if views.starts == STARTS[0] else views.starts,
        "clips": len(table),
        "weights": tested.which,
        "weights_digest": digest_of(weights),
        "data": table.data_digest,
        # Labels and splits can be corrected without another digest of the shards.
        "rows": table.rows_of(views.split, kinds),
        "dataset": clips.layout.dataset,
        "class_map": classes.digest if classes else None,
        "among_target_classes": clips.among_tested if classes else None,
        "epic_lists": lists.digest if lists else None,
    }
    processes = start_processes(device)
    processes.say(f"  run      {folder.path}, {tested.which} weights{_sampling(tested)}")
    processes.say(
        f"  clips    {len(table):,} of split {views.split} of {clips.layout.dataset}, "
        f"{views.segments} x {views.crops} views each"
    )
    if tested.which == "best on val" and views.split == "val" and clips.layout == layout:
        processes.say(
            "  warning  the weights were chosen on split val, so its accuracy is too high"
        )
    path = folder.metrics(name)
    before = _read_metrics(path)
    if not overwrite and {key: before.get(key) for key in asked} == asked:
        if processes.is_first and not all(folder.confusion(name, kind).is_file() for kind in names):
            _draw_confusion(folder, name, names)
        processes.say(f"{path} has these results already\n{_top1(before)}")
        return before

    # -----------------------------------------------------------------------------------------
    # Score
    # -----------------------------------------------------------------------------------------
    loader = decoding_on(processes.device, loader)
    model = tested.build().to(processes.device)
    dataset = EvaluateDataset(
        table,
        tested.model,
        tested.frames,
        views,
        loader,
        tested.head.box,
        inside=tested.head.inside,
    )
    scores = score_clips(model, dataset, loader, processes, views.split)
    labels = {kind: table.labels[kind] for kind in kinds}
    if classes:
        scores = {"label": classes.regroup(scores["label"], clips.among_tested)}
        asked["classes"] = list(classes.names)
        if not clips.among_tested:
            asked["other_classes"] = list(classes.others)
    metrics = {**asked, **accuracy(scores, labels), **_of_verbs_and_nouns(scores, table, clips)}
    if lists:
        metrics |= lists.figures(scores, labels, table.ids)
    if processes.is_first:
        if tested.run is None:
            write_options(folder.options, _record(tested, asked, learned))
        write_scores(folder.scores(name), table, scores)
        write_atomically(path, json.dumps(metrics, indent=1).encode() + b"\n")
        for key, value in metrics.items():
            if key not in asked:
                print(f"  {key:<24}  {value:.2f} %")
        _draw_confusion(folder, name, names)
        print(_top1(metrics))
    return metrics


def _top1(metrics: dict[str, Any]) -> str:
    return f"{metrics['split']} top-1 {metrics['top1']:.1f} %"


def _sampling(classifier: Classifier) -> str:
    """How weights of others see a clip, which may be a guess; nothing for a run."""
    if classifier.run is not None:
        return ""
    frames = ", ".join(f"{name} {value}" for name, value in classifier.frames.to_table().items())
    return f" of {classifier.weights}; frames by {frames}"


def _learned(classifier: Classifier, now: ClassList) -> dict[str, list[str]]:
    """The names of the classes that a model learned; without names, those of the dataset now."""
    known = {"classes": classifier.num_classes, "class_names": classifier.class_names}
    return class_names(known, now)


def _class_map(
    layout: DatasetLayout, clips: Clips, classifier: Classifier, names: dict[str, list[str]]
) -> ClassMap | None:
    """None where all classes of the model are tested, under their own numbers."""
    counts = classifier.num_classes
    own = clips.layout == layout and not clips.by_name
    present = read_classes(clips.layout.classes).label
    if clips.class_map is None and own and (classifier.run or names.get("label") == present):
        return None
    if set(counts) != {"label"}:
        raise InputError(
            "option-unused",
            f"the run learned {' and '.join(counts)}; --on and --class-map need a run that "
            "learned classes of kind label",
        )
    now = read_classes(layout.classes)
    if not classifier.class_names and len(now.label) != counts["label"]:
        raise InputError(
            "other-classes",
            f"{layout.classes} names {len(now.label)} classes, and the model learned "
            f"{counts['label']}; it did not record their names, so restore the manifest that it "
            "was trained with, or name them in id2label of config.json",
        )
    if clips.class_map is None:
        return match_names(names["label"], present)
    return read_class_map(clips.class_map, names["label"], present)


def _record(
    tested: Classifier, asked: Mapping[str, Any], learned: dict[str, list[str]]
) -> dict[str, Any]:
    """The options.json beside the results of weights of others."""
    config = {name: to_table(getattr(tested, name)) for name in ("model", "head", "frames")}
    return {
        "command": "evaluate",
        "from": str(tested.weights),
        "from_digest": asked["weights_digest"],
        "data": asked["data"],
        "classes": tested.num_classes,
        "class_names": learned,
        "evaluate": to_table(tested.views),
        "config": config | {"labels": list(tested.labels)},
    }


def _of_verbs_and_nouns(
    scores: dict[str, np.ndarray], table: ClipTable, clips: Clips
) -> dict[str, float]:
    """Further figures of a run that learned actions; none where classes are matched."""
    from train.evaluation.actions import marginal_accuracy

    if clips.class_map is not None or clips.by_name:
        return {}
    return marginal_accuracy(scores, table.labels, clips.layout.manifest)


def _draw_confusion(folder: RunFolder, name: str, names: dict[str, list[str]]) -> None:
    from train.pictures.confusion import write_confusion  # matplotlib is needed only here

    for path in write_confusion(folder, name, names):
        print(f"  {'confusion matrix':<24}  {path}")


def _epic_lists(clips: Clips, kinds: tuple[str, ...], split: str) -> EpicLists | None:
    if clips.epic_lists is None:
        return None
    if set(kinds) != {"verb", "noun"}:
        learned = " and ".join(kinds)
        raise InputError(
            "option-unused",
            f"--epic-lists needs a run that learned verb and noun, and this one learned {learned}",
        )
    from train.evaluation.epic_lists import read_epic_lists

    return read_epic_lists(clips.epic_lists, split)


def _name(layout: DatasetLayout, clips: Clips, split: str) -> str:
    """The part of the file names: test, test-hmdb51, test-hmdb51-ucf14-hmdb7."""
    on = [clips.layout.dataset] if clips.layout != layout or clips.by_name else []
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
