"""The report: one file, hostile names escaped, missing parts reported and never invented."""

from __future__ import annotations

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from errors import refused
from matplotlib.figure import Figure
from run_fixtures import add_verbs_and_nouns, write_finetune_run, write_pretrain_run
from shard_fixtures import write_moving_squares
from track_fixtures import add_tracks
from training_fixtures import tiny_run

from benchmarks.real_video_scores import hours_of
from shared.grid import window_box
from shared.layout import DatasetLayout
from shared.manifest import ClassList, read_classes, read_manifest
from shared.run_record import read_jsonl
from shared.shard_index import INDEX_NAME
from train.clips.stored_boxes import read_box_table, read_clip
from train.clips.table import read_clip_table
from train.objectives.target import LossWords
from train.options.config import LoaderConfig
from train.options.recipe import pretrain_config, read_recipe
from train.pretrain import pretrain
from train.report import main
from train.report_sections.clips import MaskSettings, choose_samples, sample_pictures, unusual
from train.report_sections.comparison import comparison_section, option_differences
from train.report_sections.models import confident_mistakes
from train.report_sections.runs import mask_settings, read_run, read_runs, scores_of
from train.report_sections.sections import Dataset
from train.report_sections.training import confused_pairs, finetuning_section, pretraining_section
from train.samples.views import ClipView, StoredClip, open_reader

HOSTILE = [
    "<script>alert(1)</script>",
    "a\"b'c & <b>d</b>",
    "$\\frac{1}{0}$ --> ]]>",
    "\u202eevil\x07 \U0001f600 \u4e0a http://x.example/",
]


def make_report(layout: DatasetLayout, *options: str) -> tuple[str, str]:
    """Run the command: its standard output, and the page."""
    arguments = ["--dataset", layout.dataset, "--out", str(layout.out), *options]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, layout.report.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags with their attributes, and the text, of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    return write_moving_squares(tmp_path_factory.mktemp("out"), num_clips=12, still=(3, 8))


@pytest.fixture(scope="module")
def squares_page(squares: DatasetLayout) -> str:
    return make_report(squares)[1]


def test_page_is_one_file_without_loads(squares_page: str) -> None:
    html = squares_page
    page = Page(html)
    assert "http://" not in html and "https://" not in html
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    assert "@import" not in html and "@font-face" not in html
    assert not re.search(r"url\((?!#)", html)  # only references within a chart
    for image in page.all("img"):
        assert image["src"].startswith(("data:image/jpeg;base64,", "data:image/png;base64,"))
    for anchor in page.all("a"):
        assert anchor["href"].startswith("#")


def test_page_shows_the_dataset(squares_page: str) -> None:
    html = squares_page
    page = Page(html)
    assert len(page.all("svg")) == 5  # area, place, position, patches inside, energy
    samples = html[html.index('id="clips"') : html.index('id="dataset"')]
    assert samples.count("<img") == 4 * 3 * 4  # clips, rows, times
    assert "2 clips (16.7 %)" in page.text  # without motion
    for direction in ("left", "right", "up", "down"):
        assert direction in page.text


def test_same_input_gives_the_same_page(squares: DatasetLayout, squares_page: str) -> None:
    assert make_report(squares)[1] == squares_page


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=8, names=HOSTILE)
    layout.failures.write_text(
        json.dumps({"clip_id": HOSTILE[0], "stage": "decode", "reason": "<img src=x onerror=y>"})
        + "\n"
    )
    _, html = make_report(layout)
    page = Page(html)
    assert not page.all("script")
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert "<script>alert(1)</script>" in page.text  # shown as text
    assert "<img src=x onerror=y>" in page.text
    assert "\u202e" not in html and "\x07" not in html  # would turn or break the text


def test_failures_are_counted_by_stage(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=4)
    failures = [{"clip_id": f"bad-{i}", "stage": "decode", "reason": "cut"} for i in range(30)]
    layout.failures.write_text("".join(json.dumps(failure) + "\n" for failure in failures))
    text = Page(make_report(layout)[1]).text
    assert "30 clips were set aside: 30 in decode" in text
    assert "bad-19" in text and "bad-20" not in text


