"""Shards, videos and checkpoints that are damaged, or do not fit each other."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import av
import h5py
import numpy as np
import pytest
import torch
from dataset_fixtures import make_dataset, run_flows
from errors import refuses, sets_aside
from shard_fixtures import write_moving_squares
from training_fixtures import tiny_run
from video_fixtures import render_video

from preprocess.box_run.inputs import read_inputs
from preprocess.box_run.shards import FromMotion
from preprocess.evaluate_boxes import _stored_clip
from preprocess.flow.options import FlowOptions
from preprocess.flow.pipeline import _companded
from preprocess.flow_run import ray_start
from preprocess.flow_run.config import recorded_config
from preprocess.flow_run.decode_groups import ClipTask
from preprocess.flow_run.decode_step import ClipEncoder
from preprocess.flow_run.messages import WorkerOptions
from preprocess.flow_run.stored_clips import stored_events
from preprocess.motion_boxes.presets import PRESETS
from preprocess.rebuilding.finished_plan import finished_plan
from preprocess.video import transcode
from preprocess.video.completeness import Completeness
from preprocess.video.decode import _matching, check_caps, decode_clip
from preprocess.video.frame_chunks import DecodeOptions, _checked_kept_size
from preprocess.video.spans import _known
from preprocess.video.video_file import open_video, video_stream
from shared.layout import DatasetLayout
from shared.manifest import Clip, read_classes, read_manifest, write_manifest
from shared.schema import SCHEMAS
from shared.shard_index import read_index, write_index
from shared.shard_writer import write_shard
from shared.shards import ShardReader
from train.clips.stored_boxes import read_box_table, read_clip
from train.clips.table import read_clip_table
from train.pretrain import pretrain
from train.running.checkpoints import complete_checkpoints
from train.weights.zero_partitions import read_whole_weights, reshard


@pytest.fixture
def squares(tmp_path) -> DatasetLayout:
    return write_moving_squares(tmp_path, num_clips=8)


def alter(folder: Path, kind: str, change: Callable[[dict[str, np.ndarray]], object]) -> Path:
    """Write the first shard of a folder again with some arrays changed, as a whole one."""
    path = folder / "00000.h5"
    with ShardReader(path, kind) as reader:
        arrays = {f.path: reader[f.path] for f in SCHEMAS[kind] if f.path in reader}
        attributes = dict(reader.attributes)
    change(arrays)
    num_bytes, sha256 = write_shard(path, kind, arrays, attributes)
    index = read_index(folder)
    entry = dataclasses.replace(index.shards[0], bytes=num_bytes, sha256=sha256)
    write_index(folder, dataclasses.replace(index, shards=[entry, *index.shards[1:]]))
    return path


def other_id(arrays: dict[str, np.ndarray]) -> None:
    arrays["/clip/id"] = arrays["/clip/id"].copy()
    arrays["/clip/id"][0] = b"another"


def not_pictures(arrays: dict[str, np.ndarray]) -> None:
    arrays["/jpeg/values"] = np.zeros_like(arrays["/jpeg/values"])


def narrow_maps(arrays: dict[str, np.ndarray]) -> None:
    arrays["/clip/map_size"] = arrays["/clip/map_size"] // 2


# --------------------------------------------------------------------------------------------------
# Shards


def test_a_shard_whose_head_is_wrong(squares):
    path = squares.boxes / "00000.h5"
    whole = path.read_bytes()
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = "one"
    with refuses("wrong-format", path, "format_version"):
        ShardReader(path, "boxes")
    with h5py.File(path, "r+") as file:
        del file.attrs["format_version"]
    with refuses("damaged-file", path, "format_version"):
        ShardReader(path, "boxes")
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        values = file["/box/xyxy"][:]
        del file["/box/xyxy"]
        file.create_dataset("/box/xyxy", data=values, chunks=(4, 2), fletcher32=True)
    with refuses("wrong-format", f"{path}/box/xyxy", "(4, 2)"):
        ShardReader(path, "boxes")


def test_a_large_dataset_is_read_by_rows(squares, monkeypatch):
    monkeypatch.setattr("shared.shards.MAX_WHOLE_BYTES", 1000)
    with (
        ShardReader(squares.frames / "00000.h5", "frames") as reader,
        refuses("out-of-range", f"{reader.path}/jpeg/values", reader.length("/jpeg/values")),
    ):
        reader["/jpeg/values"]


def test_boxes_of_shards_that_do_not_fit(squares):
    flows = squares.flows / "00000.h5"
    builder = FromMotion(PRESETS["default"], squares.frames)
    path = alter(squares.frames, "frames", not_pictures)
    with refuses("damaged-file", path, squares.make("verify")):
        builder.arrays(flows)
    path = alter(squares.frames, "frames", lambda arrays: arrays["/clip/frames"].sort(axis=1))
    shutil.copytree(squares.root, squares.out / "longer")
    longer = write_moving_squares(squares.out / "other", num_clips=8, num_frames=12)
    with refuses("other-clips", path, longer.flows / "00000.h5"):
        builder.arrays(longer.flows / "00000.h5")


@pytest.mark.parametrize("size", [(33, 32), (-32, -32), (0, 0)])
def test_maps_of_another_size_than_the_shard_says(squares, size):
    def other_size(arrays):
        arrays["/clip/map_size"] = arrays["/clip/map_size"].copy()
        arrays["/clip/map_size"][1] = size

    path = alter(squares.flows, "flows", other_size)
    named = (path, "square-001", f"{size[0]} x {size[1]}", f"`{squares.make('verify')}`")
    with refuses("damaged-file", *named):
        FromMotion(PRESETS["default"]).arrays(path)
    with ShardReader(path, "flows") as flows, ShardReader(squares.boxes / path.name, "boxes") as of:
        assert _stored_clip(of, flows, 0, "square-000").maps.shape == (16, 64, 64)
        with refuses("damaged-file", *named):
            _stored_clip(of, flows, 1, "square-001")
    with (
        ShardReader(squares.frames / path.name, "frames") as frames,
        ShardReader(path, "flows") as flows,
        refuses("damaged-file", *named),
    ):
        places = {clip_id: place for place, clip_id in enumerate(frames.clip_ids())}
        list(stored_events({"frames": frames, "flows": flows}, places, FlowOptions()))


def test_annotated_boxes_need_frames(squares):
    shutil.rmtree(squares.frames)
    options = {"from_annotations": Path("boxes.csv"), "box_format": "csv"}
    options |= dict.fromkeys(("source", "preset", "changes", "workers"))
    with refuses("not-finished", squares.frames, f"`{squares.make('flows')}`"):
        read_inputs(squares, options)


def test_training_on_shards_that_do_not_fit(squares):
    alter(squares.boxes, "boxes", other_id)
    with refuses("other-clips", squares.boxes / "00000.h5", "/clip/id", "`make boxes"):
        read_clip_table(squares, ["train"], True)
    write_manifest(squares.manifest, read_manifest(squares.manifest)[1:])
    with refuses("other-manifest", squares.frames, "--overwrite"):
        read_clip_table(squares, ["train"], False)


def test_a_clip_that_the_manifest_lacks(squares):
    alter(squares.frames, "frames", other_id)
    with refuses("other-manifest", squares.frames / "00000.h5", "'another'"):
        read_clip_table(squares, ["train"], False)


def test_a_report_on_shards_that_do_not_fit(squares):
    table = read_box_table(squares)
    alter(squares.flows, "flows", narrow_maps)
    with refuses("damaged-file", squares.flows / "00000.h5", "square-000", "32 x 32"):
        read_clip(squares, table, 0)
    alter(squares.frames, "frames", not_pictures)
    with refuses("damaged-file", "'square-000'", f"`{squares.make('verify')}`"):
        read_clip(squares, table, 0)
    alter(squares.frames, "frames", other_id)
    with refuses("other-clips", squares.frames / "00000.h5", "'another'", "'square-000'"):
        read_clip(squares, table, 0)
    alter(squares.boxes, "boxes", lambda arrays: arrays["/clip/frames"].__iadd__(9))
    with refuses("damaged-file", squares.boxes / "00000.h5", "/clip/frames"):
        read_box_table(squares)


def test_classes_that_are_no_class_list(squares):
    squares.classes.write_text('{"labels": []}')
    with refuses("unknown-key", squares.classes, "label, noun, verb"):
        read_classes(squares.classes)


# --------------------------------------------------------------------------------------------------
# Videos


def test_what_a_video_turns_out_to_be_while_it_is_read(tmp_path):
    path = render_video(tmp_path / "a.mp4", 12)
    clip = Clip("a", path.name)
    options = DecodeOptions(max_seconds=0.5)
    with open_video(path, options.max_pixels) as container:
        stream = video_stream(container, options.max_pixels)
        progress = Completeness(clip, container, stream)
        with sets_aside("out-of-range", "0.5 s", "--max-seconds"):
            check_caps(progress, progress.start + 0.6, options)
    with sets_aside("damaged-file", "copy", "motion vectors"):
        list(_matching(iter([1, 2, 3]), iter([1, 2])))
    assert list(_matching(iter([1, 2]), iter([3, 4]))) == [1, 2]
    with sets_aside("not-supported", "presentation times"):
        _known(None)
    with sets_aside("out-of-range", "200000x200", "JPEG"):
        _checked_kept_size((200_000, 200), 256)
    encoder = ClipEncoder(ClipTask(0, clip), WorkerOptions(tmp_path), with_vectors=True)
    encoder._num_frames, encoder._num_vectors = 12, 9
    with sets_aside("damaged-file", "9 flows", "12 frames"):
        encoder.finish()


def test_a_decoder_out_of_memory_costs_one_clip(tmp_path, monkeypatch):
    path = render_video(tmp_path / "a.mp4", 12)

    def fail(*_):
        raise MemoryError("no 40 GB for a frame")

    monkeypatch.setattr("preprocess.video.decode.Scaler.picture", fail)
    with sets_aside("damaged-file", "MemoryError", "no 40 GB for a frame"):
        list(decode_clip(Clip("a", path.name), tmp_path, DecodeOptions()))


def test_a_codec_that_is_not_decoded(tmp_path, monkeypatch):
    path = render_video(tmp_path / "a.mkv", 6, codec="ffv1")
    monkeypatch.setattr("preprocess.video.video_file.CODECS", "h264,hevc")
    with sets_aside("not-supported", "ffv1", "h264,hevc"):
        list(decode_clip(Clip("a", path.name), tmp_path, DecodeOptions()))


def test_transcoding_without_its_encoder_or_a_frame(tmp_path, monkeypatch):
    path = render_video(tmp_path / "a.mkv", 6, codec="ffv1")
    with av.open(str(tmp_path / "copy.mp4"), "w", format="mp4") as output:
        empty = SimpleNamespace(decode=lambda stream: iter(()))
        with sets_aside("empty"):
            list(transcode._copy_frames(empty, SimpleNamespace(time_base=None), output))
    monkeypatch.setattr(transcode, "ENCODER", "libx999")
    with refuses("missing-package", "libx999", "--transcode", "--source"):
        transcode.transcode(path, tmp_path / "scratch", 1 << 20)


def test_flow_that_is_not_finite_is_not_stored():
    flows = torch.zeros(1, 2, 16, 16)
    flows[0, 0, 3, 3] = torch.nan
    with sets_aside("not-finite", "NaN"):
        _companded(flows, 64, "raft")
    with refuses("unknown-name", "--stabilise", "on", "off, warp, subtract"):
        FlowOptions(stabilise="on")


# --------------------------------------------------------------------------------------------------
# Ray, and repairs


def test_ray_that_is_missing_or_does_not_start(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)  # and none is drawn for the tests after this one
    monkeypatch.setitem(sys.modules, "ray", None)
    with refuses("missing-package", "Ray", "--pool in-process"):
        ray_start.start_ray(1, 0, 1)

    def refuse(**_):
        raise ConnectionError("nobody answers")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=refuse))
    with refuses("no-workers", "this machine", "nobody answers"):
        ray_start.start_ray(1, 0, 1)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with refuses("no-workers", "the cluster at auto", "nobody answers"):
        ray_start.connect_to_cluster()

    def leave(**_):
        sys.exit(15)  # as Ray does, where nobody answers

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=leave))
    with refuses("no-workers", "the cluster at auto", "does not answer"):
        ray_start.connect_to_cluster()


def test_repairs_need_what_the_run_was_told(tmp_path):
    layout = make_dataset(tmp_path, num_clips=2)
    assert run_flows(layout).exit_code == 0
    nothing = {"videos": None, "pool": "in-process"}
    recorded = (layout.flows / "options.json").read_text()
    (layout.flows / "options.json").write_text("[]")
    with refuses("damaged-file", layout.flows / "options.json"):
        recorded_config(layout, nothing)
    (layout.flows / "options.json").write_text(recorded)
    layout.videos.rename(tmp_path / "elsewhere")
    with refuses("missing-folder", layout.videos, "--videos"):
        finished_plan(layout, nothing)
    (layout.flows / "dataset.json").unlink()
    with refuses("not-finished", layout.flows, f"`{layout.make('flows')}`"):
        finished_plan(layout, nothing)


# --------------------------------------------------------------------------------------------------
# Checkpoints


def test_checkpoints_that_cannot_be_put_together(tmp_path):
    write_moving_squares(tmp_path, num_clips=40)
    folder = pretrain(tiny_run(tmp_path, stop_after=0), "mofo")
    (tag,) = complete_checkpoints(folder.checkpoints)
    (part,) = tag.glob("zero_pp_rank_*")
    state = torch.load(part, weights_only=False)
    for length in (1, 7):
        short = {**state, "optimizer_state_dict": dict(state["optimizer_state_dict"])}
        groups = state["optimizer_state_dict"]["single_partition_of_fp32_groups"]
        short["optimizer_state_dict"]["single_partition_of_fp32_groups"] = [
            group[:length] for group in groups
        ]
        torch.save(short, part)
        with refuses("damaged-file", f"{length} of"):
            read_whole_weights(tag)
    for name in (part.name, part.name.replace("pp_rank_0", "pp_rank_1")):
        torch.save(state, tag / name)
    with refuses("damaged-file", tag, "2 of 1"):
        reshard(tag, 3)
    (tag / part.name.replace("pp_rank_0", "pp_rank_1")).unlink()
    torch.save({"optimizer_state_dict": {}}, part)
    with refuses("wrong-format", tag):
        reshard(tag, 2)
    part.unlink()
    with refuses("missing-file", tag) as caught:
        reshard(tag, 2)
    assert "mp_rank_00_model_states.pt" not in str(caught.value), "that file is there"
    (tag / "mp_rank_00_model_states.pt").unlink()
    with refuses("missing-file", tag, "mp_rank_00_model_states.pt"):
        reshard(tag, 2)
