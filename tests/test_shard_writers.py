"""Workers that assemble and write shards: the same bytes, and no shard out of an ended lease."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

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
from preprocess.flow_run.ray_assemblers import Assembling, RayAssemblers
from shared.layout import DatasetLayout
from shared.manifest import Clip

KINDS = ("frames", "flows")
CONFIGS = {kind: {"of": kind} for kind in KINDS}


@pytest.fixture(scope="module")
def four_clips(tmp_path_factory):
    """Tasks of four clips, and their events."""
    folder = tmp_path_factory.mktemp("four")
    tasks = make_tasks(folder, ["a", "long-b", "c", "d"])
    return tasks, list(InProcessPool(WorkerOptions(folder)).run(each_alone(tasks)))


def test_shards_of_assemblers_are_those_of_the_run(four_clips, tmp_path):
    """Two shards with one assembler each, which both get all events, in an order of their own."""
    tasks, events = four_clips
    events = [ClipFailed(3, "flow", "for the test"), *events]
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


def test_nothing_is_written_into_a_lease_that_has_ended(four_clips, tmp_path):
    tasks, events = four_clips
    events = [event for event in events if event.clip_index == 0]
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
# Assemblers that die, without a Ray: its calls are made at once, in this process


class ActorError(Exception):
    """As ray.exceptions.RayActorError."""


class LostError(Exception):
    """As ray.exceptions.ObjectLostError."""


class TaskError(Exception):
    """As ray.exceptions.RayTaskError."""

    def __init__(self, cause):
        self.cause = cause


class Here:
    """What RayAssemblers asks of Ray. Events that are not a list are lost."""

    exceptions = SimpleNamespace(
        RayActorError=ActorError, ObjectLostError=LostError, RayTaskError=TaskError,
        RayError=(ActorError, LostError, TaskError),
    )  # fmt: skip

    def __init__(self):
        self.started, self.killed = [], set()

    def remote(self, **_):
        return lambda worker: SimpleNamespace(remote=lambda: self._new(worker()))

    def _new(self, process):
        handle = SimpleNamespace()
        for name in ("start", "call"):
            handle.__dict__[name] = SimpleNamespace(
                remote=lambda *given, name=name: self._call(handle, getattr(process, name), *given)
            )
        self.started.append(handle)
        return handle

    def _call(self, handle, method, *given):
        if id(handle) in self.killed:
            return Answer(ActorError())
        if given[0] == "add" and not isinstance(given[2], list):
            return Answer(LostError())
        try:
            return Answer(method(*given))
        except OSError as error:
            return Answer(TaskError(error))

    def kill(self, handle):
        self.killed.add(id(handle))

    def get(self, result, timeout=None):
        if isinstance(result.value, Exception):
            raise result.value
        return result.value


class Answer:
    """As ray.ObjectRef."""

    def __init__(self, value):
        self.value = value


@pytest.fixture
def assembled(four_clips, tmp_path):
    """Events of four clips in two shards, assemblers on a Ray of this process, and clips again."""
    tasks, events = four_clips
    leases = Leases(tmp_path / ".leases")
    again: list[int] = []
    here = Here()

    def clips_of(shard):
        return {index: tasks[index].clip for index in (2 * shard, 2 * shard + 1)}

    def assemblers(count, probe_text=leases.probe_text):
        options = AssemblerOptions(FlowOptions(), CONFIGS, leases.probe, probe_text)
        given = Assembling(count, leases, options, lambda i: i // 2, clips_of, lambda _: ())
        return RayAssemblers(here, given, 64, True, lambda task: again.append(task.clip_index))

    return SimpleNamespace(
        events=events, here=here, leases=leases, again=again, assemblers=assemblers
    )


def outcome(assemblers):
    return [one for call in assemblers.calls for one in assemblers.finish(call)]


def test_an_assembler_that_dies_loses_only_its_shards(assembled, tmp_path):
    assemblers = assembled.assemblers(None)
    assert len(assemblers) == 2, "one for every 32 workers"
    first = [event for event in assembled.events if event.clip_index == 0]
    others = [event for event in assembled.events if event.clip_index == 2]
    assemblers.deliver(first, [0])
    assemblers.deliver(others, [2])
    assert [end.clip_index for end in outcome(assemblers)] == [0, 2]
    lost = next(path for path in assembled.leases.folder.iterdir() if path.name[:5] == "00000")
    assembled.here.kill(assembled.here.started[0])
    last = [event for event in assembled.events if event.clip_index == 1]
    assemblers.deliver(last[:2], [1])
    assemblers.deliver(last[2:], [1])
    assert outcome(assemblers) == [] and assembled.again == [1, 0] and not lost.exists()
    assert len(assemblers) == 2, "another one took its place"

    # Both clips come again, as attempts of their own; the end of clip 0 was said before.
    assemblers.deliver([replace(e, attempt=1) for e in first + last], [0, 1])
    assemblers.deliver([e for e in assembled.events if e.clip_index == 3], [3])
    end, written, other_end, other = outcome(assemblers)
    assert (end.clip_index, written.number, other_end.clip_index, other.number) == (1, 0, 3, 1)
    for number, one in ((0, written), (1, other)):
        clips = {event.clip_index for event in assembled.events if event.clip_index // 2 == number}
        named = dict(zip(sorted(clips), clips_named(number), strict=True))
        expected = Assembly(number, named, tmp_path / "spill")
        for event in assembled.events:
            if event.clip_index in clips:
                expected.add(event)
        assert expected.publish({k: tmp_path / k for k in KINDS}, CONFIGS) == one.entries


def clips_named(number: int) -> list[Clip]:
    names = [("a", "short.mp4"), ("long-b", "long.mp4"), ("c", "short.mp4"), ("d", "short.mp4")]
    return [Clip(*name) for name in names[2 * number : 2 * number + 2]]


def test_events_that_are_lost_on_the_way_are_made_again(assembled):
    assemblers = assembled.assemblers(1)
    assemblers.deliver("a reference to events of a lost node", [1, 2])
    assert outcome(assemblers) == [] and assembled.again == [2, 1]


def test_a_shard_whose_assemblers_die_always_ends_the_run(assembled):
    assemblers = assembled.assemblers(1)
    with refuses("no-workers", "00000.h5", "--shard-writers 0"):
        for _ in range(9):
            assemblers.deliver(assembled.events[:1], [0])
            assembled.here.kill(assembled.here.started[-1])
            assemblers.deliver(assembled.events[:1], [0])
            assert not outcome(assemblers)


def test_a_full_disk_of_an_assembler_is_the_error_of_the_run(assembled):
    assemblers = assembled.assemblers(1)
    assemblers.deliver([event for event in assembled.events if event.clip_index == 0], [0])
    (lease,) = [path for path in assembled.leases.folder.iterdir() if path.is_dir()]
    (lease / "frames").write_text("a file where a folder must be")
    assemblers.deliver([event for event in assembled.events if event.clip_index == 1], [1])
    with pytest.raises(FileExistsError):
        outcome(assemblers)


def test_writers_that_do_not_see_the_output(assembled, capsys, tmp_path):
    """As where OUT is on a disk of one machine."""
    with refuses("missing-folder", "2 of 2 shard writers", tmp_path):
        assembled.assemblers(2, "another text")
    assert len(assembled.assemblers(None, "another text")) == 0
    assert "writes all shards" in capsys.readouterr().out


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