@pytest.mark.parametrize("kind", ["frames", "flows", "boxes"])
def test_missing_shards_are_reported(tmp_path: Path, kind: str) -> None:
    layout = write_moving_squares(tmp_path, num_clips=4)
    folder = getattr(layout, kind)
    for path in folder.iterdir():
        path.unlink()
    text = Page(make_report(layout)[1]).text
    assert f"There are no {kind} in {folder}" in text


def test_boxes_alone_make_a_report(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=4)
    layout.manifest.unlink()
    for folder in (layout.frames, layout.flows):
        for path in folder.iterdir():
            path.unlink()
    text = Page(make_report(layout)[1]).text
    assert "no manifest at" in text
    assert "motion boxes of 4 clips with 64 frames" in text


def test_damaged_shard_is_reported(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=4)
    shard = layout.frames / "00000.h5"
    shard.write_bytes(shard.read_bytes()[:5000])
    assert "00000.h5" in Page(make_report(layout)[1]).text


@pytest.mark.parametrize("kind", ["frames", "flows", "boxes", "boxes-annotated"])
def test_damaged_index_is_reported(tmp_path: Path, kind: str) -> None:
    """The page is written, and the other folders stand in it."""
    layout = write_moving_squares(tmp_path, num_clips=4)
    shutil.copytree(layout.boxes, layout.boxes_of("annotated"))
    write_finetune_run(layout, weights=False, evaluated=False)
    damaged = layout.root / kind / INDEX_NAME
    damaged.write_text('{"kind": ')
    html = make_report(layout)[1]
    made = html[html.index('id="made"') :]
    assert f"{damaged} is not JSON" in Page(made).text
    folders = re.findall(r"<td>([a-z-]+)/</td>", made)
    assert folders == [
        each for each in ("frames", "flows", "boxes", "boxes-annotated") if each != kind
    ]


def test_unfinished_shards_are_not_read(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=4)
    (layout.boxes / INDEX_NAME).unlink()
    assert "There are no boxes in" in Page(make_report(layout)[1]).text


def test_missing_dataset_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--dataset", "nothing", "--out", str(tmp_path)])
    refused(result, "missing-folder", tmp_path / "nothing", "make all DATASET=nothing")
    assert result.stderr.count("\n") == 1


def test_box_table_measures_what_was_drawn(squares: DatasetLayout) -> None:
    table = read_box_table(squares)
    clip = read_clip(squares, table, 0)
    sides = clip.boxes[:, 2:] - clip.boxes[:, :2]
    assert table.num_without_motion == 2
    assert table.num_frames.tolist() == [16] * 12
    assert np.isnan(table.clip_share[3]) and table.still_share[3] == 1.0
    assert np.isclose(table.frame_shares[:16].mean(), (sides.prod(axis=1) / 64**2).mean())
    box = window_box(clip.boxes)
    assert np.isclose(table.clip_share[0], (box[2:] - box[:2]).prod() / 64**2)
    assert np.isclose(table.coverage.mean(), table.frame_shares.mean(), atol=0.01)
    assert (table.jump[~np.isnan(table.jump)] > 0).all()


def test_samples_move_and_are_of_different_classes(squares: DatasetLayout) -> None:
    table, clips = read_box_table(squares), read_manifest(squares.manifest)
    chosen = choose_samples(table, clips)
    assert len({clips[row].label for row in chosen}) == 4
    assert not {3, 8} & set(chosen)


