"""Readers of official annotation files: what a list in the official layout says is what is read."""

import csv
import io
import json
import string
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from errors import refuses
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.annotations.base import Annotations, Source
from preprocess.annotations.clip_rows import match_videos
from preprocess.annotations.dataset_spec import read_spec
from preprocess.annotations.readers import reader_of
from preprocess.annotations.readers.epic100 import read_video_facts, seconds_of
from preprocess.manifest import main
from preprocess.toy import encode
from preprocess.video.video_index import scan_videos
from shared.manifest import read_classes, read_manifest


def read(dataset: str, folder: Path, split_number: int = 1) -> Annotations:
    spec = read_spec(dataset)
    return reader_of(spec).read(Source(folder, spec, split_number))


def csv_text(columns: list[str], rows: list[list]) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([columns, *rows])
    return stream.getvalue()


def write(folder: Path, name: str, content: str | list | dict) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), newline="")
    return path


def what(annotations: Annotations) -> list[tuple]:
    """(name, video, split, label) of every clip."""
    return [(clip.name, clip.video, clip.split, clip.label) for clip in annotations.clips]


words = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=12)
phrases = st.text(string.ascii_letters + " ,;#&![]()é", min_size=1, max_size=30).map(str.strip)
rerun = settings(max_examples=30)


# ---------------------------------------------------------------------- Something-Something V2

SSV2_LABELS = {"Holding something": "1", "Approaching something with your camera": "0"}


def ssv2(folder: Path, **lists: list) -> Path:
    write(folder, "something-something-v2-labels.json", SSV2_LABELS)
    for split, entries in lists.items():
        write(folder, f"something-something-v2-{split}.json", entries)
    return folder


def test_ssv2_in_the_official_layout(tmp_path):
    train = [
        {"id": "0078687", "label": "holding a cup", "template": "Holding [something]"},
        {"id": "42", "template": "Approaching [something] with your camera", "placeholders": ["x"]},
    ]
    found = read("ssv2", ssv2(tmp_path, train=train, test=[{"id": "7"}]))
    assert what(found) == [
        ("0078687", "0078687", "train", 1),
        ("42", "42", "train", 0),
        ("7", "7", "test", None),
    ]
    assert found.classes.label == ["Approaching something with your camera", "Holding something"]
    assert found.classes.flip_x is None
    assert "no something-something-v2-validation.json: split val is skipped" in found.notes


def test_ssv2_in_the_newer_layout(tmp_path):
    write(tmp_path, "labels/labels.json", SSV2_LABELS)
    write(tmp_path, "labels/validation.json", [{"id": "1", "template": "Holding [something]"}])
    assert what(read("ssv2", tmp_path)) == [("1", "1", "val", 1)]


@pytest.mark.parametrize(
    ("entry", "code", "named"),
    [
        ({"id": "1", "template": "Holding [some"}, "unknown-name", "template 'Holding some'"),
        ({"id": 1, "template": "Holding [something]"}, "wrong-type", "id is 1"),
        ({"template": "Holding [something]"}, "missing-key", "id"),
        (["1"], "wrong-type", "list"),
    ],
)
def test_ssv2_wrong_entries_are_named(tmp_path, entry, code, named):
    good = {"id": "0", "template": "Holding [something]"}
    with refuses(code, "something-something-v2-train.json, entry 2: ", named):
        read("ssv2", ssv2(tmp_path, train=[good, entry]))


def test_ssv2_wrong_files_are_named(tmp_path):
    with refuses("missing-file", tmp_path, "something-something-v2-labels.json", "labels/"):
        read("ssv2", tmp_path)
    with refuses("missing-folder", tmp_path / "nowhere", "--annotations"):
        read("ssv2", tmp_path / "nowhere")
    ssv2(tmp_path)
    with refuses("missing-file", tmp_path, "something-something-v2-train.json"):
        read("ssv2", tmp_path)
    path = write(tmp_path, "something-something-v2-train.json", [])
    with refuses("empty", path):
        read("ssv2", tmp_path)
    path.write_text('[{"id": "1",\n "template": }]')
    with refuses("wrong-format", f"{path}, row 2"):
        read("ssv2", tmp_path)
    path.write_text("{}")
    with refuses("wrong-type", path, "dict"):
        read("ssv2", tmp_path)
    path.write_bytes('[{"id": "é"}]'.encode("latin-1"))
    with refuses("wrong-format", f"{path}, row 1", "byte 9 is 0xe9", "UTF-8"):
        read("ssv2", tmp_path)
    path.write_text("[" * 100_000)
    with refuses("wrong-format", path, "nested"):
        read("ssv2", tmp_path)
    path.write_text(f"[{'9' * 5000}]")
    with refuses("wrong-format", path, "4,300 digits"):
        read("ssv2", tmp_path)
    write(tmp_path, "something-something-v2-labels.json", {})
    with refuses("empty", tmp_path, "label"):
        read("ssv2", tmp_path)
    write(tmp_path, "something-something-v2-labels.json", {"Holding something": "5"})
    with refuses("bad-entry", "labels.json", "'Holding something'", "'5'", "0 to 0"):
        read("ssv2", tmp_path)


