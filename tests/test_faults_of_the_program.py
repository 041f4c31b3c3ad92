"""An exception that says nothing about a video is a fault of the program: never a bad clip."""

import pytest
from click.testing import CliRunner
from dataset_fixtures import arguments, make_dataset, run_flows

import preprocess.flow.pipeline
import preprocess.flow_run.decode_step
from preprocess.retry import main as retry
from shared.errors import EXIT_ERROR, EXIT_SET_ASIDE
from shared.run_record import read_jsonl
from shared.shards import ShardReader


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """A dataset of four clips: the last has a bad video, and decoding the second is a fault."""
    layout = make_dataset(tmp_path, num_clips=4)
    (layout.videos / "3.mp4").write_bytes(b"not a video")

    def decode_steps(clip, *rest):
        if clip.clip_id == "clip-1":
            None.no_such_attribute  # noqa: B018
        return decode(clip, *rest)

    decode = preprocess.flow_run.decode_step.decode_steps
    monkeypatch.setattr(preprocess.flow_run.decode_step, "decode_steps", decode_steps)
    return layout


def clip_ids(layout):
    with ShardReader(layout.frames / "00000.h5", "frames") as reader:
        return reader.clip_ids()


def test_a_fault_is_reported_as_one_and_no_clip_is_blamed(faulty, monkeypatch):
    done = run_flows(faulty)
    assert done.exit_code == EXIT_ERROR, done.output
    assert "Traceback (most recent call last)" in done.stderr
    assert "no_such_attribute" in done.stderr and "test_faults" in done.stderr
    assert "1 clip set aside" in done.stderr
    assert "1 clip left out because of a fault of this program" in done.stderr
    records = {record["clip_id"]: record for record in read_jsonl(faulty.failures)}
    assert {name: record["stage"] for name, record in records.items()} == {
        "clip-1": "internal",
        "clip-3": "decode",
    }
    assert {name: record["code"] for name, record in records.items()} == {
        "clip-1": "program-fault",
        "clip-3": "damaged-file",
    }
    assert "Traceback" in records["clip-1"]["traceback"]
    assert "traceback" not in records["clip-3"]
    assert clip_ids(faulty) == ["clip-0", "clip-2"]
    assert run_flows(faulty).exit_code == EXIT_ERROR  # and again, as long as it is so

    monkeypatch.undo()  # the program is mended
    again = CliRunner().invoke(retry, arguments(faulty))
    assert again.exit_code == EXIT_SET_ASIDE, again.output
    assert clip_ids(faulty) == ["clip-0", "clip-1", "clip-2"]
    assert [record["clip_id"] for record in read_jsonl(faulty.failures)] == ["clip-3"]


def test_a_fault_in_flow_is_reported_as_one(tmp_path, monkeypatch):
    layout = make_dataset(tmp_path, num_clips=3)
    run = preprocess.flow.pipeline.FlowPipeline.run

    def failing(self, grey):
        if grey.clip_index == 1:
            raise RuntimeError("out of something")
        return run(self, grey)

    monkeypatch.setattr(preprocess.flow.pipeline.FlowPipeline, "run", failing)
    done = run_flows(layout)
    assert done.exit_code == EXIT_ERROR and "out of something" in done.stderr
    [record] = read_jsonl(layout.failures)
    assert (record["clip_id"], record["stage"]) == ("clip-1", "internal")