def test_samples_are_masked_by_what_training_takes_for_moving(tmp_path: Path) -> None:
    """The box of all frames, cropped, also where some of them lie beyond the crop."""
    layout = write_moving_squares(tmp_path, num_clips=5, size=(128, 64))
    with h5py.File(layout.boxes / "00000.h5", "r+") as shard:
        shard["/box/xyxy"][::2] = [0, 0, 20, 30]  # the canonical view shows x from 32 to 96
        shard["/box/xyxy"][1::2] = [60, 20, 70, 30]
    table, clips = read_box_table(layout), read_manifest(layout.manifest)
    mask = MaskSettings(image_size=64)
    pictures = sample_pictures(layout, table, clips, ClassList(), mask)
    assert len(pictures) == 4
    assert all("of the 4 patches in the box" in picture["visible"] for picture in pictures)
    model = pretrain_config(read_recipe("toy", None), "mofo").model
    trained = read_clip_table(layout, ["train"], boxes=True)
    clip = StoredClip(trained, 0, open_reader(trained, LoaderConfig(workers=0)), model)
    inside = clip.inside(ClipView(np.arange(16), (32, 0, 96, 64)))
    assert inside[:2, :2].all() and inside.sum() == 4  # patch centres at 8 and 24


def test_unusual_clips_come_once_and_first_by_measure(squares: DatasetLayout) -> None:
    found = unusual(read_box_table(squares), most=6)
    rows = [row for row, _, _ in found]
    assert len(rows) == len(set(rows)) <= 6
    assert {3, 8} <= set(rows)
    assert all(why != "long clip" for _, why, _ in found)  # all are of one length


# ---------------------------------------------------------------------------------------------
# Runs
# ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetLayout, str, str]:
    """20 clips, 4 of them in split test (one of each class); one is predicted as class 0.

    Returns the layout, what the command printed, and the page.
    """
    layout = write_moving_squares(tmp_path_factory.mktemp("out"))
    write_pretrain_run(layout)
    write_finetune_run(layout, wrong=(2,))
    evaluation = {"clips": 20, "frames": 320, "iou": 0.712, "iou_full_frame": 0.141}
    (layout.root / "box_evaluation.json").write_text(json.dumps(evaluation))
    return layout, *make_report(layout)


def test_last_two_lines(trained: tuple[DatasetLayout, str, str]) -> None:
    layout, stdout, _ = trained
    assert stdout == f"test top-1 75.0 %\nreport {layout.report}\n"


def test_without_a_tested_run_only_the_report_is_named(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=5)
    write_finetune_run(layout, evaluated=False)
    stdout, html = make_report(layout)
    assert stdout == f"report {layout.report}\n"
    assert "was not tested on split test" in Page(html).text


def test_validation_figures_are_no_test_figures(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=5)
    folder = write_finetune_run(layout)
    folder.metrics("test").rename(folder.metrics("val"))
    assert make_report(layout)[0] == f"report {layout.report}\n"


def test_the_split_that_the_recipe_tests_on_is_the_reports(tmp_path: Path) -> None:
    """Of Something-Something V2 and others only the labels of split val are public."""
    layout = write_moving_squares(tmp_path, num_clips=5)
    folder = write_finetune_run(layout)
    for path_of in (folder.metrics, folder.scores):
        path_of("test").rename(path_of("val"))
    record = json.loads(folder.options.read_text())
    record["options"]["evaluate"] = {"split": "val"}
    folder.options.write_text(json.dumps(record))
    stdout, html = make_report(layout)
    assert stdout.startswith("val top-1 100.0 %\n")
    assert "Clips of split val by true and predicted class." in html


def test_named_run_and_the_newest(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path)
    older = write_finetune_run(layout, "finetune-older", wrong=(0, 1), weights=False)
    write_finetune_run(layout, "finetune-newer", wrong=(0,), weights=False)
    for path in (older.log, older.metrics("test")):
        os.utime(path, (1, 1))
    assert make_report(layout)[0].startswith("test top-1 75.0 %\n")
    assert make_report(layout, "--run", "finetune-older")[0].startswith("test top-1 50.0 %\n")
    arguments = ["--dataset", layout.dataset, "--out", str(tmp_path), "--run", "finetune-no"]
    result = CliRunner().invoke(main, arguments)
    refused(result, "unknown-name", "finetune-no", "finetune-newer, finetune-older")


