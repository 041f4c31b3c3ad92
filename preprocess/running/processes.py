"""Run tasks in processes that may die; a task that kills its process is found."""

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
    """Ignore Ctrl-C, which the driver handles, and exit when the driver dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def executor(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes. Ctrl-C or an error stops it without waiting for running tasks."""
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
    """Yield (task, result) in order of completion; None for a task that kills its process.

    No more tasks are submitted than there are workers. When a worker dies, only these tasks are
    tried again, each in a process of its own.
    """
    waiting = deque(tasks)
    while waiting:
        running: dict[Future, Task] = {}
        with executor(num_workers) as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < num_workers:
                        # Refused if a worker has died by now: the task is still waiting then.
                        future = pool.submit(function, waiting[0])
                        running[future] = waiting.popleft()
                    for future in wait_for(running, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        yield running.pop(future), result
            except BrokenProcessPool:
                pass  # one of the tasks that are left in `running` killed its process
        for task in running.values():
            yield task, _in_own_process(function, task)


def _in_own_process(function: Callable[[Task], Result], task: Task) -> Result | None:
    with executor(1) as pool:
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool:
            raise RuntimeError("worker processes end before they get a task") from None
        try:
            return pool.submit(function, task).result()
        except BrokenProcessPool:
            return None
