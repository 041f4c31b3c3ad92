"""Shared code of the benchmarks: figures beside those of a peer, the machine, and fair timing.

A figure has our value, the value of its peer and their ratio from one run, because a busy machine
is slow for both. Times are CPU seconds of this process: the lowest of several rounds in which the
contenders take turns.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from shared.files import write_atomically
from shared.run_record import command_line, git_commit, versions

RESULTS = Path(__file__).parent / "results"
NOT_ON_GPU = "not run on a GPU"


@dataclass(frozen=True)
class Figure:
    """One number beside that of its peer.

    Attributes:
        name: what is measured; it is the same in every run.
        unit: unit of ours and theirs.
        ours: our value; None if it could not be measured, and `note` then says why.
        peer: name of the peer; "" if there is none.
        theirs: value of the peer; None if the peer is not installed, or there is none.
        more_is_better: True for clips/s, False for seconds and bytes.
        target: target of `ratio`; None if there is none.
        note: what a reader must know besides the number.
    """

    name: str
    unit: str
    ours: float | None
    peer: str = ""
    theirs: float | None = None
    more_is_better: bool = True
    target: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better ours is; None if one value is missing."""
        if not self.ours or not self.theirs:
            return None
        return self.ours / self.theirs if self.more_is_better else self.theirs / self.ours

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio}


def fastest(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the lowest CPU seconds of each function over `rounds` rounds in which all take turns.

    CPU seconds are those of all threads of this process. Other programs do not count, but they
    compete for caches and memory bandwidth, which slows all contenders alike.
    """
    least = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            began = time.process_time()
            work()
            least[name] = min(least[name], time.process_time() - began)
    return least


def command_without(paths: Iterable[str], word: str) -> str:
    """The command line of this process, with `word` for the values of the options `paths`, which
    are folders of this machine."""
    words = command_line().split()
    for option in paths:
        if option in words:
            words[words.index(option) + 1] = word
    return " ".join(words)


def machine() -> dict[str, Any]:
    """Describe the hardware, and its load from other work."""
    found = {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "load": [round(value, 2) for value in os.getloadavg()],
        "gpu": None,
    }
    if torch.cuda.is_available():
        found["gpu"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return found


def host_kind() -> str:
    """The kind of machine for names of results files: 2core-x86, 16core-x86-h200."""
    kind = f"{len(os.sched_getaffinity(0))}core-{platform.machine().replace('x86_64', 'x86')}"
    if torch.cuda.is_available():
        kind += "-" + torch.cuda.get_device_name().lower().replace("nvidia ", "").replace(" ", "-")
    return kind


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def resident_megabytes() -> float:
    """Resident memory of this process, including shared pages."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def print_figures(figures: list[Figure]) -> None:
    width = max([len(figure.name) for figure in figures], default=0)
    for figure in figures:
        print(f"  {figure.name:<{width}}  {text_of(figure)}", flush=True)


def conclude(name: str, figures: list[Figure], out: Path | None) -> None:
    """Print the figures of a benchmark and write them to `out`, or to results/NAME-HOST.json."""
    print_figures(figures)
    path = out or RESULTS / f"{name}-{host_kind()}.json"
    write_record(path, figures)
    print(path)


def text_of(figure: Figure) -> str:
    """Format a figure as one line: our value, that of the peer, the ratio and its target."""
    if figure.ours is None:
        return figure.note or "not measured"
    line = f"{figure.ours:10.4g} {figure.unit:<10}"
    if figure.theirs is not None:
        line += f" {figure.peer}: {figure.theirs:.4g}"
    elif figure.peer:
        line += f" {figure.peer}: not measured"
    if figure.ratio is not None:
        line += f", {figure.ratio:.2f} times better"
    if figure.target is not None and figure.ratio is not None:
        line += f" (target {figure.target:g}{'' if figure.ratio >= figure.target else ', missed'})"
    return line + (f"; {figure.note}" if figure.note else "")


def write_record(path: Path, figures: list[Figure] | list[dict[str, Any]], **more: Any) -> None:
    """Write figures (or their rows) with the command, machine and versions that gave them."""
    record = {
        "command": command_line(),
        "date": str(date.today()),
        "git_commit": git_commit(),
        "machine": machine(),
        "versions": versions(),
        **more,
        "figures": [
            figure.to_dict() if isinstance(figure, Figure) else figure for figure in figures
        ],
    }
    write_atomically(path, json.dumps(record, indent=1).encode() + b"\n")
