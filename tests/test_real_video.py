"""The benchmark on real clips: folds by source, equal compute, paired intervals, its plan."""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from errors import refused, refuses
from hypothesis import given
from hypothesis import strategies as st
from video_fixtures import render_video

from benchmarks import real_video, real_video_plan, real_video_record
from benchmarks.paired_bootstrap import Resampler
from benchmarks.real_boxes import exchanged, read_person_boxes, something_else
from benchmarks.real_clips import (
    count_clips,
    count_labelled,
    make_fold,
    read_labels,
    read_sources,
    write_clip_list,
)
from benchmarks.real_video_cells import ALL, MEASURES, METHODS, flops_of_clip, plan_cells
from benchmarks.real_video_plan import list_trainings
from benchmarks.real_video_record import FinishedCells
from benchmarks.real_video_scores import Results, ScoredClips, score_file
from benchmarks.real_video_tables import efficiency_curves, tables, write_results
from shared.layout import DatasetLayout
from shared.manifest import read_classes, read_manifest, write_classes, write_manifest
from train.evaluation.score_files import write_scores

CLASSES = ("jump", "run")
FOLDS, PER_FOLD = 4, 3


@pytest.fixture
def actions(tmp_path):
    """A folder like that of the samples: labels.csv, and empty videos of the hockey clips."""
    folder = tmp_path / "actions"
    (folder / "jhmdb21").mkdir(parents=True)
    rows = [
        {"path": f"videos/{name}/{name}{fold}{number}.mp4", "label": name,
         "group": f"{name}{fold}", "fold": fold, "frames": 40}
        for name in CLASSES for fold in range(FOLDS) for number in range(PER_FOLD)
    ]  # fmt: skip
    with open(folder / "jhmdb21" / "labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    for name in ("fight", "nofight"):
        (folder / "hockey" / "videos" / name).mkdir(parents=True)
        (folder / "hockey" / "videos" / name / "1.mp4").touch()
    return folder


@pytest.fixture
def clips(actions, tmp_path):
    """The dataset of all clips, with a manifest and no shards."""
    layout = DatasetLayout(tmp_path / "out", "clips")
    listed = write_clip_list(actions, layout.root / "list", hockey=True)
    write_manifest(layout.manifest, read_manifest(listed))
    write_classes(layout.classes, read_classes(listed.with_name("classes.json")))
    layout.frames.mkdir()
    return layout


def test_a_fold_tests_its_own_sources_and_trains_on_all_others(actions, clips):
    sources = read_sources(actions)
    layout = make_fold(clips, actions, 2)
    splits = {clip.clip_id: clip.split for clip in read_manifest(layout.manifest)}
    tested = {clip_id for clip_id, split in splits.items() if split == "test"}
    assert len(tested) == len(CLASSES) * PER_FOLD and set(splits.values()) == {"train", "test"}
    rest = {sources[clip_id] for clip_id in set(sources) - tested}
    assert not {sources[clip_id] for clip_id in tested} & rest
    assert count_clips(layout) == len(CLASSES) * 3 * PER_FOLD + 2  # the hockey clips too
    assert count_labelled(layout, ALL) == len(CLASSES) * 3 * PER_FOLD
    assert count_labelled(layout, 5) == len(CLASSES) * 5
    assert layout.frames.resolve() == clips.frames.resolve() and not layout.boxes.exists()


def test_the_fold_of_choices_has_no_test_clips(actions, clips):
    layout = make_fold(clips, actions, 0)
    assert {clip.split for clip in read_manifest(layout.manifest)} == {"train", "val"}


def test_a_folder_without_labels_is_refused(tmp_path):
    with refuses("missing-file", "labels.csv", tmp_path):
        read_labels(tmp_path)


# --------------------------------------------------------------------------------------------------
# Annotated boxes


def test_annotated_boxes_are_in_pixels_of_the_copy(actions, tmp_path):
    rows = ["clip,frame,x1,y1,x2,y2"]
    for row in read_labels(actions)[:2]:
        path = actions / "jhmdb21" / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        render_video(path, 3, size=(160, 120))
        rows += [f"{row['label']}/{path.stem},{frame},32,24,64,{48 + frame}" for frame in (0, 1)]
    (tmp_path / "boxes.csv").write_text("\n".join(rows) + "\n")
    found = read_person_boxes(tmp_path / "boxes.csv", actions)
    assert list(found) == ["jump/jump00", "jump/jump01"]
    assert found["jump/jump00"].tolist() == [[16, 12, 32, 24], [16, 12, 32, 24.5]]
    [first, second] = something_else(found)["jump/jump00"]
    assert (first["name"], second["labels"][0]["box2d"]["y2"]) == ("0001.jpg", 24.5)
    with refuses("missing-file", tmp_path / "none.csv"):
        read_person_boxes(tmp_path / "none.csv", actions)


def test_exchanged_boxes_are_of_another_source_and_fit_the_length():
    sources = {f"{number}": f"source {number // 3}" for number in range(12)}
    boxes = {
        clip_id: int(clip_id) + np.tile(np.arange(4 + int(clip_id) % 3)[:, None] / 100, 4)
        for clip_id in sources
    }
    found = exchanged(boxes, sources)
    givers = {clip_id: str(int(each[0, 0])) for clip_id, each in found.items()}
    assert sorted(givers.values()) == sorted(sources)
    assert all(sources[clip_id] != sources[giver] for clip_id, giver in givers.items())
    for clip_id, each in found.items():
        assert len(each) == len(boxes[clip_id]) and (np.diff(each[:, 0]) >= 0).all()


# --------------------------------------------------------------------------------------------------
# Cells


def test_pretrainings_of_all_methods_take_the_same_compute():
    budget, count = 20e12, 696
    cells = plan_cells(tuple(METHODS), (1,), (0,), (10,), ("finetune",), {1: count}, budget)
    pretrainings = [cell.pretraining for cell in cells if cell.pretraining is not None]
    assert len(pretrainings) == len(METHODS) - 1
    for each in pretrainings:
        assert abs(each.flops - budget) <= each.clip_flops * count / 2  # rounded to an epoch


def test_a_mask_that_hides_more_makes_a_clip_cheaper():
    assert flops_of_clip("videomae") < flops_of_clip("smm")


def test_no_two_cells_share_a_run():
    counts = {1: 696, 2: 697}
    cells = list(plan_cells(tuple(METHODS), (1, 2), (0, 1), (5, ALL), MEASURES, counts, 20e12))
    runs = {(cell.fold, cell.run) for cell in cells}
    assert len(runs) == len(cells)
    probed = {cell.key for cell in cells if cell.is_probe}
    assert probed == set(METHODS) - {"mofo-mca"}  # a probe has no head


def test_rows_that_differ_after_pretraining_share_it(actions, clips):
    layouts = {1: make_fold(clips, actions, 1)}
    cells = list(
        plan_cells(("mofo", "mofo-mca"), (1,), (0,), (5, 10), ("finetune",), {1: 20}, 1e12)
    )
    kinds = [training.kind for training in list_trainings(cells, layouts)]
    assert sum(kind.startswith("pretrain") for kind in kinds) == 1 and len(kinds) == 1 + 4


def test_labels_of_probes_are_drawn_several_times():
    plan = (("random",), (1,), (0, 1), (5, ALL), ("probe", "finetune"), {1: 20}, 1e12, 3)
    cells = list(plan_cells(*plan))
    assert len({cell.run for cell in cells}) == len(cells) == 2 * (3 + 1 + 1 + 1)
    few = [cell for cell in cells if cell.is_probe and cell.labels == 5]
    assert [cell.draw for cell in few] == [0, 1, 2] * 2
    assert len({cell.label_seed for cell in few}) == len(few)
    # The first draw is the cell of a benchmark with one.
    first = [cell for cell in cells if cell.draw == 0]
    assert first == list(plan_cells(*plan[:-1]))


def test_a_clip_counts_with_the_share_of_draws_that_are_right():
    results = Results({"a": "one", "b": "two"})
    plan = (("random", "velocity"), (1,), (0,), (5,), ("probe",), {1: 20}, 1e12, 2)
    right = {("random", 0): [0, 1], ("random", 1): [0, 1], ("velocity", 0): [1, 1],
             ("velocity", 1): [1, 0]}  # fmt: skip
    for cell in plan_cells(*plan):
        correct = np.array(right[cell.key, cell.draw], bool)
        results.add(cell, ScoredClips(["a", "b"], np.array([0, 1]), correct), 10)
    ours, random = ("velocity", 5, "probe"), ("random", 5, "probe")
    assert results.accuracies(ours).top1.value == 75  # 1 and 0.5
    assert results.difference(ours, random).top1.value == 25


def test_the_plan_is_printed_before_anything_runs(actions, clips):
    out = str(clips.out)
    clips.root.rename(clips.out / "jhmdb")
    options = ["--videos", str(actions), "--out", out, "--plan", "--methods", "random,velocity"]
    shown = CliRunner().invoke(real_video.main, options)
    assert shown.exit_code == 0, shown.output
    assert "pretrain velocity" in shown.output and "72 figures, 0 of them finished" in shown.output
    assert not list(clips.out.glob("*/runs"))


def test_mistakes_are_refused_before_anything_runs(actions, tmp_path):
    def run(*options):
        given = ["--videos", str(actions), "--out", str(tmp_path / "none"), *options]
        return CliRunner().invoke(real_video.main, given)

    refused(run("--methods", "mofoo"), "unknown-name", "mofoo", "velocity")
    refused(run("--folds", "4"), "unknown-name", "4", "0, 1, 2, 3")
    refused(run("--labels", "few"), "bad-setting", "few")
    refused(run("--methods", "mofo-others"), "missing-option", "mofo-others", "--boxes")
    assert not (tmp_path / "none").exists()


# --------------------------------------------------------------------------------------------------
# Intervals


@given(st.integers(0, 2**32 - 1))
def test_the_value_is_the_accuracy_and_lies_in_the_interval(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 40))
    sources, classes = rng.integers(5, size=count), rng.integers(3, size=count)
    correct, other = rng.random((2, count)) < 0.4
    resampler = Resampler(sources, classes, resamples=50)
    found = resampler.accuracies(correct)
    assert found.top1.value == pytest.approx(100 * correct.mean())
    means = [correct[classes == each].mean() for each in np.unique(classes)]
    assert found.mean_class.value == pytest.approx(100 * np.mean(means))
    assert 0 <= found.top1.low <= found.top1.high <= 100
    difference = resampler.difference(correct, other)
    expected = found.top1.value - resampler.accuracies(other).top1.value
    assert difference.top1.value == pytest.approx(expected)


