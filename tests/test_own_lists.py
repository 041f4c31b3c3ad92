"""Lists of paths and labels as public code has them, and CSVs as spreadsheets write them."""

import unicodedata
from pathlib import Path

import pytest
from errors import refused
from hypothesis import given
from hypothesis import strategies as st
from manifest_fixtures import HEADER, invoke, manifest_of, own_csv, touch

from preprocess.annotations.video_lists import read_own_list
from preprocess.video.video_index import scan_videos
from shared.manifest import read_classes

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


def labels_of(tmp_path: Path, text: str, *more: object) -> dict[str, int | None]:
    """What the manifest has of a list, by video."""
    videos = touch(tmp_path / "v", "a/1.mp4", "a/2 x.mp4", "b,c/3.webm")
    path = tmp_path / "list.csv"
    path.write_text(text)
    given = ("--videos", videos, "--manifest", path, "--test-share", 0, *more)
    clips = manifest_of(tmp_path, *given)
    return {clip.video: clip.label for clip in clips.values()}


@pytest.mark.parametrize(
    "text",
    [
        "a/1.mp4 0\na/2 x.mp4 1\nb,c/3.webm 0\n",
        "\ufeffa/1.mp4 0\r\na/2 x.mp4 1\r\nb,c/3.webm 0\r\n",
        'a/1.mp4,0\na/2 x.mp4,1\n"b,c/3.webm",0\n',
        "a/1.mp4, 0\nb,c/3.webm, 0\na/2 x.mp4, 1\n",
        "a/1.mp4 40 0\na/2 x.mp4 -1 1\nb,c/3.webm 0 16 0\n",
        'path,label\na/1.mp4,0\na/2 x.mp4,1\n"b,c/3.webm",0\n',
        'label,group,Path\n0,g,./a/1.mp4\n1,g,a/2 x.mp4\n0,h,"b,c/3.webm"\n',
        '"path","label"\n"a/1.mp4",0\n"a/2 x.mp4",1\n"b,c/3.webm",0\n',
        '"label", "path"\n0, "a/1.mp4"\n1, "a/2 x.mp4"\n0, "b,c/3.webm"\n',
        '"video" "label"\na/1.mp4 0\na/2 x.mp4 1\nb,c/3.webm 0\n',
        "video label\na/1.mp4 0\na/2 x.mp4 1\nb,c/3.webm 0\n",
        'path,label\na\\1.mp4,0\na\\2 x.mp4,1\n"b,c\\3.webm",0\n',
    ],
)
def test_every_form_of_a_list_is_read(tmp_path, text):
    expected = {"a/1.mp4": 0, "a/2 x.mp4": 1, "b,c/3.webm": 0}
    assert labels_of(tmp_path, text) == expected


def test_labels_may_be_names_or_absent(tmp_path):
    found = labels_of(tmp_path, "path,label\na/1.mp4,run\na/2 x.mp4,jump up\n")
    assert found == {"a/1.mp4": 1, "a/2 x.mp4": 0}
    assert read_classes(tmp_path / "out/mine/classes.json").label == ["jump up", "run"]
    assert set(labels_of(tmp_path, "a/1.mp4\n").values()) == {None}
    assert set(labels_of(tmp_path, "a/1.mp4 0 -1\n").values()) == {None}  # VideoMAE V2


@pytest.mark.parametrize("header", ["", "path\n"])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize(
    "names", [("clip 1.mp4", "my clip.mp4"), ("name, 1.mp4", "a,b.mp4"), ("one.mp4", "a, b c.MOV")]
)
def test_paths_without_labels_may_have_spaces_and_commas(tmp_path, names, quote, header):
    videos = touch(tmp_path / "v", *names)
    path = tmp_path / "list.txt"
    path.write_text(header + "".join(f"{quote}{name}{quote}\n" for name in names))
    clips = manifest_of(tmp_path, "--videos", videos, "--manifest", path)
    assert [(clip.video, clip.label) for clip in clips.values()] == [(name, None) for name in names]


def test_absolute_paths_below_the_root_are_read(tmp_path):
    found = labels_of(tmp_path, f"{tmp_path}/v/a/1.mp4 0\n{tmp_path}/v/a/2 x.mp4 1\n")
    assert found == {"a/1.mp4": 0, "a/2 x.mp4": 1}
    (tmp_path / "list.csv").write_text("/elsewhere/a/1.mp4 0\n")
    given = ("--videos", tmp_path / "v", "--manifest", tmp_path / "list.csv")
    refused(invoke(tmp_path, *given), "unsafe-path", "row 1", "/elsewhere/a/1.mp4", tmp_path / "v")