def test_ssv2_samples_keep_every_label(samples):
    found = read("ssv2", samples / "ssv2")
    labels = json.loads((samples / "ssv2/something-something-v2-labels.json").read_text())
    assert len(found.classes.label) == 174
    assert {name: str(number) for number, name in enumerate(found.classes.label)} == labels
    assert [clip.split for clip in found.clips].count("val") == 2252
    by_id = {clip.name: clip for clip in found.clips}
    assert found.classes.label[by_id["2"].label] == "Pretending to pick something up"
    assert found.classes.label[by_id["185141"].label] == "Tearing something just a little bit"
    rows = match_videos(found.clips, scan_videos(samples / "ssv2"), "webm")
    assert {clip.clip_id: clip.video for clip in rows.clips} == {
        "2": "2.webm",
        "862": "862.mp4",
        "2003": "2003.mp4",
        "3201": "3201.webm",
        "22983": "22983.mp4",
        "44862": "44862.webm",
        "57082": "57082.mp4",
    }
    assert len(rows.missing) == 2252


# ---------------------------------------------------------------------- EPIC-KITCHENS-100

EPIC_COLUMNS = [
    "narration_id",
    "participant_id",
    "video_id",
    "narration_timestamp",
    "start_timestamp",
    "stop_timestamp",
    "start_frame",
    "stop_frame",
    "narration",
    "verb",
    "verb_class",
    "noun",
    "noun_class",
    "all_nouns",
    "all_noun_classes",
]


def epic_row(name: str, start: str, stop: str, verb: object, noun: object) -> list:
    video = name.rpartition("_")[0]
    head = [name, video.split("_")[0], video, "00:00:00.560", start, stop, 1, 113]
    return [*head, "take plate", "take", verb, "plate", noun, "['plate', 'cup']", f"[{noun}]"]


def epic(folder: Path, rows: list[list], name: str = "EPIC_100_train.csv") -> Path:
    classes = ["id", "key", "instances", "category"]
    verbs = [[i, key, f"['{key}', 'x']", "c"] for i, key in enumerate(["take", "put", "turn-on"])]
    nouns = [[i, key, "['tap', 'tap:hot']", "c"] for i, key in enumerate(["tap", "spoon"])]
    write(folder, "EPIC_100_verb_classes.csv", csv_text(classes, verbs))
    write(folder, "EPIC_100_noun_classes_v2.csv", csv_text(classes, nouns))
    write(folder, name, csv_text(EPIC_COLUMNS, rows))
    return folder


def test_epic_in_the_official_layout(tmp_path):
    rows = [
        epic_row("P01_01_1", "00:00:05.00", "00:00:06.50", 2, 0),
        epic_row("P01_01_0", "01:02:03.99", "01:02:04.10", 0, 1),
        epic_row("P01_01_10", "00:00:00.00", "00:00:01.89", 2, 0),
    ]
    columns = EPIC_COLUMNS[:8]
    test = [["P02_12_0", "P02", "P02_12", "0:0:0", "00:00:01.00", "00:00:02.00", 1, 2]]
    write(tmp_path, "EPIC_100_test_timestamps.csv", csv_text(columns, test))
    found = read("epic100", epic(tmp_path, rows))
    assert [(c.name, c.video, c.split, c.start_seconds, c.stop_seconds) for c in found.clips] == [
        ("P01_01_10", "P01_01", "train", 0.0, 1.89),
        ("P01_01_1", "P01_01", "train", 5.0, 6.5),
        ("P01_01_0", "P01_01", "train", 3723.99, 3724.1),
        ("P02_12_0", "P02_12", "test", 1.0, 2.0),
    ]
    assert [(c.label, c.verb, c.noun) for c in found.clips] == [
        (1, 2, 0),
        (1, 2, 0),
        (0, 0, 1),
        (None, None, None),
    ]
    assert found.classes.verb == ["take", "put", "turn-on"] and found.classes.noun[1] == "spoon"
    assert found.classes.label == ["take spoon", "turn-on tap"]
    assert found.classes.flip_x == [0, 1] and found.classes.flip_y is None


