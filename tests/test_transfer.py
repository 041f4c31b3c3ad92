"""A run on clips of another dataset, on some classes, and on EPIC-KITCHENS-100's lists."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from errors import refuses
from run_fixtures import add_verbs_and_nouns
from shard_fixtures import write_moving_squares
from training_fixtures import tiny_run

from shared.layout import DatasetLayout
from shared.manifest import read_classes, read_manifest, write_classes
from train.clips.table import read_clip_table
from train.evaluate import Clips, evaluate, main
from train.evaluation.class_map import match_names, read_class_map
from train.evaluation.epic_lists import read_epic_lists
from train.evaluation.metrics import accuracy
from train.finetune import finetune
from train.pictures.charts import confusion_chart
from train.running.finetune_inputs import run_name
from train.running.run_folder import RunFolder
from train.weights.exchange import import_weights


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    write_moving_squares(folder, num_clips=40)
    write_moving_squares(
        folder, "others", num_clips=60, names=["To the Left", "RIGHT", "_up", "down-wards"]
    )
    return folder


@pytest.fixture(scope="module")
def finetuned(out) -> RunFolder:
    return finetune(tiny_run(out, epochs=1, batch_size=8), "mean", "none")


def class_map(folder: Path, *rows: str) -> Path:
    path = folder / "few.csv"
    path.write_text("class,stands_for\n" + "\n".join(rows))
    return path


def read_scores(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    with h5py.File(path) as file:
        ids = [clip_id.decode() for clip_id in file["/clip/id"][:]]
        return ids, file["/label/probability"][:], file["/label/label"][:]


# ---------------------------------------------------------------------------------------------
# Other clips, other classes
# ---------------------------------------------------------------------------------------------


def test_classes_that_the_target_lacks_stay_in_the_running():
    """The third class is the likeliest and the target lacks it, so the clip counts as wrong."""
    found = match_names(["a", "b", "x", "y"], ["a", "b"])
    scores = np.array([[0.10, 0.05, 0.80, 0.05], [0.60, 0.05, 0.20, 0.15]], np.float32)
    labels = {"label": np.array([0, 0])}
    assert found.others == ("x", "y") and found.columns() == ["a", "b", "x", "y"]
    kept = found.regroup(scores)
    assert np.array_equal(kept, scores)
    figures = accuracy({"label": kept}, labels)
    assert figures["top1"] == figures["mean_class_accuracy"] == 50.0
    among = found.regroup(scores, among_tested=True)
    assert found.columns(among_tested=True) == ["a", "b"]
    assert np.allclose(among, [[2 / 3, 1 / 3], [12 / 13, 1 / 13]])
    assert accuracy({"label": among}, labels)["top1"] == 100.0


def test_a_class_that_the_target_lacks_wins_even_if_it_comes_first():
    found = match_names(["x", "a", "y", "b"], ["b", "a"])
    scores = np.array([[0.4, 0.1, 0.2, 0.3]], np.float32)
    assert found.columns() == ["b", "a", "x", "y"]
    assert np.allclose(found.regroup(scores), [[0.3, 0.1, 0.4, 0.2]])


@pytest.mark.parametrize("among_tested", [False, True])
def test_classes_that_stand_for_others_are_added_up(out, finetuned, tmp_path, among_tested):
    """left and right of the run stand for "RIGHT" of the clips, up for "_up"; down for none."""
    own, other = DatasetLayout(out, "squares"), DatasetLayout(out, "others")
    path = class_map(tmp_path, "left,RIGHT", "right,RIGHT", "up,_up")
    tested = Clips(other, path, among_tested=among_tested)
    metrics = evaluate(own, finetuned, {}, 0, "cpu", clips=tested)
    assert metrics["classes"] == ["RIGHT", "_up"] and metrics["dataset"] == "others"
    assert metrics["among_target_classes"] is among_tested
    assert metrics.get("other_classes") == (None if among_tested else ["down"])
    ids, scores, labels = read_scores(finetuned.scores("test-others-few"))
    clips = {clip.clip_id: clip for clip in read_manifest(other.manifest)}
    assert ids == [n for n, c in clips.items() if c.split == "test" and c.label in (1, 2)]
    assert labels.tolist() == [clips[name].label - 1 for name in ids]

    # The same clips with all classes, joined by hand.
    names = read_classes(other.classes)
    write_classes(other.classes, replace(names, label=["left", "right", "up", "down"]))
    try:
        evaluate(own, finetuned, {}, 0, "cpu", clips=Clips(other))
    finally:
        write_classes(other.classes, names)
    all_ids, whole, _ = read_scores(finetuned.scores("test-others"))
    for name, row in zip(ids, scores, strict=True):
        each = whole[all_ids.index(name)]
        joined = np.array([each[0] + each[1], each[2], each[3]][: 2 if among_tested else 3])
        assert np.allclose(row, joined / joined.sum(), atol=1e-5)
    assert metrics["top1"] == pytest.approx(100 * np.mean(scores.argmax(1) == labels))
    assert json.loads(finetuned.metrics("test-others-few").read_text()) == metrics
    for name in ("test-others-few", "test-others"):
        assert cv2.imread(str(finetuned.confusion(name))).std() > 5


def test_some_classes_of_its_own_clips(out, finetuned, tmp_path):
    layout = DatasetLayout(out, "squares")
    path = class_map(tmp_path, "left,left", "down,down")
    metrics = evaluate(layout, finetuned, {}, 0, "cpu", clips=Clips(layout, path))
    _, scores, labels = read_scores(finetuned.scores("test-few"))
    assert scores.shape == (4, 4) and sorted(set(labels)) == [0, 1] and metrics["clips"] == 4
    # The other question is another evaluation: its figures are not taken from the first.
    among = Clips(layout, path, among_tested=True)
    evaluate(layout, finetuned, {}, 0, "cpu", clips=among)
    assert read_scores(finetuned.scores("test-few"))[1].shape == (4, 2)


def test_the_picture_of_an_evaluation_names_its_own_classes(out, finetuned, tmp_path, monkeypatch):
    """Of a class map the tested ones, then the others; drawn again where the picture is missing."""
    drawn = []

    def draw(matrix, names, title):
        drawn.append((matrix, names))
        return confusion_chart(matrix, names, title)

    monkeypatch.setattr("train.pictures.confusion.confusion_chart", draw)
    layout = DatasetLayout(out, "squares")
    clips = Clips(layout, class_map(tmp_path, "left,left", "down,down"))
    finetuned.metrics("val-few").unlink(missing_ok=True)
    for _ in range(2):
        evaluate(layout, finetuned, {"split": "val"}, 0, "cpu", clips=clips)
    assert [names for _, names in drawn] == [["left", "down", "right", "up"]]
    assert drawn[0][0].shape == (4, 4)
    finetuned.confusion("val-few").unlink()
    evaluate(layout, finetuned, {"split": "val"}, 0, "cpu", clips=clips)
    assert len(drawn) == 2 and finetuned.confusion("val-few").is_file()
    evaluate(layout, finetuned, {"split": "val"}, 0, "cpu")
    assert drawn[2][1] == ["left", "right", "up", "down"]
    assert finetuned.confusion("val").is_file()


def test_choosing_among_target_classes_needs_a_target(out):
    result = CliRunner().invoke(main, ["--out", str(out), "--among-target-classes"])
    assert result.exit_code and "[option-needs-another]" in result.output
    assert "--on" in result.output and "--class-map" in result.output


def test_names_match_whatever_their_writing():
    found = match_names(["Hand Stand", "dive", "x"], ["Dive", "hand_stand", "fall"])
    assert found.names == ("Dive", "hand_stand")
    assert found.tested_of.tolist() == [1, 0, -1] and found.label_of.tolist() == [0, 1, -1]
    with refuses("too-few-clips", "1 tested class", "--class-map"):
        match_names(["dive", "x"], ["Dive", "y"])
    # Letters of every alphabet tell classes apart.
    found = match_names(["跑", "跳", "Été", "कि"], ["跳", "été", "की"])
    assert found.names == ("跳", "été") and found.tested_of.tolist() == [-1, 0, 1, -1]
    with refuses("duplicate", "'dive' and 'Dive!'", "--class-map"):
        match_names(["dive", "x"], ["dive", "Dive!", "x"])


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("class,other\na,b", "missing-key", ("class,stands_for",)),
        ("class,stands_for\na,b\nc,d", "unknown-name", ("row 3", "'c'", "a, b")),
        ("class,stands_for\na,z", "unknown-name", ("row 2", "'z'", "b, d")),
        ("class,stands_for\na,b\na,d", "duplicate", ("row 3", "'a'")),
        ("class,stands_for\na,b\n", "too-few-clips", ("1 tested class",)),
    ],
)
def test_a_wrong_class_map_is_refused(tmp_path, text, code, named):
    path = tmp_path / "map.csv"
    path.write_text(text)
    with refuses(code, path, *named):
        read_class_map(path, ["a", "b"], ["b", "d"])
    with refuses("missing-file", tmp_path / "no.csv"):
        read_class_map(tmp_path / "no.csv", ["a"], ["b"])


def test_a_run_continues_with_another_dataset(out, finetuned):
    """Finetuned again on other clips: the encoder is that of the first run's best weights."""
    run = tiny_run(out, "optim.base_learning_rate=1e-12", epochs=1, run="transferred")
    source = f"{out}/squares/runs/{finetuned.path.name}"
    folder = finetune(replace(run, dataset="others"), "mean", source)
    assert folder.path.parent == out / "others" / "runs"
    before = import_weights(finetuned.best_weights).state_dict
    after = import_weights(folder.weights).state_dict
    kept = [name for name in after if name.startswith("encoder.")]
    assert len(kept) > 20
    assert all(np.allclose(before[name], after[name], atol=1e-6) for name in kept)
    assert run_name(source, "mca") == "finetune-squares-scratch-mean-mca"


