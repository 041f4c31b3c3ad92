"""How the threads of OpenMP wait for work: they spin briefly, and then leave the core to others.

OpenMP reads its variables once, when PyTorch loads it. `preprocess` and `train` therefore set them
in their `__init__.py`, before any module of theirs imports PyTorch.
"""

from __future__ import annotations

import os
import sys

# By default a thread spins 300,000 times before it sleeps, which takes the core from any other
# process. Threads that sleep at once cost two fifths of the speed on an idle machine; 10,000 turns
# cost 7 %, and are faster than the default beside any number of processes (benchmarks/README.md).
POLICY = {"GOMP_SPINCOUNT": "10000"}
# Each of these is a user's own choice: the standard's variable, GNU's, and LLVM's or Intel's.
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
FAMILIES = ("OMP_", "GOMP_", "KMP_")


def spin_briefly() -> None:
    """Let idle OpenMP threads sleep soon, in this process and in those that it starts.

    A user's own setting is left alone. Nothing changes after PyTorch is imported, because the
    setting would have no effect and the record of the run would be wrong.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in CHOICES):
        os.environ.update(POLICY)


def openmp_settings() -> dict[str, str]:
    """The variables that OpenMP read, for the record of a run: name -> value."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(FAMILIES)}