def test_the_same_finetuning_from_random_weights_is_named_beside(tmp_path: Path) -> None:
    """Of the same options and clips; the newest of several."""
    layout = write_moving_squares(tmp_path)

    def write(name: str, seconds: int, wrong: tuple[int, ...], **options: object) -> None:
        folder = write_finetune_run(layout, name, wrong=wrong, weights=False)
        record = json.loads(folder.options.read_text())
        record["options"] |= options
        folder.options.write_text(json.dumps(record))
        for path in (folder.log, folder.metrics("test")):
            os.utime(path, (seconds, seconds))

    from_pretrained = {"from": "pretrain-mofo", "seed": 0}
    write("finetune-main", 100, (0,), **from_pretrained)
    for number, other in enumerate(({"seed": 1}, {"clips": 7}, {"config": {}})):
        write(f"finetune-other{number}", 90, (), **({"from": "none", "seed": 0} | other))
    assert make_report(layout)[0].startswith("test top-1 75.0 %\n")
    write("finetune-older", 80, (), **{"from": "none", "seed": 0})
    write("finetune-scratch", 90, (0, 1), **{"from": "none", "seed": 0})
    stdout, html = make_report(layout)
    assert stdout.startswith("test top-1 75.0 % (random weights 50.0 %)\n")
    assert "random weights 50.0 %" in Page(html).text
    alone = make_report(layout, "--run", "finetune-scratch")[0]
    assert alone.startswith("test top-1 50.0 %\n")  # it is that of random weights itself


def test_page_shows_the_runs(trained: tuple[DatasetLayout, str, str]) -> None:
    _, _, html = trained
    text = Page(html).text
    pretraining = html[html.index('id="pretraining"') : html.index('id="finetuning"')]
    finetuning = html[html.index('id="finetuning"') : html.index('id="runs"')]
    assert pretraining.count("<svg") == 4
    assert pretraining.count("<img") == 4 * 3 * 4  # clips; input, masked, predicted; times
    assert finetuning.count("<svg") == 6  # loss, accuracy, three of the pace, confusion
    assert "3 of 4 are right" in text
    assert "chance 25.0 %" in text
    assert "mean of each patch 0.998" in text
    assert "motion_tube 0.9 / 0.75" in text


def test_wrong_answers_are_explained(trained: tuple[DatasetLayout, str, str]) -> None:
    layout, _, html = trained
    finetuning = html[html.index('id="finetuning"') : html.index('id="runs"')]
    wrong = finetuning[finetuning.index("Which tokens support the wrong answers") :]
    wrong, attention = wrong.split("Attention of the encoder")
    run = read_run(layout.runs / "finetune-mofo-mean")
    [scores] = scores_of(run)
    (clip_id,) = confident_mistakes(scores)
    place = scores.clip_id.index(clip_id)
    assert scores.label[place] != scores.predicted[place]
    assert clip_id in wrong and wrong.count("<img") in (2 * 4, 3 * 4)  # input; one class or two
    assert attention.count("<img") == 2 * 2 * 4  # clips; input, weights; times


def test_verbs_and_nouns_have_names_and_matrices_of_their_own(tmp_path: Path) -> None:
    """The labels beside them are actions, of other numbers and names."""
    layout = write_moving_squares(tmp_path)
    add_verbs_and_nouns(layout)
    kinds = ("verb", "noun")
    run = read_run(write_finetune_run(layout, wrong=(1,), kinds=kinds).path)
    wrong = [clip for clip in read_manifest(layout.manifest) if clip.split == "test"][1]
    classes = read_classes(layout.classes)
    verb, noun = scores_of(run)
    assert (verb.kind, noun.kind) == kinds
    assert verb.confusion().shape == (4, 4) and noun.confusion().shape == (3, 3)
    assert verb.confusion()[wrong.verb, int(wrong.verb == 0)] == 1
    html = make_report(layout)[1]
    finetuning = html[html.index('id="finetuning"') : html.index('id="runs"')]
    text = Page(finetuning).text
    for kind, names in (("verb", classes.verb), ("noun", classes.noun)):
        number = getattr(wrong, kind)
        pair = f"true: {names[number]}, predicted: {names[int(number == 0)]}"
        assert text.count(pair) == 2, kind  # among the pairs, and above GradCAM
        assert f"Most confused pairs of {kind}s" in text
        assert f"Clips of split test by true and predicted {kind}. 3 of 4 are right" in text
        assert f"Which tokens support the wrong {kind}s" in text
        assert all(f">{name}</text>" in finetuning for name in names)  # along the axes
    assert "predicted: right" not in text and "predicted: left" not in text
    assert f"chance {100 / 12:.1f} %" in Page(html).text and "verb and noun both right" in html


