"""Splits by group and by fold, long videos cut into clips, and manifests that others depend on."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from errors import refused, refuses
from hypothesis import given
from hypothesis import strategies as st
from manifest_fixtures import HEADER, invoke, manifest_of, own_csv, touch
from video_fixtures import render_video

from preprocess.annotations.base import AnnotatedClip, Annotations
from preprocess.annotations.cuts import CutRule, cut_spans
from preprocess.annotations.splits import SplitRule, split_clips
from shared.errors import InputError
from shared.manifest import ClassList, read_manifest

# ---------------------------------------------------------------------- groups


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=2, max_size=60),
    st.floats(0.05, 0.95),
    st.integers(0, 3),
)
def test_a_group_is_never_divided(rows, share, seed):
    clips = [
        AnnotatedClip("here", str(i), f"{i}.mp4", "train", label, exact=True, columns={"g": str(g)})
        for i, (label, g) in enumerate(rows)
    ]
    annotations = Annotations(clips, ClassList(label=["a", "b", "c", "d"]), [], None)
    rule = SplitRule(share, seed, "g")
    if len({g for _, g in rows}) == 1:
        with refuses("too-few-clips", "--group-by g"):
            split_clips(annotations, rule)
        return
    try:
        divided = split_clips(annotations, rule).clips
    except InputError:  # one group may hold nearly all clips
        return
    assert divided == split_clips(annotations, rule).clips
    splits = defaultdict(set)
    for clip in divided:
        splits[clip.columns["g"]].add(clip.split)
    assert all(len(of_group) == 1 for of_group in splits.values())
    assert {clip.split for clip in divided} == {"train", "test"}


def test_groups_give_each_class_about_its_share():
    clips = [
        AnnotatedClip("here", f"{label}-{g}-{i}", "v.mp4", "train", label, columns={"g": f"{g}"})
        for label in range(5)
        for g in range(20)
        for i in range(5)
    ]
    annotations = Annotations(clips, ClassList(label=list("abcde")), [], None)
    divided = split_clips(annotations, SplitRule(0.2, 0, "g")).clips
    counts = Counter(clip.label for clip in divided if clip.split == "test")
    assert counts == dict.fromkeys(range(5), 20)


def test_prefix_and_folder_are_groups(tmp_path):
    """Eight sources a class, four pieces each."""
    videos = touch(
        tmp_path / "v",
        *(f"{c}/s{s}/v_g{s:02d}_c{i:02d}.mp4" for c in "ab" for s in range(8) for i in range(4)),
    )
    done = invoke(tmp_path, "--videos", videos, "--dry-run")
    assert "--group-by PREFIX keeps them together" not in done.output  # each has a folder
    for group_by in ("PREFIX", "FOLDER"):
        given = ("--videos", videos, "--group-by", group_by)
        clips = manifest_of(tmp_path, *given)
        splits = defaultdict(set)
        for clip in clips.values():
            splits[clip.video.rpartition("_")[0]].add(clip.split)
        assert all(len(of_source) == 1 for of_source in splits.values())
        assert Counter(clip.split for clip in clips.values())["test"] == 16  # 2 sources a class


def test_pieces_of_one_video_in_two_splits_are_reported(tmp_path):
    paths = [f"{c}/movie{m}_{i:03d}.mp4" for c in "ab" for m in range(3) for i in range(10)]
    videos = touch(tmp_path / "v", *paths)
    done = invoke(tmp_path, "--videos", videos, "--dry-run")
    assert "names with numbered clips in two splits" in done.output
    assert "--group-by PREFIX keeps them together" in done.output
    done = invoke(tmp_path, "--videos", videos, "--dry-run", "--group-by", "PREFIX")
    assert "in two splits" not in done.output
    rows = ("x,a/movie0_000.mp4,0,1,train,0,,", "y,a/movie0_000.mp4,1,2,test,0,,")
    done = invoke(tmp_path, "--videos", videos, "--manifest", own_csv(tmp_path, *rows))
    assert "1 video with clips in two splits, such as 'x' (train) and 'y' (test)" in done.output


def test_numbers_alone_are_no_pieces(tmp_path):
    videos = touch(tmp_path / "v", *(f"{c}/clip_{i:03d}.mp4" for c in "ab" for i in range(10)))
    assert "in two splits" not in invoke(tmp_path, "--videos", videos, "--dry-run").output


def columns_csv(tmp_path: Path) -> tuple[Path, Path]:
    videos = touch(tmp_path / "v", *(f"{i}.mp4" for i in range(12)))
    path = tmp_path / "clips.csv"
    rows = [f"{i}.mp4,{'ab'[i % 2]},source{i // 4},{i // 4}" for i in range(12)]
    path.write_text("path,label,group,fold\n" + "\n".join(rows) + "\n")
    return videos, path


def test_a_column_groups_and_folds(tmp_path):
    videos, path = columns_csv(tmp_path)
    given = ("--videos", videos, "--manifest", path)
    clips = manifest_of(tmp_path, *given, "--group-by", "group", "--test-share", "0.3")
    test = [int(clip.clip_id) // 4 for clip in clips.values() if clip.split == "test"]
    assert len(test) == 4 and len(set(test)) == 1
    for fold in range(3):
        clips = manifest_of(tmp_path, *given, "--fold", fold)
        for clip in clips.values():
            assert clip.split == ("test" if int(clip.clip_id) // 4 == fold else "train")


def test_a_manifest_with_empty_splits_is_divided_and_folds_replace_splits(tmp_path):
    videos = touch(tmp_path / "v", *(f"{i}.mp4" for i in range(10)))
    header = HEADER.replace("\n", ",fold\n")
    path = own_csv(tmp_path, *(f"{i},{i}.mp4,,,,0,,,{i % 5}" for i in range(10)), header=header)
    given = ("--videos", videos, "--manifest", path)
    clips = manifest_of(tmp_path, *given, "--test-share", "0.3")
    assert [clip.split for clip in clips.values()].count("test") == 3
    own_csv(tmp_path, *(f"{i},{i}.mp4,,,val,0,,,{i % 5}" for i in range(10)), header=header)
    refused(invoke(tmp_path, *given, "--seed", 1), "option-unused", "--seed", "column split", path)
    done = invoke(tmp_path, *given, "--fold", 1)
    assert done.exit_code == 0 and "--fold 1 replaces the splits" in done.output


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["--fold", 9], "out-of-range", ("--fold 9", "test empty", "0, 1, 2")),
        (["--fold", 0, "--seed", 1], "option-conflict", ("--fold", "--seed")),
        (["--group-by", "source"], "unknown-name", ("'source'", "FOLDER, PREFIX", "group, fold")),
        (["--group-by", "FOLDER"], "too-few-clips", ("--group-by FOLDER", "--test-share")),
        (["--stride-seconds", 1], "option-needs-another", ("--stride-seconds", "--cut-seconds")),
    ],
)
def test_wrong_splits_are_refused(tmp_path, options, code, named):
    videos, path = columns_csv(tmp_path)
    refused(invoke(tmp_path, "--videos", videos, "--manifest", path, *options), code, *named)


def test_options_that_need_a_column_or_labels_are_refused(tmp_path):
    videos = touch(tmp_path / "v", "1.mp4", "2.mp4")
    refused(
        invoke(tmp_path, "--videos", videos, "--fold", 0), "missing-key", "--fold", "--manifest"
    )
    done = invoke(tmp_path, "--videos", videos, "--group-by", "PREFIX")
    refused(done, "option-needs-another", "--group-by", "--test-share")
    for option in (["--fold", 0], ["--group-by", "FOLDER"], ["--cut-seconds", 1]):
        done = invoke(tmp_path, *option, dataset="ssv2")
        refused(done, "option-unused", option[0], "ssv2")


# ---------------------------------------------------------------------- cuts


@given(st.floats(0.1, 500), st.floats(0.5, 30), st.floats(0.1, 60))
def test_cuts_cover_the_video(stop, seconds, stride):
    spans = cut_spans(0.0, stop, CutRule(seconds, stride))
    assert spans[0][0] == 0 and all(0 <= first < last <= stop for first, last in spans)
    starts = [first for first, _ in spans]
    assert starts == pytest.approx([number * stride for number in range(len(spans))])
    for first, last in spans[:-1]:
        assert last - first == pytest.approx(seconds)
    if len(spans) > 1:
        assert spans[-1][1] - spans[-1][0] >= seconds / 2 * 0.999
    if stride <= seconds:
        assert spans[-1][1] == stop


@pytest.mark.parametrize(
    ("stop", "rule", "spans"),
    [
        (30, CutRule(10, 10), [(0, 10), (10, 20), (20, 30)]),
        (26, CutRule(10, 10), [(0, 10), (10, 20), (20, 26)]),
        (24, CutRule(10, 10), [(0, 10), (10, 24)]),
        (4, CutRule(10, 10), [(0, 4)]),
        (20, CutRule(10, 5), [(0, 10), (5, 15), (10, 20)]),
        (25, CutRule(10, 15), [(0, 10), (15, 25)]),
        (22, CutRule(10, 15), [(0, 10), (15, 22)]),
        (19, CutRule(10, 15), [(0, 10)]),
    ],
)
def test_cuts_of_round_lengths(stop, rule, spans):
    assert cut_spans(0.0, stop, rule) == spans


def test_long_videos_become_clips_of_one_split(tmp_path):
    videos = tmp_path / "v"
    for name, num_frames in (("long", 72), ("short", 12), ("other", 36)):
        render_video(videos / "a" / f"{name}.mp4", num_frames, size=(48, 32), rate=12)
    (videos / "a" / "broken.mp4").write_bytes(b"no video")
    given = ("--videos", videos, "--cut-seconds", 2, "--test-share", "0.5")
    done = invoke(tmp_path, *given)
    assert done.exit_code == 0 and "1 clip not cut, length unknown: a__broken" in done.output
    clips = {clip.clip_id: clip for clip in read_manifest(tmp_path / "out/mine/manifest.csv")}
    spans = {clip.clip_id: (clip.start_seconds, clip.stop_seconds) for clip in clips.values()}
    assert spans == {
        "a__broken": (None, None),
        "a__long-0000": (None, 2.0),
        "a__long-0001": (2.0, 4.0),
        "a__long-0002": (4.0, None),
        "a__other-0000": (None, 2.0),
        "a__other-0001": (2.0, None),
        "a__short": (None, None),
    }
    splits = defaultdict(set)
    for clip in clips.values():
        splits[clip.video].add(clip.split)
    assert all(len(of_video) == 1 for of_video in splits.values())
    clips = manifest_of(tmp_path, *given, "--stride-seconds", 3)
    assert [clip.span for clip in clips.values() if "long" in clip.video] == [(0, 2), (3, 5)]


# ---------------------------------------------------------------------- replacing a manifest


def test_a_manifest_that_others_depend_on_is_replaced_only_with_overwrite(tmp_path):
    videos = touch(tmp_path / "v", *(f"{c}/{i}.mp4" for c in "ab" for i in range(5)))
    root = tmp_path / "out" / "mine"
    before = manifest_of(tmp_path, "--videos", videos)
    touch(root, "flows/00000.h5", "flows-dis/00000.h5", "boxes/.journal", "runs/first/options.json")
    assert invoke(tmp_path, "--videos", videos).exit_code == 0  # unchanged
    done = invoke(tmp_path, "--videos", videos, "--test-share", "0.4")
    message = refused(done, "existing-output", "runs/first", "--overwrite", "labels or splits")
    assert "flows" not in message  # they do not depend on splits
    touch(videos, "a/new.mp4")
    named = ("10 clips before, 11 clips now", "flows, flows-dis, runs/first", "--overwrite")
    refused(invoke(tmp_path, "--videos", videos), "existing-output", *named)
    assert manifest_of(tmp_path, "--videos", videos, "--dry-run") == before
    done = invoke(tmp_path, "--videos", videos, "--overwrite")
    assert done.exit_code == 0 and "flows, flows-dis, runs/first" in done.output
    assert "a__new" in manifest_of(tmp_path, "--videos", videos)
