"""How long a run trained, by its log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from train.tables.typed import is_number


def training_seconds(events: Iterable[Mapping[str, Any]]) -> float:
    """Seconds of training over all starts of a run, each up to its last line of the log.

    `seconds` of a line count from the last start of the run, whose time is `started`. Logs of
    earlier versions lack it: there a new start is seen where `seconds` fall.

    Args:
        events: the lines of log.jsonl.
    """
    total = last = 0.0
    start = None
    for line in events:
        seconds = line.get("seconds")
        if not is_number(seconds):
            continue
        if line.get("started") != start or seconds < last:
            total += last
        start, last = line.get("started"), seconds
    return total + last