STARTS, STOPS = "start_timestamp", "stop_timestamp"


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (epic_row("P01_01_9", "0:0:02.00", "0:0:01.00", 0, 0), f"{STARTS} 0:0:02.00"),
        (epic_row("P01_01_9", "0:0:02.00", "0:0:02.00", 0, 0), f"{STARTS} 0:0:02.00"),
        (epic_row("P01_01_9", "2.0", "00:00:02.00", 0, 0), f"{STARTS} is '2.0'; HH:MM:SS.ss"),
        (epic_row("P01_01_9", "0:0:1", "0:0:nan", 0, 0), f"{STOPS} is '0:0:nan'"),
        (epic_row("P01_01_9", "0:0:1", "0:0:2", 3, 0), "verb_class is '3'; 0 to 2"),
        (epic_row("P01_01_9", "0:0:1", "0:0:2", 0, -1), "noun_class is '-1'; 0 to 1"),
        (["P01_01_9", "P01"], "columns"),
    ],
)
def test_epic_wrong_rows_are_named(tmp_path, row, named):
    good = epic_row("P01_01_0", "00:00:00.00", "00:00:01.00", 0, 0)
    with refuses("bad-entry", "EPIC_100_train.csv, row 3: ", named):
        read("epic100", epic(tmp_path, [good, row]))


@pytest.mark.parametrize(
    ("file", "text", "row", "named"),
    [
        ("verb_classes", "id,key\n0,take\n2,put\n", 3, ("id is 2", "1")),
        ("verb_classes", "id,key\nx,take\n", 2, ("id is 'x'",)),
        ("video_info", "video_id,duration,fps\nP01,long,50\n", 2, ("'long'", "'50'")),
        ("video_info", "video_id,duration,fps\nP01,1,0\n", 2, ("'1'", "'0'")),
        ("video_info", "video_id,duration,fps\nP01,nan,1\n", 2, ("'nan'", "'1'")),
    ],
)
def test_epic_wrong_lists_are_named(tmp_path, file, text, row, named):
    epic(tmp_path, [epic_row("P01_01_0", "00:00:00.00", "00:00:01.00", 0, 0)])
    write(tmp_path, f"EPIC_100_{file}.csv", text)
    with refuses("bad-entry", f"EPIC_100_{file}.csv, row {row}: ", *named):
        read("epic100", tmp_path)


def test_epic_missing_columns_are_named(tmp_path):
    epic(tmp_path, [])
    write(tmp_path, "EPIC_100_train.csv", "narration_id,video_id\nP01_01_0,P01_01\n")
    columns = "start_timestamp, stop_timestamp"
    with refuses("missing-key", "row 1", columns, "narration_id,video_id"):
        read("epic100", tmp_path)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 5999))
def test_timestamps_are_read_exactly(hours, minutes, hundredths):
    text = f"{hours:02d}:{minutes:02d}:{hundredths // 100:02d}.{hundredths % 100:02d}"
    seconds = seconds_of(text, "start", "row 1")
    assert round(seconds * 100) == (hours * 60 + minutes) * 6000 + hundredths


def test_epic_samples_keep_every_label(samples):
    found = read("epic100", samples / "epic100")
    assert len(found.clips) == 9668 and {clip.split for clip in found.clips} == {"val"}
    assert len(found.classes.verb) == 97 and len(found.classes.noun) == 300
    assert not any("official list" in note for note in found.notes)
    with open(samples / "epic100/EPIC_100_validation.csv", newline="") as stream:
        official = {row["narration_id"]: row for row in csv.DictReader(stream)}
    for clip in found.clips:
        row = official[clip.name]
        assert (clip.verb, clip.noun) == (int(row["verb_class"]), int(row["noun_class"]))
        verb, noun = found.classes.verb[clip.verb], found.classes.noun[clip.noun]
        assert found.classes.label[clip.label] == f"{verb} {noun}"
        assert clip.video == row["video_id"]
    first = next(clip for clip in found.clips if clip.name == "P01_11_0")
    assert (first.start_seconds, first.stop_seconds) == (0.0, 1.89)
    assert "1 segments end after their video, such as P29_05_563 by 0.013 s" in found.notes
    facts = read_video_facts(samples / "epic100/EPIC_100_video_info.csv")
    assert len(facts) == 700 and facts["P01_01"].seconds == 1652.152817


