"""Run tasks in processes that may die: each task gives a result, or is known to be fatal."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def start_worker() -> None:
    """Leave Ctrl-C to the driver, and end with the driver if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def executor(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes; Ctrl-C or an error stops it without waiting for running tasks."""
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, initializer=start_worker)
    try:
        yield pool
    except BaseException:
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def results_of(
    function: Callable[[Task], Result], tasks: Iterable[Task], num_workers: int
) -> Iterator[tuple[Task, Result | None]]:
    """Yield (task, result) in the order of completion; None for a task that ended its process.

    As many tasks run as there are workers, so that only those are tried again when a worker dies,
    each in a process of its own.
    """
    waiting = deque(tasks)
    while waiting:
        running: dict[Future, Task] = {}
        with executor(num_workers) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < num_workers:
                        task = waiting.popleft()
                        running[pool.submit(function, task)] = task
                    for future in wait_for(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield running.pop(future), result
            except BrokenProcessPool:
                pass  # what is left in `running` is suspect
        for task in running.values():
            yield task, _in_own_process(function, task)


def _in_own_process(function: Callable[[Task], Result], task: Task) -> Result | None:
    with executor(1) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool:
            raise RuntimeError("processes that tasks are to run in end by themselves") from None
        try:
            return pool.submit(function, task).result()
        except BrokenProcessPool:
            return None
