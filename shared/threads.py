"""How the threads of OpenMP wait for work: asleep, which leaves the cores to other processes.

OpenMP reads its variables once, when PyTorch loads it. `preprocess` and `train` therefore set them
in their `__init__.py`, before any module of theirs imports PyTorch.
"""

from __future__ import annotations

import os
import sys

# By default a thread spins 300,000 times before it sleeps. Beside other processes that time is
# theirs: training then is up to ten times slower (benchmarks/README.md, "Threads that wait").
POLICY = {"OMP_WAIT_POLICY": "passive"}
# Each of these is a user's own choice: the standard's variable, GNU's, and LLVM's or Intel's.
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
FAMILIES = ("OMP_", "GOMP_", "KMP_")


def wait_asleep() -> None:
    """Let idle OpenMP threads sleep, in this process and in those that it starts.

    A user's own setting is left alone. Nothing changes after PyTorch is imported, because the
    setting would have no effect and the record of the run would be wrong.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in CHOICES):
        os.environ.update(POLICY)


def openmp_settings() -> dict[str, str]:
    """The variables that OpenMP read, for the record of a run: name -> value."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(FAMILIES)}
