"""Box figures against slow ones drawn pixel by pixel; annotation formats; the command's JSON."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from errors import refused, refuses
from hypothesis import given
from hypothesis import strategies as st
from shard_fixtures import write_moving_squares

from preprocess.annotated_boxes.formats import open_annotations, read_boxes_csv
from preprocess.annotated_boxes.hand_object_detections import parse_frame, read_detections
from preprocess.annotated_boxes.matching import ClipFrames, ReadOptions
from preprocess.annotated_boxes.metrics import box_figures, saliency, trivial_box, union_area
from preprocess.evaluate_boxes import StoredClip, clip_figures, evaluate, main, summary
from preprocess.toy import write_clip
from preprocess.toy_clips.render import make_looks, render
from preprocess.toy_clips.scene import make_scene
from shared.layout import DatasetLayout
from shared.shard_index import read_index
from shared.shards import ShardReader

WIDTH, HEIGHT = 12, 9
NAN_BOX = [np.nan] * 4
NO_OPTIONS = ReadOptions()


def drawn(box) -> np.ndarray:
    """bool[H,W], the pixels of a box with whole corners, slowly."""
    picture = np.zeros((HEIGHT, WIDTH), bool)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            picture[y, x] = box[0] <= x < box[2] and box[1] <= y < box[3]
    return picture


def slow_figures(box, annotated) -> dict[str, float]:
    if np.isnan(box[0]):
        return {"iou": 0.0, "centre_hit": 0.0, "recall": 0.0, "area": 0.0}
    mine, region = drawn(box), np.any([drawn(one) for one in annotated], axis=0)
    rows, columns = np.nonzero(region)
    around = drawn([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return {
        "iou": (mine & around).sum() / (mine | around).sum(),
        "centre_hit": any(b[0] <= x < b[2] and b[1] <= y < b[3] for b in annotated),
        "recall": (mine & region).sum() / region.sum(),
        "area": mine.mean(),
    }


@st.composite
def whole_boxes(draw, beyond: int = 0):
    """A box with whole corners, up to `beyond` pixels outside the frame."""
    x = sorted(draw(st.lists(st.integers(-beyond, WIDTH + beyond), min_size=2, max_size=2)))
    y = sorted(draw(st.lists(st.integers(-beyond, HEIGHT + beyond), min_size=2, max_size=2)))
    return [x[0], y[0], x[1] + 1, y[1] + 1]


inner_boxes = (
    whole_boxes()
    .map(lambda b: [b[0], b[1], min(b[2], WIDTH), min(b[3], HEIGHT)])
    .filter(lambda b: b[0] < b[2] and b[1] < b[3])
)
frames_of_boxes = st.lists(
    st.tuples(
        inner_boxes | st.just(NAN_BOX),
        st.lists(whole_boxes(beyond=3), min_size=1, max_size=4).filter(
            lambda boxes: any(drawn(box).any() for box in boxes)
        ),
    ),
    min_size=1,
    max_size=4,
)


def stacked(lists) -> np.ndarray:
    out = np.full((len(lists), max(map(len, lists)), 4), np.nan)
    for row, boxes in enumerate(lists):
        out[row, : len(boxes)] = boxes
    return out


# ---------------------------------------------------------------------- figures


@given(frames_of_boxes)
def test_figures_equal_those_counted_pixel_by_pixel(frames):
    boxes = np.array([box for box, _ in frames], float)
    annotated = stacked([boxes for _, boxes in frames])
    found = box_figures(boxes, annotated, (WIDTH, HEIGHT))
    for row, (box, of_frame) in enumerate(frames):
        # Only what lies in the frame counts, also for the centre.
        inside = [np.clip(b, 0, [WIDTH, HEIGHT] * 2) for b in of_frame if drawn(b).any()]
        for name, value in slow_figures(box, inside).items():
            assert found[name][row] == pytest.approx(float(value)), name


@given(st.lists(whole_boxes() | st.just(NAN_BOX), min_size=1, max_size=6))
def test_union_area_equals_the_pixels_covered(boxes):
    big = np.array(boxes, float)
    shifted = np.where(np.isnan(big), big, big + 0.25)  # no whole numbers needed
    covered = np.zeros((HEIGHT + 2, WIDTH + 2), bool)
    for x1, y1, x2, y2 in big[~np.isnan(big[:, 0])].astype(int):
        covered[y1:y2, x1:x2] = True
    assert union_area(big[None])[0] == pytest.approx(covered.sum())
    assert union_area(shifted[None])[0] == pytest.approx(covered.sum())


@given(
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 6),
    st.lists(whole_boxes(beyond=2), min_size=1, max_size=3),
    st.integers(0, 99),
)
def test_saliency_equals_a_slow_loop(num_frames, rows, columns, boxes, seed):
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, 4, (num_frames, rows, columns)).astype(float)
    found = saliency(maps, np.tile(np.array(boxes, float), (num_frames, 1, 1)), (WIDTH, HEIGHT))
    for frame in range(num_frames):
        inside, outside = [], []
        for row in range(rows):
            for column in range(columns):
                x, y = (column + 0.5) * WIDTH / columns, (row + 0.5) * HEIGHT / rows
                hit = any(b[0] <= x < b[2] and b[1] <= y < b[3] for b in boxes)
                (inside if hit else outside).append(maps[frame, row, column])
        if inside and sum(outside) > 0:
            assert found[frame] == pytest.approx(np.mean(inside) / np.mean(outside))
        else:
            assert np.isnan(found[frame])


def test_trivial_boxes_are_centred():
    assert trivial_box(1.0, (200, 100)).tolist() == [0, 0, 200, 100]
    assert trivial_box(0.5, (200, 100)).tolist() == [50, 25, 150, 75]
    assert trivial_box(0.7, (200, 100)) == pytest.approx([30, 15, 170, 85])


def clip_of(boxes, maps=None, size=(200, 100)) -> StoredClip:
    boxes = np.array(boxes, np.float32)
    frames = ClipFrames("clip", size, np.arange(len(boxes)) / 10)
    return StoredClip(frames, boxes, maps)


def test_two_annotated_boxes_are_one_box_for_iou_and_two_for_recall():
    hand, thing = [0, 0, 10, 10], [30, 0, 40, 10]
    figures = clip_figures(clip_of([[0, 0, 20, 10]]), {0: np.array([hand, thing], np.float32)})
    assert figures.motion["iou"] == pytest.approx(200 / 400)
    assert figures.motion["recall"] == pytest.approx(0.5)
    assert figures.motion["centre_hit"] == 0
    assert figures.trivial["full_frame"]["iou"] == pytest.approx(400 / 20_000)


def test_frames_without_a_motion_box_count_nothing_and_without_annotation_are_left_out():
    box = np.array([[0, 0, 10, 10]], np.float32)
    clip = clip_of([box[0], NAN_BOX, box[0], [50, 50, 60, 60]])
    figures = clip_figures(clip, {0: box, 1: box, 7: box})  # frame 7: beyond the clip's end
    assert figures.num_frames == 3
    assert figures.motion["iou"] == figures.motion["recall"] == pytest.approx(1 / 3)
    assert figures.motion["centre_hit"] == pytest.approx(1 / 3)
    assert figures.motion["area"] == pytest.approx(100 / 20_000 / 3)
    outside = np.array([[300, 0, 310, 10]], np.float32)
    assert clip_figures(clip, {0: outside}) is None and clip_figures(clip, {}) is None


def test_clips_are_averaged_after_frames():
    box = np.array([[0, 0, 10, 10]], np.float32)
    good = clip_figures(clip_of([box[0]]), {0: box})
    bad = clip_figures(clip_of([NAN_BOX] * 3), dict.fromkeys(range(3), box))
    found = summary({"good": good, "bad": bad})
    assert (found["clips"], found["frames"], found["iou"]) == (2, 4, 0.5)
    assert found["per_clip"]["bad"]["iou"] == 0 and found["per_clip"]["good"]["frames"] == 1


# ---------------------------------------------------------------------- formats


def read_all(box_format: str, path: Path, clip: ClipFrames, options=NO_OPTIONS) -> dict:
    return open_annotations(box_format, path, {clip.clip_id}, options).of(clip)


def same(found: dict, wanted: dict) -> bool:
    return found.keys() == wanted.keys() and all(
        np.array_equal(np.asarray(found[key]), np.asarray(wanted[key], np.float32)) for key in found
    )


@given(st.dictionaries(st.integers(0, 99), st.lists(whole_boxes(beyond=5), max_size=3), max_size=5))
def test_csv_reads_back_what_was_written(tmp_path_factory, frames):
    folder = tmp_path_factory.mktemp("boxes")
    rows = [
        ",".join(map(str, [frame, *box]))
        for frame, boxes in frames.items()
        for box in boxes or [["", "", "", ""]]
    ]
    (folder / "a b.boxes.csv").write_text("frame,x1,y1,x2,y2\n" + "\n".join(rows))
    clip = ClipFrames("a b", (WIDTH, HEIGHT), np.arange(100) / 25)
    wanted = {frame: boxes for frame, boxes in frames.items() if boxes}
    assert same(read_all("csv", folder, clip), wanted)
    assert same(read_all("csv", folder / "a b.boxes.csv", clip), wanted)


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.dictionaries(st.integers(0, 999), st.lists(whole_boxes(beyond=5), max_size=3)),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_something_else_reads_back_what_was_written(tmp_path_factory, clips, indent, parts):
    folder = tmp_path_factory.mktemp("boxes")
    content = {
        name: [
            {
                "name": f"{name}/{frame + 1:04d}.jpg",
                "labels": [
                    {"box2d": dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))}
                    for box in boxes
                ],
            }
            for frame, boxes in frames.items()
        ]
        for name, frames in clips.items()
        if "/" not in name and name not in (".", "..")
    }
    names = list(content)
    for part in range(2):
        chosen = {name: content[name] for name in names[part::2]} if parts else content
        text = json.dumps(chosen, indent=indent, ensure_ascii=False)
        (folder / f"box_part{part}.json").write_text(text, encoding="utf-8", errors="replace")
    for name in names:
        clip = ClipFrames(name, (WIDTH, HEIGHT), np.arange(1000) / 12)
        wanted = {frame: boxes for frame, boxes in clips[name].items() if boxes}
        assert same(read_all("something-else", folder, clip), wanted)


def test_something_else_samples(samples):
    clip = ClipFrames("3201", (426, 240), np.arange(43) / 12)
    found = read_all("something-else", samples / "ssv2/something_else_boxes.json", clip)
    assert sorted(found) == list(range(43))
    assert found[0] == pytest.approx(np.array([[136.0127, 66.5230, 255.2900, 219.8796]]), abs=1e-3)
    clip = ClipFrames("22983", (360, 240), np.arange(64) / 12)
    found = read_all("something-else", samples / "ssv2/something_else_boxes.json", clip)
    assert len(found) == 52


def test_davis_samples(samples):
    clip = ClipFrames("car-shadow", (854, 480), np.arange(40) / 24)
    found = read_all("csv", samples / "davis", clip)
    assert found[0].tolist() == [[313, 88, 655, 282]] and set(found) == set(range(40))


def test_toy_truth_is_read_as_it_was_rendered(tmp_path):
    layout = DatasetLayout(tmp_path, "toy")
    for index in range(3):
        write_clip(layout, 0, index, frozenset())
        scene = make_scene(0, index)
        _, boxes = render(scene, make_looks(0, index, scene))
        clip = ClipFrames(f"toy{index:05d}", (64, 64), np.arange(16) / 12)
        wanted = {frame: [box] for frame, box in enumerate(boxes) if not np.isnan(box[0])}
        found = read_all("csv", layout.root / "truth" / "boxes", clip)
        assert found.keys() == wanted.keys()
        assert all(np.allclose(found[frame], wanted[frame], rtol=1e-5) for frame in wanted)


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("frame,x1,y1,x2\n0,1,2,3\n", "missing-key", "row 1: column y2"),
        ("frame,x1,y1,x2,y2\n0,1,2,3,4\n-1,1,2,3,4\n", "bad-entry", "row 3: frame is '-1'"),
        ("frame,x1,y1,x2,y2\n0,1,2,3,four\n", "bad-entry", "['1', '2', '3', 'four']"),
        ("frame,x1,y1,x2,y2\n0,1,2,3,\n", "bad-entry", "['1', '2', '3', '']"),
        ("frame,x1,y1,x2,y2\n0,1,2,inf,4\n", "not-finite", "finite"),
        ("frame,x1,y1,x2,y2\n0,1,2\n", "bad-entry", "row 2"),
    ],
)
def test_wrong_csv_is_named(tmp_path, text, code, named):
    path = tmp_path / "a.boxes.csv"
    path.write_text(text)
    with refuses(code, path, named):
        read_boxes_csv(path)


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("[]", "wrong-format", ("character 0 is '['", "'{'")),
        ('{"a": [], }', "wrong-format", ("character 10 is '}'", "'\"'")),
        ('{"a": [', "wrong-format", ("row 1", "JSON")),
        ('{"a": []', "wrong-format", ("'the end'", "',}'")),
        ('{"a": [{"name": "a/0001.jpg"}]}', "wrong-format", ("clip 'a'", "labels")),
        ('{"a": [{"name": "a/x.jpg", "labels": []}]}', "bad-entry", ("clip 'a'", "frame is 'x'")),
        ('{"a": [{"name": "a/0000.jpg", "labels": []}]}', "bad-entry", ("frame 0000", "0001")),
        (
            '{"a": [{"name": "a/0001.jpg", "labels": [{"box2d": {"x1": NaN, "y1": 0, "x2": 1, '
            '"y2": 1}}]}]}',
            "not-finite",
            ("clip 'a'", "a/0001.jpg"),
        ),
        ('{"a": ' + "[" * 100_000, "wrong-format", ("nested",)),
        ('{"a": ' + "9" * 5000 + "}", "wrong-format", ("4,300 digits",)),
        (
            '{"a": [{"name": "a/0001.jpg", "labels": [{"box2d": {"x1": 0, "y1": 0, "x2": 1, "y2": '
            + f"{'9' * 500}"
            + "}}]}]}",
            "wrong-format",
            ("clip 'a'", "OverflowError"),
        ),
    ],
)
def test_wrong_something_else_is_named(tmp_path, text, code, named):
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with refuses(code, path, *named):
        open_annotations("something-else", path, {"a"}, NO_OPTIONS)


# ---------------------------------------------------------------------- EPIC-KITCHENS


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def block(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def floats(*values: float) -> bytes:
    """Float fields 1, 2, ...; proto3 leaves zeros out."""
    return b"".join(
        varint(i << 3 | 5) + struct.pack("<f", value) for i, value in enumerate(values, 1) if value
    )


def detection(box, score: float, hand: bool) -> bytes:
    rest = varint(3 << 3) + varint(3) + block(4, floats(0.1, -0.2)) + varint(5 << 3) + varint(1)
    return block(1, floats(*box)) + varint(2 << 3 | 5) + struct.pack("<f", score) + rest * hand


def frame_message(number: int, hands, objects, video: str = "P01_01") -> bytes:
    message = block(1, video.encode()) + varint(2 << 3) + varint(number)
    message += b"".join(block(3, detection(box, score, True)) for box, score in hands)
    return message + b"".join(block(4, detection(box, score, False)) for box, score in objects)


shares = st.integers(0, 100).map(lambda part: float(np.float32(part / 100)))
share_boxes = st.tuples(shares, shares, shares, shares).filter(
    lambda b: b[0] < b[2] and b[1] < b[3]
)
scored = st.lists(st.tuples(share_boxes, shares), max_size=3)


@given(st.integers(1, 300_000), scored, scored, shares)
def test_hand_object_messages_read_back_what_was_written(number, hands, objects, least):
    found_number, found = parse_frame(frame_message(number, hands, objects), least)
    wanted = [box for box, score in hands + objects if score >= least]
    assert found_number == number
    assert np.array_equal(found, np.array(wanted, np.float32).reshape(-1, 4))


def test_hand_object_messages_of_a_protobuf_library_are_read():
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    pool = pytest.importorskip("google.protobuf.descriptor_pool").DescriptorPool()
    factory = pytest.importorskip("google.protobuf.message_factory")
    file = descriptor_pb2.FileDescriptorProto(name="boxes.proto", package="p", syntax="proto3")
    kinds = {"string": 9, "int32": 5, "float": 2}
    messages = {
        "BBox": "float left,float top,float right,float bottom",
        "Object": "BBox bbox,float score",
        "Detections": "string video_id,int32 frame_number,Object* hands,Object* objects",
    }
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, field in enumerate(fields.split(","), 1):
            kind, field_name = field.split()
            added = message.field.add(name=field_name, number=number, label=1 + 2 * ("*" in kind))
            added.type = kinds.get(kind, 11)
            if kind not in kinds:
                added.type_name = f".p.{kind.rstrip('*')}"
    pool.Add(file)
    detections = factory.GetMessageClass(pool.FindMessageTypeByName("p.Detections"))()
    detections.video_id, detections.frame_number = "P01_01", 70_000
    for field, box in (("hands", (0.0, 0.25, 0.5, 1.0)), ("objects", (0.5, 0.5, 0.75, 0.75))):
        added = getattr(detections, field).add(score=0.75)
        added.bbox.left, added.bbox.top, added.bbox.right, added.bbox.bottom = box
    number, boxes = parse_frame(detections.SerializeToString(), 0.5)
    assert number == 70_000
    assert boxes.tolist() == [[0, 0.25, 0.5, 1], [0.5, 0.5, 0.75, 0.75]]


def test_a_clip_finds_its_frames_in_a_video_by_time(tmp_path):
    (tmp_path / "P01").mkdir()
    box = (0.25, 0.5, 0.5, 0.75)
    for video in ("P01_01", "P01_101"):
        messages = [frame_message(number, [(box, 0.9)], []) for number in range(1, 601)]
        (tmp_path / "P01" / f"{video}.pkl").write_bytes(pickle.dumps(messages))
    for video, seconds in (("P01_01", 10), ("P01_101", 12)):
        # A clip of 30 frames/s that begins a second before the last annotated frame.
        clip = ClipFrames(f"{video}_7", (200, 100), seconds - 1 + np.arange(60) / 30)
        found = read_all("epic-hand-objects", tmp_path, clip)
        assert sorted(found) == list(range(30))
        assert found[0].tolist() == [[50, 50, 100, 75]]
    options = ReadOptions(rate=60.0)
    clip = ClipFrames("P01_101_7", (200, 100), 9 + np.arange(60) / 30)
    assert sorted(read_all("epic-hand-objects", tmp_path, clip, options)) == list(range(30))
    assert read_all("epic-hand-objects", tmp_path, clip, ReadOptions(min_score=0.95)) == {}


class Evil:
    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        (pickle.dumps([Evil()]), "unsafe-file", "builtins.print"),
        (pickle.dumps({"a": 1}), "wrong-format", "list of bytes"),
        (pickle.dumps(["text"]), "wrong-format", "list of bytes"),
        (b"no pickle", "unsafe-file", ""),
        (b"\x80\x04]r\xff\xff\xff\x7f.", "unsafe-file", "2147483647 objects in 9 bytes"),
        (b"\x80\x04]p99999999999\n.", "unsafe-file", "99999999999 objects in 17 bytes"),
        (b"\x80\x04]\x8e\xff\xff\xff\xff\xff\x00\x00\x00a.", "unsafe-file", ""),
        (pickle.dumps([frame_message(1, [], []), b"\x0a\xff"]), "wrong-format", "message 1"),
        (pickle.dumps([b"\xff" * 20]), "wrong-format", "message 0"),
        (
            pickle.dumps([frame_message(1, [((0.1, 0.1, 1.5, 0.9), 1.0)], [])]),
            "wrong-format",
            "leaves the frame",
        ),
        (
            pickle.dumps([frame_message(1, [((float("nan"), 0, 1, 1), 1.0)], [])]),
            "wrong-format",
            "leaves the frame",
        ),
    ],
)
def test_hostile_and_wrong_detections_are_refused(tmp_path, capsys, content, code, named):
    path = tmp_path / "P01_01.pkl"
    path.write_bytes(content)
    with refuses(code, path, named):
        read_detections(path, 0.5)
    assert capsys.readouterr().out == ""


EPIC55 = "noun_class,noun,participant_id,video_id,frame,bounding_boxes\n"


def test_epic55_labels_are_scaled_from_the_original_size(tmp_path):
    path = tmp_path / "EPIC_train_object_labels.csv"
    path.write_text(
        EPIC55
        + '20,bag,P01,P01_01,000031,"[(108, 960, 540, 192), (0, 0, 108, 192)]"\n'
        + '21,cup,P01,P01_01,31,"[(0, 1728, 108, 192)]"\n'
        + "21,cup,P01,P01_01,61,[]\n"
        + '21,cup,P12,P12_02,1,"[(0, 0, 72, 128)]"\n'
    )
    clip = ClipFrames("P01_01_3", (192, 108), 0.5 + np.arange(60) / 59.94)
    found = read_all("epic55", tmp_path, clip)
    assert list(found) == [0]
    wanted = [[0, 0, 19.2, 10.8], [96, 10.8, 115.2, 64.8], [172.8, 0, 192, 10.8]]
    assert np.allclose(sorted(found[0].tolist()), wanted, atol=1e-3)
    clip = ClipFrames("P12_02_0", (128, 72), np.arange(5) / 59.94)
    assert np.allclose(read_all("epic55", path, clip)[0], [[0, 0, 12.8, 7.2]])


def test_wrong_epic55_labels_are_named(tmp_path):
    path = tmp_path / "EPIC_train_object_labels.csv"
    for cell in ("[(1, 2, 3)]", "[1]", "x", "[('a', 'b', 'c', 'd')]", f"[(0, 0, 1, {'9' * 500})]"):
        path.write_text(EPIC55 + f'20,bag,P01,P01_01,31,"{cell}"\n')
        with refuses("bad-entry", f"{path}, row 2: bounding_boxes is"):
            open_annotations("epic55", path, {"P01_01_0"}, NO_OPTIONS)


def test_options_of_other_formats_are_refused(tmp_path):
    with refuses("option-unused", "--annotation-fps", "csv"):
        open_annotations("csv", tmp_path, set(), ReadOptions(rate=60.0))
    with refuses("option-unused", "--min-score", "epic55"):
        open_annotations("epic55", tmp_path, set(), ReadOptions(min_score=0.1))
    with refuses("missing-file", tmp_path / "nowhere"):
        open_annotations("csv", tmp_path / "nowhere", set(), NO_OPTIONS)
    with refuses("missing-file", tmp_path, "*.boxes.csv"):
        open_annotations("csv", tmp_path, set(), NO_OPTIONS)


# ---------------------------------------------------------------------- the command

KEYS = ["clips", "frames", "iou", "iou_full_frame", "iou_centre_half", "iou_centre_70"]
KEYS += ["centre_hit", "recall", "area", "saliency"]


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Boxes and flows of moving squares, and CSV files of the very same boxes.

    The clip without motion has an annotated object all the same.
    """
    out = tmp_path_factory.mktemp("out")
    layout = write_moving_squares(out, num_clips=10, clips_per_shard=4, still=(3,))
    truth = out / "truth"
    truth.mkdir()
    for shard in read_index(layout.boxes).shards:
        with ShardReader(layout.boxes / shard.name, "boxes") as reader:
            for clip_id, (first, last) in zip(
                reader.clip_ids(), reader["/clip/frames"], strict=True
            ):
                boxes = reader["/box/xyxy"][first:last]
                rows = [
                    f"{frame},{','.join(map(str, box))}"
                    for frame, box in enumerate(boxes)
                    if not np.isnan(box[0]) or clip_id.endswith("3")
                ]
                text = "frame,x1,y1,x2,y2\n" + "\n".join(rows).replace("nan,nan,nan,nan", "0,0,8,8")
                (truth / f"{clip_id}.boxes.csv").write_text(text)
    return layout, truth


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_json_has_the_keys_and_nothing_else_is_on_stdout(squares):
    layout, truth = squares
    given = ["--boxes", layout.boxes, "--format", "csv", "--annotations", truth]
    status, stdout, _ = run(*given, "--json")
    found = json.loads(stdout)
    assert status == 0 and list(found) == [*KEYS, "per_clip"]
    assert found["clips"] == 10 == len(found["per_clip"]) and found["frames"] == 160
    for clip_id, row in found["per_clip"].items():
        assert list(row) == KEYS
        perfect = 0.0 if clip_id == "square-003" else 1.0
        assert row["iou"] == row["recall"] == row["centre_hit"] == pytest.approx(perfect)
    assert found["iou"] == pytest.approx(0.9)
    assert found["iou_full_frame"] < found["iou_centre_half"] < 0.5
    assert found["saliency"] > 10 and found["per_clip"]["square-003"]["saliency"] is None
    status, stdout, _ = run(*given)
    assert status == 0 and "10 clips, 160 annotated frames" in stdout
    assert "motion box       0.900       0.900   0.900" in stdout


