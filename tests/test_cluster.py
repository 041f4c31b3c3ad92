"""Ray on several machines: addresses, workers that wait, and machines that come and go."""

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from dataset_fixtures import ROOT, arguments, checksums, make_dataset, run_flows
from errors import refuses

from preprocess.flow_run.cluster_address import require_answer
from preprocess.flow_run.config import FlowsConfig, default_workers, with_workers
from preprocess.flow_run.ray_crew import (
    PATIENCE_SECONDS,
    RETRY_SECONDS,
    START_SECONDS,
    START_TRIES,
    Crew,
    Kind,
    Stage,
)
from shared.layout import DatasetLayout

KINDS = ("frames", "flows")

# --------------------------------------------------------------------------------------------------
# The address of a cluster


@contextmanager
def server(answer: bytes):
    """The address of a program on loopback that answers each connection with the same bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            connection, _ = listening.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_an_address_where_nobody_answers_is_one_error_at_once():
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    for wrong in (address, f"ray://{address}", "127.0.0.1:99999"):
        with refuses("no-workers", wrong, "RAY_ADDRESS", "ray start --head"):
            require_answer(wrong)
    with server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as web, refuses("no-workers", web, "not Ray"):
        require_answer(web)
    with server(b"") as silent, refuses("no-workers", silent, "not Ray"):
        require_answer(silent)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        with refuses("no-workers", address, "timed out"):
            require_answer(address, seconds=0.1)
    assert time.monotonic() - began < 5


def test_an_address_where_ray_may_be_is_left_to_ray():
    with server(b"\x00\x00\x06\x04" + bytes(11)) as address:
        require_answer(address)
    require_answer("auto")


def test_workers_of_a_cluster_are_counted_when_it_is_reached(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    config = with_workers(FlowsConfig("a", flow_workers=6))
    assert config.decoders is None and config.flow_workers == 6
    for cpus, gpus, expected in ((128, 0, (26, 102)), (2, 0, (1, 1)), (0, 0, (1, 1)),
                                 (64, 8, (56, 8)), (4, 8, (1, 8))):  # fmt: skip
        assert default_workers(cpus, gpus, one_core_each=True) == expected
    with refuses("out-of-range", "--flow-workers is 6", "--num-gpus is 4"):
        with_workers(FlowsConfig("a", flow_workers=6, num_gpus=4))


# --------------------------------------------------------------------------------------------------
# Workers that start, wait and fail, without a Ray: its answers are given here


class UnavailableError(Exception):
    """As ray.exceptions.ActorUnavailableError."""


class Machines:
    """What a crew asks of Ray: actors, CPUs and nodes."""

    def __init__(self, num_cpus: int) -> None:
        self.num_cpus, self.free, self.alive, self.killed = num_cpus, 0, ["n1"], []
        self.exceptions = SimpleNamespace(
            ActorUnavailableError=UnavailableError, ObjectLostError=LookupError
        )

    def remote(self, **_):
        return lambda worker: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=_Handle))

    def kill(self, handle):
        self.killed.append(handle)

    def cluster_resources(self):
        return {"CPU": float(self.num_cpus)}

    def available_resources(self):
        return {"CPU": float(self.free)}

    def nodes(self):
        return [{"NodeID": name, "Alive": name in self.alive} for name in ("n1", "n2")]


class _Handle:
    def __init__(self):
        self.place = self.start = SimpleNamespace(remote=lambda *_: object())


def crew_of(machines, monkeypatch, num_decoders=2, num_flow_workers=4):
    """A crew on a cluster, and a function that sets the clock forward."""
    clock = [1000.0]
    monkeypatch.setattr("preprocess.flow_run.ray_crew.time.monotonic", lambda: clock[0])
    kinds = {"decoder": Kind(int, num_decoders), "flow worker": Kind(int, num_flow_workers)}

    def wait(seconds):
        clock[0] += seconds
        return crew.tend()

    crew = Crew(machines, kinds, None, on_cluster=True)
    return crew, wait


def start(crew, actors, node="n1"):
    for actor in actors:
        crew.advance(actor, node)
        crew.advance(actor, None)


def test_more_workers_than_cpus_are_reported_and_wait(monkeypatch, capsys):
    crew, wait = crew_of(Machines(4), monkeypatch)
    assert "6 worker processes were requested" in (said := capsys.readouterr().out)
    assert "4 CPUs: 2 of them wait" in said
    wait(0)
    kinds = [actor.kind for actor in crew.actors]
    assert kinds[:2] == ["decoder", "flow worker"], "neither kind can take all CPUs"
    start(crew, crew.actors[:4])
    assert crew.has_started
    assert wait(3600) == [] and not capsys.readouterr().err, "it was said before"
    assert [actor.stage for actor in crew.actors[4:]] == [Stage.WAITING] * 2
    assert crew.seconds_allowed(crew.actors[5], 300) == float("inf")
    start(crew, crew.actors[4:])
    wait(3600)
    assert "No worker process waits" in capsys.readouterr().err


def test_a_start_that_fails_ends_the_run_only_if_nobody_else_works(monkeypatch, capsys):
    crew, wait = crew_of(Machines(6), monkeypatch)
    wait(0)
    start(crew, crew.of("decoder"))
    flow, other = crew.of("flow worker")[:2]
    for tries in range(1, START_TRIES):
        crew.advance(flow, "n1")
        assert crew.seconds_allowed(flow, 1) == START_SECONDS
        crew.start_failed(flow, "no torch")
        assert flow.stage is Stage.AWAY and flow.failed_starts == tries
        wait(RETRY_SECONDS / 2)
        assert flow.stage is Stage.AWAY
        wait(60)
        assert flow.stage is Stage.WAITING
    start(crew, [other])
    crew.start_failed(flow, "no torch")
    assert capsys.readouterr().err.count("no torch") == 1
    crew.dismiss(other)
    wait(60)
    with refuses("no-workers", "no torch", "--pool in-process"):
        crew.start_failed(flow, "no torch")


def test_many_starts_that_fail_once_with_a_lost_node_are_tried_again(monkeypatch):
    crew, wait = crew_of(Machines(12), monkeypatch, 4, 8)
    wait(0)
    for actor in crew.actors:
        crew.advance(actor, "n2")
        crew.start_failed(actor, "worker died")
    wait(RETRY_SECONDS)
    assert {actor.stage for actor in crew.actors} == {Stage.WAITING}


def test_a_lost_node_is_told_from_a_worker_that_died(monkeypatch):
    crew, wait = crew_of(Machines(6), monkeypatch)
    wait(0)
    for actor, node in zip(crew.actors, ("n1", "n2", "n1"), strict=False):
        start(crew, [actor], node)
    first, second, third = crew.actors[:3]
    assert not crew.is_of_lost_node(first, RuntimeError())
    assert crew.is_of_lost_node(second, RuntimeError())
    assert crew.is_of_lost_node(third, UnavailableError())


def test_the_last_cpus_are_shared_by_both_kinds(monkeypatch):
    """The node with all flow workers is lost; decoders hold every CPU that is left."""
    machines = Machines(4)
    crew, wait = crew_of(machines, monkeypatch, 2, 2)
    wait(0)
    decoders, flow_workers = crew.of("decoder"), crew.of("flow worker")
    start(crew, [*decoders, *flow_workers])
    for actor in flow_workers:
        crew.dismiss(actor)
    decoders[0].running = decoders[1].running = object()
    decoders[1].call = object()
    assert wait(0) == [] and wait(PATIENCE_SECONDS - 1) == []
    (ended,) = wait(2)
    assert ended.running is not None and decoders[0].stage is Stage.AWAY
    assert decoders[1].stage is Stage.READY
    start(crew, flow_workers[:1])
    assert wait(PATIENCE_SECONDS) == [] and decoders[0].stage is Stage.WAITING
    assert decoders[1].stage is Stage.READY


# --------------------------------------------------------------------------------------------------
# A real cluster on loopback


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> DatasetLayout:
    layout = make_dataset(tmp_path_factory.mktemp("undisturbed"), num_clips=60, num_frames=60)
    assert run_flows(layout, "--clips-per-shard", 2).exit_code == 0
    return layout


# Ray listens on 127.0.0.1 alone where it believes that it supports no clusters.
ON_LOOPBACK = {
    **os.environ,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
}
MACHINES = """
import sys
from ray.cluster_utils import Cluster

