"""`--like FOLDER` makes shards with the options of others, and `--source none` frames alone."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from dataset_fixtures import (
    arguments,
    checksums,
    make_dataset,
    run_boxes,
    run_flows,
)
from errors import refused

from preprocess.verify import main as verify
from shared.layout import DatasetLayout


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> DatasetLayout:
    """Shards of options that differ from the defaults."""
    layout = make_dataset(tmp_path_factory.mktemp("original"), num_clips=3)
    done = run_flows(layout, "--source", "dis,motion-vectors", "--jpeg-quality", 80)
    assert done.exit_code == 0, done.output
    assert run_boxes(layout, "--set", "sigma=3").exit_code == 0
    return layout


@pytest.fixture
def other(tmp_path) -> DatasetLayout:
    """The same clips, without shards."""
    return make_dataset(tmp_path, num_clips=3)


def test_shards_are_made_like_others(original, other):
    done = run_flows(other, "--like", original.flows)
    assert done.exit_code == 0, done.output
    assert run_boxes(other, "--like", original.boxes).exit_code == 0
    for name in ("frames", "flows", "flows-motion-vectors", "boxes"):
        assert checksums(other.root / name) == checksums(original.root / name), name


def test_what_is_given_beside_it_replaces_the_recorded_option(original, other):
    done = run_flows(other, "--like", original.flows, "--jpeg-quality", 30)
    assert done.exit_code == 0, done.output
    assert checksums(other.flows) == checksums(original.flows)
    assert checksums(other.frames) != checksums(original.frames)


def test_boxes_of_another_source_are_made_like_others(original, other):
    assert run_boxes(original, "--source", "motion-vectors", "--name", "vectors").exit_code == 0
    assert run_flows(other, "--like", original.flows).exit_code == 0
    done = run_boxes(other, "--like", original.boxes_of("vectors"))
    assert done.exit_code == 0, done.output
    assert checksums(other.boxes) == checksums(original.boxes_of("vectors"))


def test_folders_that_record_nothing_of_the_kind_are_refused(original, other):
    done = run_flows(other, "--like", original.boxes)
    refused(done, "other-kind", original.boxes, "flows/")
    refused(run_flows(other, "--like", other.flows), "missing-file", other.flows)
    refused(run_boxes(original, "--like", original.flows), "other-kind", original.flows)
    folder = original.frames.with_name("frames-csv")
    done = run_boxes(original, "--like", folder)
    refused(done, "other-kind", folder, "boxes")


def test_without_a_source_the_same_frames_are_made_and_no_flow(original, other):
    done = run_flows(other, "--source", "none", "--jpeg-quality", 80)
    assert done.exit_code == 0, done.output
    assert checksums(other.frames) == checksums(original.frames)
    assert not other.flows.exists()
    assert "reuse" in run_flows(other, "--source", "none", "--jpeg-quality", 80).output
    assert CliRunner().invoke(verify, arguments(other)).exit_code == 0
    # Flow that is computed later lies beside the frames, which do not change.
    before = {path: path.stat().st_mtime_ns for path in other.frames.glob("*.h5")}
    assert run_flows(other, "--like", original.flows).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in other.frames.glob("*.h5")} == before
    assert checksums(other.flows) == checksums(original.flows)
    assert CliRunner().invoke(verify, arguments(other)).exit_code == 0


def test_a_bad_clip_is_set_aside_without_flow_too(other):
    (other.videos / "1.mp4").write_bytes(b"no video")
    done = run_flows(other, "--source", "none")
    assert done.exit_code == 3, done.output
    assert "clip-1" in other.failures.read_text()


@pytest.mark.parametrize(
    "option", ["--lengths", "--boundaries", "--residual", "--trajectories", "--stabilise warp"]
)
def test_options_of_flow_are_refused_without_a_source(other, option):
    done = run_flows(other, "--source", "none", *option.split())
    refused(done, "option-unused", option.split()[0], "--source none")


def test_none_stands_alone(other):
    refused(run_flows(other, "--source", "none,dis"), "unknown-name", "none", "tvl1")