# ---------------------------------------------------------------------- Kinetics-400

K400_COLUMNS = ["label", "youtube_id", "time_start", "time_end", "split", "is_cc"]


@rerun
@given(
    st.lists(
        st.tuples(phrases.filter(bool), words, st.integers(0, 99_999), st.integers(1, 30)),
        min_size=1,
        max_size=8,
        unique_by=lambda row: row[1:3],
    )
)
def test_k400_reads_what_the_official_layout_says(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("k400")
    table = [[label, name, start, start + n, "train", 0] for label, name, start, n in rows]
    write(folder, "train.csv", csv_text(K400_COLUMNS, table))
    found = read("k400", folder)
    names = sorted({row[0] for row in rows})
    assert found.classes.label == names
    assert what(found) == [
        (f"{name}_{start:06d}_{start + n:06d}",) * 2 + ("train", names.index(label))
        for label, name, start, n in rows
    ]


def test_k400_splits_and_a_test_list_without_labels(tmp_path):
    write(tmp_path, "k400_train.csv", "not read: *400_train*.csv comes second")
    write(tmp_path, "train.csv", csv_text(K400_COLUMNS, [["b", "x", 1, 11, "train", 0]]))
    write(tmp_path, "kinetics-400_val.csv", csv_text(K400_COLUMNS, [["a", "y", 2, 12, "val", 1]]))
    write(tmp_path, "test.csv", csv_text(K400_COLUMNS[1:5], [["z", 3, 13, "test"]]))
    found = read("k400", tmp_path)
    assert what(found) == [
        ("x_000001_000011", "x_000001_000011", "train", 1),
        ("y_000002_000012", "y_000002_000012", "val", 0),
        ("z_000003_000013", "z_000003_000013", "test", None),
    ]
    assert any("2 label classes" in note and "400" in note for note in found.notes)


@pytest.mark.parametrize(
    ("row", "code", "named"),
    [
        (["a", "y", 12, 2, "val", 0], "bad-entry", ("time_end 2 ", "time_start 12")),
        (["a", "y", "", 2, "val", 0], "bad-entry", ("time_start is ''",)),
        (["a", "y", 1, 2, "dev", 0], "unknown-name", ("'dev'", "train, val", "test")),
        (["", "y", 1, 2, "val", 0], "missing-label", ("label",)),
    ],
)
def test_k400_wrong_rows_are_named(tmp_path, row, code, named):
    write(tmp_path, "val.csv", csv_text(K400_COLUMNS, [row]))
    with refuses(code, "val.csv, row 2: ", *named):
        read("k400", tmp_path)


def test_a_value_that_is_too_long_is_named(tmp_path):
    write(tmp_path, "val.csv", csv_text(K400_COLUMNS, [["a" * 200_000, "y", 1, 2, "val", 0]]))
    with refuses("wrong-format", "val.csv, row 2: ", "field larger"):
        read("k400", tmp_path)


def test_k400_two_lists_for_one_split_are_refused(tmp_path):
    for name in ("k400_val_a.csv", "k400_val_b.csv"):
        write(tmp_path, name, csv_text(K400_COLUMNS, [["a", "y", 1, 2, "val", 0]]))
    with refuses("duplicate", tmp_path, "val ", "k400_val_a.csv, k400_val_b.csv"):
        read("k400", tmp_path)


def test_k400_samples(samples):
    found = read("k400", samples / "annotations/kinetics400")
    assert what(found)[0] == ("0wR5jVB-WPk_000417_000427", "0wR5jVB-WPk_000417_000427", "val", 0)
    assert found.classes.label[0] == "abseiling" and len(found.clips) == 399


# ---------------------------------------------------------------------- UCF101


def ucf(folder: Path, **lists: str) -> Path:
    write(folder, "classInd.txt", "1 ApplyEyeMakeup\r\n2 YoYo\r\n")
    for name, text in lists.items():
        write(folder, f"{name}.txt", text)
    return folder


def test_ucf101_in_the_official_layout(tmp_path):
    train = "YoYo/v_YoYo_g08_c01.avi 2\r\nApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
    folder = ucf(tmp_path, trainlist02=train, testlist02="YoYo/v_YoYo_g01_c01.avi\r\n\r\n")
    found = read("ucf101", folder, split_number=2)
    assert what(found) == [
        ("v_YoYo_g08_c01", "YoYo/v_YoYo_g08_c01", "train", 1),
        ("v_ApplyEyeMakeup_g08_c01", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01", "train", 0),
        ("v_YoYo_g01_c01", "YoYo/v_YoYo_g01_c01", "test", 1),
    ]
    assert found.classes.label == ["ApplyEyeMakeup", "YoYo"] and found.classes.flip_x == [0, 1]
    with refuses("missing-file", folder, "trainlist01.txt, testlist01.txt"):
        read("ucf101", folder, split_number=1)


@pytest.mark.parametrize(
    ("line", "code", "named"),
    [
        ("Yo/v_Yo.avi 2", "unknown-name", ("'Yo'", "classInd.txt")),
        ("v_YoYo.avi 2", "unknown-name", ("''", "classInd.txt")),
        ("YoYo/v_YoYo.avi 1", "bad-entry", ("YoYo", "2", "1")),
        ("YoYo/v_YoYo.avi two", "bad-entry", ("class number", "'two'")),
    ],
)
def test_ucf101_wrong_rows_are_named(tmp_path, line, code, named):
    with refuses(code, "trainlist01.txt, row 2: ", *named):
        read("ucf101", ucf(tmp_path, trainlist01=f"YoYo/v_YoYo_g1_c1.avi 2\n{line}\n"))


def test_ucf101_class_list_out_of_order_is_named(tmp_path):
    write(tmp_path, "classInd.txt", "1 A\n3 B\n")
    with refuses("bad-entry", "classInd.txt, row 2: ", "'2 NameOfClass'", "'3 B'"):
        read("ucf101", tmp_path)


def test_ucf101_samples_keep_every_label(samples):
    found = read("ucf101", samples / "annotations/ucf101")
    assert len(found.classes.label) == 101 and found.notes == []
    splits = [clip.split for clip in found.clips]
    assert (splits.count("train"), splits.count("test")) == (9537, 3783)
    for clip in found.clips:
        assert clip.video.startswith(found.classes.label[clip.label] + "/")
    rows = match_videos(found.clips, scan_videos(samples / "clips"), "webm")
    assert [clip.video for clip in rows.clips] == ["v_SoccerJuggling_g23_c01.avi"]
    assert len(rows.missing) == 13_319


# ---------------------------------------------------------------------- HMDB51

ODD = ["#1 [a]!_&;_wave_f_nm_np1_ba_med_0", "21_wave_u_nm_np1_fr_goo_5", "two  blanks (x)"]


def test_hmdb51_in_the_official_layout(tmp_path):
    lines = [f"{name}.avi {mark} " for name, mark in zip(ODD, (2, 1, 0), strict=True)]
    write(tmp_path, "wave_test_split3.txt", "\n".join(lines) + "\n")
    write(tmp_path, "ride_bike_test_split3.txt", "a.avi 1 \n")
    found = read("hmdb51", tmp_path, split_number=3)
    assert what(found) == [
        ("a", "ride_bike/a", "train", 30),
        (ODD[0], f"wave/{ODD[0]}", "test", 50),
        (ODD[1], f"wave/{ODD[1]}", "train", 50),
    ]
    assert found.classes.label == sorted(found.classes.label) and len(found.classes.label) == 51
    assert found.notes == ["1 clip in neither split", "lists of 2 of 51 classes are found"]
    (tmp_path / "v" / "wave").mkdir(parents=True)
    (tmp_path / "v" / "wave" / f"{ODD[0]}.avi").touch()
    rows = match_videos(found.clips, scan_videos(tmp_path / "v"), "webm")
    assert [(clip.clip_id, clip.video) for clip in rows.clips] == [(ODD[0], f"wave/{ODD[0]}.avi")]


@rerun
@given(
    st.lists(
        st.tuples(phrases.filter(lambda name: name and "\xa0" not in name), st.integers(0, 2)),
        min_size=1,
        max_size=10,
        unique_by=lambda row: row[0],
    ).filter(lambda rows: {1, 2} <= {mark for _, mark in rows})
)
def test_hmdb51_reads_what_the_official_layout_says(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("hmdb")
    write(folder, "wave_test_split1.txt", "".join(f"{name}.avi {mark} \n" for name, mark in rows))
    assert what(read("hmdb51", folder)) == [
        (name, f"wave/{name}", {1: "train", 2: "test"}[mark], 50) for name, mark in rows if mark
    ]


WAVE = "wave_test_split1.txt"


@pytest.mark.parametrize(
    ("file", "text", "code", "named"),
    [
        (WAVE, "a.avi 1\nb.avi 3\n", "bad-entry", (f"{WAVE}, row 2: ", "0, 1 or 2", "'b.avi 3'")),
        (WAVE, "a.avi\n", "bad-entry", (f"{WAVE}, row 1: ", "0, 1 or 2", "'a.avi'")),
        (WAVE, "a 1\n", "bad-entry", (f"{WAVE}, row 1: ", "0, 1 or 2", "'a 1'")),
        ("waving_test_split1.txt", "a.avi 1\n", "unknown-name", ("'waving'", "brush_hair")),
        (WAVE, "a.avi 0\n", "empty", (WAVE,)),
        (WAVE, "a.avi 1\n", "empty", (" test ",)),
        ("wave_test_split2.txt", "a.avi 1\n", "missing-file", ("*_test_split1.txt", "testTrainMu")),
    ],
)
def test_hmdb51_wrong_lists_are_named(tmp_path, file, text, code, named):
    write(tmp_path, file, text)
    with refuses(code, tmp_path, *named):
        read("hmdb51", tmp_path)


def test_hmdb51_samples(samples):
    found = read("hmdb51", samples / "annotations/hmdb51")
    splits = [clip.split for clip in found.clips]
    assert (splits.count("train"), splits.count("test")) == (140, 60)
    assert {found.classes.label[clip.label] for clip in found.clips} == {"cartwheel", "wave"}
    rows = match_videos(found.clips, scan_videos(samples / "clips"), "webm")
    assert [clip.clip_id for clip in rows.clips] == ["RATRACE_wave_f_nm_np1_fr_goo_37"]
    ids = [clip_id for clip_id, *_ in rows.missing]
    assert max(len(clip_id) for clip_id in ids) == 64 and len(set(ids)) == 199


# ---------------------------------------------------------------------- Diving48

VOCABULARY = [["Back", "15som", "05Twis", "FREE"], ["Inward", "25som", "NoTwis", "PIKE"]]


def diving(folder: Path, *entries: dict) -> Path:
    write(folder, "Diving48_vocab.json", VOCABULARY)
    write(folder, "Diving48_V2_train.json", list(entries))
    return folder


def dive(name: str, label: int, **frames: int) -> dict:
    return {"vid_name": name, "label": label, **frames}


def test_diving48_frames_become_seconds(tmp_path):
    videos = tmp_path / "v"
    videos.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 32, 3), np.uint8)
    for name in "abcd":
        (videos / f"{name}.mp4").write_bytes(encode(noise))  # 24 frames at 12 a second
    (videos / "e.mp4").write_bytes(b"not a video")
    folder = diving(
        tmp_path / "a",
        dive("a", 0, start_frame=0, end_frame=24),
        dive("b", 1, start_frame=6, end_frame=12),
        dive("c", 1, start_frame=0, end_frame=30),
        dive("d", 1),
        dive("e", 1, start_frame=1, end_frame=2),
    )
    given = ["--dataset", "diving48", "--annotations", folder, "--videos", videos]
    given += ["--out", tmp_path / "out"]
    assert CliRunner().invoke(main, [str(text) for text in given]).exit_code == 0
    clips = read_manifest(tmp_path / "out/diving48/manifest.csv")
    half = 0.5 / 12
    spans = {clip.clip_id: (clip.start_seconds, clip.stop_seconds) for clip in clips}
    assert spans["b"] == pytest.approx((0.5 - half, 1 - half))
    assert spans["c"][0] is None and spans["c"][1] == pytest.approx(2.5 - half)
    assert spans["a"] == spans["d"] == spans["e"] == (None, None)
    names = read_classes(tmp_path / "out/diving48/classes.json").label
    assert names == ["Back 15som 05Twis FREE", "Inward 25som NoTwis PIKE"]


@pytest.mark.parametrize(
    ("entry", "code", "named"),
    [
        (dive("b", 2, start_frame=0, end_frame=4), "bad-entry", ("label is 2", "0 to 1")),
        (dive("b", -1), "bad-entry", ("label is -1",)),
        (dive("b", "1"), "wrong-type", ("label is '1'",)),
        (dive("b", True), "wrong-type", ("label is True",)),
        (dive("b", 1, start_frame=9, end_frame=9), "bad-entry", ("end_frame 9", "start_frame 9")),
        (dive("b", 1, start_frame=-1, end_frame=9), "bad-entry", ("end_frame 9", "start_frame -1")),
    ],
)
def test_diving48_wrong_entries_are_named(tmp_path, entry, code, named):
    with refuses(code, "Diving48_V2_train.json, entry 2: ", *named):
        read("diving48", diving(tmp_path, dive("a", 0), entry))


def test_diving48_vocabulary_of_another_shape_is_named(tmp_path):
    diving(tmp_path, dive("a", 0))
    write(tmp_path, "Diving48_vocab.json", [["Back"], "Inward"])
    with refuses("wrong-type", "vocab.json, entry 2: "):
        read("diving48", tmp_path)


def test_diving48_samples(samples):
    found = read("diving48", samples / "annotations/diving48")
    assert len(found.clips) == 1970 and len(found.classes.label) == 48
    assert found.clips[0].name == "8qRmKunCjtY_00016" and found.clips[0].frames == (0, 78)
    assert found.notes == ["no Diving48_V2_train.json: split train is skipped"]


# ---------------------------------------------------------------------- all of them


def test_duplicate_ids_are_named_with_both_rows(tmp_path):
    entries = [{"id": name, "template": "Holding [something]"} for name in ("1", "2", "1")]
    found = read("ssv2", ssv2(tmp_path, train=entries))
    with refuses("duplicate", "entry 3: clip '1'", "entry 1"):
        match_videos(found.clips, scan_videos(tmp_path), "webm")


def test_ids_that_are_no_unicode_or_no_names_are_refused_by_row(tmp_path):
    path = ssv2(tmp_path)
    for name in ("\ud800", "", "../x"):
        entries = [{"id": name, "template": "Holding [something]"}]
        write(path, "something-something-v2-train.json", entries)
        code = {"\ud800": "bad-entry", "": "bad-name", "../x": "unsafe-path"}[name]
        with refuses(code, "train.json, entry 1: "):
            match_videos(read("ssv2", path).clips, scan_videos(tmp_path), "webm")


def test_a_refused_video_of_an_official_clip_is_named_with_its_row(tmp_path):
    found = read("ssv2", ssv2(tmp_path, train=[{"id": "1", "template": "Holding [something]"}]))
    (tmp_path / "v").mkdir()
    (tmp_path / "secret.mp4").touch()
    (tmp_path / "v/1.mp4").symlink_to(tmp_path / "secret.mp4")
    with refuses("unsafe-path", "entry 1: ", "'1.mp4'", "symbolic link"):
        match_videos(found.clips, scan_videos(tmp_path / "v"), "webm")


def test_the_folder_that_the_annotation_names_decides_between_equal_names(tmp_path):
    for path in ("a/v_YoYo_g1.avi", "z/YoYo/v_YoYo_g1.avi", "b/v_YoYo_g1.webm"):
        (tmp_path / "v" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "v" / path).touch()
    found = read("ucf101", ucf(tmp_path, trainlist01="YoYo/v_YoYo_g1.avi 2\n"))
    rows = match_videos(found.clips, scan_videos(tmp_path / "v"), "webm")
    assert rows.clips[0].video == "z/YoYo/v_YoYo_g1.avi"
    assert len(rows.doubles["v_YoYo_g1"]) == 3


def test_the_very_path_that_the_annotation_gives_comes_first(tmp_path):
    for path in ("a/YoYo/v_YoYo_g1.webm", "YoYo/v_YoYo_g1.avi"):
        (tmp_path / "v" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "v" / path).touch()
    found = read("ucf101", ucf(tmp_path, trainlist01="YoYo/v_YoYo_g1.avi 2\n"))
    rows = match_videos(found.clips, scan_videos(tmp_path / "v"), "webm")
    assert rows.clips[0].video == "YoYo/v_YoYo_g1.avi"