def again(start):  # Ray gives a node 30 s to start, which is too little beside other work
    for _ in range(5):
        try:
            return start()
        except Exception as error:
            failed = error
    raise failed

quick = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}
node = {"num_cpus": 2, "object_store_memory": 100 << 20}
head = {**node, "include_dashboard": False, "_system_config": quick}
machines = again(lambda: Cluster(initialize_head=True, head_node_args=head))
print(machines.address, flush=True)
for order in sys.stdin:
    if order == "add\\n":
        again(lambda: machines.add_node(**{**node, "num_cpus": 1}))
    else:
        machines.remove_node(next(iter(machines.worker_nodes)), allow_graceful=False)
    print("done", flush=True)
machines.shutdown()
"""


@contextmanager
def cluster():
    """A Ray cluster of a node with two CPUs on loopback: its address, and what takes orders.

    "add" adds a node of one CPU, "kill" kills one that was added.
    """
    machines = subprocess.Popen(
        [sys.executable, "-c", MACHINES],
        env=ON_LOOPBACK,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def order(what):
        machines.stdin.write(f"{what}\n")
        machines.stdin.flush()
        assert machines.stdout.readline() == "done\n"

    try:
        yield machines.stdout.readline().strip(), order
    finally:
        machines.communicate(timeout=60)


def start_on(address: str, layout: DatasetLayout, *more: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "preprocess.flows", *arguments(layout, *more)],
        cwd=ROOT,
        env={**ON_LOOPBACK, "RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_shards(layout: DatasetLayout, count: int, run: subprocess.Popen) -> None:
    limit = time.monotonic() + 120
    while len(list(layout.flows.glob("*.h5"))) < count:
        if run.poll() is not None or time.monotonic() > limit:
            run.kill()
            raise AssertionError(run.communicate())
        time.sleep(0.05)


def copy_of(undisturbed, tmp_path) -> DatasetLayout:
    layout = DatasetLayout(tmp_path, undisturbed.dataset)
    layout.root.mkdir()
    layout.videos.symlink_to(undisturbed.videos)
    layout.manifest.write_bytes(undisturbed.manifest.read_bytes())
    return layout


@pytest.mark.slow
def test_a_lost_node_costs_time_alone_and_a_new_one_helps(undisturbed, tmp_path):
    layout = copy_of(undisturbed, tmp_path)
    with cluster() as (address, order):
        order("add")
        run = start_on(address, layout, "--clips-per-shard", 2)
        wait_for_shards(layout, 6, run)
        order("kill")
        wait_for_shards(layout, 14, run)
        order("add")
        output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, output + errors
    print(output + errors)
    assert "on 1 worker." in output and "on 2 workers." in output, "as many as the cluster's CPUs"
    assert not layout.failures.exists()
    for kind in KINDS:
        assert checksums(layout.root / kind) == checksums(undisturbed.root / kind)


@pytest.mark.slow
def test_more_workers_than_cpus_of_a_cluster(undisturbed, tmp_path):
    layout = copy_of(undisturbed, tmp_path)
    with cluster() as (address, _):
        more = ("--clips-per-shard", 2, "--decoders", 3, "--flow-workers", 3)
        run = start_on(address, layout, *more)
        output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, output + errors
    assert "6 worker processes were requested" in output and "2 CPUs: 4 of them wait" in output
    for kind in KINDS:
        assert checksums(layout.root / kind) == checksums(undisturbed.root / kind)