def test_a_method_does_not_differ_from_itself():
    correct = np.arange(60) % 3 == 0
    resampler = Resampler(np.arange(60) // 4, np.arange(60) % 5, 50)
    found = resampler.difference(correct, correct).top1
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_clips_of_one_source_count_as_one_observation():
    """The same accuracy, but of 4 sources instead of 400: the interval must be much wider."""
    correct, classes = np.repeat([1.0, 0.0, 1.0, 0.0], 100), np.zeros(400, int)
    of_source = Resampler(np.arange(400) // 100, classes, 200).accuracies(correct).top1
    of_clip = Resampler(np.arange(400), classes, 200).accuracies(correct).top1
    assert of_source.value == of_clip.value == 50
    assert of_source.high - of_source.low > 5 * (of_clip.high - of_clip.low)


# --------------------------------------------------------------------------------------------------
# Tables


def test_tables_have_differences_and_name_what_is_missing(actions, tmp_path):
    sources = read_sources(actions)
    ids = sorted(sources)
    labels = np.array([CLASSES.index(clip_id.partition("/")[0]) for clip_id in ids])
    results = Results(sources)
    share = {"random": 4, "velocity": 2}
    for cell in plan_cells(tuple(share), (1,), (0,), (5, ALL), ("probe",), {1: 18}, 1e12):
        correct = np.arange(len(ids)) % share[cell.key] == 0
        results.add(cell, ScoredClips(ids, labels, correct), 10 if cell.labels else 18)
    missing = [{"fold": 2, "method": "mofo", "seed": 0, "labels_per_class": 5, "measure": "probe"}]
    cost = {"epochs": 15, "clips_seen": 10455, "teraflops": 3.36, "hours": 0.05, "threads": 1,
            "runs": 1}  # fmt: skip
    setting = {"command": "python", "folds": [1], "seeds": [0], "teraflops": 1.0,
               "pretrainings": {"velocity": cost}}  # fmt: skip
    path = tmp_path / "real.json"
    write_results(results, missing, setting, path)
    content = json.loads(path.read_text())
    [few] = [
        row for row in content["rows"]
        if row["method"] == "velocity" and row["labels_per_class"] == 5
    ]  # fmt: skip
    assert few["top1"]["value"] == 50 and few["minus_random"]["top1"]["value"] == 25
    assert "minus_videomae" not in few  # VideoMAE has no figure yet
    assert "| 5 | velocities | 1 x 1 x 1 | 50.0 [" in path.with_suffix(".md").read_text()
    assert "[real.json](real.json)" in tables(content, path.name)
    assert "Not run yet: 1 cells" in tables(content, path.name)
    assert "| velocities | 15 | 10,455 | 3.36 | 1 | 3.0 |" in tables(content, path.name)
    assert efficiency_curves(content, "probe").startswith(b"\x89PNG")
    assert (tmp_path / "real-probe.png").is_file()


def test_finished_cells_outlive_their_runs(actions, clips, tmp_path):
    layout, file = make_fold(clips, actions, 1), tmp_path / "cells.json"
    cells = list(plan_cells(("random", "velocity"), (1,), (0,), (5,), ("probe",), {1: 20}, 1e12))
    [random, velocity] = cells
    tested = {each.clip_id: each.label for each in read_manifest(layout.manifest)
              if each.split == "test"}  # fmt: skip
    ids = sorted(tested, reverse=True)
    labels = np.array([tested[clip_id] for clip_id in ids])
    correct = np.arange(len(ids)) % 3 == 0
    record = FinishedCells(file, "dis")
    record.add(layout, velocity, ScoredClips(ids, labels, correct))
    record.add_cost(layout, velocity.pretraining, {"hours": 0.5})
    record.add(layout, random, ScoredClips(ids, labels, ~correct))
    record.write()

    again = FinishedCells(file, "dis")
    found = again.tested(layout, velocity)
    assert found.clip_ids == ids[::-1] and found.correct.tolist() == correct[::-1].tolist()
    assert found.labels.tolist() == labels[::-1].tolist()
    assert again.cost(layout, velocity.pretraining) == {"hours": 0.5}
    assert FinishedCells(file, "tvl1").tested(layout, velocity) is None  # other flow
    in_bf16 = FinishedCells(file, "dis", "bf16")
    assert in_bf16.tested(layout, velocity) is None  # other precision
    assert in_bf16.cost(layout, velocity.pretraining) is None
    assert in_bf16.tested(layout, random) is not None  # a probe of random weights trains in neither
    more = plan_cells(("velocity",), (1,), (0,), (5,), ("probe",), {1: 20}, 3e12)
    assert again.tested(layout, next(more)) is None  # more compute
    file.write_text(file.read_text()[:40])
    with refuses("damaged-file", file):
        FinishedCells(file, "dis")


def test_a_changed_recipe_makes_cells_unfinished(actions, clips, tmp_path, monkeypatch):
    layout = make_fold(clips, actions, 1)
    [cell] = plan_cells(("velocity",), (1,), (0,), (5,), ("probe",), {1: 20}, 1e12)
    ids = sorted(read_sources(actions))
    tested = ScoredClips(ids, np.zeros(len(ids), int), np.ones(len(ids), bool))
    record = FinishedCells(tmp_path / "cells.json", "dis")
    record.add(layout, cell, tested)
    assert record.tested(layout, cell) is not None
    recipe = real_video_record.RECIPE
    other = tmp_path / "other.toml"
    other.write_text(recipe.read_text().replace("image_size = 96", "image_size = 120"))
    monkeypatch.setattr(real_video_record, "RECIPE", other)
    assert record.tested(layout, cell) is None


def test_a_run_of_other_options_is_not_taken_for_the_cell(actions, clips, tmp_path):
    """The name of a run does not say with which precision, flow or recipe it was made."""
    layout, file = make_fold(clips, actions, 1), tmp_path / "cells.json"
    [cell] = plan_cells(("velocity",), (1,), (0,), (5,), ("probe",), {1: 20}, 1e12)
    tested = [each for each in read_manifest(layout.manifest) if each.split == "test"]
    path = score_file(layout, cell)
    path.parent.mkdir(parents=True)
    (layout.runs / cell.pretraining.run).mkdir()
    ids = [each.clip_id for each in tested]
    labels = np.array([each.label for each in tested])
    scores = np.eye(len(CLASSES), dtype=np.float32)[labels]
    table = SimpleNamespace(ids=np.array(ids, "S64"), labels={"label": labels})
    write_scores(path, table, {"label": scores})
    record = FinishedCells(file, "dis", "fp32")
    assert record.tested(layout, cell) is None  # a run that somebody made by hand
    record.mark(layout, cell)
    assert record.tested(layout, cell).correct.all()
    key = record.pretraining_key(layout, cell.pretraining)
    assert record.is_marked(layout, cell.pretraining.run, key)
    for flow, precision in (("dis", "bf16"), ("tvl1", "fp32"), ("dis", "auto")):
        assert FinishedCells(file, flow, precision).tested(layout, cell) is None


def test_a_changed_test_makes_finetuned_cells_unfinished(actions, clips, tmp_path, monkeypatch):
    layout = make_fold(clips, actions, 1)
    plan = (("velocity",), (1,), (0,), (5,), ("probe", "finetune"), {1: 20}, 1e12)
    [probed, finetuned] = plan_cells(*plan)
    ids = sorted(read_sources(actions))
    tested = ScoredClips(ids, np.zeros(len(ids), int), np.ones(len(ids), bool))
    record = FinishedCells(tmp_path / "cells.json", "dis")
    for cell in (probed, finetuned):
        record.add(layout, cell, tested)
    other = tmp_path / "other.toml"
    other.write_text(real_video_record.RECIPE.read_text().replace("crops = 1", "crops = 3"))
    monkeypatch.setattr(real_video_record, "RECIPE", other)
    assert record.tested(layout, probed) is not None and record.tested(layout, finetuned) is None


def test_two_benchmarks_keep_each_others_cells(actions, clips, tmp_path):
    layout, file = make_fold(clips, actions, 1), tmp_path / "cells.json"
    cells = list(plan_cells(("random", "velocity"), (1,), (0,), (5,), ("probe",), {1: 20}, 1e12))
    ids = sorted(read_sources(actions))
    tested = ScoredClips(ids, np.zeros(len(ids), int), np.ones(len(ids), bool))
    records = [FinishedCells(file, "dis") for _ in cells]
    for record, cell in zip(records, cells, strict=True):
        record.add(layout, cell, tested)
        record.write()
    assert all(FinishedCells(file, "dis").tested(layout, cell) for cell in cells)


def test_a_plan_has_the_speed_of_what_has_finished(actions, clips, monkeypatch):
    layouts = {fold: make_fold(clips, actions, fold) for fold in (1, 2)}
    plan = (("velocity",), (1, 2), (0,), (5,), ("probe",), {1: 20, 2: 20}, 1e12)
    cells = list(plan_cells(*plan))
    fast = layouts[1].runs / cells[0].pretraining.run
    monkeypatch.setattr(
        real_video_plan, "_hours", lambda folder: 0.5 if folder.path == fast else None
    )
    [line] = [
        line for line in real_video_plan.plan_text(cells, cells[1:], layouts).splitlines()
        if line.startswith("pretrain velocity")
    ]  # fmt: skip
    assert line.split()[-4:] == [f"{cells[1].pretraining.flops / 1e12:.2f}", "0.50", "0", "0.50"]


@pytest.mark.slow
def test_a_stopped_benchmark_continues_and_ends_with_a_table(actions, tmp_path):
    """From videos to the table, on rendered clips; the second call computes nothing again."""
    for number, row in enumerate(read_labels(actions)):
        path = actions / "jhmdb21" / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        render_video(path, 20, rate=10 + number)
    options = ["--videos", str(actions), "--out", str(tmp_path / "out"), "--folds", "1",
               "--methods", "random,velocity", "--labels", "all", "--measures", "probe",
               "--teraflops", "0.01", "--pool", "in-process",
               "--finished", str(tmp_path / "cells.json"),
               "--results", str(tmp_path / "real.json")]  # fmt: skip
    before = CliRunner().invoke(real_video.main, [*options, "--only-tables"])
    assert before.exit_code == 0 and "Not run yet: 2 cells" in before.output
    first = CliRunner().invoke(real_video.main, options)
    assert first.exit_code == 0, first.output
    assert json.loads((tmp_path / "real.json").read_text())["missing"] == []
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("finished")}
    again = CliRunner().invoke(real_video.main, options)
    assert again.exit_code == 0 and "2 figures, 2 of them finished" in again.output
    assert finished == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("finished")}
    rows = json.loads((tmp_path / "real.json").read_text())["rows"]
    shutil.rmtree(tmp_path / "out")  # as on another machine: nothing is trained or decoded
    elsewhere = CliRunner().invoke(real_video.main, options)
    assert elsewhere.exit_code == 0 and "2 figures, 2 of them finished" in elsewhere.output
    assert not list((tmp_path / "out").rglob("*.h5"))
    assert json.loads((tmp_path / "real.json").read_text())["rows"] == rows