def test_guessing_of_verbs_and_nouns_is_the_sum_of_both(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=5)
    add_verbs_and_nouns(layout)
    folder = write_finetune_run(layout, kinds=("verb", "noun"), evaluated=False, weights=False)
    section = finetuning_section(Dataset(layout, [], ClassList(), None), read_run(folder.path))
    axes = Figure().subplots()
    section["charts"][0][0].draw(axes)
    levels = [line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1]
    assert levels == [pytest.approx(np.log(4) + np.log(3))]


def test_confident_mistakes_are_of_different_pairs_first(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=60)
    run = read_run(write_finetune_run(layout, wrong=tuple(range(12)), weights=False).path)
    [scores] = scores_of(run)
    pairs = dict(zip(scores.clip_id, zip(scores.label, scores.predicted, strict=True), strict=True))
    chosen = [pairs[clip_id] for clip_id in confident_mistakes(scores, most=12)]
    different = len(set(chosen))
    assert len(chosen) == 12 and different == 4
    assert len(set(chosen[:different])) == different


def test_runs_are_put_side_by_side(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path)
    for method in ("mofo", "random", "videomae"):
        write_pretrain_run(layout, method)
    text = Page(make_report(layout)[1]).text
    assert "All runs see the mask of pretrain-videomae." in text
    assert all(f"pretrain-{name}, loss " in text for name in ("mofo", "random", "videomae"))
    names, rows = option_differences(read_runs(layout.runs)[0])
    assert names == ["pretrain-mofo", "pretrain-random", "pretrain-videomae"]
    differing = dict(rows)
    assert differing["method"] == ["mofo", "random", "videomae"]
    assert differing["mask.inside_ratio"] == ["0.75", "\u2013", "\u2013"]
    assert "mask.mask_ratio" not in differing  # 0.9 for all


@pytest.mark.parametrize(("trajectories", "target", "zeros", "level"), [
    ({}, "displacements of points and histograms of oriented gradients",
     "that nothing moves and even histograms", "rest and even histograms"),
    ({"shape": False}, "displacements of points", "that nothing moves", "rest"),
    ({"positions": False}, "histograms of oriented gradients", "even histograms",
     "even histograms"),
    ({"kind": "flow"}, "flow", "that nothing moves", "rest"),
    ({"kind": "mbh"}, "motion boundary histograms", "even histograms", "even histograms"),
])  # fmt: skip
def test_the_loss_is_named_by_its_target(
    tmp_path: Path, trajectories: dict, target: str, zeros: str, level: str
) -> None:
    layout = write_moving_squares(tmp_path, num_clips=5)
    options = {"weights": False, "level": 0.612, "trajectories": trajectories}
    run = read_run(write_pretrain_run(layout, "mme", **options).path)
    assert run.loss_words == LossWords(target, zeros, level)
    section = pretraining_section(layout, run)
    (chart, caption), *_ = section["charts"]
    assert f"Predicting {zeros} scores 0.612" in section["sentence"]
    assert caption.startswith(f"Mean squared error of {target} over") and zeros in caption
    axes = Figure().subplots()
    chart.draw(axes)
    assert axes.texts[0].get_text() == level
    assert axes.lines[1].get_ydata()[0] == pytest.approx(0.612)


