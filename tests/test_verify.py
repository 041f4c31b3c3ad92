"""verify names what is bad, --repair makes that again, and retry takes exactly what failed."""

import json
import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from dataset_fixtures import arguments, checksums, copy_of, make_dataset, run_boxes, run_flows
from errors import refused
from video_fixtures import render_video

from preprocess.checks.dataset import find_dataset, folder_names
from preprocess.checks.shard import check_shards
from preprocess.rebuilding import boxes as rebuilding_boxes
from preprocess.rebuilding import shards as rebuilding_shards
from shared.errors import EXIT_SET_ASIDE
from shared.layout import DatasetLayout
from shared.manifest import Clip, read_manifest, write_manifest
from shared.run_record import RunLock, read_jsonl
from shared.shard_index import read_index
from shared.shards import ShardReader

FLOWS = (
    *("--clips-per-shard", 2, "--source", "tvl1,motion-vectors", "--stabilise", "subtract"),
    *("--trajectories", "--track-points", 4),
)


def run_verify(layout, *more):
    from preprocess.verify import main

    return CliRunner().invoke(main, arguments(layout, "--workers", 1, *more))


def run_retry(layout, *more):
    from preprocess.retry import main

    return CliRunner().invoke(main, arguments(layout, *more))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> DatasetLayout:
    """Six clips in three shards, with every kind of folder and dataset; not to be written to."""
    layout = make_dataset(tmp_path_factory.mktemp("finished"))
    assert run_flows(layout, *FLOWS).exit_code == 0
    assert run_boxes(layout).exit_code == 0
    return layout


@pytest.fixture
def layout(finished, tmp_path) -> DatasetLayout:
    return copy_of(finished, tmp_path)


def all_checksums(layout):
    return {name: checksums(layout.root / name) for name in folder_names(layout)}


def in_place(layout):
    """The inode of each shard: changes where a file is replaced, also by the same bytes."""
    return {path: path.stat().st_ino for path in layout.root.glob("*/*.h5")}


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 8
    path.write_bytes(data)


def problems(layout):
    """What the checks say, by file, without processes."""
    found = find_dataset(layout)
    said = {str(path): text for path, text in found.problems}
    for shards in found.shards:
        for name, texts in check_shards(shards).items():
            if texts:
                said[f"{name}/{shards.files[name].path.name}"] = "; ".join(texts)
    return said


# --------------------------------------------------------------------------------------------------
# verify


def test_a_good_dataset_is_good(finished):
    done = run_verify(finished)
    assert done.exit_code == 0, done.output
    assert "12 shards in frames, flows, flows-motion-vectors, boxes" in done.output
    assert "bad" not in done.output


def test_every_kind_of_damage_is_named(layout):
    flip(layout.frames / "00000.h5")
    (layout.boxes / "00001.h5").unlink()
    data = (layout.flows / "00002.h5").read_bytes()
    (layout.flows / "00002.h5").write_bytes(data[:-100])
    (layout.frames / "00077.h5").write_bytes(b"from elsewhere")
    done = run_verify(layout)
    assert done.exit_code == 1
    lines = done.output.splitlines()
    for path, *named in (
        (layout.frames / "00000.h5", "sha256", "/jpeg/values"),
        (layout.boxes / "00001.h5", "not exist"),
        (layout.flows / "00002.h5", len(data) - 100, len(data)),
        (layout.frames, "1 file", "00077.h5"),
    ):
        (line,) = [line for line in lines if line.startswith(f"bad: {path}: ")]
        assert all(str(value) in line for value in named), line
    assert f"3 bad shards. `{layout.make('verify', '--repair')}`" in done.output


def rewrite(layout, name, number, change):
    """Change the arrays of a shard and make dataset.json agree: a fault that no checksum shows."""
    from shared.shard_index import DatasetIndex, ShardEntry, write_index
    from shared.shard_writer import write_shard

    folder = layout.root / name
    index = read_index(folder)
    path = folder / index.shards[number].name
    with ShardReader(path, index.kind) as reader:
        arrays = {p: np.array(reader[p]) for p in reader._datasets}
        attributes = reader.attributes
    change(arrays, attributes)
    written = write_shard(path, index.kind, arrays, attributes)
    entries = list(index.shards)
    entries[number] = ShardEntry(path.name, *written, len(arrays["/clip/id"]))
    write_index(folder, DatasetIndex(**{**vars(index), "shards": entries}))


