"""Exported boxes come back bit for bit, and are what their formats ask for."""

import json
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from dataset_fixtures import run_boxes
from errors import refused, refuses
from PIL import Image
from shard_fixtures import write_moving_squares

from preprocess.annotated_boxes.writers import WRITERS, write_images
from preprocess.boxes import main as make_boxes
from preprocess.evaluate_boxes import main as evaluate_boxes
from preprocess.export import main
from shared.layout import DatasetLayout
from shared.manifest import read_manifest
from shared.schema import SCHEMAS
from shared.shard_index import DatasetIndex, ShardEntry, read_index, write_index
from shared.shard_writer import write_shard
from shared.shards import ShardReader

KEPT = ("/clip/id", "/clip/frames", "/clip/size", "/clip/box", "/box/xyxy")
TUBES = ("/tube/offsets", "/tube/index")
OTHERS = ("/frame/pts_seconds", "/box/score", "/contour/offsets", "/contour/vertices")


@pytest.fixture
def layout(squares, tmp_path) -> DatasetLayout:
    """A copy to write to."""
    shutil.copytree(squares.root, tmp_path / squares.dataset)
    return DatasetLayout(tmp_path, squares.dataset)


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> DatasetLayout:
    """Squares whose boxes have fractions; two clips have no motion, and so no boxes."""
    out = tmp_path_factory.mktemp("squares")
    layout = write_moving_squares(out, num_clips=7, clips_per_shard=3, still=(0, 4))
    index = read_index(layout.boxes)
    rng = np.random.default_rng(5)
    entries = []
    for entry in index.shards:
        path = layout.boxes / entry.name
        with ShardReader(path, "boxes") as reader:
            arrays = {field: reader[field] for field in (*KEPT, *TUBES, *OTHERS)}
        boxes = arrays["/box/xyxy"]
        boxes += rng.uniform(-3, 3, boxes.shape).astype(np.float32)
        boxes[:] = boxes.clip(0, 64)
        boxes[rng.random(len(boxes)) < 0.2] = np.nan
        num_bytes, sha256 = write_shard(path, "boxes", arrays, index.config)
        entries.append(ShardEntry(entry.name, num_bytes, sha256, entry.clips))
    write_index(
        layout.boxes, DatasetIndex("boxes", "squares", {}, 3, index.manifest_digest, entries)
    )
    return layout


def export(layout, *more):
    return CliRunner().invoke(main, ["--boxes", str(layout.boxes), *map(str, more)])


def exported(layout) -> dict:
    folder = layout.root / "export"
    return {
        "coco": folder / "boxes.coco.json",
        "something-else": folder / "boxes.something-else.json",
        "csv": folder / "boxes-csv",
    }


@pytest.mark.parametrize("name", list(WRITERS))
def test_boxes_come_back_bit_for_bit(layout, name):
    done = export(layout, "--formats", name)
    assert done.exit_code == 0, done.output
    (command,) = [line for line in done.output.splitlines() if "import: " in line]
    python, _, module, *words = shlex.split(command.partition("import: ")[2])
    assert (python, module) == ("python", "preprocess.boxes")
    back = CliRunner().invoke(make_boxes, words)  # as it was printed
    assert back.exit_code == 0, back.output
    num_boxes = 0
    for entry in read_index(layout.boxes).shards:
        with (
            ShardReader(layout.boxes / entry.name, "boxes") as original,
            ShardReader(layout.boxes_of(name) / entry.name, "boxes") as copy,
        ):
            boxes = original["/box/xyxy"]
            assert boxes.tobytes() == copy["/box/xyxy"].tobytes()
            num_boxes += np.sum(~np.isnan(boxes[:, 0]))
            for field in KEPT[:3]:
                np.testing.assert_array_equal(original[field], copy[field])
            assert np.isnan(copy["/box/score"]).all()
    assert 40 < num_boxes < 80


