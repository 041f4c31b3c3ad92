"""manifest.csv and classes.json: what is written reads back equal; bad rows are named."""

from dataclasses import replace

import pytest
from errors import refuses
from hypothesis import given
from hypothesis import strategies as st

from shared.manifest import (
    COLUMNS,
    SPLITS,
    ClassList,
    Clip,
    format_manifest,
    manifest_digest,
    parse_manifest,
    read_classes,
    read_manifest,
    row_digests,
    write_classes,
    write_manifest,
)

HEADER = ",".join(COLUMNS) + "\n"
names = st.text(
    st.characters(exclude_characters="\\:/\x7f", min_codepoint=32, exclude_categories=["Cs"]),
    min_size=1,
    max_size=15,
).filter(lambda name: name not in (".", ".."))
numbers = st.none() | st.integers(0, 400)
seconds = st.floats(0, 1e5, allow_nan=False)


@st.composite
def clips(draw):
    start = draw(st.none() | seconds)
    stop = draw(st.none() | st.floats(0.001, 100).map(lambda length: (start or 0.0) + length))
    return Clip(
        clip_id=draw(names),
        video="/".join(draw(st.lists(names, min_size=1, max_size=3))),
        start_seconds=start,
        stop_seconds=stop,
        split=draw(st.sampled_from(SPLITS)),
        label=draw(numbers),
        verb=draw(numbers),
        noun=draw(numbers),
    )


@given(st.lists(clips(), max_size=5, unique_by=lambda clip: clip.clip_id))
def test_what_is_written_reads_back_equal(rows):
    assert parse_manifest(format_manifest(rows), "manifest.csv") == rows


def test_ids_stay_strings(tmp_path):
    path = tmp_path / "manifest.csv"
    write_manifest(path, [Clip("0123", "0123.mp4"), Clip("123", "123.mp4")])
    assert [clip.clip_id for clip in read_manifest(path)] == ["0123", "123"]


@pytest.mark.parametrize(
    ("row", "code", "named"),
    [
        ("a,../secret.mp4,,,train,,,", "unsafe-path", "../secret.mp4"),
        ("a,/etc/passwd,,,train,,,", "unsafe-path", "/etc/passwd"),
        ("a,x/../../y.mp4,,,train,,,", "unsafe-path", "x/../../y.mp4"),
        ("a,http://host/x.mp4,,,train,,,", "unsafe-path", "http://host/x.mp4"),
        ("a,c:/data/x.mp4,,,train,,,", "unsafe-path", "c:/data/x.mp4"),
        ("a,concat:a.mp4|b.mp4,,,train,,,", "unsafe-path", "concat:a.mp4|b.mp4"),
        (f"a,{'x' * 4000},,,train,,,", "bad-name", "xxx..."),
        ("a,,,,train,,,", "unsafe-path", "video ''"),
        (f"{'i' * 65},a.mp4,,,train,,,", "bad-name", "65 bytes"),
        (",a.mp4,,,train,,,", "bad-name", "0 bytes"),
        ("a,a\x1b[2J.mp4,,,train,,,", "unsafe-path", r"a\x1b[2J.mp4"),
        ("a,a.mp4,2,1,train,,,", "out-of-range", "stop_seconds 1.0"),
        ("a,a.mp4,1,1,train,,,", "out-of-range", "stop_seconds 1.0"),
        ("a,a.mp4,nan,,train,,,", "out-of-range", "start_seconds is nan"),
        ("a,a.mp4,-1,,train,,,", "out-of-range", "start_seconds is -1.0"),
        ("a,a.mp4,x,,train,,,", "wrong-type", "start_seconds is 'x'"),
        ("a,a.mp4,,,training,,,", "unknown-name", "'training' is none of train, val, test"),
        ("a,a.mp4,,,train,1.5,,", "wrong-type", "label is '1.5'"),
        ("a,a.mp4,,,train,-1,,", "out-of-range", "label is -1"),
        ("a,a.mp4,,,train,100000,,", "out-of-range", "label is 100000"),
        (f"a,a.mp4,,,train,,{'9' * 30},", "out-of-range", "verb is 1e+30"),
        (f"a,a.mp4,,,train,,,{'9' * 5000}", "wrong-type", "noun is '9999"),
        ("a,b,c.mp4,,,train,,,", "bad-entry", "9 values, but the header has 8 columns"),
        ("a,a.mp4,,,train", "bad-entry", "5 values, but the header has 8 columns"),
        (f"a,{'x' * 200_000},,,train,,,", "wrong-format", "row 3: not CSV"),
        ("b,b.mp4,,,train,,,\nb,a.mp4,,,train,,,", "duplicate", "row 4: clip_id 'b'"),
    ],
)
def test_bad_rows_are_refused_with_their_row(row, code, named):
    good = "good,good.mp4,,,train,,,\n"
    with refuses(code, "m.csv, row ", named) as caught:
        parse_manifest(HEADER + good + row + "\n", "m.csv")
    assert len(caught.value.message) < 400