def test_losses_of_one_target_are_put_side_by_side(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=5)
    for method in ("mofo", "videomae", "mme"):
        write_pretrain_run(layout, method, weights=False, level=0.6 if method == "mme" else 0.998)
    charts = comparison_section(read_runs(layout.runs)[0], [])["charts"]
    assert [caption for _, caption in charts] == ["Pretraining loss (normalised pixels) of 2 runs."]
    axes = Figure().subplots()
    charts[0][0].draw(axes)
    assert axes.texts[0].get_text() == "mean of each patch" and len(axes.lines) == 3
    write_pretrain_run(layout, "mme", weights=False, level=0.3, name="pretrain-other")
    charts = comparison_section(read_runs(layout.runs)[0], [])["charts"]
    assert len(charts) == 2
    axes = Figure().subplots()
    charts[0][0].draw(axes)
    assert not axes.texts and len(axes.lines) == 2  # two levels: neither has a line


def test_predicted_tracks_are_shown(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=5)
    add_tracks(layout)
    write_pretrain_run(layout, "mme")
    html = make_report(layout)[1]
    pretraining = html[html.index('id="pretraining"') : html.index('id="finetuning"')]
    assert "true tracks" in pretraining and pretraining.count("<img") == 1 * 2 * 2


def test_page_with_runs_loads_nothing_either(trained: tuple[DatasetLayout, str, str]) -> None:
    _, _, html = trained
    assert "http://" not in html and "https://" not in html and "<script" not in html


def test_box_evaluation_is_shown(trained: tuple[DatasetLayout, str, str]) -> None:
    text = Page(trained[2]).text
    assert "0.712" in text and "full frame 0.141" in text and "320 annotated frames" in text


def test_hostile_names_in_runs(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, names=HOSTILE)
    folder = write_finetune_run(layout, wrong=(0, 1, 2, 3))
    record = json.loads(folder.options.read_text())
    record["command"] = "</pre><script>alert(2)</script>"
    folder.options.write_text(json.dumps(record))
    page = Page(make_report(layout)[1])
    assert not page.all("script")
    assert record["command"] in page.text


def test_unreadable_runs_are_reported(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=5)
    for number, content in enumerate(("{", "[]", '{"options": 3}', "null")):
        folder = write_finetune_run(layout, f"finetune-{number}", evaluated=False)
        folder.options.write_text(content)
    text = Page(make_report(layout)[1]).text
    assert all(f"finetune-{number}" in text for number in range(4))
    assert "There is no finetuned run yet" in text


def test_runs_that_resumed_count_each_step_once_and_all_time(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=5)
    folder = write_pretrain_run(layout, weights=False, steps=10)
    with open(folder.log, "a") as log:
        for step in (9, 10):  # killed after a checkpoint at step 8
            event = {"event": "train", "step": step, "epoch": step / 10, "loss": 0.5}
            log.write(json.dumps(event | {"seconds": 3.0 * (step - 8)}) + "\n")
        log.write('{"event": "tra')  # cut short by a kill
    run = read_run(folder.path)
    assert len(run.curve("loss").x) == 10
    assert run.curve("loss").y[-2:] == [0.5, 0.5]
    assert run.minutes == pytest.approx((20 + 6) / 60)


def test_the_time_of_short_starts_counts(tmp_path: Path) -> None:
    """A run that stops after its first step and continues later, whose first line comes later."""
    layout = write_moving_squares(tmp_path, num_clips=20)
    pretrain(tiny_run(tmp_path, run="short", stop_after=0.0), "mofo")
    folder = pretrain(tiny_run(tmp_path, run="short"), "mofo")
    first, *others = lines = read_jsonl(folder.log)
    assert len({line["started"] for line in others}) == 1
    assert others[0]["started"] > first["started"]
    for line in lines:
        line["seconds"] = 12.0 if line is first else 13.0 + line["step"]
    folder.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    [run] = read_runs(layout.runs)[0]
    seconds = 12 + lines[-1]["seconds"]
    assert run.minutes == pytest.approx(seconds / 60)
    assert hours_of(folder) == pytest.approx(seconds / 3600)


