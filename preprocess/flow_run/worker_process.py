"""What a Ray actor runs: a process that makes its worker when it is asked to."""

from __future__ import annotations

from typing import Any


class WorkerProcess:
    """A process that becomes a worker in two steps.

    Ray answers the first call, `place`, as soon as the process has a CPU, which can take hours on a
    busy cluster. A worker that takes long in `start`, or fails there, is broken. In one step, the
    driver could not distinguish the two.
    """

    def place(self) -> str:
        """The id of the node that the process runs on."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def start(self, worker: type, options: Any) -> None:
        """Make the worker. This imports what the worker needs, such as torch."""
        self._worker = worker(options)

    def call(self, method: str, *given: Any) -> Any:
        """Call a method of the worker."""
        return getattr(self._worker, method)(*given)

    def call_apart(self, method: str, *given: Any) -> tuple[Any, ...]:
        """Call a method whose result has events, and return the events apart from it.

        Ray then moves the events, which are most of the bytes, only to the process that asks for
        them.

        Returns:
            the result without events, the events, and what the method returned beside the result.
        """
        returned = self.call(method, *given)
        result, *more = returned if isinstance(returned, tuple) else (returned,)
        events, result.events = result.events, []
        result.event_clips = sorted({event.clip_index for event in events})
        return result, events, *more
