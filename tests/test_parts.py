"""`flows --part 3/16` on machines that share OUT: the parts, and `--finish` after them."""

import pytest
from click.testing import CliRunner
from dataset_fixtures import arguments, checksums, copy_of, make_dataset, run_boxes, run_flows
from errors import refused, refuses
from hypothesis import given
from hypothesis import strategies as st

from preprocess.flow_run.part import Part, read_part
from preprocess.running.journal import journals_in
from shared.errors import EXIT_SET_ASIDE
from shared.layout import DatasetLayout
from shared.run_record import RunLock, read_jsonl
from shared.shard_index import read_index

KINDS = ("frames", "flows")
PLAIN = ("--clips-per-shard", 1)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> DatasetLayout:
    """A manifest of seven clips, one of which is no video; nothing is made yet."""
    layout = make_dataset(tmp_path_factory.mktemp("prepared"), num_clips=7, num_frames=3)
    (layout.videos / "4.mp4").write_bytes(b"not a video")
    return layout


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory) -> DatasetLayout:
    """The same, made by one run."""
    layout = copy_of(prepared, tmp_path_factory.mktemp("finished"))
    assert run_flows(layout, *PLAIN).exit_code == EXIT_SET_ASIDE
    return layout


@pytest.fixture
def layout(prepared, tmp_path) -> DatasetLayout:
    return copy_of(prepared, tmp_path)


def made(layout: DatasetLayout) -> list[int]:
    return sorted(int(path.stem) for path in layout.flows.glob("*.h5"))


def check_same(layout: DatasetLayout, finished: DatasetLayout) -> None:
    for kind in KINDS:
        assert checksums(layout.root / kind) == checksums(finished.root / kind)
    assert layout.failures.read_text() == finished.failures.read_text()
    left = [path.name for path in layout.root.rglob("*") if "-of-" in path.name]
    assert not left and not journals_in(layout.flows)


@given(st.integers(1, 300), st.integers(1, 40))
def test_every_shard_belongs_to_one_part(num_shards, count):
    parts = [Part(number, count).shards(num_shards) for number in range(1, count + 1)]
    assert sorted(shard for part in parts for shard in part) == list(range(num_shards))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["3", "0/16", "17/16", "1/0", "-1/4", "1/4 ", "", "٣/٤"])
def test_wrong_parts_are_refused(text):
    with refuses("bad-setting", repr(text), "3/16"):
        read_part(text)


def test_parts_and_finish_make_the_dataset_of_one_run(layout, finished):
    assert run_flows(layout, *PLAIN, "--part", "2/2").exit_code == 0
    assert made(layout) == [1, 3, 5] and read_index(layout.flows) is None
    early = run_flows(layout, *PLAIN, "--finish")
    refused(early, "not-finished", "4 of 7 shards", "00000.h5", "00006.h5", layout.make("flows"))
    one = run_flows(layout, *PLAIN, "--part", "1/2")
    assert one.exit_code == EXIT_SET_ASIDE and "This is part 1/2: 4 clips" in one.output
    assert layout.make("flows", "--finish") in one.output
    (failure,) = read_jsonl(layout.root / "failures-1-of-2.jsonl")
    assert failure["clip_id"] == "clip-4" and not layout.failures.exists()
    refused(run_boxes(layout), "not-finished")
    done = run_flows(layout, *PLAIN, "--finish")
    assert done.exit_code == EXIT_SET_ASIDE, done.output
    check_same(layout, finished)
    again = run_flows(layout, *PLAIN, "--part", "1/2")
    assert "reuse:" in again.output and again.exit_code == EXIT_SET_ASIDE


def test_a_run_of_all_shards_completes_what_parts_left(layout, finished):
    """Also where a part was divided otherwise before, and where a shard has changed since."""
    assert run_flows(layout, *PLAIN, "--part", "1/4").exit_code == EXIT_SET_ASIDE
    (layout.frames / "00004.h5").write_bytes(b"changed")
    (layout.flows / ".00005.h5.abcdef.tmp").touch()
    assert run_flows(layout, *PLAIN, "--part", "2/2").exit_code == 0
    assert not (layout.flows / ".00005.h5.abcdef.tmp").exists()
    kept = (layout.flows / "00001.h5").stat().st_mtime_ns
    done = run_flows(layout, *PLAIN)
    assert done.exit_code == EXIT_SET_ASIDE and "4 of 7 shards are finished" in done.output
    assert (layout.flows / "00001.h5").stat().st_mtime_ns == kept
    check_same(layout, finished)


def test_a_part_leaves_the_temporary_files_of_other_parts(layout):
    layout.flows.mkdir()
    others, own = (layout.flows / f".0000{number}.h5.abcdef.tmp" for number in (0, 1))
    others.touch(), own.touch()
    assert run_flows(layout, *PLAIN, "--part", "2/7").exit_code == 0
    assert others.exists() and not own.exists()


def test_parts_run_side_by_side_and_nothing_else_does(layout):
    with RunLock(layout.lock, is_shared=True), RunLock(layout.root / ".lock-1-of-7"):
        refused(run_flows(layout, *PLAIN, "--part", "1/7"), "locked", "process")
        refused(run_flows(layout, *PLAIN, "--finish"), "locked", "process")
        refused(run_flows(layout, *PLAIN), "locked", "process")
        assert run_flows(layout, *PLAIN, "--part", "2/7").exit_code == 0
    with RunLock(layout.lock):
        refused(run_flows(layout, *PLAIN, "--part", "1/7"), "locked", "process")


def test_parts_with_other_options_are_refused_and_can_be_made_again(layout):
    assert run_flows(layout, *PLAIN, "--part", "1/2").exit_code == EXIT_SET_ASIDE
    other = (*PLAIN, "--jpeg-quality", 50)
    for more in (("--part", "2/2"), ("--finish",), ()):
        done = run_flows(layout, *other, *more)
        refused(done, "other-options", "--jpeg-quality was 90 and is now 50")
    for part, status in (("1/2", EXIT_SET_ASIDE), ("2/2", 0)):
        assert run_flows(layout, *other, "--part", part, "--overwrite").exit_code == status
    assert run_flows(layout, *other, "--finish").exit_code == EXIT_SET_ASIDE
    assert read_index(layout.frames).config["jpeg_quality"] == 50


def test_parts_of_further_outputs_leave_complete_folders(finished, tmp_path):
    layout = copy_of(finished, tmp_path)
    before = [checksums(layout.root / kind) for kind in KINDS]
    for part in ("1/2", "2/2"):
        done = run_flows(layout, *PLAIN, "--lengths", "--part", part)
        assert done.exit_code in (0, EXIT_SET_ASIDE), done.output
    assert run_flows(layout, *PLAIN, "--lengths", "--finish").exit_code == EXIT_SET_ASIDE
    assert [checksums(layout.root / kind) for kind in KINDS] == before
    assert read_index(layout.root / "flows-tvl1-length").num_clips == 6
    from preprocess.verify import main

    verified = CliRunner().invoke(main, arguments(layout, "--workers", 1))
    assert verified.exit_code == 0, verified.output


def test_more_parts_than_shards(layout):
    done = run_flows(layout, *PLAIN, "--part", "9/9")
    assert done.exit_code == 0 and "0 clips in 0 shards" in done.output


@pytest.mark.parametrize("more", [("--part", "1/2"), ("--overwrite",)])
def test_finish_makes_nothing(layout, more):
    refused(run_flows(layout, "--finish", *more), "option-conflict", "--finish", "--part")
