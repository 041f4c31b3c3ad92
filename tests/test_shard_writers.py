"""Workers that assemble and write shards: the same bytes, and no shard out of an ended lease."""

import os
import signal
import time
from pathlib import Path

import pytest
from dataset_fixtures import checksums, copy_of, make_dataset, run_flows, start
from errors import refused, refuses
from test_pool import each_alone, make_tasks

from preprocess.flow.options import FlowOptions
from preprocess.flow_run.assembler import Assembler, AssemblerOptions, LeasedShard
from preprocess.flow_run.assembly import Assembly
from preprocess.flow_run.leases import Leases, sees
from preprocess.flow_run.messages import ClipFailed, WorkerOptions
from preprocess.flow_run.pool import InProcessPool
from preprocess.flow_run.ray_assemblers import RayAssemblers
from shared.layout import DatasetLayout

KINDS = ("frames", "flows")
CONFIGS = {kind: {"of": kind} for kind in KINDS}


def test_shards_of_assemblers_are_those_of_the_run(tmp_path):
    """Two shards with one assembler each, which both get all events, in an order of their own."""
    tasks = make_tasks(tmp_path, ["a", "long-b", "c", "d"])
    events = list(InProcessPool(WorkerOptions(tmp_path)).run(each_alone(tasks)))
    events.insert(0, ClipFailed(3, "flow", "for the test"))
    leases = Leases(tmp_path / ".leases")
    options = AssemblerOptions(FlowOptions(), CONFIGS, leases.probe, leases.probe_text)
    for number, clip_indexes in enumerate(((0, 1), (2, 3))):
        clips = {index: tasks[index].clip for index in clip_indexes}
        expected = Assembly(number, clips, tmp_path / "spill")
        for event in events:
            if event.clip_index in clips:
                expected.add(event)
        entries = expected.publish({kind: tmp_path / kind for kind in KINDS}, CONFIGS)

        assembler = Assembler(options)
        assert assembler.sees_output()
        lease = leases.take(number)
        known = tuple(event for event in events[:1] if event.clip_index in clips)
        first = assembler.add([LeasedShard(number, clips, lease, known)], events[:2])
        assert not first.ended and not first.written
        done = assembler.add([], events[:1:-1])
        assert {end.clip_index for end in done.ended} == set(clip_indexes) - {3}
        (written,) = done.written
        assert (written.number, written.entries) == (number, entries)
        assert written.failures == expected.failures
        for kind in KINDS:
            found = written.lease / kind / entries[kind].name
            assert found.read_bytes() == (tmp_path / kind / entries[kind].name).read_bytes()
        assert not assembler.add([], events).ended, "the shard is written"


def test_nothing_is_written_into_a_lease_that_has_ended(tmp_path):
    tasks = make_tasks(tmp_path, ["a"])
    events = list(InProcessPool(WorkerOptions(tmp_path)).run(each_alone(tasks)))
    leases = Leases(tmp_path / ".leases")
    assembler = Assembler(AssemblerOptions(FlowOptions(), CONFIGS, leases.probe, ""))
    lost, next_one = leases.take(0), leases.take(0)
    assert lost != next_one
    assembler.add([LeasedShard(0, {0: tasks[0].clip}, lost)], events[:1])
    leases.end(lost)
    (written,) = assembler.add([], events[1:]).written
    assert written.lease == lost and not list(next_one.iterdir())
    leases.close()
    assert not leases.folder.exists()


def test_a_folder_of_the_same_name_on_another_machine_is_not_the_output(tmp_path):
    here, there = Leases(tmp_path / "here"), Leases(tmp_path / "there")
    assert sees(here.probe, here.probe_text)
    assert not sees(there.probe, here.probe_text)
    assert not sees(tmp_path / "nowhere", here.probe_text)


def test_shard_writers_need_other_processes(tmp_path):
    layout = make_dataset(tmp_path, num_clips=1)
    done = run_flows(layout, "--shard-writers", 1)
    refused(done, "option-unused", "--shard-writers is 1", "--pool in-process")


