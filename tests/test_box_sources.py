"""Boxes from annotations and from other flow sources, and training that takes them."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from dataset_fixtures import checksums, make_dataset, run_boxes, run_flows
from errors import refused, refuses
from shard_fixtures import write_moving_squares
from training_fixtures import TINY_RECIPE

from shared.grid import canonical_view, positions_inside, window_box
from shared.layout import DatasetLayout
from shared.moving_areas import read_areas
from shared.shard_index import read_index, write_index
from shared.shards import ShardReader
from train.clips.reader import ClipReader
from train.clips.table import read_clip_table
from train.options.recipe import finetune_config, pretrain_config, read_recipe

SIZE = (64, 48)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> DatasetLayout:
    return write_moving_squares(
        tmp_path_factory.mktemp("squares"), num_clips=6, clips_per_shard=4, size=SIZE
    )


@pytest.fixture
def layout(drawn, tmp_path) -> DatasetLayout:
    """A copy to write to."""
    shutil.copytree(drawn.root, tmp_path / drawn.dataset)
    return DatasetLayout(tmp_path, drawn.dataset)


def annotate(layout, frames: dict[str, list[tuple[int, list[list[float]]]]]):
    """A Something-Else file: clip id -> (frame from 0, boxes)."""
    path = layout.root / "annotated-boxes.json"
    content = {
        clip_id: [
            {
                "name": f"{clip_id}/{frame + 1:04d}.jpg",
                "labels": [
                    {"box2d": dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))}
                    for box in boxes
                ],
            }
            for frame, boxes in entries
        ]
        for clip_id, entries in frames.items()
    }
    path.write_text(json.dumps(content))
    return path


def from_annotations(layout, path, *more):
    return run_boxes(layout, "--from-annotations", path, "--format", "something-else", *more)


def test_annotated_boxes_are_the_smallest_around_all(layout):
    path = annotate(
        layout,
        {
            "square-001": [
                (3, [[10, 8, 20, 18], [15, 5, 30.5, 12]]),
                (5, [[-4, 40, 9, 60]]),  # leaves the frame of 64 x 48
                (6, []),
                (7, [[70, 5, 80, 10]]),  # outside
                (40, [[1, 1, 2, 2]]),  # beyond the clip
            ],
            "square-005": [(0, [[0, 0, 64, 48]])],
            "of another dataset": [(0, [[1, 2, 3, 4]])],
        },
    )
    done = from_annotations(layout, path, "--overwrite")
    assert done.exit_code == 0 and "2 of 6 clips are annotated" in done.output, done.output
    with ShardReader(layout.boxes / "00000.h5", "boxes") as reader:
        first = reader["/clip/frames"][1, 0]
        expected = np.full((reader.num_frames, 4), np.nan, np.float32)
        expected[first + 3], expected[first + 5] = (10, 5, 30.5, 18), (0, 40, 9, 48)
        np.testing.assert_array_equal(reader["/box/xyxy"], expected)
        clip_box = window_box(expected)
        np.testing.assert_array_equal(reader["/clip/box"][1], clip_box)
        assert np.isnan(reader["/box/score"]).all() and reader.attributes["format"]
        starts = reader["/contour/offsets"]
        vertices = reader["/contour/vertices"][starts[first + 3] : starts[first + 4]]
        assert vertices.tolist() == [
            [0, 10, 8], [0, 20, 8], [0, 20, 18], [0, 10, 18],
            [1, 15, 5], [1, 31, 5], [1, 31, 12], [1, 15, 12],
        ]  # fmt: skip
        offsets, positions = reader["/tube/offsets"], reader["/tube/index"]
        inside = positions_inside(canonical_view(*SIZE).apply(clip_box), (224, 224))
        assert positions[offsets[1] : offsets[2]].tolist() == np.flatnonzero(inside).tolist()
        assert offsets[1] == 0 and offsets[2] == offsets[-1]
        areas = read_areas(reader, 1, first, first + 6)
        assert reader.pair("/clip/moving_size", 1) == SIZE and areas.shape == (6, *SIZE[::-1])
        expected = np.zeros(SIZE[::-1], np.bool_)
        expected[8:18, 10:20] = expected[5:12, 15:30] = True
        assert np.array_equal(areas[3], expected) and not areas[4].any()
    with ShardReader(layout.boxes / "00001.h5", "boxes") as reader:
        assert reader["/clip/box"][1].tolist() == [0, 0, 64, 48]


def test_annotated_boxes_lie_beside_the_others_and_are_reused(layout):
    path = annotate(layout, {"square-000": [(t, [[4, 4, 20 + t, 30]]) for t in range(16)]})
    before = checksums(layout.boxes)
    assert from_annotations(layout, path, "--name", "annotated").exit_code == 0
    assert checksums(layout.boxes) == before
    assert "reuse:" in from_annotations(layout, path, "--name", "annotated").output
    annotate(layout, {"square-000": [(0, [[4, 4, 21, 30]])]})
    done = from_annotations(layout, path, "--name", "annotated")
    refused(done, "other-inputs", layout.boxes_of("annotated"), "annotations")
    done = from_annotations(layout, path)
    refused(done, "other-options", layout.boxes, "--from-annotations was not given")


def test_training_takes_the_boxes_that_are_named(layout):
    path = annotate(layout, {"square-000": [(t, [[4, 4, 20 + t, 30]]) for t in range(16)]})
    assert from_annotations(layout, path, "--name", "annotated").exit_code == 0
    table = read_clip_table(layout, ["train"], boxes=True, box_source="annotated")
    assert table.clip_id(0) == "square-000"
    boxes = ClipReader(table, 2).boxes(0, np.array([0, 15]))
    assert boxes.tolist() == [[4, 4, 20, 30], [4, 4, 35, 30]]
    other = read_clip_table(layout, ["train"], boxes=True)
    assert other.boxes_folder == layout.boxes and other.data_digest != table.data_digest
    made = layout.make("boxes", "--name hand ...")
    with refuses("not-finished", layout.boxes_of("hand"), f"`{made}`"):
        read_clip_table(layout, ["train"], boxes=True, box_source="hand")


def test_pretraining_with_annotated_boxes(layout):
    from train.pretrain import main

    boxes = {f"square-{i:03d}": [(t, [[4, 4, 50, 40]]) for t in range(16)] for i in range(6)}
    path = annotate(layout, boxes)
    assert from_annotations(layout, path, "--name", "annotated").exit_code == 0
    recipe = layout.out / "tiny.toml"
    recipe.write_text(TINY_RECIPE)
    arguments = ["--dataset", layout.dataset, "--out", layout.out, "--recipe", recipe]
    changes = ["--set", "box_source=annotated", "--dry-run"]
    done = CliRunner().invoke(main, [*map(str, arguments), *changes])
    assert done.exit_code == 0, done.output
    digest = read_index(layout.root / "boxes-annotated").digest[:16]
    assert digest in done.output and "box_source" in done.output


def test_a_box_source_that_nothing_looks_at_is_refused(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY_RECIPE)
    tables, change = read_recipe("squares", path), {"box_source": "annotated"}
    assert pretrain_config(tables, "mofo", change).box_source == "annotated"
    assert finetune_config(tables, "mca", change).box_source == "annotated"
    with refuses("option-unused", "'annotated'", "mask tube", "motion_tube"):
        pretrain_config(tables, "videomae", change)
    with refuses("option-unused", "'annotated'", "head mean", "mca"):
        finetune_config(tables, "mean", change)


ANNOTATED = ("--from-annotations", "x.json")
WRONG = {  # arguments, code, what the message names
    "preset": (
        (*ANNOTATED, "--motion-preset", "paper"),
        "option-conflict",
        "--motion-preset",
        ANNOTATED[0],
    ),
    "set": ((*ANNOTATED, "--set", "sigma=1"), "option-conflict", "--set", ANNOTATED[0]),
    "source": ((*ANNOTATED, "--source", "dis"), "option-conflict", "--source", ANNOTATED[0]),
    "format": (("--format", "csv"), "option-needs-another", "--format", ANNOTATED[0]),
    "score": (("--min-score", "0.5"), "option-needs-another", "--min-score", ANNOTATED[0]),
    "no format": (ANNOTATED, "option-needs-another", "--from-annotations", "--format", "csv"),
    "no file": ((*ANNOTATED, "--format", "csv"), "missing-file", "x.json"),
    "name": (("--name", "../up"), "bad-name", "'../up'"),
    "no such source": (("--source", "dis"), "not-finished", "flows-dis", "tvl1,dis'`"),
    "no maps of the code": (
        ("--motion-preset", "mofo-code"),
        "not-finished",
        "--motion-preset mofo-code",
        "flows-tvl1-boundaries",
        "--boundaries'`",
    ),
    "nor of dis": (
        ("--motion-preset", "mofo-code", "--source", "dis"),
        "not-finished",
        "flows-dis-boundaries",
        ",dis --boundaries'`",
    ),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_options_that_exclude_each_other_are_named(layout, case):
    arguments, code, *named = WRONG[case]
    refused(run_boxes(layout, *arguments), code, *named)


def lay_beside(layout, name, **changes):
    """A copy of flows/ whose dataset.json says otherwise."""
    folder = layout.flows_of(name)
    shutil.copytree(layout.flows, folder)
    write_index(folder, dataclasses.replace(read_index(folder), **changes))
    return folder


def of_code(source):
    return {"config": {"flow_source": source, "map": "boundaries"}}


def test_maps_that_a_preset_is_not_for_are_refused(layout):
    lay_beside(layout, "dis-boundaries", **of_code("dis"))
    lay_beside(layout, "tvl1-length", config={"flow_source": "tvl1", "map": "length"})
    asked = {"dis-boundaries": "--motion-preset mofo-code", "tvl1-length": "mask mgm"}
    for source, meant_for in asked.items():
        for preset in ("default", "paper"):
            done = run_boxes(layout, "--source", source, "--motion-preset", preset, "--name", "new")
            named = (layout.flows_of(source), meant_for, f"--motion-preset {preset} ", "--source")
            refused(done, "other-kind", *named)
    assert not (layout.root / "boxes-new").exists()
    code = ("--motion-preset", "mofo-code", "--name", "code", "--workers", 1)
    assert run_boxes(layout, *code, "--source", "dis-boundaries").exit_code == 0
    lengths = run_boxes(layout, *code, "--source", "tvl1-length")
    refused(lengths, "unknown-name", "tvl1-length", "--source", "dis-boundaries")


def test_maps_of_the_code_are_found_where_the_first_source_has_none(layout):
    index = read_index(layout.flows)
    write_index(layout.flows, dataclasses.replace(index, config={"flow_source": "motion-vectors"}))
    code = ("--motion-preset", "mofo-code", "--name", "code", "--workers", 1)
    command = "ARGS='--source motion-vectors,tvl1 --boundaries'`"
    refused(run_boxes(layout, *code), "not-finished", layout.flows_of("tvl1-boundaries"), command)
    folder = lay_beside(layout, "dis-boundaries", **of_code("dis"))
    assert run_boxes(layout, *code).exit_code == 0
    assert read_index(layout.boxes_of("code")).config["made_from"] == folder.name
    lay_beside(layout, "tvl1-boundaries", **of_code("tvl1"))
    names = "dis-boundaries, tvl1-boundaries"
    refused(run_boxes(layout, *code), "unknown-name", "motion-vectors", "--source", names)
    assert "reuse:" in run_boxes(layout, *code, "--source", "dis").output


@pytest.mark.parametrize("of", ["another manifest", "fewer clips"])
def test_flows_that_an_earlier_run_left_are_not_taken(layout, of):
    entries = read_index(layout.flows).shards
    left = [dataclasses.replace(entries[0], clips=3), *entries[1:]]
    changes = {"manifest_digest": "0" * 64} if of == "another manifest" else {"shards": left}
    folder = lay_beside(layout, "tvl1-boundaries", **of_code("tvl1"), **changes)
    done = run_boxes(layout, "--motion-preset", "mofo-code", "--name", "code")
    refused(done, "other-clips", folder, layout.frames, "--source tvl1 --boundaries'`")
    assert not layout.boxes_of("code").exists()


def test_annotations_of_other_clips_are_refused(layout):
    path = annotate(layout, {"3201": [(0, [[1, 2, 3, 4]])]})
    done = from_annotations(layout, path, "--name", "annotated")
    refused(done, "no-match", layout.frames, path, "square-000", "3201")
    assert read_index(layout.root / "boxes-annotated") is None


def test_boxes_of_another_source(tmp_path):
    layout = make_dataset(tmp_path, num_clips=3)
    assert run_flows(layout, "--source", "dis,motion-vectors").exit_code == 0
    assert run_boxes(layout, "--source", "dis").exit_code == 0  # it lies in flows/
    assert read_index(layout.boxes).config["flows"] == read_index(layout.flows).digest
    beside = ("--source", "motion-vectors", "--name", "vectors")
    assert run_boxes(layout, *beside).exit_code == 0
    vectors = read_index(layout.flows_of("motion-vectors"))
    assert read_index(layout.root / "boxes-vectors").config["flows"] == vectors.digest
    arrays = []
    for folder in (layout.boxes, layout.root / "boxes-vectors"):
        with ShardReader(folder / "00000.h5", "boxes") as reader:
            arrays.append(reader["/box/xyxy"])
    assert arrays[0].shape == arrays[1].shape and not np.array_equal(*arrays, equal_nan=True)
    assert "reuse:" in run_boxes(layout, *beside).output
