"""Both pools give the same; a clip that kills or hangs its worker costs itself alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from video_fixtures import render_video

from preprocess.flow_run.assembly import Assembly
from preprocess.flow_run.decode_groups import ClipTask, DecodeGroup
from preprocess.flow_run.decode_step import Decoder
from preprocess.flow_run.flow_step import FlowWorker
from preprocess.flow_run.messages import ClipFailed, WorkerOptions
from preprocess.flow_run.pool import InProcessPool
from preprocess.flow_run.ray_pool import RayPool
from shared.manifest import Clip
from shared.shards import ShardReader

ROOT = Path(__file__).resolve().parents[1]


class HarmfulDecoder(Decoder):
    """Does to its process what the name of the clip says."""

    def steps(self, group):
        for index, step in enumerate(super().steps(group)):
            (task,) = group.tasks
            _do_harm(task.clip.clip_id, "decode", index, self.options.video_root)
            yield step


class HarmfulFlowWorker(FlowWorker):
    """Also does so; it knows the clip by its index alone."""

    def maps(self, grey):
        names = json.loads((self.options.video_root / "names.json").read_text())
        _do_harm(names[grey.clip_index], "flow", 0, self.options.video_root)
        return super().maps(grey)


def _do_harm(name, stage, chunk, folder):
    if name == f"{stage}-raises":
        raise RuntimeError("what a library may raise")
    if name == f"{stage}-dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == f"{stage}-segfaults":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == f"{stage}-hangs":
        time.sleep(3600)
    if name == f"{stage}-killed-once" and chunk == 0:
        # As when the system runs out of memory, or somebody kills a worker: no fault of the clip.
        mark = folder / f"{stage}-was-killed"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module", autouse=True)
def pickle_by_value():
    """Ray's workers cannot import this module."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def make_tasks(folder: Path, names: list[str]) -> list[ClipTask]:
    """One video for all, of more than one chunk for a few."""
    render_video(folder / "short.mp4", 8, size=(32, 32))
    render_video(folder / "long.mp4", 150, size=(32, 32))
    (folder / "names.json").write_text(json.dumps(names))
    videos = ["long.mp4" if name.startswith("long") else "short.mp4" for name in names]
    clips = [Clip(name, video) for name, video in zip(names, videos, strict=True)]
    return [ClipTask(clip_index, clip) for clip_index, clip in enumerate(clips)]


def each_alone(tasks: list[ClipTask]) -> list[DecodeGroup]:
    return [DecodeGroup((task,)) for task in tasks]


def shards_of(pool, tasks, folder: Path, groups: list[DecodeGroup] | None = None):
    """Run the tasks as one shard: (bytes of both files, failures by clip id)."""
    assembly = Assembly(0, {task.clip_index: task.clip for task in tasks}, folder)
    try:
        num_settled = sum(assembly.add(event) for event in pool.run(groups or each_alone(tasks)))
    finally:
        pool.close()
    assert num_settled == len(tasks)
    folders = {kind: folder / kind for kind in ("frames", "flows")}
    assembly.publish(folders, {"frames": {}, "flows": {}})
    failures = {
        tasks[clip_index].clip.clip_id: event for clip_index, event in assembly.failures.items()
    }
    assembly.close()
    return [(folders[kind] / "00000.h5").read_bytes() for kind in folders], failures


def check_harm(tmp_path, names, harmful, num_decoders, num_flow_workers, timeout):
    """Exactly the harmful clips are set aside, and all others are as in a clean run."""
    tasks = make_tasks(tmp_path, names)
    options = WorkerOptions(tmp_path)
    pool = RayPool(
        options,
        num_decoders,
        num_flow_workers,
        clip_timeout=timeout,
        decoder=HarmfulDecoder,
        flow_worker=HarmfulFlowWorker,
    )
    found, failures = shards_of(pool, tasks, tmp_path / "harmed")
    assert {name: event.stage for name, event in failures.items()} == {
        name: "internal" if name.endswith("raises") else name.partition("-")[0] for name in harmful
    }
    for name, event in failures.items():
        expected = {"dies": "worker died", "segfaults": "worker died", "hangs": "no answer"}
        assert expected.get(name.partition("-")[2], "RuntimeError: what a") in event.reason
        assert ("_do_harm" in event.traceback) == name.endswith("raises")

    clean = InProcessPool(options)
    innocent = [task for task in tasks if task.clip.clip_id not in harmful]
    expected, none = shards_of(clean, innocent, tmp_path / "clean")
    assert not none
    assert found == expected


