"""The flows command: shards, resume, refusals, and what is left of a run that was stopped."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import weakref

import cv2
import numpy as np
import pytest
from dataset_fixtures import ROOT, arguments, checksums, make_dataset, run_boxes, run_flows, start
from errors import refused
from video_fixtures import moving_picture, render_video

from preprocess.flow_run import publishing
from preprocess.flow_run.config import FlowsConfig
from shared.errors import EXIT_SET_ASIDE
from shared.layout import DatasetLayout
from shared.manifest import Clip, read_manifest, write_manifest
from shared.motion_maps import expand
from shared.run_record import RunLock, read_jsonl
from shared.shard_index import read_index
from shared.shards import ShardReader

KINDS = ("frames", "flows")


def all_checksums(layout):
    return {kind: checksums(layout.root / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> DatasetLayout:
    """A dataset whose flows ran undisturbed; not to be written to."""
    layout = make_dataset(tmp_path_factory.mktemp("finished"))
    done = run_flows(layout, "--clips-per-shard", 2)
    assert done.exit_code == 0, done.output
    return layout


def copy_of(finished, tmp_path) -> DatasetLayout:
    """The same manifest and videos, nothing made yet."""
    layout = DatasetLayout(tmp_path, finished.dataset)
    layout.root.mkdir()
    layout.videos.symlink_to(finished.videos)
    layout.manifest.write_bytes(finished.manifest.read_bytes())
    return layout


def test_shards_hold_every_frame_and_its_motion(finished):
    indexes = {kind: read_index(finished.root / kind) for kind in KINDS}
    assert [entry.clips for entry in indexes["frames"].shards] == [2, 2, 2]
    assert indexes["flows"].config["flow_preset"] == "fast"
    with (
        ShardReader(finished.frames / "00001.h5", "frames") as frames,
        ShardReader(finished.flows / "00001.h5", "flows") as flows,
    ):
        assert frames.clip_ids() == flows.clip_ids() == ["clip-2", "clip-3"]
        assert frames["/clip/frames"].tolist() == [[0, 10], [10, 18]]
        np.testing.assert_allclose(frames["/frame/pts_seconds"][10:], np.arange(8) / 12, atol=1e-6)
        jpegs = frames.ragged("/jpeg/offsets", "/jpeg/values", 10, 18)
        for index, jpeg in enumerate(jpegs):
            picture = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1].astype(int)
            assert np.abs(picture - moving_picture(index, 48, 32)).mean() < 6
        assert flows["/clip/map_size"].tolist() == [[48, 32]] * 2
        values = np.stack(flows.ragged("/motion/offsets", "/motion/values", 10, 18))
        maps = expand(values.reshape(8, 32, 48), flows["/motion/scale"][10:18])
        assert np.array_equal(maps[7], maps[6])  # F frames have F - 1 flows
        assert not np.array_equal(maps[6], maps[5])
        # The square moves and its surroundings do not: motion is at its border.
        _top, left = divmod(2 * 3, 32)
        assert maps[3, :, left - 4 : left + 22].mean() > 3 * maps[3, :, left + 26 :].mean()


@pytest.mark.parametrize("num_frames", [63, 64, 65, 511, 512, 513, 1025])
def test_frames_in_are_maps_out(tmp_path, num_frames):
    """At the borders of chunks and batches: no frame is lost or doubled."""
    layout = DatasetLayout(tmp_path, "rendered")
    render_video(layout.videos / "a.mp4", num_frames, size=(32, 32))
    write_manifest(layout.manifest, [Clip("a", "a.mp4")])
    assert run_flows(layout, "--flow-short-side", 16, "--map-short-side", 4).exit_code == 0
    with ShardReader(layout.flows / "00000.h5", "flows") as flows:
        assert flows.num_frames == num_frames
        scales = flows["/motion/scale"]
        assert scales[-1] == scales[-2]
        assert np.count_nonzero(scales) == num_frames
    with ShardReader(layout.frames / "00000.h5", "frames") as frames:
        jpegs = frames.ragged("/jpeg/offsets", "/jpeg/values", 0, num_frames)
    pictures = [cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE).astype(float) for jpeg in jpegs]
    for index in range(0, num_frames, 50):
        assert np.abs(pictures[index] - moving_picture(index, 32, 32)[..., 0]).mean() < 12


def test_a_complete_run_is_reused_without_heavy_imports(finished):
    """`make` asks again each time; the answer must not wait for torch."""
    before = all_checksums(finished)
    code = (
        "import sys\n"
        "for name in ('torch', 'ray', 'cv2', 'av'): sys.modules[name] = None\n"
        "from preprocess.flows import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments(finished, "--clips-per-shard", 2)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "reuse:" in done.stdout
    assert all_checksums(finished) == before


def test_failing_clips_are_set_aside(tmp_path):
    layout = make_dataset(tmp_path, num_clips=4)
    (layout.videos / "1.mp4").write_bytes(b"not a video")
    whole = (layout.videos / "2.mp4").read_bytes()
    (layout.videos / "2.mp4").write_bytes(whole[: len(whole) // 2])
    done = run_flows(layout)
    assert done.exit_code == EXIT_SET_ASIDE
    failures = read_jsonl(layout.failures)
    assert [failure["clip_id"] for failure in failures] == ["clip-1", "clip-2"]
    assert {failure["stage"] for failure in failures} == {"decode"}
    assert all(failure["reason"] for failure in failures)
    assert {failure["code"] for failure in failures} == {"damaged-file"}
    for kind in KINDS:
        with ShardReader(layout.root / kind / "00000.h5", kind) as reader:
            assert reader.clip_ids() == ["clip-0", "clip-3"]

    again = run_flows(layout)
    assert "reuse:" in again.output and again.exit_code == EXIT_SET_ASIDE
    assert read_jsonl(layout.failures) == failures
    assert run_boxes(layout).exit_code == 0
    assert read_index(layout.boxes).num_clips == 2


def test_a_published_shard_is_held_no_longer(finished, tmp_path, monkeypatch):
    """Else memory grows with the dataset, by kilobytes a clip."""
    made, held, closed = [], [], []

    class Watched(publishing.Assembly):
        def __init__(self, *given):
            super().__init__(*given)
            held.append(sum(one() is not None for one in made))
            made.append(weakref.ref(self))

        def close(self):
            closed.append(self.number)
            super().close()

    monkeypatch.setattr(publishing, "Assembly", Watched)
    layout = copy_of(finished, tmp_path)
    assert run_flows(layout, "--clips-per-shard", 1).exit_code == 0
    assert held == [0] * 6 and closed == [0, 1, 2, 3, 4, 5]
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "0.mp4").write_bytes(b"not a video")
    stopped = run_flows(layout, "--overwrite", "--strict", "--videos", wrong)
    assert stopped.exit_code == 1 and closed[6:] == [0]


def test_strict_stops_at_the_first_failure(tmp_path):
    layout = make_dataset(tmp_path, num_clips=2)
    (layout.videos / "0.mp4").write_bytes(b"not a video")
    done = run_flows(layout, "--strict")
    refused(done, "damaged-file", "clip-0", "decode")
    assert not (layout.flows / "dataset.json").exists()


def test_a_shard_without_a_good_clip_is_empty(tmp_path):
    layout = make_dataset(tmp_path, num_clips=4)
    for index in (2, 3):
        (layout.videos / f"{index}.mp4").unlink()
    assert run_flows(layout, "--clips-per-shard", 2).exit_code == EXIT_SET_ASIDE
    for kind in KINDS:
        assert [entry.clips for entry in read_index(layout.root / kind).shards] == [2, 0]
        with ShardReader(layout.root / kind / "00001.h5", kind) as reader:
            assert reader.num_clips == reader.num_frames == 0
    assert run_boxes(layout).exit_code == 0
    assert [entry.clips for entry in read_index(layout.boxes).shards] == [2, 0]


@pytest.mark.parametrize(
    ("option", "found", "wanted"),
    [
        ("--jpeg-quality", 90, 50),
        ("--map-short-side", 64, 32),
        ("--preset", "fast", "ipol"),
        ("--clips-per-shard", 2, 3),
    ],
)
def test_other_options_are_refused_with_both_values(finished, option, found, wanted):
    before = all_checksums(finished)
    options = {"--clips-per-shard": 2, option: wanted}
    done = run_flows(finished, *(part for pair in options.items() for part in pair))
    refused(done, "other-options", f"{option} was {found} and is now {wanted}", "--overwrite")
    assert all_checksums(finished) == before


def test_every_option_that_differs_is_named(finished):
    done = run_flows(finished, "--clips-per-shard", 2, "--trajectories", "--stabilise", "warp")
    refused(
        done,
        "other-options",
        finished.flows,
        "--trajectories was not given and is now given",
        "--stabilise was off and is now warp",
    )
    done = run_flows(finished, "--clips-per-shard", 2, "--source", "dis", "--dis-preset", "fast")
    said = refused(done, "other-options", "--source was tvl1 and is now dis")
    assert "--dis-preset was fast" not in said


def test_a_dashboard_without_a_ray_of_its_own_is_refused(finished):
    done = run_flows(finished, "--dashboard")
    refused(done, "option-conflict", "--dashboard", "--pool", "RAY_ADDRESS")


def test_another_manifest_is_refused(finished, tmp_path):
    layout = copy_of(finished, tmp_path)
    assert run_flows(layout, "--clips-per-shard", 2).exit_code == 0
    write_manifest(layout.manifest, read_manifest(layout.manifest)[:-1])
    done = run_flows(layout, "--clips-per-shard", 2)
    said = refused(done, "other-manifest", layout.frames)
    anew = ["`" + layout.make(goal, "--overwrite") + "`" for goal in ("flows", "boxes")]
    assert 0 < said.find(anew[0]) < said.find(anew[1]), "in the order that is needed"


def test_overwrite_makes_all_again_and_leaves_nothing_over(finished, tmp_path):
    layout = copy_of(finished, tmp_path)
    assert run_flows(layout, "--clips-per-shard", 1).exit_code == 0
    assert len(list(layout.frames.glob("*.h5"))) == 6
    assert run_flows(layout, "--clips-per-shard", 2, "--overwrite").exit_code == 0
    assert all_checksums(layout) == all_checksums(finished)


def test_at_most_twelve_facts_stand_before_the_bar(finished):
    """And digests only with --verbose."""
    options = ("--clips-per-shard", 2, "--source", "tvl1,dis", "--stabilise", "warp", "--dry-run")
    lines = run_flows(finished, *options, "--trajectories").output.splitlines()
    assert len(lines) <= 12 and all(line.endswith(".") and len(line) < 200 for line in lines)
    digest = read_index(finished.flows).manifest_digest
    assert digest not in "".join(lines)
    verbose = run_flows(finished, *options, "--verbose").output
    assert f"  flows-dis/ manifest: {digest}" in verbose
    for name in FlowsConfig("a").options():
        assert f"  option {name}: " in verbose


def test_a_second_run_is_refused_naming_the_first(tmp_path):
    layout = make_dataset(tmp_path, num_clips=1)
    with RunLock(layout.lock):
        done = run_flows(layout)
    refused(done, "locked", f"process {os.getpid()}")
    assert run_flows(layout).exit_code == 0


def test_a_killed_run_goes_on_where_it_was(finished, tmp_path):
    """kill -9 in the middle: nothing half, nothing finished made again, in the end the same."""
    layout = copy_of(finished, tmp_path)
    run = start("preprocess.flows", layout, "--pool", "in-process", "--clips-per-shard", 2)
    while not (layout.flows / "00000.h5").exists():
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.005)
    run.kill()
    run.wait()
    assert not (layout.flows / "dataset.json").exists()
    for kind in KINDS:
        for path in (layout.root / kind).glob("*.h5"):
            ShardReader(path, kind).close()
    made = {path: path.stat().st_mtime_ns for path in layout.flows.glob("*.h5")}
    done = run_flows(layout, "--clips-per-shard", 2)
    assert done.exit_code == 0, done.output
    assert all_checksums(layout) == all_checksums(finished)
    again = [path for path, when in made.items() if path.stat().st_mtime_ns != when]
    assert len(again) <= 1  # the one that was published and not yet noted
    assert not [*layout.flows.glob(".*"), *layout.frames.glob(".*")]


def test_a_stopped_run_does_not_go_on_with_other_options(finished, tmp_path):
    layout = copy_of(finished, tmp_path)
    render_video(layout.root / "5.mp4", 2)
    (layout.root / "wrong").mkdir()
    (layout.root / "wrong" / "0.mp4").write_bytes(b"not a video")
    stopped = run_flows(layout, "--strict", "--videos", layout.root / "wrong")
    assert stopped.exit_code == 1
    done = run_flows(layout, "--jpeg-quality", 50)
    refused(done, "other-options", "--jpeg-quality was 90 and is now 50")


def test_a_damaged_finished_shard_is_made_again(finished, tmp_path):
    layout = copy_of(finished, tmp_path)
    assert run_flows(layout, "--clips-per-shard", 2).exit_code == 0
    index = read_index(layout.flows)
    # As if killed before the end: a journal instead of dataset.json, and one shard damaged since.
    journal = [{**index.config, **read_index(layout.frames).config}]
    journal[0] |= {"clips_per_shard": 2, "manifest": index.manifest_digest}
    for number in range(3):
        record = {"shard": number, "failures": []}
        for kind in KINDS:
            record[kind] = vars(read_index(layout.root / kind).shards[number])
        journal.append(record)
    lines = "".join(json.dumps(record) + "\n" for record in journal)
    (layout.flows / ".journal.jsonl").write_text(lines)
    for kind in KINDS:
        (layout.root / kind / "dataset.json").unlink()
    damaged = bytearray((layout.frames / "00001.h5").read_bytes())
    damaged[len(damaged) // 2] ^= 4
    (layout.frames / "00001.h5").write_bytes(damaged)
    done = run_flows(layout, "--clips-per-shard", 2)
    assert "Shard 00001" in done.stderr and "2 of 3 shards" in done.output
    assert all_checksums(layout) == all_checksums(finished)


def test_a_damaged_journal_costs_the_shards_of_its_lines(finished, tmp_path, monkeypatch):
    """As after a power cut. What cannot be known without its first line is not guessed."""
    from preprocess.flow_run import plan

    def stopped(*_):
        raise KeyboardInterrupt

    layout = copy_of(finished, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(plan, "write_index", stopped)
        assert run_flows(layout, "--clips-per-shard", 2).exit_code == 130
    journal = layout.flows / ".journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([bytes(len(lines[0])), *lines[1:]]))
    lost = run_flows(layout, "--clips-per-shard", 2)
    refused(lost, "damaged-file", journal)
    journal.write_bytes(b"\n".join([*lines[:2], bytes(len(lines[2])), *lines[3:]]))
    done = run_flows(layout, "--clips-per-shard", 2)
    assert done.exit_code == 0 and "2 of 3 shards" in done.output, done.output
    assert all_checksums(layout) == all_checksums(finished)


def test_ctrl_c_ends_quickly_and_says_how_to_go_on(finished, tmp_path):
    layout = copy_of(finished, tmp_path)
    run = start("preprocess.flows", layout, "--pool", "in-process", "--clips-per-shard", 1)
    while not (layout.flows / "00000.h5").exists():
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.005)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=10)
    assert run.returncode in (130, 0)  # 0: it was done before the signal came
    assert run.returncode == 0 or "run the same command again" in errors
    assert "Traceback" not in errors
    assert run_flows(layout, "--clips-per-shard", 1).exit_code == 0


@pytest.mark.parametrize("limit", [100, 3_000, 20_000])
def test_a_full_disk_is_an_error_and_loses_nothing(finished, tmp_path, limit):
    layout = copy_of(finished, tmp_path)
    done = _run_with_file_limit(layout, limit)
    refused(done, "no-space")
    _check_no_half_files(layout)
    assert run_flows(layout, "--clips-per-shard", 2).exit_code == 0
    assert all_checksums(layout) == all_checksums(finished)


def _run_with_file_limit(layout, limit):
    """Writes beyond `limit` bytes of a file fail, as on a full disk, in this run alone."""

    def set_limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "preprocess.flows", "--pool", "in-process"]
    return subprocess.run(
        [*command, *arguments(layout, "--clips-per-shard", 2)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=set_limit,
    )


def _check_no_half_files(layout):
    for kind in KINDS:
        for path in (layout.root / kind).glob("*.h5"):
            ShardReader(path, kind).close()
        assert read_index(layout.root / kind) is None


def test_dry_run_writes_nothing(tmp_path):
    layout = make_dataset(tmp_path, num_clips=2)
    before = sorted(layout.root.rglob("*"))
    done = run_flows(layout, "--dry-run")
    assert done.exit_code == 0 and "2 clips in 1 shard " in done.output
    assert sorted(layout.root.rglob("*")) == before


def test_wrong_use_is_one_line(tmp_path):
    layout = make_dataset(tmp_path, num_clips=1)
    absent = run_flows(layout, "--videos", tmp_path / "absent")
    refused(absent, "missing-folder", tmp_path / "absent", "--videos")
    refused(run_flows(layout, "--videos", tmp_path), "no-match", tmp_path, layout.manifest, "0.mp4")
    assert not layout.flows.joinpath("options.json").exists()
    write_manifest(layout.manifest, [])
    refused(run_flows(layout), "empty", layout.manifest)
    layout.manifest.write_text(
        "clip_id,video,start_seconds,stop_seconds,split,label,verb,noun\n"
        "a,a.mp4,,,train,,,\nb,../../etc/passwd,,,train,,,\n"
    )
    refused(run_flows(layout), "unsafe-path", "row 3", "../../etc/passwd")
    layout.manifest.unlink()
    refused(run_flows(layout), "missing-file", layout.make("manifest"))
    assert run_flows(layout, "--preset", "quick").exit_code == 2


def test_both_pools_give_the_same_bytes(finished, tmp_path):
    """The command as it runs by default: Ray, decoding beside flow."""
    layout = copy_of(finished, tmp_path)
    done = run_flows(layout, "--clips-per-shard", 2, "--flow-workers", 1, pool="ray")
    assert done.exit_code == 0, done.output
    assert all_checksums(layout) == all_checksums(finished)
    assert "overlap efficiency" in done.output
