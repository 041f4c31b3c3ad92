"""The toy dataset: seeded, balanced, true about boxes and flow, resumable."""

from __future__ import annotations

import csv
import dataclasses
import shutil

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from errors import refused, refuses

from preprocess.toy import ToyOptions, encode, flow_clips, list_clips, main
from preprocess.toy_clips.render import CANVAS, make_looks, render, true_flow
from preprocess.toy_clips.scene import CLASSES, NUM_FRAMES, SIZE, TRAVEL, make_scene, object_motion
from shared.manifest import read_classes, read_manifest

FEW = range(8)  # one clip of each class


@pytest.fixture(scope="module")
def rendered():
    """Scene, looks, frames and boxes of one clip of each class."""
    clips = []
    for index in FEW:
        scene = make_scene(0, index)
        looks = make_looks(0, index, scene)
        clips.append((scene, looks, *render(scene, looks)))
    return clips


def run(out, *options):
    result = CliRunner().invoke(main, ["--out", str(out), "--workers", "1", *options])
    assert not isinstance(result.exception, Exception), result.exception
    return result


def decoded(video):
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_same_seed_same_clip_and_another_seed_another(rendered):
    for index, (_, _, frames, boxes) in enumerate(rendered[:3]):
        scene = make_scene(0, index)
        again, boxes_again = render(scene, make_looks(0, index, scene))
        np.testing.assert_array_equal(again, frames)
        np.testing.assert_array_equal(boxes_again, boxes)
        assert encode(again) == encode(frames)
    other = make_scene(1, 0)
    assert (render(other, make_looks(1, 0, other))[0] != rendered[0][2]).any()