@pytest.mark.parametrize("name", list(WRITERS))
def test_boxes_agree_with_their_own_export(layout, name):
    assert export(layout, "--formats", name).exit_code == 0
    arguments = ["--boxes", layout.boxes, "--format", name, "--annotations", exported(layout)[name]]
    done = CliRunner().invoke(evaluate_boxes, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["clips"] == 5 and figures["iou"] == pytest.approx(1, abs=1e-6)


def test_all_formats_are_written_and_the_same_again(layout):
    assert export(layout).exit_code == 0
    written = exported(layout)
    before = [written["coco"].read_bytes(), written["something-else"].read_bytes()]
    (written["csv"] / "gone.boxes.csv").write_text("frame,x1,y1,x2,y2\n")
    assert export(layout).exit_code == 0
    assert before == [written["coco"].read_bytes(), written["something-else"].read_bytes()]
    assert sorted(path.name for path in written["csv"].iterdir()) == [
        f"square-{i:03d}.boxes.csv" for i in range(7)
    ]
    assert not list((layout.root / "export").glob(".*"))


def test_coco_is_as_its_tools_read_it(layout):
    assert export(layout, "--formats", "coco", "--to", layout.root / "here").exit_code == 0
    content = json.loads((layout.root / "here" / "boxes.coco.json").read_text())
    images = {image["id"]: image for image in content["images"]}
    assert len(images) == len(content["images"]) == 7 * 16
    assert {image["width"] for image in images.values()} == {64}
    assert content["categories"] == [{"id": 1, "name": "motion"}]
    assert len({one["id"] for one in content["annotations"]}) == len(content["annotations"])
    for one in content["annotations"]:
        x, y, width, height = one["bbox"]
        assert one["image_id"] in images and one["category_id"] == 1 and one["iscrowd"] == 0
        assert min(x, y) >= 0 and x + width <= 64 and y + height <= 64
        assert one["area"] == pytest.approx(width * height) and one["score"] == pytest.approx(0.9)


def test_what_cannot_be_exported_is_named(layout, tmp_path):
    done = export(layout, "--formats", "coco,voc")
    refused(done, "unknown-name", "'voc'", "coco, something-else, csv")
    done = CliRunner().invoke(main, ["--boxes", str(tmp_path / "none")])
    refused(done, "not-finished", tmp_path / "none", "`make boxes` of its dataset")
    done = CliRunner().invoke(main, ["--boxes", str(layout.flows)])
    refused(done, "other-kind", layout.flows, "flows, not boxes")


COCO_WITHOUT = {
    "images": ({"annotations": []}, "wrong-format", ("'images'",)),
    "clip": (
        {"images": [{"id": 1}], "annotations": []},
        "missing-key",
        ("image 1: ", "clip_id", "frame_index"),
    ),
    "number": (
        {"images": [{"id": 1, "clip_id": "a", "frame_index": "0"}], "annotations": []},
        "wrong-type",
        ("image 1: ", "clip_id is 'a'", "frame_index is '0'"),
    ),
    "own id": (
        {
            "images": [{"id": 1, "clip_id": "a", "frame_index": i} for i in (0, 1)],
            "annotations": [],
        },
        "duplicate",
        ("image 2: ", "id is 1"),
    ),
    "image": (
        {"images": [], "annotations": [{"image_id": 3, "bbox": [0, 0, 1, 1]}]},
        "bad-entry",
        ("annotation 1: 3 ",),
    ),
    "bbox": (
        {
            "images": [{"id": 1, "clip_id": "a", "frame_index": 0}],
            "annotations": [{"image_id": 1, "bbox": [0, 1]}],
        },
        "bad-entry",
        ("annotation 1: {'image_id': 1, 'bbox': [0, 1]}",),
    ),
    "measure": (
        {
            "images": [{"id": 1, "clip_id": "a", "frame_index": 0}],
            "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 10**400]}],
        },
        "bad-entry",
        ("annotation 1: {'image_id': 1, 'bbox': [0, 0, 1, 1000",),
    ),
}


@pytest.mark.parametrize("lacking", list(COCO_WITHOUT))
def test_bad_coco_is_named(layout, tmp_path, lacking):
    content, code, named = COCO_WITHOUT[lacking]
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content))
    done = run_boxes(layout, "--from-annotations", path, "--format", "coco", "--name", "bad")
    assert refused(done, code, *named).startswith(str(path))
    assert not (layout.root / "boxes-bad" / "dataset.json").exists()


def test_a_clip_id_that_is_no_file_name(tmp_path):
    from preprocess.annotated_boxes.writers import ExportedClip, write_csv

    empty = np.empty((0, 4), np.float32)
    clip = ExportedClip("../elsewhere", (64, 64), empty[:, 0], empty, empty[:, 0])
    with refuses("bad-name", "'../elsewhere'", "--formats"):
        write_csv(tmp_path / "export", "boxes", lambda: iter([clip]))
    assert not list((tmp_path / "export").iterdir())


# ---------------------------------------------------------------------- images


