"""Makes the datasets of the benchmarks with the project's commands, and reuses them.

`toy` is rendered. `ssv2` consists of the clips of Something-Something V2 in SAMPLES/ssv2.
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
    """The datasets that can be made from these samples."""
    return ["toy", "ssv2"] if (samples / "ssv2").is_dir() else ["toy"]


def make_videos(out: Path, name: str, samples: Path) -> Path:
    """The folder of a dataset's videos; toy videos are rendered below `out`."""
    if name != "toy":
        return samples / name
    run("preprocess.toy", "--out", str(out), "--clips", str(TOY_CLIPS))
    return DatasetLayout(out, "toy").videos


def make_dataset(out: Path, name: str, samples: Path, *flow_options: str) -> DatasetLayout:
    """Make manifest, frames, flows and boxes of a dataset below `out`, or use existing ones.

    Args:
        flow_options: further options of `flows`.
    """
    layout = DatasetLayout(out, name)
    place = ["--dataset", name, "--out", str(out)]
    videos = ["--videos", str(make_videos(out, name, samples))]
    annotations = [] if name == "toy" else [*videos, "--annotations", str(samples / name)]
    run("preprocess.manifest", *place, *annotations)
    # With two clips per shard, a few clips are enough to open and close several shards.
    in_process = ["--pool", "in-process", "--clips-per-shard", "2"]
    run("preprocess.flows", *place, *videos, *in_process, *flow_options)
    run("preprocess.boxes", *place)
    return layout


def run(module: str, *arguments: str, threads: int = 1) -> str:
    """Run a command of the project; returns its output."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise InputError(
            "not-finished",
            f"`python -m {module} {' '.join(arguments)}` ended with status {done.returncode}: "
            f"{last[0]}",
        )
    return done.stdout + done.stderr
