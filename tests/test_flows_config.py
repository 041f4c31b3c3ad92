"""The config of `flows`: from the command line, to options.json, and back, also of older runs."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from errors import refuses

from preprocess.flow.options import FlowOptions, TrackOptions, united
from preprocess.flow.source_options import (
    SourceOptions,
    declarations,
    option,
    read_source_options,
)
from preprocess.flow.sources import SOURCES, DisOptions, RaftOptions, VectorOptions, option_names
from preprocess.flow_run.config import FlowsConfig, recorded_config, with_workers
from preprocess.running.same_options import refuse_other_options
from shared.layout import DatasetLayout

# As a run wrote it before there was a FlowsConfig.
OLDER = {
    "dataset": "ssv2",
    "out": "elsewhere",
    "videos": "/data/videos",
    "clips_per_shard": 64,
    "frame_short_side": 256,
    "jpeg_quality": 85,
    "flow_short_side": 240,
    "map_short_side": 64,
    "source": "dis,motion-vectors",
    "preset": None,
    "dis_preset": "fast",
    "raft_weights": None,
    "transcode": True,
    "stabilise": "warp",
    "keep_unstabilised": False,
    "lengths": True,
    "boundaries": False,
    "trajectories": True,
    "track_length": 4,
    "track_points": None,
    "track_max_flow": None,
    "track_cell": 0,
    "max_pixels": 35389440,
    "max_frames": 216000,
    "max_seconds": 60.0,
    "pool": "ray",
    "decoders": 3,
    "flow_workers": 12,
    "num_gpus": 4,
    "clip_timeout": 300.0,
    "dashboard": False,
    "strict": True,
    "overwrite": True,
    "dry_run": False,
    "an_option_of_another_version": 7,
}


def record(layout: DatasetLayout, options: object) -> None:
    layout.flows.mkdir(parents=True, exist_ok=True)
    (layout.flows / "options.json").write_text(json.dumps({"options": options}, default=str))


def test_options_of_an_older_run(tmp_path):
    layout = DatasetLayout(tmp_path, "ssv2")
    record(layout, OLDER)
    config = recorded_config(layout, {"num_gpus": 0, "max_seconds": None})
    assert config == FlowsConfig(
        dataset="ssv2",
        out=tmp_path,
        videos=Path("/data/videos"),
        clips_per_shard=64,
        jpeg_quality=85,
        flow=FlowOptions(
            sources=("dis", "motion-vectors"),
            source_options=(DisOptions("fast"), VectorOptions(True)),
            stabilise="warp",
            lengths=True,
            residual=False,  # older runs did not store it
            tracks=TrackOptions(length=4, cell=0),
        ),
        max_seconds=60.0,
        num_gpus=0,  # the machine of the repair has none
        # decoders, flow_workers, strict and overwrite belong to that run alone
    )


def test_options_that_an_older_run_did_not_know_have_their_defaults(tmp_path):
    layout = DatasetLayout(tmp_path, "mine")
    record(layout, {"dataset": "mine", "jpeg_quality": 50})
    assert recorded_config(layout, {}) == FlowsConfig(
        "mine", tmp_path, jpeg_quality=50, flow=FlowOptions(residual=False)
    ), "but residual lengths, which older runs never stored"


@pytest.mark.parametrize(
    "config",
    [
        FlowsConfig("a"),
        FlowsConfig("a", Path("b"), Path("c"), 7, pool="in-process", decoders=1, dashboard=True),
        FlowsConfig(
            "a",
            flow=FlowOptions(
                ("raft", "tvl1"),
                (RaftOptions(Path("w.pth")),),
                "subtract",
                keep_unstabilised=True,
                boundaries=True,
                residual=False,
                tracks=TrackOptions(max_flow=0.0, points=9),
            ),
        ),
        FlowsConfig("a", flow=FlowOptions(("motion-vectors",), (VectorOptions(True),))),
        FlowsConfig("a", flow=FlowOptions(("tvl1", "dis"), lengths=True, left_out=("dis-length",))),
    ],
)
def test_what_is_recorded_is_read_back(config):
    text = json.dumps(config.options(), default=str)
    again = FlowsConfig.from_options(json.loads(text))
    assert again.options() == config.options()
    for output in () if "raft" in config.flow.sources else config.flow.outputs:
        assert again.flow.config(output) == config.flow.config(output)


FAST_DIS = (DisOptions("fast"),)


@pytest.mark.parametrize(
    ("earlier", "kept", "later", "outputs"),
    [
        (FlowOptions(("tvl1", "dis"), FAST_DIS), {"dis"}, FlowOptions(lengths=True),
         ("tvl1", "dis", "tvl1-length")),
        (FlowOptions(boundaries=True), {"tvl1-boundaries"}, FlowOptions(("tvl1", "dis"), FAST_DIS),
         ("tvl1", "dis", "tvl1-boundaries")),
        (FlowOptions(("tvl1", "dis"), FAST_DIS), set(), FlowOptions(lengths=True),
         ("tvl1", "tvl1-length")),
        (FlowOptions(("dis", "tvl1")), {"tvl1"}, FlowOptions(lengths=True),
         ("tvl1", "tvl1-length")),
        (FlowOptions(()), set(), FlowOptions(), ("tvl1",)),
    ],
)  # fmt: skip
def test_the_options_of_two_runs_make_what_both_have_made(earlier, kept, later, outputs):
    both = united(earlier, kept, later)
    assert both.outputs == outputs
    if "dis" in outputs:
        assert both.options_of("dis") == FAST_DIS[0]


def test_united_options_keep_the_tracks_of_the_source_that_has_them():
    tracked = FlowOptions(("motion-vectors", "dis"), tracks=TrackOptions())
    later = FlowOptions(("motion-vectors", "tvl1"))
    assert united(tracked, {"dis"}, later).tracked == "dis"
    assert united(later, {"tvl1"}, tracked).tracked == "dis"


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FlowsConfig("a").num_gpus = 1


@pytest.mark.parametrize("text", ["[]", '{"options": []}', "{", '{"options": {"source": 3}}'])
def test_records_that_are_no_options(text, tmp_path):
    layout = DatasetLayout(tmp_path, "a")
    layout.flows.mkdir(parents=True)
    (layout.flows / "options.json").write_text(text)
    remedy = layout.make("flows", "--overwrite")
    with refuses("damaged-file", layout.flows / "options.json", remedy):
        recorded_config(layout, {})


def test_workers_are_resolved_once():
    config = FlowsConfig("a")
    resolved = with_workers(config)
    assert config.decoders is config.flow_workers is None, "the config itself is untouched"
    assert resolved.decoders >= 1 and resolved.flow_workers >= 1
    assert with_workers(dataclasses.replace(config, num_gpus=2)).flow_workers == 2
    alone = with_workers(FlowsConfig("a", pool="in-process", decoders=9, flow_workers=9))
    assert (alone.decoders, alone.flow_workers) == (1, 1)


# --------------------------------------------------------------------------------------------------
# Options of sources


@dataclass(frozen=True)
class BlockOptions(SourceOptions):
    block_side: int = option(8, "Side of a block.", metavar="PIXELS", least=2, most=64)
    block_search: str = option("full", "Search.", choices=("full", "diamond"), config_key="search")


def test_an_option_is_declared_once():
    side, search = declarations(BlockOptions)
    assert (side.flag, side.value_type, side.config_key) == ("--block-side", int, "block_side")
    assert (search.flag, search.value_type, search.config_key) == ("--block-search", str, "search")
    assert BlockOptions(4).config() == {"block_side": 4, "search": "full"}
    for wrong, code, *named in (
        ({"block_side": 1}, "out-of-range", "--block-side is 1", "2", "64"),
        ({"block_side": 65}, "out-of-range", "--block-side is 65"),
        ({"block_search": "half"}, "unknown-name", "--block-search", "'half'", "full, diamond"),
    ):
        with refuses(code, *named):
            BlockOptions(**wrong)
    assert read_source_options(BlockOptions, {"block_side": 4, "block_search": None}) == (
        BlockOptions(4),
        ["--block-side"],
    )


def test_options_of_sources_have_names_of_their_own():
    names = [each.name for source in SOURCES.values() for each in declarations(source.options)]
    taken = {field.name for field in dataclasses.fields(FlowsConfig)} | {"source", "stabilise"}
    assert len(names) == len(set(names)) and not taken & set(names)


@pytest.mark.parametrize(
    ("found", "wanted", "code", "named"),
    [
        (
            {"flow_preset": "fast"},
            {"flow_preset": "ipol"},
            "other-options",
            "--preset was fast and is now ipol",
        ),
        (
            {"flow_source": "dis", "flow_preset": "fast"},
            {"flow_source": "dis", "flow_preset": "medium"},
            "other-options",
            "--dis-preset was fast and is now medium",
        ),
        (
            {"flow_source": "raft", "raft_weights": "1"},
            {"flow_source": "raft", "raft_weights": "2"},
            "other-inputs",
            "raft weights",
        ),
        (
            {"x: flow_source": "dis", "x: flow_preset": "fast"},
            {"x: flow_source": "dis", "x: flow_preset": "medium"},
            "other-options",
            "x: --dis-preset was fast and is now medium",
        ),
    ],
)
def test_messages_call_options_as_the_command_line_does(found, wanted, code, named):
    common = {"flow_source": "tvl1", "manifest": "0"}
    with refuses(code, "flows", named, "--overwrite"):
        refuse_other_options(Path("flows"), common | found, common | wanted, option_names())
