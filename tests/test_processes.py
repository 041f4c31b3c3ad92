"""Work in processes that may die: what a death costs, and that none outlives who started it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from dataset_fixtures import ROOT

from preprocess.running.processes import results_of


def deadly(number: int) -> int:
    if number % 5 == 3:
        os.abort()
    return number * number


def test_a_task_that_kills_its_process_costs_itself_alone():
    found = dict(results_of(deadly, range(10), 2))
    assert found == {n: None if n % 5 == 3 else n * n for n in range(10)}


def test_a_task_that_a_broken_pool_refuses_is_not_lost():
    found = {}
    for task, result in results_of(deadly, [0, 3, 1, 2], 2):
        found[task] = result
        time.sleep(1.0)  # 3 kills its process before the next task is handed over
    assert found == {0: 0, 3: None, 1: 1, 2: 4}


def sleepy(number: int) -> None:
    time.sleep(3600)


def test_ctrl_c_does_not_wait_for_tasks_under_way():
    # A shell without job control has what it runs in the background ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(results_of(sleepy, range(4), 2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not multiprocessing.active_children()


def end_at_once() -> None:
    os._exit(3)


def test_processes_that_cannot_start_are_laid_to_no_task(monkeypatch):
    monkeypatch.setattr("preprocess.running.processes.start_worker", end_at_once)
    with pytest.raises(RuntimeError, match="worker processes"):
        list(results_of(deadly, [1], 1))


def children_of(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_workers_do_not_outlive_a_driver_that_is_killed():
    code = "import time\nfrom preprocess.running.processes import results_of\n"
    code += "list(results_of(time.sleep, [3600, 3600], 2))"
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    started: list[int] = []
    deadline = time.monotonic() + 60
    while len(started) < 3 and time.monotonic() < deadline:  # two, and multiprocessing's tracker
        time.sleep(0.05)
        started = children_of(driver.pid)
    assert len(started) == 3 and driver.poll() is None
    driver.kill()
    driver.wait()
    while any(map(is_running, started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, started))
