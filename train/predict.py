"""Predicts the classes of videos, which need not be preprocessed first.

    python -m train.predict --run finetune-mofo-mean clip.mp4 other.webm
    python -m train.predict --run out/ssv2/runs/finetune-mofo-mca --json found.json videos/
    python -m train.predict --run videomae-base-finetuned-kinetics clips.csv --videos /data/videos
    python -m train.predict --dataset ssv2 --run finetune-mofo-mca --draw pictures clip.mp4

A path is a video, a folder of videos, or a CSV with the columns of manifest.csv. The commands of
preprocess/ decode the videos into a temporary folder, with the options of the shards that the run
was trained on; motion is computed only if the head of the model needs motion boxes. The views of a
clip are those of `train.evaluate`, and so are its probabilities. Clips that cannot be decoded are
named, and the exit status is then 3. A video of ten seconds takes some seconds on one core, most of
them to start; with motion boxes, more.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from shared.errors import EXIT_SET_ASIDE, InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import read_classes
from shared.wording import counted
from train.clips.table import DEFAULT_BOXES, read_clip_table
from train.evaluation.classifiers import Classifier, find_classifier
from train.evaluation.predictions import Prediction, as_csv, as_json, likeliest
from train.evaluation.run_classes import class_names
from train.new_videos.listing import NewClip, clip_id, list_clips
from train.new_videos.shards import NewShards, make_shards
from train.options.chosen_recipe import choose_recipe
from train.options.recipe import read_recipe
from train.running.command import with_workers

FOLDER = click.Path(path_type=Path)
POSITIVE = click.IntRange(min=1)
FIRST = 5  # classes that are shown by default


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@click.argument("paths", nargs=-1, required=True, type=FOLDER)
@click.option("--run", "source", required=True, metavar="RUN|WEIGHTS",
              help="Name or folder of a finetuned run; or somebody else's finetuned model: a "
              "Hugging Face folder, a .safetensors file, or a .pth file of VideoMAE.")  # fmt: skip
@click.option("--dataset", metavar="NAME", show_default="toy",
              help="Name of the dataset in --out that has the run. For somebody else's model: name "
              "of the dataset whose recipe says how frames are sampled.")  # fmt: skip
@click.option("--out", default="out", type=FOLDER, metavar="FOLDER",
              help="Folder that contains the folders of all datasets.")  # fmt: skip
@click.option("--videos", type=FOLDER, metavar="FOLDER", show_default="the folder of the CSV",
              help="Folder that the paths of a CSV are relative to.")  # fmt: skip
# What is written
@click.option("--top", default=FIRST, type=POSITIVE, metavar="CLASSES",
              help="Number of classes that are given for each clip, the likeliest first."
              )  # fmt: skip
@click.option("--csv", "csv_file", type=FOLDER, metavar="FILE",
              help="Write the predictions to this CSV file.")  # fmt: skip
@click.option("--json", "json_file", type=FOLDER, metavar="FILE",
              help="Write the predictions to this JSON file.")  # fmt: skip
@click.option("--draw", type=FOLDER, metavar="FOLDER",
              help="Draw each clip with its likeliest classes, into a PNG file in this folder."
              )  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
# How it is computed
@click.option("--segments", type=POSITIVE, metavar="N", show_default="as the model was tested",
              help="Number of views of each clip, at even distances in time.")  # fmt: skip
@click.option("--crops", type=POSITIVE, metavar="N", show_default="as the model was tested",
              help="Number of square crops of each view along the long side.")  # fmt: skip
@click.option("--recipe", type=FOLDER, metavar="FILE",
              help="For somebody else's model: recipe file, or a name in train/recipes/. It says "
              "how frames are sampled, and how many views a clip gets.  [default: by --dataset, "
              "or else default]")  # fmt: skip
@click.option("--work", type=FOLDER, metavar="FOLDER", show_default="a temporary folder",
              help="Folder for decoded frames and boxes. It is kept, and the same command reuses "
              "what is in it.")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=0), metavar="PROCESSES", default=0,
              help="Number of processes that read frames. With 0, the command reads them itself."
              )  # fmt: skip
@click.option("--device", default="auto", type=click.Choice(["auto", "cpu", "cuda"]),
              help="Device that computes. auto is a GPU if there is one, else the CPU."
              )  # fmt: skip
@user_errors
def main(
    paths: tuple[Path, ...],
    source: str,
    dataset: str | None,
    out: Path,
    videos: Path | None,
    top: int,
    csv_file: Path | None,
    json_file: Path | None,
    draw: Path | None,
    overwrite: bool,
    segments: int | None,
    crops: int | None,
    recipe: Path | None,
    work: Path | None,
    workers: int,
    device: str,
) -> None:
    """Predict the classes of the videos of PATHS: files, folders, or CSV files of clips."""
    # ------------------------------------------------------------------ resolve
    if overwrite and not (csv_file or json_file or draw):
        raise InputError(
            "option-needs-another",
            "--overwrite has an effect only with --csv, --json or --draw; leave it out",
        )
    _refuse_existing([file for file in (csv_file, json_file) if file], overwrite)
    layout = DatasetLayout(out, dataset or "toy")
    # Whether the dataset has few clips says nothing about somebody else's model.
    named = None if recipe is None else choose_recipe(layout, recipe)[0]
    tables = read_recipe(dataset or "default", named)
    classifier = find_classifier(source, layout, tables)
    if recipe is not None and classifier.run is not None:
        raise InputError(
            "option-unused",
            f"--recipe is for somebody else's model, and run {classifier.name} records how it sees "
            "clips; leave --recipe out",
        )
    given = {"segments": segments, "crops": crops}
    changes = {name: value for name, value in given.items() if value is not None}
    classifier = classifier.with_views({"split": "test", **changes})
    # ------------------------------------------------------------------ decode
    temporary = (
        tempfile.TemporaryDirectory(prefix="predict-") if work is None else nullcontext(work)
    )
    with temporary as folder:
        listing = list_clips(paths, videos, Path(folder))
        clips = listing.clips
        pictures = [] if draw is None else [_picture(draw, n, clip) for n, clip in enumerate(clips)]
        _refuse_existing(pictures, overwrite)
        print(f"predict: {counted(len(clips), 'clip')} with {classifier.weights}")
        shards = _shards(classifier, clips, Path(folder), device)
        for note in shards.notes:
            print(f"  {note}")
        lost = [*listing.missing, *((clip.name, reason) for clip, reason in shards.failures)]
        for name, reason in lost:
            print(f"{name}: {reason}", file=sys.stderr)
        # -------------------------------------------------------------- predict
        failed = {clip for clip, _ in shards.failures}
        good = [number for number, clip in enumerate(clips) if clip not in failed]
        predictions = _predict(classifier, shards, clips, good, top, workers, device, draw)
    for each in predictions:
        print(each.clip)
        for kind, guesses in each.guesses.items():
            for guess in guesses:
                shown = guess.name if len(each.guesses) == 1 else f"{kind} {guess.name}"
                print(f"  {100 * guess.probability:5.1f} %  {shown}")
    # ------------------------------------------------------------------ write
    if csv_file is not None:
        write_atomically(csv_file, as_csv(predictions).encode(errors="backslashreplace"))
    if json_file is not None:
        failures = [{"clip": name, "reason": reason} for name, reason in lost]
        text = as_json(_description(classifier), predictions, failures)
        write_atomically(json_file, text.encode(errors="backslashreplace"))
    if lost:
        sys.exit(EXIT_SET_ASIDE)


def _picture(folder: Path, number: int, clip: NewClip) -> Path:
    return folder / f"{number:04d}-{clip.video.stem}.png"


def _refuse_existing(files: Sequence[Path], overwrite: bool) -> None:
    for file in files:
        if file.exists() and not overwrite:
            raise InputError("existing-output", f"{file} exists; give another name, or --overwrite")


def _shards(classifier: Classifier, clips: Sequence[NewClip], work: Path, device: str) -> NewShards:
    like = boxes = None
    if classifier.run is not None:  # OUT/DATASET/runs/NAME
        root = classifier.run.path.resolve().parents[1]
        like = DatasetLayout(root.parent, root.name)
    if classifier.needs_boxes:
        name = classifier.box_source
        at = like or DatasetLayout(work, "none")
        boxes = at.boxes if name == DEFAULT_BOXES else at.boxes_of(name)
    return make_shards(clips, work, like, boxes, num_gpus=int(device == "cuda"))


def _predict(
    classifier: Classifier,
    shards: NewShards,
    clips: Sequence[NewClip],
    good: Sequence[int],
    top: int,
    workers: int,
    device: str,
    draw: Path | None,
) -> list[Prediction]:
    """The predictions of the clips that were decoded, in the order of the clips."""
    if not good:
        return []
    from train.evaluation.scoring import score_clips
    from train.running.engine import one_process
    from train.samples.coded_views import decoding_on
    from train.samples.datasets import EvaluateDataset

    table = read_clip_table(shards.layout, ["test"], classifier.needs_boxes)
    assert [table.clip_id(row) for row in range(len(table))] == [clip_id(n) for n in good]
    process = one_process(device)
    loader = replace(with_workers(classifier.loader, workers), cache_megabytes=0)
    loader = decoding_on(process.device, loader)
    views = classifier.views
    dataset = EvaluateDataset(
        table,
        classifier.model,
        classifier.frames,
        views,
        loader,
        classifier.head.box,
        inside=classifier.head.inside,
    )
    model = classifier.build().to(process.device)
    scores = score_clips(model, dataset, loader, process, "predict")
    names = _names(classifier)
    predictions = []
    for row, number in enumerate(good):
        clip = clips[number]
        guesses = {kind: likeliest(scores[kind][row], names[kind], top) for kind in scores}
        predictions.append(Prediction(clip.name, str(clip.video), clip.span, guesses))
    if draw is not None:
        from train.pictures.predictions import prediction_png  # matplotlib is needed only here

        for row, (number, prediction) in enumerate(zip(good, predictions, strict=True)):
            path = _picture(draw, number, clips[number])
            write_atomically(path, prediction_png(prediction, table, row))
            print(path)
    return predictions


def _names(classifier: Classifier) -> dict[str, list[str]]:
    """The names of the classes; those of the dataset for a run that did not record them."""
    known: dict[str, Any] = {
        "classes": classifier.num_classes,
        "class_names": classifier.class_names,
    }
    path = Path("none") if classifier.run is None else classifier.run.path.parents[1]
    return class_names(known, read_classes(path / "classes.json"))


def _description(classifier: Classifier) -> dict[str, Any]:
    """What identifies the model and its views, for the JSON file."""
    from train.weights.files import digest_of

    return {
        "weights": str(classifier.weights),
        "weights_digest": digest_of(classifier.weights),
        "frames": classifier.frames.to_table(),
        "segments": classifier.views.segments,
        "crops": classifier.views.crops,
        "classes": classifier.num_classes,
    }


if __name__ == "__main__":
    main()