def test_unfinished_runs_say_so(tmp_path: Path) -> None:
    """In the sentence of their section, in the table of all runs, and on top of the page."""
    layout = write_moving_squares(tmp_path, num_clips=5)
    for folder in (
        write_pretrain_run(layout, weights=False),
        write_finetune_run(layout, evaluated=False, weights=False),
    ):
        folder.finished.unlink(missing_ok=True)
        planned = read_run(folder.path).option("config", "epochs")
        kind = "pretraining" if folder.path.name.startswith("pretrain") else "finetuning"
        html = make_report(layout)[1]
        section = Page(html[html.index(f'id="{kind}"') :]).text
        epochs = read_run(folder.path).last("epoch")
        assert f"{epochs:g} of {planned} epochs" in section and "It is not finished." in section
    rows = comparison_section(read_runs(layout.runs)[0], [])["rows"]
    assert [row[1] for row in rows] == ["not finished", "not finished"]
    for name in ("pretrain-mofo", "finetune-mofo-mean"):
        (layout.runs / name / "finished").write_text("{}")
    rows = comparison_section(read_runs(layout.runs)[0], [])["rows"]
    assert [row[1] for row in rows] == ["finished", "finished"]
    assert "It is not finished." not in make_report(layout)[1]


def test_one_step_makes_no_chart(tmp_path: Path) -> None:
    """A single dot is no curve: the section says that there is only one step."""
    layout = write_moving_squares(tmp_path, num_clips=5)
    runs = write_pretrain_run(layout, weights=False), write_finetune_run(layout, weights=False)
    for folder in runs:
        first = folder.log.read_text().splitlines()[0]
        folder.log.write_text(first + "\n")
    pretrained, finetuned = (read_run(folder.path) for folder in runs)
    sections = [
        pretraining_section(layout, pretrained),
        finetuning_section(Dataset(layout, [], ClassList(), None), finetuned),
    ]
    for section, run in zip(sections, (pretrained, finetuned), strict=True):
        assert section["charts"] == [] and "pace" not in section
        assert any(run.name in line and "one step" in line for line in section["missing"])
    write_pretrain_run(layout, "videomae", weights=False, steps=1)
    assert comparison_section(read_runs(layout.runs)[0], [])["charts"] == []


def test_one_validation_makes_no_chart(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=5)
    folder = write_finetune_run(layout, weights=False)
    lines = folder.log.read_text().splitlines()
    validations = [line for line in lines if '"validate"' in line]
    folder.log.write_text("\n".join(line for line in lines if line not in validations[1:]) + "\n")
    section = finetuning_section(Dataset(layout, [], ClassList(), None), read_run(folder.path))
    assert [chart.title for chart, _ in section["charts"]] == ["Finetuning loss"]


def test_confused_pairs_are_the_largest_off_the_diagonal() -> None:
    matrix = np.array([[9, 2, 0], [0, 5, 4], [1, 0, 0]])
    assert confused_pairs(matrix, most=2) == [(1, 2, 4), (0, 1, 2)]
    assert confused_pairs(np.diag([3, 4])) == []


@pytest.mark.parametrize(("method", "sentence"), [
    ("mofo", "hides 90 % of all patches, and 75 % of those in the box"),
    ("videomae", "hides 90 % of all patches (settings of run pretrain-videomae)"),
])  # fmt: skip
def test_samples_are_masked_as_in_the_run(tmp_path: Path, method: str, sentence: str) -> None:
    layout = write_moving_squares(tmp_path, num_clips=5)
    run = read_run(write_pretrain_run(layout, method, weights=False).path)
    settings = mask_settings(run)
    assert (settings.image_size, settings.patch_size, settings.mask_ratio) == (64, 16, 0.9)
    assert settings.inside_ratio == (0.75 if method == "mofo" else None)
    html = make_report(layout)[1]
    assert sentence in " ".join(Page(html).text.split())
    assert "2 of 16 patches" in html