CONTRADICTIONS = {
    "another clip": ("frames", lambda a, _: a["/clip/id"].__setitem__(0, b"x"), "lacks clips"),
    "another order": ("frames", lambda a, _: a["/clip/id"].__setitem__(
        slice(None), a["/clip/id"][::-1].copy()), "in another order"),
    "a gap": ("frames", lambda a, _: a["/clip/frames"].__setitem__((1, 0), 11), "has gaps"),
    "times fall": ("flows", lambda a, _: a["/frame/pts_seconds"].__setitem__(3, 0.0), "decreases"),
    "other times": ("flows", lambda a, _: a["/frame/pts_seconds"].__iadd__(1), "differs from fra"),
    "another size": ("flows", lambda a, _: a["/clip/size"].__iadd__(2), "/clip/size differs"),
    "maps of another size": ("flows", lambda a, _: a["/clip/map_size"].__iadd__(1), "not fit"),
    "endless motion": ("flows", lambda a, _: a["/motion/scale"].fill(np.inf), "not finite"),
    "tracks without an end": ("flows", lambda a, _: a.__setitem__(
        "/track/hog", a["/track/hog"][:-9].copy()), "values for"),
    "tracks of no length": ("flows", lambda _, c: c.update(track_length=0), "--track-length is 0"),
    "jpegs out of order": ("frames", lambda a, _: a["/jpeg/offsets"].__setitem__(2, 1), "in order"),
    "a box outside": ("boxes", lambda a, _: a["/box/xyxy"].__setitem__((0, 2), 99), "outside its"),
    "a position too many": ("boxes", lambda a, _: a["/tube/index"].__setitem__(0, 196), "0..195"),
    "bits out of order": ("boxes", lambda a, _: a["/moving/offsets"].__setitem__(2, 1), "in order"),
    "another moving size": ("boxes", lambda a, _: a["/clip/moving_size"].__iadd__(9), "not fit"),
    "a moving position too many": (
        "boxes", lambda a, _: a["/moving/tube_index"].__setitem__(0, -1), "0..195"),
    "other flows": ("boxes", lambda _, c: c.update(flows="0" * 64), "made from another flows"),
    "other options": ("frames", lambda _, c: c.update(jpeg_quality=5), "jpeg_quality 5;"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_contradictions_are_named(layout, case):
    name, change, words = case
    rewrite(layout, name, 1, change)
    found = problems(layout)
    assert words in found[f"{name}/00001.h5"], found


def test_folders_that_do_not_fit_together_are_named(layout):
    rewrite(layout, "flows", 0, lambda a, _: a["/motion/scale"].__imul__(2))
    assert problems(layout)[str(layout.boxes)] == "was made from other flows"
    clips = read_manifest(layout.manifest)
    write_manifest(layout.manifest, [*clips[:-1], Clip("other", "5.mp4")])
    assert problems(layout)[str(layout.frames)] == "was made from another manifest.csv"
    (layout.frames / "dataset.json").write_text("{")
    assert "is not JSON" in problems(layout)[str(layout.frames)]
    (layout.boxes / "dataset.json").unlink()
    assert f"run `{layout.make('boxes')}` to finish it" in problems(layout)[str(layout.boxes)]
    (layout.flows / "dataset.json").unlink()
    done = run_verify(layout)
    refused(done, "not-finished", layout.flows, f"`{layout.make('flows')}`")


# --------------------------------------------------------------------------------------------------
# repair


def test_repair_makes_the_bad_shards_again_and_touches_no_other(layout):
    expected, before = all_checksums(layout), in_place(layout)
    flip(layout.flows / "00001.h5")
    flip(layout.boxes / "00002.h5")
    (layout.frames / "00002.h5").unlink()
    done = run_verify(layout, "--repair")
    assert done.exit_code == 0, done.output
    assert all_checksums(layout) == expected
    replaced = {p for p, inode in in_place(layout).items() if inode != before.get(p)}
    bad = {layout.flows / "00001.h5", layout.boxes / "00002.h5", layout.frames / "00002.h5"}
    assert replaced <= bad and layout.flows / "00001.h5" in replaced
    assert not list(layout.root.glob("*/.*.tmp")) and not (layout.root / ".rebuild").exists()


def test_repair_does_not_trade_a_good_clip_for_a_failure(layout):
    (layout.videos / "2.mp4").unlink()
    flip(layout.flows / "00001.h5")
    before = all_checksums(layout)
    done = run_verify(layout, "--repair", "--videos", layout.videos)
    refused(done, "other-inputs", "clip-2", "decode", "2.mp4", "--videos")
    assert all_checksums(layout) == before
    wrong = run_verify(layout, "--repair", "--videos", layout.out / "mistyped")
    refused(wrong, "missing-folder", layout.out / "mistyped", "--videos")
    assert all_checksums(layout) == before


def test_repair_needs_the_same_options_and_the_lock(layout):
    flip(layout.flows / "00001.h5")
    record = json.loads((layout.flows / "options.json").read_text())
    record["options"]["jpeg_quality"] = 50
    (layout.flows / "options.json").write_text(json.dumps(record))
    done = run_verify(layout, "--repair")
    refused(done, "other-options", "--jpeg-quality was 90 and is now 50")
    with RunLock(layout.lock):
        refused(run_verify(layout, "--repair"), "locked", layout.root)
    for option in (("--videos", layout.videos), ("--num-gpus", 0)):
        done = run_verify(layout, *option)
        refused(done, "option-needs-another", option[0], "--repair")


def test_repair_works_as_it_is_told_where_the_run_had_other_means(layout):
    """As on a machine without GPU, of shards made with one."""
    expected = all_checksums(layout)
    record = json.loads((layout.flows / "options.json").read_text())
    record["options"] |= {"num_gpus": 1, "pool": "ray"}
    (layout.flows / "options.json").write_text(json.dumps(record))
    flip(layout.flows / "00001.h5")
    done = run_verify(layout, "--repair", "--num-gpus", 0, "--pool", "in-process")
    assert done.exit_code == 0, done.output
    assert all_checksums(layout) == expected


@pytest.mark.parametrize(
    "step",
    [
        "half moved",
        "no boxes",
        *(pytest.param(step, marks=pytest.mark.slow) for step in ("staged", "undeclared", "moved")),
    ],
)
def test_killed_at_any_step_of_a_repair_nothing_is_lost(layout, monkeypatch, step):
    """Stopped as by a kill; what comes next is what a user is told to run."""

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    expected = all_checksums(layout)
    flip(layout.frames / "00001.h5")
    flip(layout.flows / "00001.h5")
    flip(layout.flows / "00002.h5")
    real_replace, real_put = os.replace, rebuilding_shards._put_in_place
    moved = []

    def replace_one(source, target):
        if ".rebuild/" in str(source) and str(target).endswith(".h5"):
            moved.append(target)
            if len(moved) > 1 and step == "half moved":
                raise Killed
        real_replace(source, target)

    def put_in_place(*given):
        if step == "staged":
            raise Killed
        with monkeypatch.context() as inner:
            if step == "undeclared":
                inner.setattr(rebuilding_shards, "is_intact", killed)
            inner.setattr(os, "replace", replace_one)
            return real_put(*given)

    with monkeypatch.context() as patch:
        patch.setattr(rebuilding_shards, "_put_in_place", put_in_place)
        if step == "moved":
            patch.setattr(rebuilding_shards, "write_failures", killed)
        if step == "no boxes":
            patch.setattr(rebuilding_boxes, "renew_boxes", killed)
        with pytest.raises(Killed):
            run_verify(layout, "--repair")
    if not (layout.flows / "dataset.json").exists():
        assert run_flows(layout, *FLOWS).exit_code == 0
    done = run_verify(layout, "--repair")
    assert done.exit_code == 0, done.output
    assert all_checksums(layout) == expected


def test_boxes_of_other_shards_than_flows_has_now_are_named(tmp_path):
    """flows/ remade with another number of clips a shard: no boxes shard has one to go with."""
    layout = make_dataset(tmp_path, num_clips=3)
    assert run_flows(layout, "--clips-per-shard", 1).exit_code == 0
    assert run_boxes(layout).exit_code == run_boxes(layout, "--name", "other").exit_code == 0
    before = checksums(layout.boxes)
    assert run_flows(layout, "--clips-per-shard", 2, "--overwrite").exit_code == 0
    flip(layout.flows / "00001.h5")
    for done in (run_verify(layout, "--repair"), run_retry(layout)):
        assert isinstance(done.exception, SystemExit | None), done.exception
        assert f"{layout.boxes} was made from 3 shards of up to 1 clip" in done.output
        assert f"{layout.flows} now has 2 shards of up to 2 clips" in done.output
        assert f"`{layout.make('boxes', '--overwrite')}`" in done.output
        named = layout.make("boxes", "--name other ... --overwrite")
        assert f"`{named}`" in done.output
    assert checksums(layout.boxes) == before
    assert problems(layout).keys() == {str(layout.boxes), str(layout.boxes_of("other"))}
    assert run_boxes(layout, "--overwrite").exit_code == 0
    assert run_boxes(layout, "--name", "other", "--overwrite").exit_code == 0
    assert problems(layout) == {}


# --------------------------------------------------------------------------------------------------
# retry


@pytest.fixture
def with_failures(finished, tmp_path) -> DatasetLayout:
    """The same dataset, but two videos were damaged when it was made."""
    layout = DatasetLayout(tmp_path, finished.dataset)
    shutil.copytree(finished.videos, layout.videos)
    layout.manifest.write_bytes(finished.manifest.read_bytes())
    for number in (2, 3):
        (layout.videos / f"{number}.mp4").write_bytes(b"not yet a video")
    assert run_flows(layout, *FLOWS).exit_code == EXIT_SET_ASIDE
    assert run_boxes(layout).exit_code == 0
    return layout


def test_retry_ends_where_a_clean_run_does(finished, with_failures):
    layout = with_failures
    before = in_place(layout)
    shutil.copy(finished.videos / "2.mp4", layout.videos)
    done = run_retry(layout)
    assert done.exit_code == EXIT_SET_ASIDE and "1 of 2 clips" in done.output
    assert [record["clip_id"] for record in read_jsonl(layout.failures)] == ["clip-3"]
    assert run_verify(layout).exit_code == 0

    shutil.copy(finished.videos / "3.mp4", layout.videos)
    for number in (0, 1, 2, 4, 5):  # taken over from the shards, not decoded again
        (layout.videos / f"{number}.mp4").unlink()
    done = run_retry(layout)
    assert done.exit_code == 0, done.output
    assert not layout.failures.exists()
    assert all_checksums(layout) == all_checksums(finished)
    replaced = {path.name for path, inode in in_place(layout).items() if inode != before[path]}
    assert replaced == {"00001.h5"}
    assert "0 clips of" in run_retry(layout).output


@pytest.mark.parametrize(
    ("line", "code", "named"),
    [
        (bytes(60), "damaged-file", "line 1"),
        (b"null", "bad-entry", "None"),
        (b'{"clip_id": 3, "video": "3.mp4", "stage": "", "reason": ""}', "bad-entry", "3.mp4"),
    ],
)
def test_a_damaged_list_of_failures_is_named(layout, line, code, named):
    layout.failures.write_bytes(line + b"\n")
    for done in (run_verify(layout), run_retry(layout), run_flows(layout, *FLOWS)):
        refused(done, code, layout.failures, named)


def test_retry_takes_caps_from_the_command_line(tmp_path):
    layout = make_dataset(tmp_path, num_clips=3)
    render_video(layout.videos / "1.mp4", 40, size=(48, 32))
    assert run_flows(layout, "--max-frames", 20).exit_code == EXIT_SET_ASIDE
    assert run_retry(layout).exit_code == EXIT_SET_ASIDE
    assert run_retry(layout, "--max-frames", 50).exit_code == 0
    with ShardReader(layout.frames / "00000.h5", "frames") as reader:
        assert reader.clip_ids() == ["clip-0", "clip-1", "clip-2"]


def test_boxes_follow_also_after_a_kill(finished, with_failures, monkeypatch):
    import preprocess.retry as retry

    layout = with_failures
    for number in (2, 3):
        shutil.copy(finished.videos / f"{number}.mp4", layout.videos)
    with monkeypatch.context() as patch:
        patch.setattr(retry, "renew_boxes", lambda *_: None)
        assert run_retry(layout).exit_code == 0
    assert "made from other flows" in run_verify(layout).output
    assert run_retry(layout).exit_code == 0
    assert all_checksums(layout) == all_checksums(finished)


def test_boxes_follow_frames_that_changed_alone(layout):
    """As another version of the JPEG encoder makes them, while the flows stay as they are."""
    before = in_place(layout)
    rewrite(layout, "frames", 1, lambda _, attributes: attributes.update(encoder="another"))
    assert "made from other frames" in problems(layout)[str(layout.boxes)]
    assert "made from another frames shard" in problems(layout)["boxes/00001.h5"]
    done = run_retry(layout)
    assert done.exit_code == 0, done.output
    assert read_index(layout.boxes).config["frames"] == read_index(layout.frames).digest
    replaced = {path for path, inode in in_place(layout).items() if inode != before[path]}
    assert replaced == {layout.frames / "00001.h5", layout.boxes / "00001.h5"}
    assert problems(layout) == {}


def test_a_damaged_shard_is_not_taken_over(finished, tmp_path):
    layout = DatasetLayout(tmp_path, finished.dataset)
    shutil.copytree(finished.videos, layout.videos)
    layout.manifest.write_bytes(finished.manifest.read_bytes())
    (layout.videos / "3.mp4").write_bytes(b"not yet a video")
    assert run_flows(layout, "--clips-per-shard", 2).exit_code == EXIT_SET_ASIDE
    shutil.copy(finished.videos / "3.mp4", layout.videos)
    flip(layout.frames / "00001.h5")
    before = all_checksums(layout)
    done = run_retry(layout)
    refused(done, "damaged-file", layout.frames / "00001.h5", "make verify")
    assert all_checksums(layout) == before
    assert run_verify(layout, "--repair").exit_code == 0  # all of the shard from its videos
    assert run_retry(layout).exit_code == 0


def test_frames_without_flows_are_repaired_and_retried(tmp_path):
    layout = make_dataset(tmp_path, num_clips=3)
    (layout.videos / "1.mp4").write_bytes(b"not yet a video")
    frames_alone = ("--source", "none", "--clips-per-shard", 2)
    assert run_flows(layout, *frames_alone).exit_code == EXIT_SET_ASIDE
    good = checksums(layout.frames)
    flip(layout.frames / "00001.h5")
    assert run_verify(layout, "--repair").exit_code == 0
    assert checksums(layout.frames) == good

    render_video(layout.videos / "1.mp4", 9, size=(48, 32))
    done = run_retry(layout)
    assert done.exit_code == 0, done.output
    assert [entry.clips for entry in read_index(layout.frames).shards] == [2, 1]
    assert not layout.flows.exists() and not (layout.root / ".rebuild").exists()

    (layout.frames / "dataset.json").unlink()
    to_finish = layout.make("flows", "--source none")
    for done in (run_verify(layout), run_retry(layout)):
        refused(done, "not-finished", layout.frames, to_finish)


def test_a_lost_record_of_flows_is_not_replaced_by_one_of_frames(tmp_path):
    layout = make_dataset(tmp_path, num_clips=1)
    assert run_flows(layout, "--source", "none").exit_code == 0
    assert run_flows(layout).exit_code == 0
    (layout.flows / "options.json").unlink()
    refused(run_retry(layout), "missing-file", layout.flows / "options.json")


def test_retry_of_what_is_not_there(tmp_path):
    layout = make_dataset(tmp_path, num_clips=1)
    done = run_retry(layout)
    refused(done, "missing-file", layout.flows / "options.json", layout.make("flows"))
