"""Preprocessing under real harm, at scale: kills at random moments, full disks, long videos."""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
from dataset_fixtures import ROOT, arguments, checksums, make_dataset, run_boxes, run_flows, start
from errors import refused
from video_fixtures import render_video, repeat_video

from shared.layout import DatasetLayout
from shared.manifest import Clip, write_manifest
from shared.shard_index import read_index
from shared.shards import ShardReader

pytestmark = pytest.mark.slow

FLOWS = ("preprocess.flows", "--pool", "in-process", "--clips-per-shard", 2)
BOXES = ("preprocess.boxes", "--workers", 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> DatasetLayout:
    """A dataset made undisturbed: 24 clips in 12 shards."""
    layout = make_dataset(tmp_path_factory.mktemp("finished"), num_clips=24, num_frames=24)
    assert run_flows(layout, "--clips-per-shard", 2).exit_code == 0
    assert run_boxes(layout).exit_code == 0
    return layout


def copy_of(finished, folder) -> DatasetLayout:
    layout = DatasetLayout(folder, finished.dataset)
    layout.root.mkdir(parents=True)
    layout.videos.symlink_to(finished.videos)
    layout.manifest.write_bytes(finished.manifest.read_bytes())
    return layout


def check_readable(layout, kinds=("frames", "flows", "boxes")):
    """Every file under a final name is a whole shard."""
    for kind in kinds:
        for path in (layout.root / kind).glob("[!.]*.h5"):
            ShardReader(path, kind).close()


def times_made(layout, kinds):
    return {
        path: path.stat().st_mtime_ns
        for kind in kinds
        for path in (layout.root / kind).glob("[!.]*.h5")
    }


@pytest.mark.parametrize(("command", "kinds"), [(FLOWS, ("frames", "flows")), (BOXES, ("boxes",))])
def test_fifty_kills(finished, tmp_path, command, kinds):
    """kill -9 of the driver at random moments until it has worked through, 50 times in all."""
    chance = random.Random(0)
    kills = rounds = 0
    seconds = 0.0  # of an undisturbed run, on this machine as busy as it is
    while kills < 50:
        rounds += 1
        layout = copy_of(finished, tmp_path / str(rounds))
        if command == BOXES:
            layout.flows.symlink_to(finished.flows)
            layout.frames.symlink_to(finished.frames)
        if rounds == 1:
            began = time.monotonic()
            run = start(*command[:1], layout, *command[1:])
            _, errors = run.communicate()
            assert run.returncode == 0, errors
            seconds = time.monotonic() - began
            continue
        while True:
            before = times_made(layout, kinds)
            run = start(*command[:1], layout, *command[1:])
            try:
                _, errors = run.communicate(timeout=chance.uniform(0.1, 1.2 * seconds))
                assert run.returncode == 0, errors
                break
            except subprocess.TimeoutExpired:
                run.kill()
                run.communicate()
                kills += 1
            check_readable(layout, kinds)
            after = times_made(layout, kinds)
            again = {path.stem for path in before if after[path] != before[path]}
            assert len(again) <= 1, again
        for kind in kinds:
            assert checksums(layout.root / kind) == checksums(finished.root / kind)
            assert not list((layout.root / kind).glob(".*"))


def test_kills_under_ray(finished, tmp_path):
    """The driver dies, Ray's processes follow, and the next run is not blocked by the last."""
    layout = copy_of(finished, tmp_path)
    command = ("--clips-per-shard", 2, "--decoders", 1, "--flow-workers", 1)
    for num_shards in (1, 4):
        run = start("preprocess.flows", layout, *command)
        while len(list(layout.flows.glob("*.h5"))) < num_shards:
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.01)
        run.kill()
        run.communicate()
        check_readable(layout, ("frames", "flows"))
    run = start("preprocess.flows", layout, *command)
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert "shards are finished" in output
    for kind in ("frames", "flows"):
        assert checksums(layout.root / kind) == checksums(finished.root / kind)


def test_ctrl_c_under_ray_ends_within_ten_seconds(finished, tmp_path):
    layout = copy_of(finished, tmp_path)
    run = start("preprocess.flows", layout, "--clips-per-shard", 1, "--flow-workers", 1)
    while not (layout.flows / "00000.h5").exists():
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=10)
    assert run.returncode == 130 and "run the same command again" in errors
    assert "Traceback" not in errors