def test_harmful_clips_cost_themselves_alone(tmp_path):
    harmful = ["decode-raises", "decode-dies", "decode-hangs", "flow-raises"]
    spared = ["flow-killed-once", "long-1", "long-2"]
    names = [f"clip-{i:02d}" for i in range(20)]
    for clip_index, name in enumerate([*harmful, *spared]):
        names.insert(3 * clip_index + 1, name)
    check_harm(tmp_path, names, harmful, num_decoders=1, num_flow_workers=2, timeout=4)


@pytest.mark.slow
def test_four_harmful_clips_of_four_hundred(tmp_path):
    harmful = ["decode-raises", "decode-segfaults", "flow-dies", "flow-hangs"]
    names = [f"clip-{i:03d}" for i in range(395)] + ["decode-killed-once"]
    for clip_index, name in enumerate(harmful):
        names.insert(97 * clip_index + 11, name)
    check_harm(tmp_path, names, harmful, num_decoders=2, num_flow_workers=2, timeout=10)


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    tasks = make_tasks(tmp_path, [f"clip-{i}" for i in range(20)] + ["long-1", "long-2"])
    options = WorkerOptions(tmp_path)
    expected, _ = shards_of(InProcessPool(options), tasks, tmp_path / "in-process")
    for num_decoders, num_flow_workers in ((1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (4, 2)):
        pool = RayPool(options, num_decoders, num_flow_workers)
        folder = tmp_path / f"{num_decoders}-{num_flow_workers}"
        found, failures = shards_of(pool, tasks, folder)
        assert not failures and found == expected, (num_decoders, num_flow_workers)


@pytest.mark.slow
def test_ray_listens_on_loopback_alone_and_asks_for_its_token(tmp_path):
    """Every listening socket of the processes that a run starts, and who may call."""
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from preprocess.flow_run.ray_start import start_ray
ray = start_ray(1, 0, 1)
ray.get(ray.remote(lambda: 1).remote())
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.readline()
"""
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    address = run.stdout.readline().strip()
    assert address.startswith("127.0.0.1:")
    for mode, token in (("disabled", ""), ("token", "0" * 64)):
        assert not _can_join(address, RAY_AUTH_MODE=mode, RAY_AUTH_TOKEN=token)
    inodes = {inode for pid in _descendants(run.pid) for inode in _socket_inodes(pid)}
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:  # 0A: listening
                addresses.add(columns[1].partition(":")[0])
    run.communicate("\n", timeout=60)
    assert addresses and all(address.endswith("0100007F") for address in addresses), addresses


def _can_join(address, **environment):
    """Whether somebody with this environment may ask that Ray anything."""
    code = f"""
from ray._raylet import GcsClient
print(len(GcsClient(address="{address}").get_all_node_info(timeout=20)))
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0 or "uthenticat" in run.stderr, run.stderr
    return run.returncode == 0


def _descendants(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in _descendants(int(child)))]


def _socket_inodes(pid):
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            yield target.removeprefix("socket:[").removesuffix("]")


def test_a_failed_part_fails_its_clip_once(tmp_path):
    """What still comes of a clip that was set aside is dropped, and its row stays empty."""
    tasks = make_tasks(tmp_path, ["good", "long-bad", "also-good"])
    assembly = Assembly(0, {task.clip_index: task.clip for task in tasks}, tmp_path)
    events = list(InProcessPool(WorkerOptions(tmp_path)).run(each_alone(tasks)))
    bad = [event for event in events if event.clip_index == 1]
    events.insert(events.index(bad[3]), ClipFailed(1, "flow", "for the test"))
    assert sum(assembly.add(event) for event in events) == 3
    assert list(assembly.failures) == [1]
    folders = {kind: tmp_path / kind for kind in ("frames", "flows")}
    entries = assembly.publish(folders, {"frames": {}, "flows": {}})
    assert [entry.clips for entry in entries.values()] == [2, 2]
    for kind, folder in folders.items():
        with ShardReader(folder / "00000.h5", kind) as reader:
            assert reader.clip_ids() == ["good", "also-good"]
            assert reader["/clip/frames"].tolist() == [[0, 8], [8, 16]]


def test_parts_in_any_order_make_the_same_shard(tmp_path):
    tasks = make_tasks(tmp_path, ["clip-0", "long-1", "clip-2"])
    expected, _ = shards_of(InProcessPool(WorkerOptions(tmp_path)), tasks, tmp_path / "in-order")
    events = list(InProcessPool(WorkerOptions(tmp_path)).run(each_alone(tasks)))

    class Reversed:
        def run(self, tasks):
            return iter(events[::-1])

        def close(self):
            pass

    found, _ = shards_of(Reversed(), tasks, tmp_path / "reversed")
    assert found == expected
