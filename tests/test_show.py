"""preprocess.show and what it draws with: colours, boxes, masks, the video and the sheet."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from dataset_fixtures import run_boxes, run_flows
from errors import refused, refuses
from shard_fixtures import write_moving_squares
from video_fixtures import render_video

from preprocess.drawing.boxes import stored_boxes
from preprocess.drawing.frames import (
    DARK,
    LIGHT,
    caption,
    draw_mask,
    draw_positions,
    flow_colours,
    flow_wheel,
    in_grid,
    map_colours,
)
from preprocess.drawing.masks import MaskOptions, draw_masks, method_masks
from preprocess.drawing.panels import contact_sheet, video_frames
from preprocess.drawing.sheet import Sheet
from preprocess.flow_run.decode_groups import ClipTask, DecodeGroup
from preprocess.flow_run.decode_step import Decoder
from preprocess.flow_run.flow_step import FlowWorker
from preprocess.flow_run.messages import WorkerOptions
from preprocess.motion_boxes.boxes import motion_boxes
from preprocess.motion_boxes.presets import PRESETS
from preprocess.show import find_motion, main, output_names
from preprocess.video.errors import ClipError
from shared.drawing import HIDDEN_RGB, LEFT_OUT_RGB
from shared.errors import EXIT_SET_ASIDE
from shared.grid import canonical_view, positions_inside
from shared.layout import DatasetLayout
from shared.manifest import Clip, read_manifest, write_manifest
from shared.motion_maps import expand
from shared.scene import masked_counts
from shared.shards import ShardReader

MASKS_OF_RECIPES = MaskOptions()
METHODS = tuple(method_masks())


def show(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_video(tmp_path_factory.mktemp("videos") / "square.mp4", num_frames=12)


# ---------------------------------------------------------------------------------------------
# Drawing
# ---------------------------------------------------------------------------------------------


def test_flow_colours_tell_directions_apart() -> None:
    directions = {"right": (1, 0), "down": (0, 1), "left": (-1, 0), "up": (0, -1), "none": (0, 0)}
    flow = np.array(list(directions.values()), np.float32).T.reshape(2, 1, 5)
    right, down, left, up, none = flow_colours(flow, longest=1.0)[0].astype(int)
    assert right.tolist() == [255, 0, 0]
    assert down[2] == 0 and min(down[:2]) > 200  # yellow
    assert left[0] == 0 and left[2] > 200  # between cyan and blue
    assert up[2] == 255 and up[1] == 0 and up[0] > 90  # violet
    assert none.tolist() == [255, 255, 255]


def test_longer_flow_is_stronger_until_it_is_too_long() -> None:
    flow = np.zeros((2, 1, 4), np.float32)
    flow[0, 0] = [0, 2, 4, 8]
    colours = flow_colours(flow, longest=4.0)[0].astype(int)
    assert colours[:3, 1].tolist() == [255, 128, 0]
    assert colours[3].tolist() == [191, 0, 0]


def test_wheel_agrees_with_the_colours() -> None:
    wheel = flow_wheel(81)
    right = flow_colours(np.array([[[78 / 81]], [[0.0]]], np.float32), 1.0)[0, 0]
    assert np.abs(wheel[40, 79].astype(int) - right).max() <= 12
    assert wheel[0, 0].max() < 40  # outside the disc


def test_brighter_where_more_moves() -> None:
    brightness = map_colours(np.linspace(0, 2, 50, dtype=np.float32)[None], 1.0).sum(axis=2)[0]
    assert np.all(np.diff(brightness) >= 0) and brightness[0] < 20
    assert np.all(map_colours(np.zeros((2, 2), np.float32), 0.0).max() < 20)


def test_mask_hides_exactly_its_patches() -> None:
    picture = np.full((40, 60, 3), 200, np.uint8)
    mask = np.array([[True, False], [False, True]])
    draw_mask(picture, mask, np.array([10, 0, 50, 40]))
    assert picture[10, 20].tolist() == list(HIDDEN_RGB) == picture[30, 40].tolist()
    assert picture[10, 40].tolist() == [200, 200, 200] == picture[30, 20].tolist()
    assert picture[20, 5].tolist() == [50, 50, 50]  # not seen by the model


def test_captions_keep_their_size() -> None:
    for text in ("short", "very long text " * 20, "", "\u4e0a $\\frac"):
        assert caption(text, 120, 22).shape == (22, 120, 3)
    assert caption("short", 120).max() > 100
    grid = in_grid([np.zeros((10, 20, 3), np.uint8)] * 4, columns=3, gap=2)
    assert grid.shape == (2 * 12 + 2, 3 * 22 + 2, 3)


def test_masks_are_drawn_again_for_each_window() -> None:
    """40 frames at stride 1 are windows of 16, 16 and 8; the second has no motion."""
    boxes = np.tile(np.array([16.0, 16, 64, 80], np.float32), (40, 1))
    boxes[16:32] = np.nan
    boxes[35:] = [100, 100, 120, 120]
    maps = np.zeros((40, 56, 56), np.float32)
    maps[:, 4:8, 40:44] = 1.0  # where MGM looks: the upper right
    view = canonical_view(112, 112)
    masks = draw_masks("clip.mp4", boxes, maps, view, (112, 112), MASKS_OF_RECIPES, stride=1)
    assert np.isnan(masks.boxes[16:32]).all()
    assert masks.boxes[0].tolist() == [16, 16, 64, 80]
    assert masks.boxes[33].tolist() == [16, 16, 120, 120]
    by_method = {text.split(":")[0]: mask for text, mask in masks.by_caption.items()}
    shares = {"mofo": 0.9, "videomae": 0.9, "random": 0.9, "block": 0.75, "smm": 0.75}
    shares |= {"mgm": 0.75, "mme": 0.7, "videomae_v2": 0.9, "motion_mae": 0.9, "mgmae": 0.9}
    shares |= {"trackmae": 0.8}
    assert list(by_method) == list(METHODS) and set(METHODS) == set(shares)
    for method, mask in by_method.items():
        assert mask.shape == (40, 14, 14)
        if method != "random":  # whose count is exact over time only
            counts = mask.sum(axis=(1, 2))
            assert set(counts.tolist()) == {math.floor(shares[method] * 196 + 0.5)}
        pairs = mask.reshape(20, 2, 14, 14)
        assert (pairs[:, 0] == pairs[:, 1]).all()  # a tubelet of two frames
        assert (mask[:16] != mask[16:32]).any()
    for method in ("videomae", "mofo", "block", "mme"):
        assert (by_method[method][:16] == by_method[method][0]).all()
    inside = positions_inside(view.apply(masks.boxes[0]), view.size, 16)
    hidden = masked_counts(196, int(inside.sum()), 0.9, 0.75)
    assert by_method["mofo"][0].sum() == hidden[0]
    assert by_method["mofo"][0][inside].sum() == hidden[1]
    later = by_method["mgm"][2:]  # the first mask is at random
    assert not later[:, 13, 0].any() and later[:, 1, 10].all()


def test_decoded_patches_are_shown_for_the_recipe_or_any_method() -> None:
    boxes = np.full((16, 4), np.nan, np.float32)
    maps = np.random.default_rng(0).random((16, 28, 28)).astype(np.float32)
    view = canonical_view(224, 224)
    of_recipe = MaskOptions(methods=("videomae", "videomae_v2"))
    masks = draw_masks("a", boxes, maps, view, (224, 224), of_recipe, stride=1)
    [text] = masks.decoded
    assert text.startswith("videomae_v2: 90 % hidden, 50 % of these decoded")
    hidden, decoded = masks.by_caption[text], masks.decoded[text]
    assert not (decoded & ~hidden).any() and 2 * decoded.sum() == hidden.sum()
    given = MaskOptions(methods=("mofo", "mgm"), decoder_mask="motion")
    masks = draw_masks("a", boxes, maps, view, (224, 224), given, stride=1)
    assert list(masks.decoded) == list(masks.by_caption) and len(masks.decoded) == 2
    none = MaskOptions(methods=("videomae_v2",), decoder_mask="all")
    assert not draw_masks("a", boxes, maps, view, (224, 224), none, stride=1).decoded


def test_patches_that_are_not_decoded_are_darker() -> None:
    picture = np.full((40, 40, 3), 200, np.uint8)
    mask = np.array([[True, True], [False, True]])
    decoded = np.array([[True, False], [False, False]])
    draw_mask(picture, mask, np.array([0, 0, 40, 40]), decoded)
    assert picture[10, 10].tolist() == list(HIDDEN_RGB)
    assert picture[10, 30].tolist() == list(LEFT_OUT_RGB) == picture[30, 30].tolist()
    assert picture[30, 10].tolist() == [200, 200, 200]


def test_masks_that_hide_all_are_refused() -> None:
    boxes, maps = np.full((4, 4), np.nan, np.float32), np.zeros((4, 8, 8), np.float32)
    with refuses("out-of-range", "mofo", "1568 of 1568"):
        draw_masks("a", boxes, maps, canonical_view(64, 64), (64, 64), MaskOptions(0.999, 0.5))


def test_given_ratios_and_methods_replace_those_of_the_recipes() -> None:
    boxes = np.tile(np.array([0.0, 0, 32, 64], np.float32), (16, 1))  # the left half
    maps = np.zeros((16, 8, 8), np.float32)
    view = canonical_view(64, 64)
    masks = draw_masks("a", boxes, maps, view, (64, 64), MaskOptions(0.75, 0.5), stride=1)
    captions = {text.split(":")[0]: text for text in masks.by_caption}
    assert all("75 % hidden" in text for text in captions.values()), captions
    assert captions["mofo"].endswith("50 % in box")
    only = MaskOptions(methods=("mofo", "smm"))
    masks = draw_masks("a", boxes, maps, view, (64, 64), only, stride=1)
    assert [text.split(":")[0] for text in masks.by_caption] == ["mofo", "smm"]
    with refuses("unknown-name", "--method", "moco", "videomae"):
        draw_masks("a", boxes, maps, view, (64, 64), MaskOptions(methods=("moco",)))


def test_the_mask_of_mofo_may_be_that_of_what_moves() -> None:
    boxes = np.tile(np.array([0.0, 0, 64, 64], np.float32), (16, 1))
    areas = np.zeros((16, 8, 8), np.bool_)
    areas[:, :4] = True  # the upper half
    maps = np.zeros((16, 8, 8), np.float32)
    view = canonical_view(64, 64)
    options = MaskOptions(inside="positions")
    masks = draw_masks("a", boxes, maps, view, (64, 64), options, stride=1, areas=areas)
    [(text, moving)] = masks.moving.items()
    assert text == "mofo: 90 % hidden, 80 % of what moves"
    assert moving.shape == (16, 14, 14) and moving[0, :7].all() and not moving[0, 7:].any()
    assert masks.by_caption[text][0][moving[0]].sum() == 78  # of 98; all 98 others are hidden
    picture = np.zeros((28, 28, 3), np.uint8)
    draw_positions(picture, moving[0], np.array([0, 0, 28, 28]))
    outline = np.ones((14, 28), bool)
    outline[1:-1, 1:-1] = False
    assert np.array_equal(picture.any(axis=2), np.pad(outline, ((0, 14), (0, 0))))
    with refuses("option-unused", "--inside", "positions", "videomae", "--method mofo"):
        options = MaskOptions(methods=("videomae",), inside="positions")
        draw_masks("a", boxes, maps, view, (64, 64), options)


# ---------------------------------------------------------------------------------------------
# Motion of a video
# ---------------------------------------------------------------------------------------------


def test_motion_is_what_flows_and_boxes_find(video: Path) -> None:
    found = find_motion(video, 20.0, "fast", "default", MASKS_OF_RECIPES)
    options = WorkerOptions(video.parent)
    task = ClipTask(0, Clip("square", video.name))
    chunks = [
        FlowWorker(options).maps(grey)[0]
        for _, grey in Decoder(options).steps(DecodeGroup((task,)))
        if grey is not None
    ]
    maps = np.concatenate([expand(chunk.values, chunk.scale) for chunk in chunks])
    assert len(found.frames) == 12 == len(maps) + 1  # the last map counts twice
    # The solver may work on other batches here, which must not change a pair's flow.
    np.testing.assert_allclose(found.maps[:-1], maps, rtol=1e-4, atol=1e-5)


def faint_noise(index: int, width: int, height: int) -> np.ndarray:
    """A patch of noise on noise, whose texture is what JPEG leaves of it."""
    rng = np.random.default_rng(0)
    picture = rng.integers(96, 104, (height, width, 3))
    patch = rng.integers(116, 124, (height // 3, width // 3, 3))
    top, left = height // 3, 10 + 2 * index
    picture[top : top + len(patch), left : left + patch.shape[1]] = patch
    return picture.astype(np.uint8)


def test_boxes_are_those_made_from_shards(tmp_path: Path) -> None:
    """To the bit: also the texture is that of the stored frames."""
    layout = DatasetLayout(tmp_path, "own")
    video = render_video(layout.videos / "a.mp4", 8, size=(96, 64), picture=faint_noise)
    write_manifest(layout.manifest, [Clip("a", video.name)])
    assert run_flows(layout).exit_code == run_boxes(layout).exit_code == 0
    found = find_motion(video, 20.0, "fast", "default", MASKS_OF_RECIPES)
    with ShardReader(layout.boxes / "00000.h5", "boxes") as reader:
        assert not np.isnan(found.boxes).any()
        np.testing.assert_array_equal(found.boxes, reader["/box/xyxy"])
        np.testing.assert_array_equal(found.score, reader["/box/score"])


@pytest.mark.parametrize(
    "preset", sorted(name for name, numbers in PRESETS.items() if not numbers.steady_frames)
)
def test_boxes_enclose_their_contours(preset: str) -> None:
    rng = np.random.default_rng(1)
    maps = rng.random((5, 48, 64)).astype(np.float32) ** 8
    maps[3] = 0
    boxes, _, contours = motion_boxes(maps, PRESETS[preset])
    assert len(contours) == 5 and contours[3] == []
    for of_frame, box in zip(contours, boxes, strict=True):
        assert bool(of_frame) == (not np.isnan(box).any())
        if of_frame:
            points = np.concatenate(of_frame)
            np.testing.assert_array_equal(points.min(axis=0) - 0.5, box[:2])
            np.testing.assert_array_equal(points.max(axis=0) + 0.5, box[2:])


def test_sheet_and_video_have_a_panel_each(video: Path) -> None:
    found = find_motion(video, 20.0, "fast", "default", MASKS_OF_RECIPES)
    frames = list(video_frames(found))
    assert len(frames) == 12
    assert all(side % 2 == 0 for frame in frames for side in frame.shape[:2])
    sheet = contact_sheet(found).pixels()
    panels = 3 + len(METHODS)
    assert sheet.shape[1] == 6 * (200 + 6) + 6
    assert sheet.shape[0] > panels * 150
    rows = math.ceil((panels + 1) / 4)  # the last tile is the key
    assert frames[0].shape[:2] == (rows * (240 + 22 + 6) + 6, 4 * (320 + 6) + 6)


def test_a_light_sheet_is_dark_on_white(video: Path) -> None:
    found = replace(find_motion(video, 0.3, "fast", "default", MASKS_OF_RECIPES), longest_flow=9.0)
    sheets = [contact_sheet(found, ground) for ground in (DARK, LIGHT)]
    dark, light = (sheet.pixels() for sheet in sheets)
    assert dark.shape == light.shape
    assert (tuple(dark[0, 0]), tuple(light[0, 0])) == (DARK.paper, LIGHT.paper)
    x, y, picture = sheets[1].pictures[0]
    for sheet in (dark, light):
        np.testing.assert_array_equal(
            sheet[y : y + picture.shape[0], x : x + picture.shape[1]], picture
        )
    assert any("edge = 9.0 px/frame" in line.text for line in sheets[1].lines)
    frame = next(video_frames(found, LIGHT))
    assert tuple(frame[0, 0]) == LIGHT.paper


@pytest.mark.parametrize(
    ("suffix", "first"), [("svg", b"<?xml"), ("pdf", b"%PDF-"), ("png", b"\x89PNG")]
)
def test_a_sheet_is_the_same_file_each_time(suffix: str, first: bytes) -> None:
    sheet = Sheet(300)
    sheet.add_line("a name that is too long for a sheet of this width, with $math$", strong=True)
    sheet.add_row([np.full((20, 90, 3), 7 * i, np.uint8) for i in range(3)], 90)
    written = sheet.file(suffix)
    assert written.startswith(first) and written == sheet.file(suffix)


def test_only_the_beginning_is_shown(video: Path) -> None:
    found = find_motion(video, 0.5, "fast", "default", MASKS_OF_RECIPES)
    assert len(found.frames) == 6  # 12 frames per second


# ---------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------


def test_command_writes_video_and_sheet(video: Path, tmp_path: Path) -> None:
    result = show(video, "--to", tmp_path)
    assert result.exit_code == 0, result.output
    files = [tmp_path / "square-motion.mp4", tmp_path / "square-motion.png"]
    assert result.stdout.split("\n")[:2] == [str(file) for file in files]
    with av.open(str(files[0])) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 12
        assert sum(1 for _ in container.decode(stream)) == 12
    assert cv2.imread(str(files[1])).shape[1] == 6 * (200 + 6) + 6


def test_a_video_that_is_not_there_is_named_before_any_work(video: Path, tmp_path: Path) -> None:
    result = show(video, tmp_path / "nope.mp4", "--to", tmp_path / "shown")
    refused(result, "missing-file", tmp_path / "nope.mp4")
    assert not (tmp_path / "shown").exists()


def test_damaged_video_is_set_aside(video: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"not a video" * 100)
    result = show(bad, video, "--to", tmp_path)
    assert result.exit_code == EXIT_SET_ASIDE
    assert str(bad) in result.stderr and "Traceback" not in result.stderr
    assert (tmp_path / "square-motion.png").is_file()
    with pytest.raises(ClipError):
        find_motion(bad, 20.0, "fast", "default", MASKS_OF_RECIPES)


def test_pictures_never_replace_a_video() -> None:
    videos = (Path("a/x.mp4"), Path("b/x.webm"))
    assert output_names(videos, Path("o")) == ["x-motion", "x-motion-2"]
    with refuses("existing-output", "o/x-motion.mp4", "--to"):
        output_names((Path("o/x.mp4"), Path("o/x-motion.mp4")), Path("o"))


def test_format_without_annotations_is_refused(video: Path, tmp_path: Path) -> None:
    result = show(video, "--to", tmp_path, "--format", "csv")
    refused(result, "option-needs-another", "--format", "--annotations")


def test_stored_and_annotated_boxes_are_drawn(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=2, size=(64, 48))
    video = render_video(tmp_path / "square-000.mp4", num_frames=12)
    boxes = tmp_path / "square-000.boxes.csv"
    boxes.write_text("frame,x1,y1,x2,y2\n3,4,5,20,25\n")
    plain = show(video, "--to", tmp_path / "plain")
    more = ("--boxes", layout.boxes, "--annotations", boxes)
    marked = show(video, "--to", tmp_path / "marked", *more)
    assert plain.exit_code == marked.exit_code == 0, marked.output
    sheets = [
        cv2.imread(str(tmp_path / name / "square-000-motion.png")) for name in ("plain", "marked")
    ]
    assert sheets[0].shape == sheets[1].shape
    assert (sheets[0] != sheets[1]).any()


def test_stored_boxes_meet_frames_by_time(tmp_path: Path) -> None:
    layout = write_moving_squares(tmp_path, num_clips=2)
    every_other = np.arange(0, 16, 2) / 12
    found = stored_boxes(layout.boxes, Path("square-001.mp4"), every_other)
    whole = stored_boxes(layout.boxes, Path("square-001.mp4"), np.arange(16) / 12)
    assert [box.tolist() for box in found] == [box.tolist() for box in whole[::2]]
    beyond = stored_boxes(layout.boxes, Path("square-001.mp4"), np.array([5.0]))
    assert len(beyond[0]) == 0
    with refuses("no-match", layout.boxes, "other.mp4"):
        stored_boxes(layout.boxes, Path("other.mp4"), every_other)
    with refuses("not-finished", tmp_path / "none", "`make boxes` of its dataset"):
        stored_boxes(tmp_path / "none", Path("square-001.mp4"), every_other)


def test_stored_boxes_are_those_of_the_likeliest_clip(tmp_path: Path) -> None:
    """The clip named as the video, though one of another name in an earlier shard is of it too."""
    layout = write_moving_squares(tmp_path, num_clips=10, clips_per_shard=4)
    times = np.arange(16) / 12
    expected = stored_boxes(layout.boxes, Path("square-009.mp4"), times)
    clips = read_manifest(layout.manifest)
    video = "elsewhere/square-009.mp4"
    clips[6] = replace(clips[6], video=video)
    write_manifest(layout.manifest, [replace(clips[0], video=video), *clips[1:]])
    found = stored_boxes(layout.boxes, Path(video), times)
    assert np.array_equal(found, expected)
    (layout.boxes / "00002.h5").unlink()  # not looked into once the likeliest is found
    sixth = stored_boxes(layout.boxes, Path("square-006.mp4"), times)
    assert not np.array_equal(sixth, expected)


def test_annotations_of_other_clips_are_refused(video: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "another.boxes.csv"
    boxes.write_text("frame,x1,y1,x2,y2\n3,4,5,20,25\n")
    result = show(video, "--to", tmp_path, "--annotations", boxes, "--seconds", 0.2)
    refused(result, "no-match", boxes, f"'{video.stem}'", "but of another;")


@pytest.mark.parametrize("name", ["ssv2/3201.webm", "clips/video_90.mov"])
def test_real_videos(samples: Path, name: str) -> None:
    found = find_motion(samples / name, 0.3, "fast", "default", MASKS_OF_RECIPES)
    sheet = contact_sheet(found).pixels()
    assert sheet.std() > 10
    height, width = found.frames.shape[1:3]
    assert (height > width) == (name == "clips/video_90.mov")  # upright
    assert (found.source_size[1] > found.source_size[0]) == (height > width)


def test_shown_annotations_of_a_real_clip(samples: Path, tmp_path: Path) -> None:
    video = samples / "davis" / "drift-chicane.mp4"
    boxes = samples / "davis" / "drift-chicane.boxes.csv"
    result = show(video, "--to", tmp_path, "--seconds", 0.2, "--annotations", boxes)
    assert result.exit_code == 0, result.output
