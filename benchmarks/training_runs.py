"""Trains the runs that benchmarks compare with the project's commands, and reuses them."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.layout import DatasetLayout

ROOT = Path(__file__).resolve().parent.parent
TOP1 = re.compile(r"^test top-1 ([0-9.]+) %$", re.MULTILINE)
PROBED = re.compile(r"^linear probe: test top-1 ([0-9.]+) %$", re.MULTILINE)


@dataclass(frozen=True)
class Trainer:
    """Runs the training commands on one dataset.

    The commands use a finished run again, and refuse a run with other options.

    Attributes:
        layout: the dataset.
        recipe: a recipe file, or None for the recipe of the dataset.
    """

    layout: DatasetLayout
    recipe: Path | None = None

    def pretrain(self, method: str, seed: int, name: str, *arguments: str) -> str:
        """Pretrain; returns the name of the run."""
        self._train("pretrain", name, seed, "--method", method, *arguments)
        return name

    def finetune(self, source: str, seed: int, name: str, *arguments: str) -> str:
        """Finetune from a run, a weights file or "none"; returns the name of the run."""
        self._train("finetune", name, seed, "--from", source, *arguments)
        return name

    def top1(self, run: str) -> float:
        """Test top-1 of a finetuned run, in percent with one decimal."""
        return _figure(TOP1, self.evaluate(run))

    def probed_top1(self, source: str, seed: int, name: str, *arguments: str) -> float:
        """Test top-1 of a linear probe on the features of a run, or of "none"."""
        return _figure(PROBED, self.probe(source, seed, name, *arguments))

    def probe(self, source: str, seed: int, name: str, *arguments: str) -> str:
        """Fit a linear probe on the features of a run, or of "none"; returns what it prints."""
        asked = ["--from", source, "--run", name, "--probe", "linear", *self._recipe, *arguments]
        if source == "none":
            asked += ["--seed", str(seed)]
        return self._run("probe", *asked)

    def evaluate(self, run: str, *arguments: str) -> str:
        """Test a finetuned run; returns what is printed."""
        return self._run("evaluate", "--run", run, *arguments)

    @property
    def _recipe(self) -> tuple[str, ...]:
        return ("--recipe", str(self.recipe.resolve())) if self.recipe else ()

    def _train(self, command: str, name: str, seed: int, *arguments: str) -> None:
        self._run(command, "--run", name, "--seed", str(seed), *self._recipe, *arguments)

    def _run(self, command: str, *arguments: str) -> str:
        data = ("--dataset", self.layout.dataset, "--out", str(self.layout.out.resolve()))
        whole = [sys.executable, "-m", f"train.{command}", *data, *arguments]
        # Several commands may run at the same time, and their progress bars would mix.
        done = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().rpartition("\n")[2]
            raise InputError(
                "not-finished",
                f"`python {' '.join(whole[1:])}` ended with status {done.returncode}: {said}",
            )
        return done.stdout


def _figure(pattern: re.Pattern[str], printed: str) -> float:
    found = pattern.search(printed)
    assert found, f"no test top-1 in:\n{printed}"
    return float(found[1])


def summary(figures: Sequence[float]) -> dict[str, Any]:
    """The mean over seeds, and the value of each seed, for a results file."""
    return {"mean": round(statistics.mean(figures), 1), "seeds": list(figures)}


def mean_and_spread(figures: Sequence[float]) -> str:
    """Mean and sample standard deviation as `90.1 +- 0.4`; only the value if there is one seed."""
    if len(figures) == 1:
        return f"{figures[0]:.1f}"
    return f"{statistics.mean(figures):.1f} +- {statistics.stdev(figures):.1f}"