# ---------------------------------------------------------------------------------------------
# EPIC-KITCHENS-100
# ---------------------------------------------------------------------------------------------


@pytest.fixture
def lists(tmp_path) -> Path:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "EPIC_100_tail_verbs.csv").write_text("verb,key\n2,fold\n3,peel\n")
    (folder / "EPIC_100_tail_nouns.csv").write_text("noun,key\n1,lid\n")
    unseen = "EPIC_100_unseen_participant_ids_validation.csv"
    (folder / unseen).write_text("participant_id\nP18\nP32\n")
    return folder


def test_tail_and_unseen_figures_are_those_of_their_clips(lists):
    rng = np.random.default_rng(0)
    scores = {"verb": rng.dirichlet(np.ones(7), 90), "noun": rng.dirichlet(np.ones(6), 90)}
    labels = {"verb": rng.integers(0, 7, 90), "noun": rng.integers(0, 6, 90)}
    people = rng.choice(["P01", "P18", "P32", "P180"], 90)
    ids = np.array([f"{one}_0{i % 9}_{i}".encode() for i, one in enumerate(people)], "S64")
    found = read_epic_lists(lists, "val").figures(scores, labels, ids)

    def right(kind: str, row: int, k: int) -> bool:
        if kind != "action":
            return labels[kind][row] in np.argsort(-scores[kind][row])[:k]
        pairs = np.outer(scores["verb"][row], scores["noun"][row])
        own = pairs[labels["verb"][row], labels["noun"][row]]
        return int((pairs > own).sum()) < k

    groups = {
        "tail_verb": ("verb", [r for r in range(90) if labels["verb"][r] in (2, 3)]),
        "tail_noun": ("noun", [r for r in range(90) if labels["noun"][r] == 1]),
        "tail": (
            "action",
            [r for r in range(90) if labels["verb"][r] in (2, 3) or labels["noun"][r] == 1],
        ),
    }
    unseen = [r for r in range(90) if people[r] in ("P18", "P32")]
    groups |= {"unseen_verb": ("verb", unseen), "unseen_noun": ("noun", unseen)}
    groups |= {"unseen": ("action", unseen)}
    for title, (kind, rows) in groups.items():
        for k in (1, 5):
            expected = 100 * np.mean([right(kind, row, k) for row in rows])
            assert found[f"{title}_top{k}"] == pytest.approx(expected), title
    assert len(found) == 12