def test_splits_are_disjoint_and_hold_every_class_equally_often():
    clips = list_clips(ToyOptions(clips=3200, seed=0))
    assert len({clip.clip_id for clip in clips}) == len({clip.video for clip in clips}) == 3200
    for split, count in (("train", 2400), ("val", 320), ("test", 480)):
        labels = [clip.label for clip in clips if clip.split == split]
        assert np.bincount(labels, minlength=8).tolist() == [count // 8] * 8


def test_flow_truth_is_of_val_clips_of_all_classes():
    clips = list_clips(ToyOptions(clips=3200, seed=0))
    chosen = [clip for clip in clips if clip.clip_id in flow_clips(clips)]
    assert len(chosen) == 24 and {clip.split for clip in chosen} == {"val"}
    assert {clip.label for clip in chosen} == set(range(8))


@pytest.mark.parametrize("count", [0, 8, 23, 25])
def test_counts_that_cannot_be_balanced_are_refused(count):
    with refuses("out-of-range", f"--clips is {count};", "8", "24"):
        ToyOptions(clips=count, seed=0)


def test_background_reaches_beyond_what_the_camera_sees():
    corners = np.array([[0, 0, 1], [SIZE, 0, 1], [0, SIZE, 1], [SIZE, SIZE, 1]], dtype=float).T
    for index in range(300):
        seen = np.linalg.inv(make_scene(7, index).camera) @ corners
        assert np.abs(seen[:, :2]).max() < CANVAS / 2 - 1


def test_camera_does_not_know_the_class(monkeypatch):
    cameras = [make_scene(0, index).camera for index in FEW]
    monkeypatch.setattr(
        "preprocess.toy_clips.scene.object_motion", lambda name, rng: object_motion("turning", rng)
    )
    np.testing.assert_array_equal(cameras, [make_scene(0, index).camera for index in FEW])


def test_motions_are_what_their_names_say():
    for index in range(80):
        scene = make_scene(3, index)
        name = CLASSES.label[scene.label]
        first, last = scene.movers[0, 0], scene.movers[0, -1]
        x, y = (last - first)[:2, 2] / SIZE
        growth = np.hypot(*last[:2, 0]) / np.hypot(*first[:2, 0])
        headings = np.unwrap(np.arctan2(scene.movers[0, :, 1, 0], scene.movers[0, :, 0, 0]))
        turn = abs(headings[-1] - headings[0])
        if name in TRAVEL:
            assert 0.45 <= np.hypot(x, y) <= 0.65
            assert {"left": -x, "right": x, "up": -y, "down": y}[name] > 0.4
        elif name == "swinging":
            steps = np.diff(scene.movers[0, :, :2, 2], axis=0) / SIZE
            assert np.hypot(x, y) < 0.5 * np.hypot(*steps.T).sum()
        else:
            assert (x, y) == (0, 0)
        grown = {"approaching": (2, 2.8), "receding": (1 / 2.8, 1 / 2)}.get(name, (1, 1))
        assert grown[0] - 1e-9 <= growth <= grown[1] + 1e-9
        if name == "turning":
            assert np.radians(120) - 1e-9 <= turn <= np.radians(220) + 1e-9
        elif name != "swinging":
            assert turn < 1e-9


FLIPS = {
    "flip_x": lambda paths: paths * (-1, 1),
    "flip_y": lambda paths: paths * (1, -1),
    "flip_time": lambda paths: paths[:, ::-1],
}


@pytest.mark.parametrize("flip", FLIPS)
def test_flips_take_each_class_to_the_class_they_name(flip):
    """Mirrored paths of an object run where paths of the class after the flip do."""
    travelled = np.zeros((8, 2))
    growth = np.zeros(8)
    for index in range(64):
        scene = make_scene(5, index)
        path = scene.movers[:1, :, :2, 2]
        size = np.hypot(scene.movers[:1, :, 0, 0], scene.movers[:1, :, 1, 0])
        mirrored = FLIPS[flip](path)
        size_mirrored = size[:, ::-1] if flip == "flip_time" else size
        after = getattr(CLASSES, flip)[scene.label]
        travelled[after] += (mirrored[0, -1] - mirrored[0, 0]) / 8
        growth[after] += np.log(size_mirrored[0, -1] / size_mirrored[0, 0]) / 8
    for label, name in enumerate(CLASSES.label):
        if name in TRAVEL:
            axis = (np.cos(TRAVEL[name]), np.sin(TRAVEL[name]))
            assert travelled[label] @ axis > 0.4 * SIZE
        assert np.sign(round(growth[label], 6)) == {"approaching": 1, "receding": -1}.get(name, 0)
    flipped = getattr(CLASSES, flip)
    assert [flipped[after] for after in flipped] == list(range(8))


def test_boxes_are_tight_around_what_leaves_when_the_object_does(rendered):
    """The box holds exactly the pixels that change when the moving objects are left out."""
    for scene, looks, frames, boxes in rendered:
        still = dataclasses.replace(scene, movers=scene.movers[:0])
        scenery = looks.sprites[: len(scene.distractors)]
        without, none = render(still, dataclasses.replace(looks, sprites=scenery))
        assert np.isnan(none).all()
        for t in range(NUM_FRAMES):
            changed = (np.abs(frames[t].astype(int) - without[t]) > 12).any(axis=-1)
            rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
            seen = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            np.testing.assert_allclose(boxes[t], seen, atol=2.0)
            assert (boxes[t, :2] >= 0).all() and (boxes[t, 2:] <= SIZE).all()


def test_true_flow_takes_the_second_frame_to_the_first(rendered):
    for scene, looks, frames, _ in rendered:
        flow, valid = true_flow(scene, looks, 7)
        x, y = np.meshgrid(np.arange(SIZE, dtype=np.float32), np.arange(SIZE, dtype=np.float32))
        warped = cv2.remap(frames[8], x + flow[0], y + flow[1], cv2.INTER_LINEAR).astype(float)
        wrong = np.abs(warped - frames[7]).mean(axis=-1)[valid]
        unmoved = np.abs(frames[8].astype(float) - frames[7]).mean(axis=-1)[valid]
        assert valid.mean() > 0.5
        assert wrong.mean() < 2.0 and wrong.mean() < 0.6 * unmoved.mean()


def test_true_flow_has_the_camera_and_the_object_apart(rendered):
    scene, looks, _, boxes = rendered[CLASSES.label.index("right")]
    flow, valid = true_flow(scene, looks, 7)
    x1, y1, x2, y2 = boxes[7].astype(int)
    inside = np.zeros_like(valid)
    inside[y1:y2, x1:x2] = True
    assert np.percentile(flow[0][valid & inside], 75) > flow[0][valid & ~inside].mean() + 1.5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """OUT with the smallest dataset, made in this process."""
    out = tmp_path_factory.mktemp("out")
    result = run(out, "--clips", "24")
    assert result.exit_code == 0, result.output
    return out


def test_command_writes_videos_lists_and_truth(dataset):
    root = dataset / "toy"
    clips = read_manifest(root / "annotations" / "manifest.csv")
    assert read_classes(root / "annotations" / "classes.json") == CLASSES
    assert [clip.split for clip in clips] == ["train"] * 8 + ["val"] * 8 + ["test"] * 8
    for clip in clips:
        assert decoded(root / "videos" / clip.video).shape == (NUM_FRAMES, SIZE, SIZE, 3)
        with open(root / "truth" / "boxes" / f"{clip.clip_id}.boxes.csv") as stream:
            rows = list(csv.DictReader(stream))
        assert [int(row["frame"]) for row in rows] == list(range(NUM_FRAMES))
    pair = np.load(root / "truth" / "flow" / f"{clips[8].clip_id}.npz")
    assert {name: (pair[name].dtype.str, pair[name].shape) for name in pair} == {
        "first": ("|u1", (SIZE, SIZE)),
        "second": ("|u1", (SIZE, SIZE)),
        "flow": ("<f4", (2, SIZE, SIZE)),
        "valid": ("|b1", (SIZE, SIZE)),
    }


def contents(out):
    return {
        path.relative_to(out): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_second_run_renders_only_what_is_lacking(dataset, tmp_path):
    out = shutil.copytree(dataset, tmp_path / "out")
    (out / "toy" / "videos" / "toy00003.mp4").unlink()
    (out / "toy" / "truth" / "boxes" / "toy00005.boxes.csv").unlink()
    second = run(out, "--clips", "24")
    assert second.exit_code == 0 and "22 of 24 clips exist" in second.output
    assert contents(out) == contents(dataset)
    assert "24 of 24 clips exist" in run(out, "--clips", "24").output


def test_other_options_are_refused_naming_both_until_overwrite(dataset, tmp_path):
    out = shutil.copytree(dataset, tmp_path / "out")
    other = run(out, "--clips", "32", "--seed", "1")
    refused(other, "other-options", out / "toy", "clips 24, seed 0", "clips 32, seed 1")
    assert contents(out) == contents(dataset)
    assert run(out, "--clips", "24", "--seed", "1", "--overwrite").exit_code == 0
    assert contents(out).keys() == contents(dataset).keys()
    old, new = (decoded(folder / "toy" / "videos" / "toy00000.mp4") for folder in (dataset, out))
    assert (old != new).any()


def test_dry_run_writes_nothing(tmp_path):
    assert run(tmp_path, "--clips", "24", "--dry-run").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_processes_do_not_change_a_byte(dataset, tmp_path):
    assert run(tmp_path, "--clips", "24", "--workers", "2").exit_code == 0
    assert contents(tmp_path) == contents(dataset)


def test_decoded_video_is_close_to_what_was_drawn(rendered, tmp_path):
    for number, (_, _, frames, _) in enumerate(rendered):
        video = tmp_path / f"{number}.mp4"
        video.write_bytes(encode(frames))
        drawn, seen = (clip.mean(axis=-1) for clip in (frames, decoded(video)))
        assert np.abs(drawn - seen).mean() < 3.0
