"""manifest.csv and classes.json: what is written reads back equal; bad rows are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InputError
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
    ("row", "message"),
    [
        ("a,../secret.mp4,,,train,,,", "leaves the video root"),
        ("a,/etc/passwd,,,train,,,", "leaves the video root"),
        ("a,x/../../y.mp4,,,train,,,", "leaves the video root"),
        ("a,http://host/x.mp4,,,train,,,", "looks like an address"),
        ("a,concat:a.mp4|b.mp4,,,train,,,", "looks like an address"),
        (f"a,{'x' * 4000},,,train,,,", "too long"),
        ("a,,,,train,,,", "relative to the video root"),
        (f"{'i' * 65},a.mp4,,,train,,,", "65 bytes"),
        (",a.mp4,,,train,,,", "0 bytes"),
        ("a,a\x1b[2J.mp4,,,train,,,", "relative to the video root"),
        ("a,a.mp4,2,1,train,,,", "not after"),
        ("a,a.mp4,1,1,train,,,", "not after"),
        ("a,a.mp4,nan,,train,,,", "start_seconds is nan"),
        ("a,a.mp4,-1,,train,,,", "start_seconds is -1.0"),
        ("a,a.mp4,x,,train,,,", "start_seconds is 'x'"),
        ("a,a.mp4,,,training,,,", "split 'training' is none of train, val, test"),
        ("a,a.mp4,,,train,1.5,,", "label is '1.5'"),
        ("a,a.mp4,,,train,-1,,", "label is -1"),
        ("a,a.mp4,,,train,100000,,", "label is 100000; class numbers from 0 to 99999"),
        (f"a,a.mp4,,,train,,{'9' * 30},", "verb is 1e+30; class numbers from 0"),
        (f"a,a.mp4,,,train,,,{'9' * 5000}", "noun is '9999"),
        ("a,b,c.mp4,,,train,,,", "9 values, and the header has 8 columns; put a value that holds"),
        ("a,a.mp4,,,train", "5 values, and the header has 8 columns"),
        (f"a,{'x' * 200_000},,,train,,,", "row 3: not CSV (field larger than field limit"),
        ("b,b.mp4,,,train,,,\nb,a.mp4,,,train,,,", "row 4: clip_id 'b' already stands in row 3"),
    ],
)
def test_bad_rows_are_refused_with_their_row(row, message):
    good = "good,good.mp4,,,train,,,\n"
    with pytest.raises(InputError, match=r"^m\.csv, row \d+: ") as caught:
        parse_manifest(HEADER + good + row + "\n", "m.csv")
    assert message in str(caught.value) and len(str(caught.value)) < 400


def test_missing_columns_are_named():
    with pytest.raises(InputError, match="column split, noun missing.* may be empty"):
        parse_manifest("clip_id,video,start_seconds,stop_seconds,label,verb\n", "m.csv")


def test_other_encodings_are_named(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_bytes(HEADER.encode() + "caf\xe9,a.mp4,,,train,,,\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8 at byte"):
        read_manifest(path)


def test_no_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match="make manifest"):
        read_manifest(tmp_path / "manifest.csv")


def test_digest_follows_videos_and_spans_but_not_labels():
    clip = Clip("a", "a.mp4", 0.0, 1.0, "train", 1)
    assert manifest_digest([clip]) == manifest_digest([Clip("a", "a.mp4", 0.0, 1.0, "val", 2)])
    assert manifest_digest([clip]) != manifest_digest([Clip("a", "a.mp4", 0.0, 1.5, "train", 1)])


def test_classes_read_back_equal(tmp_path):
    classes = ClassList(label=["left", "räght"], flip_x=[1, 0])
    write_classes(tmp_path / "classes.json", classes)
    assert read_classes(tmp_path / "classes.json") == classes
    assert read_classes(tmp_path / "none.json") == ClassList()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"label": "left"}', "label is 'left'; a list of names is allowed"),
        ('{"label": [1]}', "label is '[1]'; a list of names is allowed"),
        ('{"verb": null}', "verb is 'None'; a list of names is allowed"),
        ('{"label": ["a"], "flip_x": 3}', "flip_x is '3'; null or a list of labels is allowed"),
        ('{"label": ["a"], "flip_x": [true]}', "flip_x is '[True]'; null or a list of labels"),
        ('{"label": ["a"], "flip_x": [1]}', "flip_x must list each of the 1 labels once"),
        ("[" * 100_000, "is not JSON: maximum recursion depth"),
    ],
)
def test_bad_class_lists_are_named(tmp_path, text, message):
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"classes\.json") as caught:
        read_classes(path)
    assert message in str(caught.value) and len(str(caught.value)) < 400


def test_a_flip_must_be_a_permutation():
    with pytest.raises(InputError, match="flip_x must list each of the 2 labels once"):
        ClassList(label=["left", "right"], flip_x=[1, 1])
