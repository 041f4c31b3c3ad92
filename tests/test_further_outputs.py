"""Further outputs, requested later: the finished folders beside them stay as they are."""

import shutil

import pytest
from click.testing import CliRunner
from dataset_fixtures import arguments, checksums, copy_of, make_dataset, run_flows
from errors import refused
from video_fixtures import render_video

from preprocess.flow_run import publishing
from preprocess.flow_run.config import recorded_config
from shared.errors import EXIT_SET_ASIDE
from shared.layout import DatasetLayout
from shared.run_record import read_jsonl
from shared.shard_index import read_index
from shared.shards import ShardReader

PLAIN = ("--clips-per-shard", 2)
FURTHER = (*PLAIN, "--boundaries")
FOLDER = "flows-tvl1-boundaries"


class Killed(BaseException):
    """Ends a run as a kill does."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> DatasetLayout:
    """Clips 1, 4 and 5 of 6 were set aside, so that one shard is empty; tests only read it."""
    layout = make_dataset(tmp_path_factory.mktemp("finished"))
    for number in (1, 4, 5):
        (layout.videos / f"{number}.mp4").write_bytes(b"not yet a video")
    assert run_flows(layout, *PLAIN).exit_code == EXIT_SET_ASIDE
    return layout


@pytest.fixture
def layout(finished, tmp_path) -> DatasetLayout:
    return copy_of(finished, tmp_path)


def state(layout):
    """Inodes and content of the finished folders, failures and options: these must not change."""
    folders = (layout.frames, layout.flows)
    inodes = {path: path.stat().st_ino for folder in folders for path in folder.glob("*.h5")}
    made = [checksums(folder) for folder in folders]
    return inodes, made, layout.failures.read_text(), (layout.flows / "options.json").read_text()


def verify(layout):
    from preprocess.verify import main

    return CliRunner().invoke(main, arguments(layout, "--workers", 1))


def kill_at(monkeypatch, nth: int):
    """The run is killed before shard nth, counted from 0, is published."""
    real, seen = publishing.publish, []

    def publish(*given):
        seen.append(given)
        if len(seen) > nth:
            raise Killed
        real(*given)

    monkeypatch.setattr(publishing, "publish", publish)


@pytest.mark.parametrize("nth", [0, 2])
def test_a_killed_run_leaves_finished_folders_alone_and_continues(layout, monkeypatch, nth):
    before = state(layout)
    with monkeypatch.context() as patch:
        kill_at(patch, nth)
        with pytest.raises(Killed):
            run_flows(layout, *FURTHER)
    assert state(layout) == before
    plain = run_flows(layout, *PLAIN)
    assert "reuse:" in plain.output and plain.exit_code == EXIT_SET_ASIDE

    done = run_flows(layout, *FURTHER)
    assert done.exit_code == EXIT_SET_ASIDE, done.output
    assert ("2 of 3 shards are finished" in done.output) == (nth == 2)
    assert state(layout)[:3] == before[:3]
    assert [entry.clips for entry in read_index(layout.root / FOLDER).shards] == [1, 2, 0]
    assert verify(layout).exit_code == 0, verify(layout).output
    assert not list((layout.root / FOLDER).glob(".*"))
    assert "reuse:" in run_flows(layout, *FURTHER).output


def test_a_clip_that_was_good_is_not_traded_for_a_failure(layout):
    before = state(layout)
    video = (layout.videos / "2.mp4").read_bytes()
    (layout.videos / "2.mp4").unlink()
    done = run_flows(layout, *FURTHER)
    refused(done, "other-inputs", "clip-2", "decode", "2.mp4", "frames/", "flows/", "--videos")
    assert state(layout) == before
    (layout.videos / "2.mp4").write_bytes(video)
    assert run_flows(layout, *FURTHER).exit_code == EXIT_SET_ASIDE
    assert verify(layout).exit_code == 0


def test_clips_of_another_video_are_not_put_beside_the_first(layout):
    before = state(layout)
    render_video(layout.videos / "2.mp4", 5, size=(48, 32))
    done = run_flows(layout, *FURTHER)
    old, new = layout.frames / "00001.h5", layout.root / FOLDER / "00001.h5"
    refused(done, "other-inputs", old, new, "--videos", "--overwrite")
    assert state(layout) == before


def test_clips_stay_set_aside_until_they_are_retried(layout, monkeypatch):
    """Also when the further output was made before the retry."""
    from preprocess.retry import main as retry

    render_video(layout.videos / "1.mp4", 9, size=(48, 32))
    with monkeypatch.context() as patch:
        kill_at(patch, 2)
        with pytest.raises(Killed):
            run_flows(layout, *FURTHER)
    with ShardReader(layout.root / FOLDER / "00000.h5", "flows") as reader:
        assert reader.clip_ids() == ["clip-0"]
    again = arguments(layout, "--videos", layout.videos)
    assert CliRunner().invoke(retry, again).exit_code == EXIT_SET_ASIDE
    done = run_flows(layout, *FURTHER)
    assert done.exit_code == EXIT_SET_ASIDE and "continuing" not in done.output, done.output
    assert [record["clip_id"] for record in read_jsonl(layout.failures)] == ["clip-4", "clip-5"]
    assert verify(layout).exit_code == 0, verify(layout).output


def test_a_repair_knows_the_outputs_of_all_runs(tmp_path):
    from preprocess.retry import main as retry
    from preprocess.verify import main as verify_and_repair

    layout = make_dataset(tmp_path)
    (layout.videos / "1.mp4").write_bytes(b"not yet a video")
    both = (*PLAIN, "--source", "tvl1,dis", "--dis-preset", "fast")
    assert run_flows(layout, *both).exit_code == EXIT_SET_ASIDE
    assert run_flows(layout, *FURTHER).exit_code == EXIT_SET_ASIDE
    render_video(layout.videos / "1.mp4", 9, size=(48, 32))
    made = ("frames", "flows", "flows-dis", FOLDER)
    again = arguments(layout, "--videos", layout.videos)
    done = CliRunner().invoke(retry, again)
    assert done.exit_code == 0, done.output
    for name in made:
        assert [entry.clips for entry in read_index(layout.root / name).shards] == [2, 2, 2], name
    assert verify(layout).exit_code == 0, verify(layout).output
    assert not (layout.root / "flows-dis-boundaries").exists()

    good = checksums(layout.root / "flows-dis")
    (layout.root / "flows-dis" / "00001.h5").unlink()
    done = CliRunner().invoke(verify_and_repair, [*again, "--workers", "1", "--repair"])
    assert done.exit_code == 0, done.output
    assert checksums(layout.root / "flows-dis") == good


def test_an_output_that_was_deleted_is_not_made_by_a_repair(finished, layout):
    assert run_flows(layout, *PLAIN, "--source", "tvl1,dis").exit_code == EXIT_SET_ASIDE
    shutil.rmtree(layout.root / "flows-dis")
    assert run_flows(layout, *FURTHER).exit_code == EXIT_SET_ASIDE
    assert recorded_config(layout, {}).flow.outputs == ("tvl1", "tvl1-boundaries")


def test_a_lost_list_of_failures_is_written_again(layout):
    layout.failures.unlink()
    assert run_flows(layout, *FURTHER).exit_code == EXIT_SET_ASIDE
    failures = read_jsonl(layout.failures)
    assert [record["clip_id"] for record in failures] == ["clip-1", "clip-4", "clip-5"]
    assert "not in frames/" in failures[0]["reason"]


def test_a_folder_that_lost_a_shard_is_made_again(finished, layout):
    (layout.flows / "00001.h5").unlink()
    assert run_flows(layout, *PLAIN).exit_code == EXIT_SET_ASIDE
    assert checksums(layout.flows) == checksums(finished.flows)


def test_nothing_is_declared_complete_while_all_is_made_again(layout, monkeypatch):
    for name in ("frames", "flows"):
        (layout.root / name / "00001.h5").unlink()
    with monkeypatch.context() as patch:
        kill_at(patch, 1)
        with pytest.raises(Killed):
            run_flows(layout, *PLAIN)
    assert read_index(layout.frames) is None and read_index(layout.flows) is None


def test_killed_between_two_indexes_the_run_of_all_folders_ends(finished, layout, monkeypatch):
    from preprocess.flow_run import plan

    real = plan.write_index
    shutil.rmtree(layout.frames)
    shutil.rmtree(layout.flows)
    with monkeypatch.context() as patch:
        patch.setattr(
            plan,
            "write_index",
            lambda path, index: kill() if path == layout.flows else real(path, index),
        )
        with pytest.raises(Killed):
            run_flows(layout, *PLAIN)
    assert read_index(layout.frames) is not None and read_index(layout.flows) is None
    (layout.videos / "2.mp4").unlink()  # not needed any more
    done = run_flows(layout, *PLAIN)
    assert done.exit_code == EXIT_SET_ASIDE and "continuing: 3 of 3" in done.output
    assert checksums(layout.flows) == checksums(finished.flows)


def kill():
    raise Killed
