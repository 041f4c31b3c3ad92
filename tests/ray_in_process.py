"""What RayPool asks of Ray, done at once in this process, with machines that are lost on request.

Calls run when they are made. Their results are kept until they are asked for, on the machine of the
actor: when it is lost, its actors are gone and so are the results that nobody has fetched.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """As ray.exceptions.RayError; the classes below have the names of Ray's."""


class RayActorError(RayError):
    pass


class ActorUnavailableError(RayActorError):
    pass


class ObjectLostError(RayError):
    pass


class RayTaskError(RayError):
    cause: Exception | None = None


class LostArgumentError(RayTaskError, ObjectLostError):
    """What a call raises whose argument lay on a lost machine."""


@dataclass(eq=False)
class Answer:
    """As ray.ObjectRef."""

    value: Any
    handle: Any = None


@dataclass(eq=False)
class Handle:
    """As the handle of an actor."""

    ray: RayInProcess
    process: Any
    error: RayActorError | None = None

    def __getattr__(self, name: str) -> Any:
        return Method(self, name)


@dataclass
class Method:
    """As a method of the handle of an actor."""

    handle: Handle
    name: str
    num_returns: int = 1

    def options(self, num_returns: int) -> Method:
        return Method(self.handle, self.name, num_returns)

    def remote(self, *given: Any) -> Any:
        values = self._values(given)
        answers = [Answer(value, self.handle) for value in values]
        self.handle.ray.answers += answers
        return answers[0] if self.num_returns == 1 else tuple(answers)

    def _values(self, given: tuple[Any, ...]) -> list[Any]:
        if self.handle.error is not None:
            return [self.handle.error] * self.num_returns
        if self.name == "place":
            return ["here"]
        given = tuple(one.value if isinstance(one, Answer) else one for one in given)
        if any(isinstance(one, ObjectLostError) for one in given):
            return [LostArgumentError()] * self.num_returns
        try:
            value = getattr(self.handle.process, self.name)(*given)
        except OSError as error:
            failed = RayTaskError()
            failed.cause = error
            return [failed] * self.num_returns
        return [value] if self.num_returns == 1 else list(value)


@dataclass
class RayInProcess:
    """The module.

    Args:
        before_waiting: called each time when the driver waits.
    """

    before_waiting: Callable[[RayInProcess], None] = lambda _: None
    handles: list[Handle] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    exceptions = SimpleNamespace(
        RayError=RayError,
        RayActorError=RayActorError,
        ActorUnavailableError=ActorUnavailableError,
        ObjectLostError=ObjectLostError,
        RayTaskError=RayTaskError,
    )

    def remote(self, **_: Any) -> Any:
        def actor_class(worker: type) -> Any:
            made = SimpleNamespace(remote=lambda: self._new(worker))
            made.options = lambda **_: made
            return made

        return actor_class

    def _new(self, worker: type) -> Handle:
        self.handles.append(Handle(self, worker()))
        return self.handles[-1]

    def get(self, asked: Any, timeout: float | None = None) -> Any:
        del timeout
        if isinstance(asked, list):
            return [self.get(one) for one in asked]
        if isinstance(asked.value, Exception):
            raise asked.value
        return asked.value

    def wait(
        self, answers: list[Answer], num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Answer], list[Answer]]:
        del timeout
        self.before_waiting(self)
        return answers[:num_returns], answers[num_returns:]

    def kill(self, handle: Handle) -> None:
        handle.error = handle.error or RayActorError("killed")

    def lose(self, handle: Handle) -> None:
        """Lose the machine of an actor, with the results that were not fetched."""
        handle.error = ActorUnavailableError("its machine is lost")
        for answer in self.answers:
            if answer.handle is handle:
                answer.value = ObjectLostError("its machine is lost")
        self.answers = [answer for answer in self.answers if answer.handle is not handle]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0}

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 8.0}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": "here", "Alive": True}]

    def shutdown(self) -> None:
        self.handles.clear()


def losses(seed: int, count: int, share: float = 0.1) -> Callable[[RayInProcess], None]:
    """Lose the machine of some actor, at random, at most so often."""
    chance = random.Random(seed)
    left = [count]

    def before_waiting(ray: RayInProcess) -> None:
        alive = [handle for handle in ray.handles if handle.error is None]
        if left[0] and alive and chance.random() < share:
            left[0] -= 1
            ray.lose(chance.choice(alive))

    return before_waiting
