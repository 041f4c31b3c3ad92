"""A finetuned run belongs to the classes and the manifest that it was trained with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result
from errors import refused, refuses
from shard_fixtures import write_moving_squares
from training_fixtures import TINY_RECIPE, tiny_run

import train.evaluate
import train.figures
import train.probe
import train.report
from shared.layout import DatasetLayout
from shared.manifest import (
    ClassList,
    manifest_digest,
    read_classes,
    read_manifest,
    row_digests,
    write_classes,
    write_manifest,
)
from shared.shard_index import read_index, write_index
from train.evaluation.run_classes import check_same_dataset, class_names
from train.finetune import finetune
from train.pretrain import pretrain
from train.running.rerun import read_earlier
from train.running.run_folder import RunFolder

DIRECTIONS = ["left", "right", "up", "down"]


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("out")
    write_moving_squares(out, num_clips=40)
    return finetune(tiny_run(out, epochs=1, batch_size=8), "mean", "none")


@pytest.fixture
def layout(finetuned: RunFolder) -> Iterator[DatasetLayout]:
    """The dataset, whose manifest, classes, run and shard indices are restored after the test."""
    out = finetuned.path.parents[2]
    layout = DatasetLayout(out, "squares")
    folders = (layout.frames, layout.flows, layout.boxes)
    files = [layout.manifest, layout.classes, finetuned.options]
    files += [folder / "dataset.json" for folder in folders]
    before = {path: path.read_bytes() for path in files}
    yield layout
    for path, content in before.items():
        path.write_bytes(content)


def drop_a_class(layout: DatasetLayout) -> None:
    """Write what a new manifest without the class `right` has: `up` and `down` are 1 and 2 now.

    The clips of `right` stay without a label in split train, so that the digest is the same.
    """
    number_of = {0: 0, 1: None, 2: 1, 3: 2}
    clips = [
        replace(c, label=number_of[c.label], split="train" if c.label == 1 else c.split)
        for c in read_manifest(layout.manifest)
    ]
    write_manifest(layout.manifest, clips)
    write_classes(layout.classes, ClassList(label=["left", "up", "down"]))


def another_manifest(layout: DatasetLayout) -> str:
    """Give every clip another video path, as another root does; returns the new digest."""
    clips = [replace(c, video=f"again/{c.video}") for c in read_manifest(layout.manifest)]
    write_manifest(layout.manifest, clips)
    digest = manifest_digest(clips)
    for folder in (layout.frames, layout.flows, layout.boxes):
        write_index(folder, replace(read_index(folder), manifest_digest=digest))
    return digest


def swap(layout: DatasetLayout, field: str, splits: tuple[str, str]) -> None:
    """Swap the values of a column between two clips, the first of each split that differ in it."""
    clips = read_manifest(layout.manifest)
    one = next(c for c in clips if c.split == splits[0])
    other = next(
        c for c in clips if c.split == splits[1] and getattr(c, field) != getattr(one, field)
    )
    new = {
        one.clip_id: replace(one, **{field: getattr(other, field)}),
        other.clip_id: replace(other, **{field: getattr(one, field)}),
    }
    write_manifest(layout.manifest, [new.get(clip.clip_id, clip) for clip in clips])


def call(command: ModuleType, *arguments: object) -> Result:
    return CliRunner().invoke(command.main, [str(each) for each in arguments])


def evaluate(layout: DatasetLayout, *more: str) -> Result:
    where = ("--dataset", layout.dataset, "--out", layout.out, "--device", "cpu", "--workers", "0")
    return call(train.evaluate, *where, "--run", "finetune-scratch-mean", *more)


def test_a_run_records_its_classes_and_manifest(finetuned: RunFolder) -> None:
    options = finetuned.read_options()
    assert options["class_names"] == {"label": DIRECTIONS}
    layout = DatasetLayout(finetuned.path.parents[2], "squares")
    assert options["manifest"] == manifest_digest(read_manifest(layout.manifest))


def test_a_run_whose_class_is_gone_is_refused_everywhere(layout, finetuned) -> None:
    assert evaluate(layout).exit_code == 0
    drop_a_class(layout)
    run = finetuned.path.name
    named = (run, "4 classes (left, right, up, down)", layout.classes, "3 classes (left, up, down)")
    refused(evaluate(layout, "--overwrite"), "other-classes", *named)
    refused(call(train.figures, finetuned.path), "other-classes", *named)
    where = ("--dataset", layout.dataset, "--out", layout.out)
    refused(call(train.report, *where, "--run", run), "other-classes", *named)


def test_the_report_shows_no_accuracy_on_other_classes(layout, finetuned) -> None:
    assert evaluate(layout).exit_code == 0
    where = ("--dataset", layout.dataset, "--out", layout.out)
    assert "test top-1" in call(train.report, *where).stdout
    drop_a_class(layout)
    done = call(train.report, *where)
    assert done.exit_code == 0, done.output
    assert "top-1" not in done.stdout
    page = layout.report.read_text()
    assert "4 classes (left, right, up, down)" in page and "3 classes (left, up, down)" in page
    assert "Most confused pairs" not in page and "GradCAM" not in page


def test_a_class_of_another_name_is_refused(layout, finetuned) -> None:
    names = ["left", "right", "down", "up"]
    write_classes(layout.classes, replace(read_classes(layout.classes), label=names))
    refused(evaluate(layout), "other-classes", "number 2 is 'up' in the run and 'down' now")


def test_another_manifest_is_refused_but_for_a_test_by_name(layout, finetuned) -> None:
    before, now = finetuned.read_options()["manifest"], another_manifest(layout)
    message = refused(evaluate(layout), "other-manifest", before[:12], now[:12], layout.manifest)
    assert "--on squares" in message
    done = evaluate(layout, "--on", "squares")
    assert done.exit_code == 0, done.output
    metrics = json.loads(finetuned.metrics("test-squares").read_text())
    assert metrics["classes"] == DIRECTIONS and metrics["clips"] == 8


def test_a_test_by_name_finds_classes_of_other_numbers(layout, finetuned) -> None:
    """The same clips under other class numbers have the same accuracy."""
    plain = evaluate(layout, "--overwrite").stdout.splitlines()[-1]
    order = [2, 3, 0, 1]
    clips = [replace(c, label=order[c.label]) for c in read_manifest(layout.manifest)]
    write_manifest(layout.manifest, clips)
    names = [DIRECTIONS[order[number]] for number in range(4)]
    write_classes(layout.classes, replace(read_classes(layout.classes), label=names))
    assert evaluate(layout, "--on", "squares", "--overwrite").stdout.splitlines()[-1] == plain


def test_clips_that_changed_places_with_those_of_the_training_are_refused(layout, finetuned):
    """The counts and the digest of the manifest stay the same."""
    trained = finetuned.read_options()["rows"]["train"]["clips"]
    swap(layout, "split", ("train", "test"))
    now = row_digests(read_manifest(layout.manifest))["train"]["clips"]
    message = refused(evaluate(layout), "other-manifest", trained[:12], now[:12], "split train")
    assert "--on squares" in message
    where = ("--dataset", layout.dataset, "--out", layout.out)
    refused(call(train.report, *where, "--run", finetuned.path.name), "other-manifest", now[:12])


def test_corrected_labels_of_tested_clips_are_tested_again(layout, finetuned) -> None:
    first = evaluate(layout, "--overwrite")
    assert "has these results already" in evaluate(layout).stdout
    swap(layout, "label", ("test", "test"))
    again = evaluate(layout)
    assert again.exit_code == 0, again.output
    assert "has these results already" not in again.stdout
    assert "has these results already" in evaluate(layout).stdout
    assert first.exit_code == 0


def test_corrected_labels_of_the_training_do_not_matter_for_a_test(layout, finetuned) -> None:
    assert evaluate(layout).exit_code == 0
    swap(layout, "label", ("train", "train"))
    assert "has these results already" in evaluate(layout).stdout


@pytest.mark.parametrize(
    ("field", "splits", "named"),
    [
        ("label", ("train", "train"), "rows.train.label (the labels of split train in manifest"),
        ("split", ("train", "test"), "rows.train.clips (the clips of split train in manifest"),
        ("label", ("val", "val"), "rows.val.label (the labels of split val in manifest.csv)"),
    ],
)
def test_a_run_continues_only_with_the_same_rows(layout, finetuned, field, splits, named) -> None:
    out, before = layout.out, finetuned.options.read_bytes()
    swap(layout, field, splits)
    with refuses("other-options", named, "the same manifest", "--overwrite"):
        finetune(tiny_run(out, epochs=1, batch_size=8), "mean", "none")
    assert finetuned.options.read_bytes() == before
    earlier = read_earlier(layout, finetuned.path.name, "finetune")
    with refuses("other-inputs", named, "restore"):
        finetune(tiny_run(out, earlier=earlier, epochs=1, dry_run=True), "mean", "none")


def test_a_finished_run_keeps_its_record_but_for_the_test_views(layout, finetuned) -> None:
    record = finetuned.read_record() | {"command": "python -m elsewhere", "versions": {}}
    record["options"]["device"] = {"kind": "cuda", "processes": 8}
    finetuned.options.write_text(json.dumps(record, indent=1) + "\n")
    before = finetuned.options.read_bytes()
    run = tiny_run(layout.out, "loader.prefetch=2", epochs=1, batch_size=8)
    finetune(run, "mean", "none")
    assert finetuned.options.read_bytes() == before
    assert run.recipe is not None
    run.recipe.write_text(TINY_RECIPE.replace("segments = 2", "segments = 5"))
    finetune(run, "mean", "none")
    record["options"]["evaluate"]["segments"] = 5
    assert finetuned.read_record() == record


def test_labels_do_not_matter_for_pretraining(layout) -> None:
    run = tiny_run(layout.out, epochs=1, batch_size=8)
    folder = pretrain(run, "videomae")
    assert folder.read_options()["rows"].keys() == {"train"}
    swap(layout, "label", ("train", "train"))
    assert pretrain(run, "videomae").is_finished
    swap(layout, "split", ("train", "test"))
    with refuses("other-options", "rows.train.clips", "the same manifest"):
        pretrain(run, "videomae")


def test_runs_without_the_record_still_work(layout, finetuned) -> None:
    record = json.loads(finetuned.options.read_text())
    for name in ("class_names", "manifest", "rows"):
        record["options"].pop(name)
    finetuned.options.write_text(json.dumps(record))
    another_manifest(layout)
    swap(layout, "split", ("train", "test"))
    assert evaluate(layout, "--overwrite").exit_code == 0
    classes = read_classes(layout.classes)
    assert class_names(finetuned.read_options(), classes) == {"label": DIRECTIONS}


def test_a_probe_of_a_finetuned_run_is_refused_too(layout, finetuned) -> None:
    another_manifest(layout)
    arguments = ["--dataset", "squares", "--out", layout.out, "--device", "cpu", "--workers", "0"]
    arguments += ["--recipe", layout.out / "tiny.toml", "--from", finetuned.path.name]
    refused(call(train.probe, *arguments), "other-manifest", finetuned.path.name)
    refused(
        call(train.probe, *arguments[:-1], finetuned.path), "other-manifest", finetuned.path.name
    )


def test_verbs_and_nouns_are_compared_each(tmp_path: Path) -> None:
    layout = DatasetLayout(tmp_path, "epic100")
    options = {
        "classes": {"verb": 2, "noun": 1},
        "class_names": {"verb": ["take", "put"], "noun": ["cup"]},
        "manifest": "a" * 64,
    }
    classes = replace(read_classes(layout.classes), verb=["take", "put"], noun=["cup"])
    run = RunFolder(layout.runs / "finetune-mofo-mean")
    check_same_dataset(layout, run, options, classes, "a" * 64, {})
    with refuses("other-classes", "1 noun (cup)", "2 nouns (cup, lid)") as caught:
        check_same_dataset(
            layout, run, options, replace(classes, noun=["cup", "lid"]), "a" * 64, {}
        )
    assert "--on" not in caught.value.message  # classes of these kinds cannot be matched by name
    with refuses("other-manifest", "a" * 12, "b" * 12):
        check_same_dataset(layout, run, options, classes, "b" * 64, {})