def test_images_are_those_of_the_shards_and_carry_their_boxes(layout):
    """As CocoDetection and FiftyOne read them: a folder, and the names and sizes in the JSON."""
    assert export(layout, "--formats", "coco", "--images").exit_code == 0
    folder = layout.root / "export" / "boxes.coco-images"
    content = json.loads(exported(layout)["coco"].read_text())
    videos = {clip.clip_id: clip.video for clip in read_manifest(layout.manifest)}
    assert {image["video"] for image in content["images"]} == set(videos.values())
    assert all(image["video"] == videos[image["clip_id"]] for image in content["images"])
    with ShardReader(layout.frames / "00000.h5", "frames") as reader:
        jpegs = reader.ragged("/jpeg/offsets", "/jpeg/values", *reader.pair("/clip/frames", 1))
    assert (folder / "square-001" / "0003.jpg").read_bytes() == jpegs[2].tobytes()
    assert len(list(folder.rglob("*.jpg"))) == len(content["images"]) == 7 * 16
    for image in content["images"]:
        with Image.open(folder / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])


def test_boxes_are_in_pixels_of_smaller_images_and_come_back(layout):
    """Stored frames are half as large as the source here: boxes are halved, and doubled again."""
    for folder, kind in ((layout.frames, "frames"), (layout.boxes, "boxes")):
        index = read_index(folder)
        entries = []
        for entry in index.shards:
            with ShardReader(folder / entry.name, kind) as reader:
                fields = SCHEMAS[kind]
                arrays = {
                    field.path: reader[field.path] for field in fields if field.path in reader
                }
                attributes = reader.attributes
            arrays["/clip/size"] = 2 * arrays["/clip/size"]
            if kind == "boxes":
                arrays["/box/xyxy"] = 2 * arrays["/box/xyxy"]
            written = write_shard(folder / entry.name, kind, arrays, attributes)
            entries.append(ShardEntry(entry.name, *written, entry.clips))
        write_index(folder, replace(index, shards=entries))
    assert export(layout, "--formats", "coco", "--images").exit_code == 0
    content = json.loads(exported(layout)["coco"].read_text())
    assert {(image["width"], image["height"]) for image in content["images"]} == {(64, 64)}
    given = ("--from-annotations", exported(layout)["coco"], "--format", "coco", "--name", "back")
    assert run_boxes(layout, *given).exit_code == 0
    with (
        ShardReader(layout.boxes / "00000.h5", "boxes") as original,
        ShardReader(layout.boxes_of("back") / "00000.h5", "boxes") as copy,
    ):
        boxes = original["/box/xyxy"]
        assert np.nanmax(boxes) > 64
        np.testing.assert_allclose(copy["/box/xyxy"], boxes, rtol=1e-5)


def test_images_need_frames_of_the_same_clips(layout, tmp_path):
    done = export(layout, "--formats", "csv", "--images")
    refused(done, "option-needs-another", "--images", "coco")
    shutil.copytree(layout.boxes, tmp_path / "alone" / "boxes")
    arguments = ["--boxes", str(tmp_path / "alone" / "boxes"), "--formats", "coco"]
    assert CliRunner().invoke(main, arguments).exit_code == 0  # without images, boxes are enough
    written = json.loads((tmp_path / "alone" / "export" / "boxes.coco.json").read_text())
    assert "video" not in written["images"][0]
    done = CliRunner().invoke(main, [*arguments, "--images"])
    refused(done, "not-finished", tmp_path / "alone" / "frames")
    index = read_index(layout.frames)
    write_index(layout.frames, replace(index, manifest_digest="0" * 64))
    done = export(layout, "--formats", "coco", "--images")
    refused(done, "other-clips", layout.frames, layout.boxes)
    assert not (layout.root / "export").exists()


@pytest.mark.parametrize("clip_id", ["a/b", ".."])
def test_a_clip_id_that_is_no_folder_name(clip_id, tmp_path):
    with refuses("bad-name", repr(clip_id)):
        write_images(tmp_path / "export", "boxes", iter([(clip_id, [])]))
    assert not list((tmp_path / "export").iterdir()) and not list(tmp_path.glob("*.jpg"))


def test_images_of_one_clip_with_two_sizes_are_refused(layout, tmp_path):
    image = {"clip_id": "square-001", "width": 64, "height": 64}
    images = [{**image, "id": 1, "frame_index": 0}, {**image, "id": 2, "frame_index": 1}]
    images[1]["width"] = 32
    path = tmp_path / "two.json"
    path.write_text(json.dumps({"images": images, "annotations": []}))
    done = run_boxes(layout, "--from-annotations", path, "--format", "coco", "--name", "two")
    refused(done, "bad-entry", path, "square-001", "(64, 64)", "(32, 64)")
