"""preprocess.manifest: own data and the toy dataset in, manifest.csv out; bad input is named."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from errors import refused, refuses
from hypothesis import given
from hypothesis import strategies as st
from manifest_fixtures import HEADER, invoke, lock, manifest_of, own_csv, touch

from preprocess.annotations.base import Annotations
from preprocess.annotations.class_folders import read_class_folders
from preprocess.annotations.clip_rows import clip_id_of, format_missing, read_missing
from preprocess.annotations.dataset_spec import known_datasets, read_spec
from preprocess.annotations.readers import known_readers, reader_of
from preprocess.annotations.splits import SplitRule, split_clips
from preprocess.video import video_index
from preprocess.video.video_index import SUFFIXES, VideoIndex, scan_videos
from shared.manifest import CONTROL, ClassList, read_classes, read_manifest, write_classes

ROOT = Path(__file__).resolve().parents[1]


def split_folders(root: Path, share: float, seed: int) -> Annotations:
    return split_clips(read_class_folders(scan_videos(root)), SplitRule(share, seed))


# ---------------------------------------------------------------------- own folders


def test_flat_folder_has_no_labels_and_is_all_train(tmp_path):
    videos = touch(tmp_path / "v", "b.mp4", "a.webm", "a.mp4", "0123.MOV", "notes.txt", ".x.mp4")
    clips = manifest_of(tmp_path, "--videos", videos)
    assert {name: clip.video for name, clip in clips.items()} == {
        "0123": "0123.MOV",
        "a": "a.webm",
        "b": "b.mp4",
    }
    assert {(clip.split, clip.label) for clip in clips.values()} == {("train", None)}
    assert read_classes(tmp_path / "out/mine/classes.json") == ClassList()


def test_a_time_in_a_name_is_no_protocol(tmp_path):
    names = ("2024-01-05 14:23.mp4", "Screencast from 2024-01-05 14:23:45.webm")
    clips = manifest_of(tmp_path, "--videos", touch(tmp_path / "v", *names))
    assert sorted(clip.video for clip in clips.values()) == list(names)


def test_folders_that_may_not_be_read_are_noted(tmp_path, monkeypatch):
    videos = touch(tmp_path / "v", "run/1.mp4", "jump/2.mp4", "lost+found/3.mp4")
    lock(monkeypatch, videos / "lost+found")
    done = invoke(tmp_path, "--videos", videos, "--test-share", 0)
    assert done.exit_code == 0, done.output
    assert "1 folder not searched, such as 'lost+found': Permission denied" in done.output
    clips = read_manifest(tmp_path / "out/mine/manifest.csv")
    assert sorted(clip.video for clip in clips) == ["jump/2.mp4", "run/1.mp4"]
    alone = touch(tmp_path / "w", "a/1.mp4")
    lock(monkeypatch, alone / "a")
    refused(invoke(tmp_path, "--videos", alone), "empty", alone, "'a': Permission denied")
    listed = own_csv(tmp_path, "a,a/2.mp4,,,train,0,,")
    done = invoke(tmp_path, "--videos", alone, "--manifest", listed)
    refused(done, "no-match", "a/2.mp4", "'a': Permission denied")
    lock(monkeypatch, alone)
    refused(invoke(tmp_path, "--videos", alone), "no-permission", alone)


def test_prefer_mp4(tmp_path):
    videos = touch(tmp_path / "v", "a.webm", "a.mp4", "b.webm")
    clips = manifest_of(tmp_path, "--videos", videos, "--prefer", "mp4")
    assert [clip.video for clip in clips.values()] == ["a.mp4", "b.webm"]


def test_class_folders_are_classes_in_order_of_their_names(tmp_path):
    names = ("run", "jump", "a b")
    videos = touch(tmp_path / "v", *(f"{name}/{i}.mp4" for name in names for i in range(10)))
    clips = manifest_of(tmp_path, "--videos", videos)
    assert read_classes(tmp_path / "out/mine/classes.json").label == ["a b", "jump", "run"]
    assert clips["jump__3"].video == "jump/3.mp4" and clips["jump__3"].label == 1
    for label in range(3):
        splits = [clip.split for clip in clips.values() if clip.label == label]
        assert splits.count("test") == 2 and splits.count("train") == 8


def test_a_file_of_the_same_name_in_another_class_is_another_clip(tmp_path):
    """Also where its folder has the name of the class, and its suffix comes first."""
    paths = ("a/clip.flv", "z/a/clip.webm", "0/a/clip.mp4", "z/two.mp4", "z/two.webm")
    videos = touch(tmp_path / "v", *paths)
    done = invoke(tmp_path, "--videos", videos)
    assert done.exit_code == 0, done.output
    assert "1 clip with several files; 'z__two' is read from z/two.webm" in done.output
    clips = read_manifest(tmp_path / "out/mine/manifest.csv")
    assert {clip.clip_id: (clip.video, clip.label) for clip in clips} == {
        "0__a__clip": ("0/a/clip.mp4", 0),
        "a__clip": ("a/clip.flv", 1),
        "z__a__clip": ("z/a/clip.webm", 2),
        "z__two": ("z/two.webm", 2),
    }


@pytest.mark.parametrize("name", ["video.mp4", "rgb/"])
def test_videos_of_one_name_are_found_by_their_path_in_a_step_each(tmp_path, monkeypatch, name):
    """In `id/video.mp4` or `id/rgb/0001.jpg`, all videos have one name."""
    paths = [f"{i}/{name}" for i in range(3000)]
    index = VideoIndex(tmp_path, paths, {}, [])
    compared = []
    whole = video_index.without_suffix
    monkeypatch.setattr(
        video_index, "without_suffix", lambda path: compared.append(path) or whole(path)
    )
    assert [index.find(whole(path), "webm", rooted=True) for path in paths] == [[p] for p in paths]
    assert index.find("3000/video", "webm", rooted=True) == []
    assert len(compared) <= 2 * len(paths)


def test_split_folders_are_kept(tmp_path):
    videos = touch(tmp_path / "v", "train/run/1.mp4", "val/run/1.mp4", "test/jump/1.mp4")
    clips = manifest_of(tmp_path, "--videos", videos)
    assert {(clip.video, clip.split, clip.label) for clip in clips.values()} == {
        ("train/run/1.mp4", "train", 1),
        ("val/run/1.mp4", "val", 1),
        ("test/jump/1.mp4", "test", 0),
    }


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 12), min_size=1),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_own_split_depends_on_seed_and_names_alone(tmp_path_factory, sizes, share, seed):
    root = tmp_path_factory.mktemp("v")
    touch(root, *(f"{name}/{i}.mp4" for name, size in sizes.items() for i in range(size)))
    if max(sizes.values()) == 1 and share < 0.5:
        with refuses("too-few-clips", f"--test-share {share} ", " test "):
            split_folders(root, share, seed)
        return
    if max(sizes.values()) == 1:
        with refuses("too-few-clips", f"--test-share {share} ", " train "):
            split_folders(root, share, seed)
        return
    clips = split_folders(root, share, seed).clips
    again = split_folders(root, share, seed).clips
    assert [clip.split for clip in clips] == [clip.split for clip in again]
    for label, name in enumerate(sorted(sizes)):
        num_test = sum(clip.split == "test" for clip in clips if clip.label == label)
        assert abs(num_test - share * sizes[name]) <= 1
        assert sizes[name] == 1 or 1 <= num_test < sizes[name]


def test_a_share_beside_split_folders_is_refused(tmp_path):
    videos = touch(tmp_path / "v", "train/run/1.mp4", "test/run/2.mp4")
    done = invoke(tmp_path, "--videos", videos, "--test-share", "0.5")
    refused(done, "option-unused", "--test-share", videos, "train, val, test")


def test_another_seed_gives_other_test_clips(tmp_path):
    touch(tmp_path, *(f"{i}.mp4" for i in range(100)))
    splits = [[c.split for c in split_folders(tmp_path, 0.5, seed).clips] for seed in (0, 1)]
    assert splits[0] != splits[1] and splits[0].count("test") == splits[1].count("test") == 50


def test_videos_in_and_out_of_class_folders_are_refused(tmp_path):
    videos = touch(tmp_path / "v", "run/1.mp4", "2.mp4")
    refused(invoke(tmp_path, "--videos", videos), "bad-entry", videos, "(run/1)", "(2)")


def test_unlabelled_takes_every_video_at_any_depth(tmp_path):
    videos = touch(tmp_path / "v", "run/1.mp4", "2.mp4", "test/a/b/3.mkv", "train/4.mp4")
    clips = manifest_of(tmp_path, "--videos", videos, "--unlabelled")
    assert [clip.video for clip in clips.values()] == [
        "2.mp4",
        "run/1.mp4",
        "test/a/b/3.mkv",
        "train/4.mp4",
    ]
    assert {(clip.split, clip.label) for clip in clips.values()} == {("train", None)}
    assert read_classes(tmp_path / "out/mine/classes.json") == ClassList()


def test_links_out_of_the_root_are_refused_and_inner_ones_used(tmp_path):
    touch(tmp_path, "secret.mp4")
    videos = touch(tmp_path / "v", "a.mp4")
    (videos / "inner.mp4").symlink_to("a.mp4")
    (videos / "dangling.mp4").symlink_to("gone.mp4")
    (videos / "loop.txt").symlink_to("loop.txt")
    (videos / "folder").symlink_to(tmp_path, target_is_directory=True)
    done = invoke(tmp_path, "--videos", videos)
    assert done.exit_code == 0 and "1 linked folder not searched, such as 'folder'" in done.output
    assert [c.video for c in read_manifest(tmp_path / "out/mine/manifest.csv")] == [
        "a.mp4",
        "inner.mp4",
    ]
    (videos / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    done = invoke(tmp_path, "--videos", videos)
    refused(done, "unsafe-path", "'out.mp4'", "symbolic link")


def test_names_that_no_manifest_can_hold_are_refused(tmp_path):
    videos = touch(tmp_path / "v", "a\nb.mp4")
    refused(invoke(tmp_path, "--videos", videos), "unsafe-path", "control character")
    (videos / "a\nb.mp4").unlink()
    (videos / os.fsdecode(b"caf\xe9.mp4")).touch()
    refused(invoke(tmp_path, "--videos", videos), "unsafe-path", "not UTF-8")


def test_a_pipe_is_refused(tmp_path):
    videos = touch(tmp_path / "v", "a.mp4")
    os.mkfifo(videos / "pipe.mp4")
    refused(invoke(tmp_path, "--videos", videos), "unsafe-path", "'pipe.mp4'", "regular file")


# ---------------------------------------------------------------------- own CSV


def test_own_csv_with_missing_videos(tmp_path):
    videos = touch(tmp_path / "v", "x/1.mp4", "x/1.webm")
    path = own_csv(tmp_path, "0123,x/1.mp4,0.5,2,train,2,,", "b,x/2.mp4,,,test,0,,")
    clips = manifest_of(tmp_path, "--videos", videos, "--manifest", path)
    assert list(clips) == ["0123"] and clips["0123"].video == "x/1.mp4"
    assert (clips["0123"].start_seconds, clips["0123"].stop_seconds) == (0.5, 2.0)
    assert (tmp_path / "out/mine/missing.csv").read_text().splitlines()[1] == "b,x/2.mp4,test"
    assert read_classes(tmp_path / "out/mine/classes.json").label == ["0", "1", "2"]


def test_own_csv_takes_the_classes_beside_it(tmp_path):
    videos = touch(tmp_path / "v", "1.mp4")
    path = own_csv(tmp_path, "a,1.mp4,,,train,1,,")
    classes = ClassList(label=["left", "right"], flip_x=[1, 0])
    write_classes(tmp_path / "classes.json", classes)
    manifest_of(tmp_path, "--videos", videos, "--manifest", path)
    assert read_classes(tmp_path / "out/mine/classes.json") == classes
    own_csv(tmp_path, "a,1.mp4,,,train,1,,", "b,1.mp4,,,train,2,,")
    done = invoke(tmp_path, "--videos", videos, "--manifest", path)
    refused(done, "bad-entry", "mine.csv, row 3 (clip 'b'): label is 2", "classes.json", "2")


@pytest.mark.parametrize(
    ("row", "code", "named"),
    [
        ("b,../secret.mp4,,,train,,,", "unsafe-path", ("'../secret.mp4'", "video root")),
        ("b,/etc/passwd,,,train,,,", "unsafe-path", ("'/etc/passwd'", "video root")),
        ("b,https://a.b/c.mp4,,,train,,,", "unsafe-path", ("'https://a.b/c.mp4'", "address")),
        ("b,concat:1.mp4|1.mp4,,,train,,,", "unsafe-path", ("'concat:1.mp4|1.mp4'", "address")),
        ("b,list.m3u8,,,train,,,", "wrong-format", ("(clip 'b')", "'list.m3u8'", "suffix")),
        (f"b,{'n' * 4000}.mp4,,,train,,,", "bad-name", ("video 'nnnn",)),
        ("b,out.mp4,,,train,,,", "unsafe-path", ("(clip 'b')", "'out.mp4'", "symbolic link")),
        ("b,folder/secret.mp4,,,train,,,", "unsafe-path", ("'folder/secret.mp4'", "symbolic link")),
        ("b,pipe.mp4,,,train,,,", "unsafe-path", ("(clip 'b')", "'pipe.mp4'", "regular file")),
        ("b,1.mp4,2,1,train,,,", "out-of-range", ("stop_seconds 1.0", "start_seconds 2.0")),
        ("a,1.mp4,,,train,,,", "duplicate", ("'a'", "row 2")),
        ("b,1.mp4,,,all,,,", "unknown-name", ("'all'", "train, val, test")),
        ("b,1.mp4,,,train,x,,", "wrong-type", ("label is 'x'",)),
    ],
)
def test_hostile_and_wrong_rows_are_refused_by_row(tmp_path, row, code, named):
    touch(tmp_path, "secret.mp4")
    videos = touch(tmp_path / "v", "1.mp4")
    (videos / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (videos / "folder").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(videos / "pipe.mp4")
    path = own_csv(tmp_path, "a,1.mp4,,,train,,,", row)
    done = invoke(tmp_path, "--videos", videos, "--manifest", path)
    refused(done, code, "mine.csv, row 3", *named)
    assert len(done.stderr) < 700
    assert not (tmp_path / "out/mine/manifest.csv").exists()


def test_missing_columns_other_encodings_and_no_rows(tmp_path):
    videos = touch(tmp_path / "v", "1.mp4")
    path = own_csv(tmp_path, "1.mp4,train", header="video,split\n")
    given = ["--videos", videos, "--manifest", path]
    refused(invoke(tmp_path, *given), "missing-key", path, "clip_id, start_seconds")
    path.write_bytes(HEADER.encode("utf-16"))
    refused(invoke(tmp_path, *given), "wrong-format", f"{path}, row 1", "byte 0 is 0xff", "UTF-8")
    own_csv(tmp_path)
    refused(invoke(tmp_path, *given), "empty", path)
    path.unlink()
    refused(invoke(tmp_path, *given), "missing-file", path, "--manifest")


# ---------------------------------------------------------------------- the command


def test_a_class_name_that_no_file_can_hold_is_refused(tmp_path):
    videos, labels = touch(tmp_path / "v", "1.mp4"), tmp_path / "labels"
    labels.mkdir()
    names = {"Holding something": "0", "Dropping \ud800": "1"}
    (labels / "something-something-v2-labels.json").write_text(json.dumps(names))
    entries = [{"id": "1", "template": "Holding [something]"}]
    (labels / "something-something-v2-train.json").write_text(json.dumps(entries))
    given = ("--videos", videos, "--annotations", labels)
    done = invoke(tmp_path, *given, dataset="ssv2")
    refused(done, "bad-name", r"label 1, 'Dropping \ud800'")
    assert not (tmp_path / "out").exists()


def test_toy_needs_no_options_and_keeps_its_classes(tmp_path):
    root = tmp_path / "out" / "toy"
    touch(root / "videos", "toy00000.mp4", "toy00001.mp4")
    (root / "annotations").mkdir()
    rows = "".join(f"toy0000{i},toy0000{i}.mp4,,,train,{i},,\n" for i in range(3))
    (root / "annotations" / "manifest.csv").write_text(HEADER + rows)
    classes = ClassList(label=["left", "right", "up"], flip_x=[1, 0, 2])
    write_classes(root / "annotations" / "classes.json", classes)
    assert list(manifest_of(tmp_path, dataset="toy")) == ["toy00000", "toy00001"]
    assert read_classes(root / "classes.json") == classes


def test_a_rerun_leaves_unchanged_files_alone(tmp_path):
    videos = touch(tmp_path / "v", "a.mp4")
    manifest_of(tmp_path, "--videos", videos)
    path = tmp_path / "out/mine/manifest.csv"
    os.utime(path, (1, 1))
    done = invoke(tmp_path, "--videos", videos)
    assert done.exit_code == 0 and done.output.count(": unchanged") == 3
    assert path.stat().st_mtime == 1
    options = json.loads((tmp_path / "out/mine/options.json").read_text())["options"]
    assert options["videos"] == str(videos) and options["seed"] is None
    touch(videos, "b.mp4")
    assert list(manifest_of(tmp_path, "--videos", videos)) == ["a", "b"]


def test_dry_run_writes_nothing(tmp_path):
    videos = touch(tmp_path / "v", "a.mp4")
    done = invoke(tmp_path, "--videos", videos, "--dry-run")
    assert done.exit_code == 0 and not (tmp_path / "out").exists()


def test_an_unknown_dataset_without_videos_lists_the_known_ones(tmp_path):
    named = ("'ssv3'", ", ".join(known_datasets()), "VIDEOS=folder")
    refused(invoke(tmp_path, dataset="ssv3"), "unknown-name", *named)


def test_no_video_at_all_is_an_error(tmp_path):
    (tmp_path / "v").mkdir()
    refused(invoke(tmp_path, "--videos", tmp_path / "v"), "empty", tmp_path / "v")
    nowhere = invoke(tmp_path, "--videos", tmp_path / "w")
    refused(nowhere, "missing-folder", tmp_path / "w", "--videos")
    path = own_csv(tmp_path, "a,a.mp4,,,train,,,")
    done = invoke(tmp_path, "--videos", tmp_path / "v", "--manifest", path)
    refused(done, "no-match", "none of the 1 ", tmp_path / "v", "no videos", "'a.mp4'")


@pytest.mark.parametrize(
    ("dataset", "options", "code", "named"),
    [
        ("mine", ["--annotations", "."], "option-unused", ("--annotations", "folders")),
        ("mine", ["--split-number", "1"], "option-unused", ("--split-number", "folders")),
        ("ssv2", ["--test-share", "0.1"], "option-unused", ("--test-share", "ssv2")),
        ("ssv2", ["--unlabelled"], "option-unused", ("--unlabelled", "ssv2")),
        ("mine", ["--unlabelled", "--seed", "1"], "option-unused", ("--seed", "--unlabelled")),
        ("mine", ["--manifest", "x", "--unlabelled"], "option-unused", ("--unlabelled", "CSV")),
        ("ssv2", ["--split-number", "1"], "option-unused", ("--split-number", "ssv2")),
        ("ssv2", ["--manifest", "x", "--prefer", "mp4"], "option-unused", ("--prefer", "CSV")),
        ("ssv2", ["--annotations", "."], "missing-option", ("ssv2", "--videos (VIDEOS=folder)")),
        (
            "ssv2",
            ["--videos", "."],
            "missing-option",
            ("ssv2", "--annotations (ANNOTATIONS=folder)", "something-something-v2-train.json"),
        ),
        ("ucf101", ["--split-number", "4"], "out-of-range", ("4", "ucf101", "1 to 3")),
    ],
)
def test_options_without_effect_are_refused(tmp_path, dataset, options, code, named):
    refused(invoke(tmp_path, *options, dataset=dataset), code, *named)


def test_the_command_runs_as_a_module(tmp_path):
    videos = touch(tmp_path / "v", "a.mp4")
    command = [sys.executable, "-m", "preprocess.manifest", "--dataset", "mine"]
    done = subprocess.run(
        [*command, "--out", tmp_path, "--videos", videos], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "mine/manifest.csv: written" in done.stdout
    done = subprocess.run([*command, "--out", tmp_path], cwd=ROOT, capture_output=True, text=True)
    refused(done, "unknown-name", "'mine'", "ssv2")


# ---------------------------------------------------------------------- ids and specs


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120))
def test_clip_ids_fit_and_are_stable(name):
    clip_id = clip_id_of(name)
    assert 1 <= len(clip_id.encode()) <= 64 and clip_id == clip_id_of(name)
    assert not CONTROL.search(clip_id)
    assert clip_id == name or clip_id[-13] == "-"


def test_long_names_keep_a_readable_start_and_differ():
    long = "Gaye_waves_to_the_paparazzi_as_she_flees_New_York_after_stalking_wave_u_cm_np1_fr_med_"
    ids = {clip_id_of(f"{long}{i}") for i in range(100)}
    assert len(ids) == 100
    assert {clip_id[:40] for clip_id in ids} == {long[:40]}


rows = st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs", "Cc"]))] * 3))


@given(rows)
def test_missing_csv_reads_back_equal(missing):
    assert read_missing(format_missing(missing)) == missing


def test_every_module_of_the_readers_is_one():
    """A helper between them would be offered as a reader in messages, and fail when named."""
    for name in known_readers():
        module = importlib.import_module(f"preprocess.annotations.readers.{name}")
        assert isinstance(module.ROLES, tuple) and callable(module.read), name


@pytest.mark.parametrize("dataset", known_datasets())
def test_every_spec_is_valid_and_names_its_reader(dataset):
    assert reader_of(read_spec(dataset)).roles


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("title = 1", "missing-key", ("reader",)),
        ("title =", "wrong-format", ("TOML",)),
        ("GOOD\nextra = 1", "unknown-key", ("'extra'", "title, reader")),
        ("GOOD\nnum_splits = '3'", "wrong-type", ("num_splits", "int")),
        ("GOOD\nnum_splits = -1", "out-of-range", ("num_splits is -1",)),
        ("GOOD\n[flips]\nx = 'mirror'", "unknown-name", ("x", "'mirror'", "identity, none")),
        ("GOOD\n[flips]\nz = 'none'", "unknown-key", ("'z'", "x, y, time")),
        ("GOOD\n[classes]\nlabel = 2\nlabels = ['a']", "other-classes", ("1 label", "2")),
        ("GOOD\n[classes]\nadverb = 2", "unknown-key", ("'adverb'", "label, verb, noun")),
    ],
)
def test_a_wrong_spec_is_named(tmp_path, text, code, named):
    good = "title = 't'\nreader = 'ssv2'\nreported_split = 'val'\nfiles = {train = ['a']}"
    (tmp_path / "d.toml").write_text(text.replace("GOOD", good))
    with refuses(code, tmp_path / "d.toml", *named):
        read_spec("d", tmp_path)


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        (
            "reader = 'voc'\nfiles = {train = ['a']}",
            "unknown-name",
            ("'voc'", "diving48, epic100,"),
        ),
        ("reader = 'ssv2'\nfiles = {train = ['a']}", "missing-key", ("ssv2", "train, val,")),
    ],
)
def test_a_reader_that_does_not_fit_is_named(tmp_path, text, code, named):
    (tmp_path / "d.toml").write_text(f"title = 't'\nreported_split = 'val'\n{text}")
    with refuses(code, "data_manifests/d.toml", *named):
        reader_of(read_spec("d", tmp_path))


def test_a_spec_with_the_former_name_of_a_reader_loads(tmp_path):
    """Older versions of the page on manifests tell users to write it."""
    files = "files = {manifest = ['manifest.csv'], classes = ['classes.json']}"
    (tmp_path / "d.toml").write_text(
        f"title = 't'\nreader = 'own_csv'\nreported_split = 'val'\n{files}"
    )
    spec = read_spec("d", tmp_path)
    assert spec.has_own_manifest and reader_of(spec) == reader_of(read_spec("toy"))


def test_every_suffix_is_found(tmp_path):
    touch(tmp_path, *(f"clip{suffix.upper()}" for suffix in SUFFIXES))
    index = scan_videos(tmp_path)
    assert len(index.paths) == len(SUFFIXES)
    assert index.find("clip", "mp4")[0] == "clip.MP4"
    assert index.find("clip", "webm")[0] == "clip.WEBM"


def test_classes_json_is_what_the_trainer_reads(tmp_path):
    videos = touch(tmp_path / "v", "1.mp4")
    path = own_csv(tmp_path, "a,1.mp4,,,train,,1,0")
    manifest_of(tmp_path, "--videos", videos, "--manifest", path)
    content = json.loads((tmp_path / "out/mine/classes.json").read_text())
    assert content["verb"] == ["0", "1"] and content["noun"] == ["0"] and content["label"] == []