def test_missing_columns_are_named():
    with refuses("missing-key", "m.csv, row 1", "split, noun", "clip_id,video"):
        parse_manifest("clip_id,video,start_seconds,stop_seconds,label,verb\n", "m.csv")


def test_other_encodings_are_named(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_bytes(HEADER.encode() + "caf\xe9,a.mp4,,,train,,,\n".encode("latin-1"))
    with refuses("wrong-format", path, "row 2", "UTF-8"):
        read_manifest(path)


def test_no_manifest_says_how_to_make_one(tmp_path):
    with refuses("missing-file", tmp_path / "manifest.csv", "make manifest"):
        read_manifest(tmp_path / "manifest.csv")


def test_digest_follows_videos_and_spans_but_not_labels():
    clip = Clip("a", "a.mp4", 0.0, 1.0, "train", 1)
    assert manifest_digest([clip]) == manifest_digest([Clip("a", "a.mp4", 0.0, 1.0, "val", 2)])
    assert manifest_digest([clip]) != manifest_digest([Clip("a", "a.mp4", 0.0, 1.5, "train", 1)])


def test_the_digests_of_rows_are_of_one_split_and_one_kind_of_label():
    clips = [Clip("a", "a.mp4", label=1), Clip("b", "b.mp4", split="test", label=2, verb=0)]
    before = row_digests(clips)
    assert before.keys() == {"train", "test"}
    assert before["test"].keys() == {"clips", "label", "verb", "noun"}
    after = row_digests([clips[0], replace(clips[1], label=3)])
    assert after["train"] == before["train"]
    assert [kind for kind in before["test"] if before["test"][kind] != after["test"][kind]] == [
        "label"
    ]


def test_classes_read_back_equal(tmp_path):
    classes = ClassList(label=["left", "räght"], flip_x=[1, 0])
    write_classes(tmp_path / "classes.json", classes)
    assert read_classes(tmp_path / "classes.json") == classes
    assert read_classes(tmp_path / "none.json") == ClassList()


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ('{"label": "left"}', "wrong-type", "label is 'left'"),
        ('{"label": [1]}', "wrong-type", "label is '[1]'"),
        ('{"verb": null}', "wrong-type", "verb is 'None'"),
        ('{"label": ["a"], "flip_x": 3}', "wrong-type", "flip_x is '3'"),
        ('{"label": ["a"], "flip_x": [true]}', "wrong-type", "flip_x is '[True]'"),
        ('{"label": ["a"], "flip_x": [1]}', "other-classes", "flip_x"),
        ('{"label": ["\\ud800"]}', "bad-name", "label 0"),
        ('{"labels": []}', "unknown-key", "label, noun, verb"),
        ("[" * 100_000, "wrong-format", "JSON"),
    ],
)
def test_bad_class_lists_are_named(tmp_path, text, code, named):
    path = tmp_path / "classes.json"
    path.write_text(text)
    with refuses(code, path, named) as caught:
        read_classes(path)
    assert len(caught.value.message) < 400


def test_a_flip_must_be_a_permutation():
    with refuses("other-classes", "flip_x", 2):
        ClassList(label=["left", "right"], flip_x=[1, 1])
