"""The boxes command: from flows shards alone, tube tables, reuse, refusals, resume."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from dataset_fixtures import ROOT, arguments, checksums, make_dataset, run_boxes, run_flows, start
from errors import refused, refuses

from preprocess.box_run.run import shard_pool
from preprocess.running.journal import JOURNAL_NAME
from shared.grid import canonical_view, positions_inside, window_box
from shared.layout import DatasetLayout
from shared.manifest import read_manifest, write_manifest
from shared.moving_areas import moving_positions, read_areas
from shared.run_record import RunLock
from shared.shard_index import read_index
from shared.shards import ShardReader


@pytest.fixture(scope="module")
def flowed(tmp_path_factory) -> DatasetLayout:
    """Flows of six small videos in three shards; tests only read them."""
    layout = make_dataset(tmp_path_factory.mktemp("flowed"))
    assert run_flows(layout, "--clips-per-shard", 2).exit_code == 0
    return layout


@pytest.fixture
def layout(flowed, tmp_path) -> DatasetLayout:
    """The same flows and frames, without boxes; the videos are not there."""
    copy = DatasetLayout(tmp_path, flowed.dataset)
    copy.root.mkdir()
    copy.flows.symlink_to(flowed.flows)
    copy.frames.symlink_to(flowed.frames)
    return copy


def test_boxes_come_from_flows_and_frames(layout):
    done = run_boxes(layout)
    assert done.exit_code == 0, done.output
    index = read_index(layout.boxes)
    assert index.config["flows"] == read_index(layout.flows).digest
    assert [entry.clips for entry in index.shards] == [2, 2, 2]
    with (
        ShardReader(layout.flows / "00001.h5", "flows") as flows,
        ShardReader(layout.boxes / "00001.h5", "boxes") as boxes,
    ):
        for path in ("/clip/id", "/clip/frames", "/clip/size", "/frame/pts_seconds"):
            assert np.array_equal(boxes[path], flows[path])
        assert boxes.attributes["patch"] == 16 and boxes.attributes["grid"] == "14x14"
        found = boxes["/box/xyxy"]
        assert found.shape == (18, 4)
        kept = found[~np.isnan(found).any(axis=1)]
        assert len(kept) > 9
        assert np.all(kept >= 0) and np.all(kept[:, 2] <= 48) and np.all(kept[:, 3] <= 32)
        assert np.all((boxes["/box/score"] > 0) == ~np.isnan(found).any(axis=1))
        offsets, positions = boxes["/tube/offsets"], boxes["/tube/index"]
        for clip, (first, last) in enumerate(boxes["/clip/frames"]):
            box = boxes["/clip/box"][clip]
            np.testing.assert_array_equal(box, window_box(found[first:last]))
            view = canonical_view(*boxes["/clip/size"][clip].tolist())
            inside = np.flatnonzero(positions_inside(view.apply(box), (224, 224)))
            assert positions[offsets[clip] : offsets[clip + 1]].tolist() == inside.tolist()


def test_what_moves_lies_in_the_boxes(layout):
    assert run_boxes(layout).exit_code == 0
    with (
        ShardReader(layout.flows / "00001.h5", "flows") as flows,
        ShardReader(layout.boxes / "00001.h5", "boxes") as boxes,
    ):
        assert np.array_equal(boxes["/clip/moving_size"], flows["/clip/map_size"])
        width, height = boxes.pair("/clip/moving_size", 0)
        offsets, positions = boxes["/moving/tube_offsets"], boxes["/moving/tube_index"]
        for clip, (first, last) in enumerate(boxes["/clip/frames"]):
            areas = read_areas(boxes, clip, first, last)
            assert areas.shape == (last - first, height, width) and areas.any()
            size = boxes.pair("/clip/size", clip)
            for area, box in zip(areas, boxes["/box/xyxy"][first:last], strict=True):
                y, x = np.nonzero(area)
                if len(x):
                    corners = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
                    cell = np.tile(np.divide(size, (width, height)), 2)
                    assert np.all((corners * cell - box) * (1, 1, -1, -1) >= -cell)
            moves = moving_positions(areas, canonical_view(*size), size, 16)
            stored = positions[offsets[clip] : offsets[clip + 1]]
            assert stored.tolist() == np.flatnonzero(moves).tolist() and len(stored)


def test_without_texture_flows_are_enough(layout):
    layout.frames.unlink()
    refused(
        run_boxes(layout),
        "not-finished",
        layout.frames,
        f"`{layout.make('flows')}`",
        "--set texture=0",
    )
    assert run_boxes(layout, "--set", "texture=0").exit_code == 0
    assert "frames" not in read_index(layout.boxes).config


def test_the_histogram_shows_what_the_ratio_does(layout):
    done = run_boxes(layout)
    assert done.exit_code == 0, done.output
    with ShardReader(layout.boxes / "00000.h5", "boxes") as reader:
        assert len(reader["/tube/offsets"]) == 3
    histogram = [line.split() for line in done.output.splitlines() if line.endswith("#")]
    assert sum(int(count) for _, count, _ in histogram) == 6, done.output
    assert "of 196" in done.output and "90%" in done.output and "75%" in done.output


def test_the_screen_shows_options_and_no_digests(layout):
    shown = run_boxes(layout, "--dry-run").output
    assert len(shown.splitlines()) <= 12 and "texture 1.0" in shown and str(layout.flows) in shown
    for folder in (layout.flows, layout.frames):
        assert read_index(folder).digest[:8] not in shown


def test_workers_do_not_change_bytes(layout, tmp_path):
    assert run_boxes(layout, "--workers", 1).exit_code == 0
    expected = checksums(layout.boxes)
    assert run_boxes(layout, "--workers", 2, "--overwrite").exit_code == 0
    assert checksums(layout.boxes) == expected


def test_a_complete_run_is_reused_and_other_options_are_refused(layout):
    assert run_boxes(layout).exit_code == 0
    before = checksums(layout.boxes)
    assert "reuse:" in run_boxes(layout).output
    named = (layout.boxes, "--overwrite", "--name NAME")
    refused(run_boxes(layout, "--set", "sigma=4"), "other-options", "sigma was 1.5", "4.0", *named)
    options = ("texture", "frames_before", "mean_factor", "smallest_share")
    done = run_boxes(layout, "--motion-preset", "paper")
    said = refused(done, "other-options", *(f"{option} was " for option in options), *named)
    assert read_index(layout.frames).digest[:8] not in said
    assert checksums(layout.boxes) == before
    assert run_boxes(layout, "--set", "sigma=4", "--overwrite").exit_code == 0
    assert read_index(layout.boxes).config["sigma"] == 4.0


def test_reuse_does_not_wait_for_torch(layout):
    assert run_boxes(layout).exit_code == 0
    code = (
        "import sys\n"
        "for name in ('torch', 'ray', 'av'): sys.modules[name] = None\n"
        "from preprocess.boxes import main\n"
        "main()"
    )
    command = [sys.executable, "-c", code, *arguments(layout)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "reuse:" in done.stdout, done.stderr
    again = subprocess.run([*command, "--overwrite"], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr  # nor does the work need it


def test_other_flows_make_other_boxes(flowed, layout):
    assert run_boxes(layout).exit_code == 0
    layout.flows.unlink()
    other = make_dataset(layout.out / "other", num_clips=6, num_frames=9)
    assert run_flows(other, "--clips-per-shard", 2).exit_code == 0
    layout.flows.symlink_to(other.flows)
    layout.frames.unlink()
    layout.frames.symlink_to(other.frames)
    refused(run_boxes(layout), "other-inputs", layout.boxes, "flows and frames")


def test_flows_of_another_manifest_are_refused(flowed, layout):
    """Complete or not: no training would take what is made of them."""
    clips = read_manifest(flowed.manifest)
    write_manifest(layout.manifest, clips)
    assert run_boxes(layout).exit_code == 0 and "reuse:" in run_boxes(layout).output
    write_manifest(layout.manifest, clips[:-1])
    for more in ((), ("--overwrite",), ("--name", "other")):
        done = run_boxes(layout, *more)
        assert "reuse:" not in done.output
        commands = [layout.make(goal, "--overwrite") for goal in ("flows", "boxes")]
        refused(done, "other-manifest", layout.flows, *(f"`{command}`" for command in commands))
    assert read_index(layout.boxes) is not None and not layout.boxes_of("other").exists()


def test_what_is_lacking_is_named(tmp_path):
    layout = DatasetLayout(tmp_path, "nothing")
    refused(run_boxes(layout), "not-finished", layout.flows, f"`{layout.make('flows')}`")


def test_a_damaged_flows_shard_is_named(flowed, layout):
    layout.flows.unlink()
    layout.flows.mkdir()
    for path in flowed.flows.glob("[!.]*"):
        (layout.flows / path.name).write_bytes(path.read_bytes())
    damaged = bytearray((layout.flows / "00001.h5").read_bytes())
    damaged[-2000] ^= 16
    (layout.flows / "00001.h5").write_bytes(damaged)
    refused(run_boxes(layout, "--workers", 1), "damaged-file", layout.flows / "00001.h5")
    assert read_index(layout.boxes) is None


class DiesAtOnce:
    """A builder that ends its process, as the system does where memory is short."""

    def arrays(self, path):
        os.abort()


def test_a_process_that_dies_is_named_with_what_to_do(tmp_path):
    tasks = [(n, tmp_path / "in.h5", tmp_path / "out.h5", DiesAtOnce(), {}) for n in range(3)]
    with refuses("process-died", "2 processes", "--workers 1"), shard_pool(2) as run:
        list(run(tasks))


def test_a_second_run_is_refused(layout):
    with RunLock(layout.lock):
        refused(run_boxes(layout), "locked", layout.root)


def test_a_killed_run_continues_where_it_stopped(layout):
    assert run_boxes(layout).exit_code == 0
    expected = checksums(layout.boxes)
    for path in layout.boxes.glob("*"):
        path.unlink()
    run = start("preprocess.boxes", layout, "--workers", 1)
    while not (layout.boxes / "00000.h5").exists():
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.002)
    run.kill()
    run.wait()
    for path in layout.boxes.glob("*.h5"):
        ShardReader(path, "boxes").close()
    assert run_boxes(layout).exit_code == 0
    assert checksums(layout.boxes) == expected
    assert not list(layout.boxes.glob(".*"))


def test_the_journal_of_a_run_that_was_killed_at_its_end_is_removed(layout):
    run_boxes(layout)
    journal = layout.boxes / JOURNAL_NAME
    journal.write_text("{}\n")
    assert "reuse: " in run_boxes(layout).output and not journal.exists()


def test_dry_run_writes_nothing(layout):
    done = run_boxes(layout, "--dry-run")
    assert done.exit_code == 0 and "6 clips in 3 shards" in done.output
    assert not layout.boxes.exists()
