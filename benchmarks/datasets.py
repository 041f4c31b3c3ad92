"""Datasets that benchmarks read: made by the project's own commands, kept, and reused.

`toy` is rendered; `ssv2` is whatever clips of Something-Something V2 lie in SAMPLES/ssv2.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from shared.errors import InputError
from shared.layout import DatasetLayout

ROOT = Path(__file__).resolve().parent.parent
TOY_CLIPS = 64


def names_of(samples: Path) -> list[str]:
    """The datasets that can be made here."""
    return ["toy", "ssv2"] if (samples / "ssv2").is_dir() else ["toy"]


def make_videos(out: Path, name: str, samples: Path) -> Path:
    """The folder of a dataset's videos; those of the toy set are rendered below `out`."""
    if name != "toy":
        return samples / name
    run("preprocess.toy", "--out", str(out), "--clips", str(TOY_CLIPS))
    return DatasetLayout(out, "toy").videos


def make_dataset(out: Path, name: str, samples: Path) -> DatasetLayout:
    """Manifest, frames, flows and boxes of a dataset below `out`; what is there is used."""
    layout = DatasetLayout(out, name)
    place = ["--dataset", name, "--out", str(out)]
    videos = ["--videos", str(make_videos(out, name, samples))]
    annotations = [] if name == "toy" else [*videos, "--annotations", str(samples / name)]
    run("preprocess.manifest", *place, *annotations)
    # Two clips a shard: few clips then do for a look at how shards are opened and closed.
    run("preprocess.flows", *place, *videos, "--pool", "in-process", "--clips-per-shard", "2")
    run("preprocess.boxes", *place)
    return layout


def run(module: str, *arguments: str, threads: int = 1) -> str:
    """Run a command of the project; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise InputError(f"{module} {' '.join(arguments)} ended with {done.returncode}: {last[0]}")
    return done.stdout + done.stderr
