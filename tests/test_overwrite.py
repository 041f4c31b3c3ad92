"""--overwrite keeps what is there until the first new shard is written, whatever fails before."""

import os
import shutil

import pytest
from dataset_fixtures import checksums, copy_of, make_dataset, run_boxes, run_flows
from errors import refused

from preprocess.flow_run import run_start
from preprocess.flow_run.run_start import RunStart
from shared.errors import EXIT_SET_ASIDE
from shared.layout import DatasetLayout
from shared.shard_index import read_index
from shared.shards import ShardReader

OLD = ("--clips-per-shard", 2)
NEW = ("--clips-per-shard", 2, "--jpeg-quality", 50, "--overwrite")


class Killed(BaseException):
    """Ends a run as a kill does."""


def killed(*_, **__):
    raise Killed


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> DatasetLayout:
    """Six clips in three shards; clip 1 was set aside; tests only read it."""
    layout = make_dataset(tmp_path_factory.mktemp("finished"))
    (layout.videos / "1.mp4").write_bytes(b"not yet a video")
    assert run_flows(layout, *OLD).exit_code == EXIT_SET_ASIDE
    assert run_boxes(layout).exit_code == 0
    return layout


@pytest.fixture
def layout(finished, tmp_path) -> DatasetLayout:
    return copy_of(finished, tmp_path)


def state(layout):
    """Content and inode of everything that the finished runs left."""
    files = [path for path in layout.root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path: (path.stat().st_ino, path.read_bytes()) for path in sorted(files)}


def test_a_mistyped_folder_of_videos_loses_nothing(layout, tmp_path):
    before = state(layout)
    done = run_flows(layout, *NEW, "--videos", layout.videos / "mistyped")
    refused(done, "missing-folder", layout.videos / "mistyped", "--videos")
    done = run_flows(layout, *NEW, "--videos", layout.flows)
    refused(done, "no-match", layout.flows, "0.mp4", "--videos")
    assert state(layout) == before
    assert "reuse:" in run_flows(layout, *OLD).output


def test_the_first_clips_that_fail_lose_nothing(layout, tmp_path):
    """Also failures.jsonl stays that of the old shards."""
    before = state(layout)
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "0.mp4").write_bytes(b"not a video")
    refused(run_flows(layout, *NEW, "--videos", wrong, "--strict"), "damaged-file", "clip-0")
    assert state(layout) == before


def test_workers_that_do_not_start_lose_nothing(layout, monkeypatch):
    before = state(layout)
    with monkeypatch.context() as patch:
        patch.setattr("preprocess.flow_run.pool.InProcessPool", killed)
        with pytest.raises(Killed):
            run_flows(layout, *NEW)
    assert state(layout) == before


def test_a_disk_that_is_full_at_the_first_shard_loses_nothing(layout, monkeypatch):
    before = state(layout)

    def full(path, *_):
        if path.parent.name == "flows":
            raise OSError(28, "No space left on device", str(path))
        return real(path, *_)

    from preprocess.flow_run import assembly

    real = assembly.write_shard
    with monkeypatch.context() as patch:
        patch.setattr(assembly, "write_shard", full)
        refused(run_flows(layout, *NEW), "no-space")
    assert state(layout) == before


def test_killed_at_the_first_shard_the_run_continues_with_its_own_options(layout, monkeypatch):
    """The old shards are not complete any more, and the old options are refused."""
    first = (layout.frames / "00000.h5").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(run_start.os, "replace", killed_at_shards)
        with pytest.raises(Killed):
            run_flows(layout, *NEW)
    assert read_index(layout.frames) is None and read_index(layout.flows) is None
    assert (layout.frames / "00000.h5").read_bytes() == first
    said = "--jpeg-quality was 50 and is now 90"
    refused(run_flows(layout, *OLD), "other-options", layout.flows, said)
    assert run_flows(layout, *NEW[:-1]).exit_code == EXIT_SET_ASIDE
    assert not list(layout.root.glob(".first*")) and not list(layout.flows.glob(".*"))


real_replace = os.replace


def killed_at_shards(source, target):
    if ".first-shard" in str(source) and ".first-shard" not in str(target):
        raise Killed
    real_replace(source, target)


def test_an_unfinished_run_is_kept_too(finished, layout, monkeypatch):
    """A journal of finished shards is worth as much as dataset.json."""
    shutil.rmtree(layout.frames)
    shutil.rmtree(layout.flows)
    with monkeypatch.context() as patch:
        patch.setattr("preprocess.flow_run.plan.write_index", killed)
        with pytest.raises(Killed):
            run_flows(layout, *OLD)
    before = state(layout)
    done = run_flows(layout, *NEW, "--videos", layout.videos / "mistyped")
    refused(done, "missing-folder", "mistyped")
    assert state(layout) == before
    assert "continuing: 3 of 3" in run_flows(layout, *OLD).output
    assert checksums(layout.flows) == checksums(finished.flows)


def test_a_journal_of_further_outputs_does_not_outlive_overwrite(layout, monkeypatch):
    further = (*OLD, "--boundaries")
    with monkeypatch.context() as patch:
        patch.setattr("preprocess.flow_run.plan.write_index", killed)
        with pytest.raises(Killed):
            run_flows(layout, *further)
    journal = layout.flows_of("tvl1-boundaries") / ".journal.jsonl"
    assert journal.exists()
    assert run_flows(layout, *further, "--overwrite").exit_code == EXIT_SET_ASIDE
    assert not journal.exists() and read_index(journal.parent) is not None


def test_the_first_shards_replace_the_old_ones_whole(layout):
    assert run_flows(layout, *NEW).exit_code == EXIT_SET_ASIDE
    for name in ("frames", "flows"):
        assert read_index(layout.root / name).num_clips == 5
        with ShardReader(layout.root / name / "00000.h5", name) as reader:
            assert reader.clip_ids() == ["clip-0"]
    assert read_index(layout.frames).config["jpeg_quality"] == 50
    assert not list(layout.root.glob(".*[!k]"))


def test_boxes_are_kept_where_their_first_shard_cannot_be_made(layout):
    """First the flows are damaged, then they are whole again."""
    path = layout.flows / "00000.h5"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 64] = bytes(64)
    path.write_bytes(damaged)
    before = state(layout)
    done = run_boxes(layout, "--overwrite", "--set", "sigma=4", "--workers", 1)
    refused(done, "damaged-file", path)
    assert state(layout) == before
    path.write_bytes(whole)
    assert run_boxes(layout, "--overwrite", "--set", "sigma=4").exit_code == 0
    assert read_index(layout.boxes).config["sigma"] == 4.0
    assert not list(layout.root.glob(".first*"))


def test_boxes_are_kept_where_their_input_is_not_there(layout):
    before = state(layout)
    done = run_boxes(layout, "--overwrite", "--source", "dis")
    assert done.exit_code == 1 and "flows-dis" in done.stderr
    assert run_boxes(layout, "--overwrite", "--set", "sigmma=4").exit_code == 1
    assert state(layout) == before


def test_a_run_without_overwrite_starts_at_once(layout, finished):
    """Its journal holds its options from the first moment, so that others are refused."""
    assert not RunStart.__init__.__defaults__
    (layout.flows / "00001.h5").unlink()
    wrong = layout.out / "wrong"
    wrong.mkdir()
    (wrong / "0.mp4").write_bytes(b"not a video")
    assert run_flows(layout, *OLD, "--strict", "--videos", wrong).exit_code == 1
    assert read_index(layout.flows) is None and (layout.flows / ".journal.jsonl").exists()