def test_saliency_is_null_without_flows(squares, tmp_path):
    layout, truth = squares
    alone = tmp_path / "boxes"
    alone.symlink_to(layout.boxes)
    options = ["--boxes", alone, "--format", "csv", "--annotations", truth, "--json"]
    assert json.loads(run(*options)[1])["saliency"] is None
    assert json.loads(run(*options, "--flows", layout.flows)[1])["saliency"] > 10
    status, _, stderr = run(*options, "--flows", tmp_path / "nowhere")
    assert status == 1
    refused(stderr, "not-finished", tmp_path / "nowhere", "`make flows`")


OF_OTHER_CLIPS = {
    "something-else": '{"other": []}',
    "coco": '{"images": [{"id": 1, "clip_id": "other", "frame_index": 0}], "annotations": []}',
    "epic55": EPIC55 + "20,bag,P01,other,31,[]\n",
}


def test_wrong_input_is_one_line(squares, tmp_path):
    layout, truth = squares
    other = tmp_path / "other"
    other.mkdir()
    (other / "elsewhere.boxes.csv").write_text("frame,x1,y1,x2,y2\n0,0,0,1,1\n")
    given = ["--format", "csv", "--annotations"]
    status, stdout, stderr = run("--boxes", layout.boxes, *given, other, "--json")
    assert (status, stdout) == (1, "")
    refused(stderr, "no-match", layout.boxes, other, "square-000", "elsewhere")
    for box_format, text in OF_OTHER_CLIPS.items():
        path = tmp_path / f"{box_format}.file"
        path.write_text(text)
        given = ["--format", box_format, "--annotations", path]
        status, _, stderr = run("--boxes", layout.boxes, *given)
        assert status == 1, box_format
        refused(stderr, "no-match", layout.boxes, path, "square-000", "are other")
    given = ["--format", "csv", "--annotations"]
    status, _, stderr = run("--boxes", layout.flows, *given, truth)
    assert status == 1
    refused(stderr, "other-kind", layout.flows, "flows, not boxes")
    status, _, stderr = run("--boxes", tmp_path, *given, truth)
    assert status == 1
    refused(stderr, "not-finished", tmp_path, "`make boxes`")


def test_flows_with_other_clips_are_refused(squares, tmp_path):
    layout, truth = squares
    other = write_moving_squares(tmp_path, num_clips=8, clips_per_shard=4)
    with ShardReader(other.flows / "00000.h5", "flows") as reader:
        assert len(reader.clip_ids()) == 4
    (other.flows / "00001.h5").replace(other.flows / "00000.h5")
    with refuses("other-clips", other.flows / "00000.h5", layout.boxes / "00000.h5"):
        evaluate(layout.boxes, "csv", truth, other.flows, NO_OPTIONS)