def test_lists_that_lack_or_are_wrong(lists, tmp_path):
    with refuses("missing-file", tmp_path, "EPIC_100_tail_verbs.csv"):
        read_epic_lists(tmp_path, "val")
    (lists / "EPIC_100_tail_nouns.csv").unlink()
    part = read_epic_lists(lists, "test")  # no list of unseen participants of split test
    assert part.tail == {"verb": {2, 3}} and not part.unseen
    (lists / "EPIC_100_tail_verbs.csv").write_text("verb,key\nfold,fold\n")
    with refuses("wrong-type", lists / "EPIC_100_tail_verbs.csv", "verb"):
        read_epic_lists(lists, "val")
    (lists / "EPIC_100_tail_verbs.csv").write_text("class,key\n1,fold\n")
    with refuses("missing-key", lists / "EPIC_100_tail_verbs.csv", "verb", "class, key"):
        read_epic_lists(lists, "val")


def test_a_run_with_verbs_and_nouns(tmp_path, lists):
    """Trained, evaluated with the lists; figures agree with the scores that were written."""
    layout = write_moving_squares(tmp_path, num_clips=40)
    add_verbs_and_nouns(layout)
    run = tiny_run(tmp_path, 'labels=["verb","noun"]', "flips=[]", epochs=1, batch_size=8)
    folder = finetune(run, "mean", "none")
    metrics = evaluate(layout, folder, {}, 0, "cpu", clips=Clips(layout, epic_lists=lists))
    with h5py.File(folder.scores("test")) as file:
        scores = {kind: file[f"/{kind}/probability"][:] for kind in ("verb", "noun")}
        labels = {kind: file[f"/{kind}/label"][:] for kind in ("verb", "noun")}
    expected = accuracy(scores, labels)
    assert {"top1", "top5", "verb_top1", "noun_top5"} <= expected.keys()
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert "tail_verb_top1" in metrics and "unseen_top1" not in metrics  # nobody is P18

    for kind in ("verb", "noun"):
        assert cv2.imread(str(folder.confusion("test", kind))).std() > 5
    assert not folder.confusion("test").exists()

    # Figures are made again where only the lists have changed, and only then.
    written = folder.metrics("test").stat().st_mtime_ns
    again = evaluate(layout, folder, {}, 0, "cpu", clips=Clips(layout, epic_lists=lists))
    assert again == metrics and folder.metrics("test").stat().st_mtime_ns == written
    (lists / "EPIC_100_tail_verbs.csv").write_text("verb,key\n0,fold\n")
    other = evaluate(layout, folder, {}, 0, "cpu", clips=Clips(layout, epic_lists=lists))
    of_first = labels["verb"] == 0
    right = scores["verb"][of_first].argmax(axis=1) == 0
    assert other["tail_verb_top1"] == pytest.approx(100 * right.mean())
    assert "tail_verb_top1" not in evaluate(layout, folder, {}, 0, "cpu")
    with refuses("option-unused", "verb and noun", "--on", "--class-map"):
        evaluate(layout, folder, {}, 0, "cpu", clips=Clips(layout, tmp_path / "x.csv"))


def test_lists_need_verbs_and_nouns(out, finetuned, lists):
    layout = DatasetLayout(out, "squares")
    assert len(read_clip_table(layout, ["test"], boxes=False)) == 8
    with refuses("option-unused", "--epic-lists", "verb and noun"):
        evaluate(layout, finetuned, {}, 0, "cpu", clips=Clips(layout, epic_lists=lists))