def test_a_folder_of_lists_has_the_splits(tmp_path):
    videos = touch(tmp_path / "v", *(f"{i}.mp4" for i in range(4)))
    (tmp_path / "train.csv").write_text("0.mp4 0\n1.mp4 1\n")
    (tmp_path / "val.csv").write_text("2.mp4 1\n")
    (tmp_path / "test.txt").write_text("3.mp4 0\n")
    clips = manifest_of(tmp_path, "--videos", videos, "--manifest", tmp_path)
    assert [(clip.split, clip.label) for clip in clips.values()] == [
        ("train", 0),
        ("train", 1),
        ("val", 1),
        ("test", 0),
    ]
    given = ("--videos", videos, "--manifest", tmp_path, "--test-share", "0.5")
    refused(invoke(tmp_path, *given), "option-unused", "--test-share", "train.csv")
    alone = invoke(tmp_path, "--videos", videos, "--manifest", tmp_path / "train.csv", "--dry-run")
    refused(alone, "too-few-clips", "--test-share 0.2")
    refused(invoke(tmp_path, "--videos", videos, "--manifest", videos), "missing-file", "train.csv")


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("a.mp4 0\n../secret.mp4 1\n", "unsafe-path", ("row 2", "'../secret.mp4'")),
        ("a.mp4 0\nhttp://a.b/c.mp4 1\n", "unsafe-path", ("row 2", "address")),
        ("a.mp4 0\na.mp4 1\n", "duplicate", ("row 2", "row 1", "'a'")),
        ("a.mp4 0\nb.xyz 1\n", "wrong-format", ("row 2", "'b.xyz'", ".mp4")),
        ("a.mp4 0\nb.mp4\n", "missing-label", ("row 2",)),
        ("a.mp4 0\nb.mp4 -1\n", "missing-label", ("row 2", "-1")),
        ("a.mp4 0\nb.mp4 100000\n", "out-of-range", ("row 2", "100000")),
        ("id,label\na.mp4,0\n", "missing-key", ("row 1", "id,label", "path, video")),
        ("path,label,label\na.mp4,0,1\n", "duplicate", ("row 1", "'label'", "2 times")),
        (f"{'a' * 200_000},0\n", "wrong-format", ("list.csv, row 1", "limit")),
        ("", "empty", ("list.csv",)),
    ],
)
def test_wrong_lists_are_refused_by_row(tmp_path, text, code, named):
    videos = touch(tmp_path / "v", "a.mp4", "b.mp4")
    (tmp_path / "list.csv").write_text(text)
    given = ("--videos", videos, "--manifest", tmp_path / "list.csv", "--test-share", 0)
    refused(invoke(tmp_path, *given), code, *named)


words = st.text(
    st.characters(exclude_characters='\\:/\x7f",', min_codepoint=33, exclude_categories="CZ"),
    min_size=1,
    max_size=9,
)


@given(st.dictionaries(words, st.integers(0, 400), min_size=1, max_size=6), st.sampled_from(" ,"))
def test_any_list_reads_back(tmp_path_factory, labels, separator):
    root = tmp_path_factory.mktemp("lists")
    (root / "v").mkdir()
    lines = [f"folder {i}/{name}.mp4{separator}{n}" for i, (name, n) in enumerate(labels.items())]
    (root / "list.txt").write_text("\n".join(lines))
    clips = read_own_list(root / "list.txt", scan_videos(root / "v")).clips
    assert [(clip.video, clip.label) for clip in clips] == [
        (f"folder {i}/{name}.mp4", n) for i, (name, n) in enumerate(labels.items())
    ]


# ---------------------------------------------------------------------- as programs write CSVs


def test_names_are_found_in_either_unicode_form(tmp_path):
    videos = touch(tmp_path / "v", f"{NFD}.mp4", f"{NFC}2.mp4")
    path = own_csv(tmp_path, f"a,{NFC}.mp4,,,train,0,,", f"b,{NFD}2.mp4,,,train,0,,")
    done = invoke(tmp_path, "--videos", videos, "--manifest", path)
    assert done.exit_code == 0 and "2 videos found by another Unicode form" in done.output
    clips = manifest_of(tmp_path, "--videos", videos, "--manifest", path)
    assert [clip.video for clip in clips.values()] == [f"{NFD}.mp4", f"{NFC}2.mp4"]
    touch(videos, f"{NFC}.mp4")
    assert manifest_of(tmp_path, "--videos", videos, "--manifest", path)["a"].video == f"{NFC}.mp4"


def test_a_class_in_both_unicode_forms_is_one_class(tmp_path):
    paths = (f"train/{NFC}/1.mp4", f"test/{NFD}/2.mp4", "train/run/3.mp4", "test/run/4.mp4")
    clips = manifest_of(tmp_path, "--videos", touch(tmp_path / "v", *paths))
    assert read_classes(tmp_path / "out/mine/classes.json").label == [NFC, "run"]
    assert sorted(clip.label for clip in clips.values()) == [0, 0, 1, 1]