# --------------------------------------------------------------------------------------------------
# Under Ray


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> DatasetLayout:
    """24 clips, of which two are no videos, made by one process."""
    layout = make_dataset(tmp_path_factory.mktemp("undisturbed"), num_clips=24, num_frames=40)
    for number in (3, 20):
        (layout.videos / f"{number}.mp4").write_bytes(b"not a video")
    assert run_flows(layout, "--clips-per-shard", 4).exit_code == 3
    return layout


def fresh(undisturbed: DatasetLayout, out: Path) -> DatasetLayout:
    layout = DatasetLayout(out, undisturbed.dataset)
    layout.root.mkdir(parents=True)
    layout.videos.symlink_to(undisturbed.videos)
    layout.manifest.write_bytes(undisturbed.manifest.read_bytes())
    return layout


def check_same(layout: DatasetLayout, undisturbed: DatasetLayout) -> None:
    for kind in KINDS:
        assert checksums(layout.root / kind) == checksums(undisturbed.root / kind)
    assert layout.failures.read_text() == undisturbed.failures.read_text()
    assert not (layout.root / ".leases").exists()


WRITERS = ("--clips-per-shard", 4, "--decoders", 1, "--flow-workers", 1, "--shard-writers", 2)


@pytest.mark.slow
def test_shards_written_by_workers_are_the_same(undisturbed, tmp_path):
    layout = copy_of(undisturbed, tmp_path)
    before = (layout.flows / "00000.h5").stat().st_ino
    run = start("preprocess.flows", layout, *WRITERS, "--overwrite")
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 3, errors
    assert (layout.flows / "00000.h5").stat().st_ino != before
    check_same(layout, undisturbed)
    # A further output: the clips that failed are known before.
    expected = copy_of(undisturbed, tmp_path / "expected")
    assert run_flows(expected, "--clips-per-shard", 4, "--lengths").exit_code == 3
    run = start("preprocess.flows", layout, *WRITERS, "--lengths")
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 3, errors
    name = "flows-tvl1-length"
    assert checksums(layout.root / name) == checksums(expected.root / name)


def holders_of(folder: Path) -> list[int]:
    """The processes that have a file below a folder open, deleted files included."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            opened = [os.readlink(path) for path in (process / "fd").iterdir()]
        except (FileNotFoundError, PermissionError):
            continue
        if any(path.startswith(f"{folder}/") for path in opened):
            found.append(int(process.name))
    return found


@pytest.mark.slow
def test_a_shard_writer_that_is_killed_costs_time_alone(undisturbed, tmp_path):
    layout = fresh(undisturbed, tmp_path)
    run = start("preprocess.flows", layout, *WRITERS)
    kills = 0
    while run.poll() is None and kills < 2:
        writers = holders_of(layout.root / ".leases")
        if len(writers) == 1 and len(list(layout.flows.glob("*.h5"))) >= 2 * kills:
            os.kill(writers[0], signal.SIGKILL)
            kills += 1
        time.sleep(0.02)
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 3, errors
    assert kills == 2
    check_same(layout, undisturbed)


@pytest.mark.slow
def test_writers_that_do_not_see_the_output_are_refused(tmp_path):
    """As where OUT is on a disk of one machine. Here, the probe says something else."""
    import ray

    from preprocess.flow_run.ray_assemblers import Assembling

    leases = Leases(tmp_path / ".leases")
    options = AssemblerOptions(FlowOptions(), CONFIGS, leases.probe, "another text")
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        given = Assembling(1, leases, options, lambda _: 0, lambda _: {}, lambda _: ())
        with refuses("missing-folder", "1 of 1 shard writers", tmp_path):
            RayAssemblers(ray, given, 2, True, lambda _: None)
        given = Assembling(None, leases, options, lambda _: 0, lambda _: {}, lambda _: ())
        assert len(RayAssemblers(ray, given, 2, True, lambda _: None)) == 0
        assert len(RayAssemblers(ray, given, 2, False, lambda _: None)) == 0
    finally:
        ray.shutdown()