def test_twenty_full_disks(finished, tmp_path):
    sizes = sorted(path.stat().st_size for path in finished.root.glob("*/*.h5"))
    limits = [50 + index * sizes[-1] // 20 for index in range(20)]
    for index, limit in enumerate(limits):
        layout = copy_of(finished, tmp_path / str(index))
        done = subprocess.run(
            [sys.executable, "-m", FLOWS[0], *arguments(layout, *FLOWS[1:])],
            cwd=ROOT,
            capture_output=True,
            text=True,
            preexec_fn=lambda limit=limit: resource.setrlimit(
                resource.RLIMIT_FSIZE, (limit, limit)
            ),
        )
        refused(done, "no-space")
        check_readable(layout, ("frames", "flows"))
        assert read_index(layout.flows) is None
        assert run_flows(layout, "--clips-per-shard", 2).exit_code == 0
        for kind in ("frames", "flows"):
            assert checksums(layout.root / kind) == checksums(finished.root / kind)


SMALL_DISK = """
set -u
mount -t tmpfs -o size=$SIZE tmpfs "$OUT" || exit 99
mkdir -p "$OUT/rendered" && cp "$MANIFEST" "$OUT/rendered/manifest.csv"
flows() { "$PYTHON" -m preprocess.flows --dataset rendered --out "$OUT" --videos "$VIDEOS" \\
  --pool in-process --clips-per-shard 2; }
boxes() { "$PYTHON" -m preprocess.boxes --dataset rendered --out "$OUT" --workers 1; }
flows; echo "flows $?"
mount -o remount,size=50m "$OUT"
flows; echo "flows $?"
mount -o remount,size=$(( $(du -sk "$OUT" | cut -f1) + $LEFT ))k "$OUT"
boxes; echo "boxes $?"
mount -o remount,size=50m "$OUT"
boxes; echo "boxes $?"
cd "$OUT/rendered" && sha256sum frames/*.h5 flows/*.h5 boxes/*.h5 */dataset.json
"""


@pytest.mark.parametrize(("size", "left"), [("8k", 4), ("64k", 12), ("128k", 40)])
def test_a_small_disk_of_its_own(finished, tmp_path, size, left):
    """A file system that is full for every file, until it is made larger."""
    environment = {
        "SIZE": size, "LEFT": str(left), "OUT": str(tmp_path), "PYTHON": sys.executable,
        "MANIFEST": str(finished.manifest), "VIDEOS": str(finished.videos),
    }  # fmt: skip
    if shutil.which("unshare") is None:
        pytest.skip("no unshare: a file system cannot be mounted for this test alone")
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if "flows" not in done.stdout:
        pytest.skip(f"no file system can be mounted here: {done.stderr[-200:]}")
    statuses = re.findall(r"^(?:flows|boxes) (\d+)$", done.stdout, re.MULTILINE)
    assert statuses == ["1", "0", "1", "0"], done.stdout + done.stderr
    assert done.stderr.count("[no-space]") == 2 and "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    found = dict(reversed(line.split("  ")) for line in lines if re.match("[0-9a-f]{64}  ", line))
    assert found == {
        f"{kind}/{name}": sha256
        for kind in ("frames", "flows", "boxes")
        for name, sha256 in checksums(finished.root / kind).items()
    }


MEASURE_PEAK = """
import subprocess, sys, threading, time
from pathlib import Path

def tree(pid):
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(found for child in children for found in tree(int(child)))]

def memory(pid):  # proportional share, so that shared memory counts once; bytes
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return 1024 * next(int(x.split()[1]) for x in text.splitlines() if x.startswith("Pss:"))

run = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
peak = 0
while run.poll() is None:
    peak = max(peak, sum(memory(pid) for pid in tree(run.pid)))
    time.sleep(0.2)
print("peak", peak, "status", run.returncode)
"""


def peak_memory(layout, *options) -> int:
    """Bytes of all processes of a run together, at the most."""
    command = [sys.executable, "-m", "preprocess.flows", *arguments(layout, *options)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE_PEAK, *command], cwd=ROOT, capture_output=True, text=True
    )
    found = re.fullmatch(r"peak (\d+) status 0\n", done.stdout)
    assert found, done.stdout + done.stderr
    return int(found[1])


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path):
    """10 minutes of 1080p against 10 seconds: not over 300 MB more."""
    peaks = []
    short = render_video(
        tmp_path / "short.mp4", 300, size=(1920, 1080), rate=30, keyframe_every=250
    )
    for times in (1, 60):
        layout = DatasetLayout(tmp_path, f"long-{times}")
        layout.videos.mkdir(parents=True)
        repeat_video(short, layout.videos / "a.mp4", times)
        write_manifest(layout.manifest, [Clip("a", "a.mp4")])
        # Small flow: it is memory that counts here, and all frames pass through it.
        peaks.append(peak_memory(layout, "--flow-short-side", 64))
        with ShardReader(layout.flows / "00000.h5", "flows") as flows:
            assert flows.num_frames == 300 * times
    print(f"peak memory: {peaks[0] / 1e6:.0f} MB for 10 s, {peaks[1] / 1e6:.0f} MB for 10 min")
    assert peaks[1] - peaks[0] <= 300e6, peaks