def test_backslashes_and_byte_order_marks_are_read(tmp_path):
    videos = touch(tmp_path / "v", "x/1.mp4")
    path = own_csv(tmp_path, "a,x\\1.mp4,,,train,0,,", header="\ufeff" + HEADER)
    (tmp_path / "classes.json").write_text('\ufeff{"label": ["run"]}')
    done = invoke(tmp_path, "--videos", videos, "--manifest", path)
    assert done.exit_code == 0 and "backslashes" in done.output
    assert manifest_of(tmp_path, "--videos", videos, "--manifest", path)["a"].video == "x/1.mp4"
    assert read_classes(tmp_path / "out/mine/classes.json").label == ["run"]
    own_csv(tmp_path, "a,..\\secret.mp4,,,train,0,,")
    done = invoke(tmp_path, "--videos", videos, "--manifest", path)
    refused(done, "unsafe-path", "row 2", "'../secret.mp4'")
    path.write_bytes((HEADER + "a,x/1.mp4,,,train,0,,\n").encode("utf-16"))
    done = invoke(tmp_path, "--videos", videos, "--manifest", path)
    refused(done, "wrong-format", "UTF-16", "UTF-8")


def test_a_manifest_whose_header_is_quoted_is_read(tmp_path):
    videos = touch(tmp_path / "v", "1.mp4")
    quoted = '"' + HEADER.strip().replace(",", '","') + '"\n'
    path = own_csv(tmp_path, '"a","1.mp4","","","train","0","",""', header=quoted)
    clips = manifest_of(tmp_path, "--videos", videos, "--manifest", path)
    assert (clips["a"].video, clips["a"].label) == ("1.mp4", 0)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    videos = touch(tmp_path / "v", "1.mp4")
    header = HEADER.replace("noun", "noun,label")
    path = own_csv(tmp_path, "a,1.mp4,,,train,0,,,1", header=header)
    refused(
        invoke(tmp_path, "--videos", videos, "--manifest", path), "duplicate", "'label'", "row 1"
    )


def test_class_numbers_that_no_clip_has_are_reported(tmp_path):
    videos = touch(tmp_path / "v", "1.mp4", "2.mp4", "3.mp4")
    rows = ("a,1.mp4,,,train,1,,", "b,2.mp4,,,train,2,,", "c,3.mp4,,,test,4,,")
    given = ("--videos", videos, "--manifest", own_csv(tmp_path, *rows))
    done = invoke(tmp_path, *given)
    assert "2 classes of 5 without a clip: 0, 3" in done.output
    assert "1 class without a clip in split train, which no model can learn: 4" in done.output
    own_csv(tmp_path, *rows[:2])
    done = invoke(tmp_path, *given)
    assert "1 class of 3 without a clip: 0; do the numbers start at 1?" in done.output
    (tmp_path / "classes.json").write_text('{"label": ["run", "jump"]}')
    refused(invoke(tmp_path, *given), "bad-entry", "row 3", "label is 2", "2 classes", "start at 0")


def test_a_rate_for_a_file_is_refused(tmp_path):
    videos = touch(tmp_path / "v", "1.mp4")
    header = HEADER.replace("\n", ",frames_per_second\n")
    path = own_csv(tmp_path, "a,1.mp4,,,train,0,,,25", header=header)
    done = invoke(tmp_path, "--videos", videos, "--manifest", path)
    refused(done, "bad-entry", "row 2", "frames_per_second is 25", "'1.mp4'")
    done = invoke(tmp_path, "--videos", videos, "--frames-per-second", 25)
    refused(done, "option-unused", "--frames-per-second")


# ---------------------------------------------------------------------- what is left out


def test_files_and_classes_that_are_left_out_are_counted_and_named(tmp_path):
    paths = ("run/1.mp4", "run/2.mp4", "run/notes.txt", "run/3.heic", "jump/1.heic", "jump/2.heic")
    videos = touch(tmp_path / "v", *paths)
    (videos / "walk").mkdir()
    (videos / "swim").symlink_to(videos / "run", target_is_directory=True)
    done = invoke(tmp_path, "--videos", videos)
    assert done.exit_code == 0, done.output
    assert "4 files not taken" in done.output and "(3 .heic, 1 .txt)" in done.output
    assert "3 class folders without a video" in done.output
    assert "jump (2 .heic), swim (a link), walk (empty)" in done.output
    assert read_classes(tmp_path / "out/mine/classes.json").label == ["run"]


def test_a_folder_without_videos_says_what_it_has(tmp_path):
    videos = touch(tmp_path / "v", "a.heic", "b.heic")
    refused(invoke(tmp_path, "--videos", videos), "empty", videos, "2 .heic")


def test_videos_that_a_list_leaves_out_are_counted(tmp_path):
    videos = touch(tmp_path / "v", "1.mp4", "2.mp4", "3.mp4")
    path = own_csv(tmp_path, "a,2.mp4,,,train,0,,")
    done = invoke(tmp_path, "--videos", videos, "--manifest", path)
    assert "2 videos that the annotations do not list, such as '1.mp4'" in done.output
