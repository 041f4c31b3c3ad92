"""Rules of targets that are made of points of a patch."""

from __future__ import annotations

import math

from shared.errors import InputError


def check_square(points: int) -> None:
    """Refuse a number of points of a patch that is not that of a square grid.

    Raises:
        InputError: it is below 1 or not a square number.
    """
    if points < 1 or math.isqrt(points) ** 2 != points:
        raise InputError(
            "out-of-range", f"points is {points}; it must be a square number (1, 4, 9, ...)"
        )


def refuse_time(flips: tuple[str, ...]) -> None:
    """Refuse flips in time, which stored tracks cannot follow.

    Raises:
        InputError: 'time' is one of them.
    """
    if "time" in flips:
        raise InputError(
            "option-conflict",
            "flips has 'time', but points are tracked only forward in time; leave 'time' out",
        )
