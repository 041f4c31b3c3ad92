"""A dataset of rendered videos in OUT, and the preprocessing commands run on it."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result
from video_fixtures import render_video

from shared.layout import DatasetLayout
from shared.manifest import Clip, write_manifest

ROOT = Path(__file__).resolve().parents[1]


def make_dataset(out: Path, num_clips: int = 6, num_frames: int = 8) -> DatasetLayout:
    """OUT/videos-of-tests with a manifest and as many small videos, of different lengths."""
    layout = DatasetLayout(out, "rendered")
    clips = []
    for index in range(num_clips):
        render_video(layout.videos / f"{index}.mp4", num_frames + index % 3, size=(48, 32))
        clips.append(Clip(f"clip-{index}", f"{index}.mp4", label=0))
    write_manifest(layout.manifest, clips)
    return layout


def copy_of(layout: DatasetLayout, out: Path) -> DatasetLayout:
    """A copy of the dataset below another folder, which a test may change."""
    shutil.copytree(layout.root, out / layout.dataset)
    return DatasetLayout(out, layout.dataset)


def arguments(layout: DatasetLayout, *more: object) -> list[str]:
    return ["--dataset", layout.dataset, "--out", str(layout.out), *map(str, more)]


def run_flows(layout: DatasetLayout, *more: object, pool: str = "in-process") -> Result:
    """`python -m preprocess.flows`, in this process."""
    from preprocess.flows import main

    return CliRunner().invoke(main, arguments(layout, "--pool", pool, *more))


def run_boxes(layout: DatasetLayout, *more: object) -> Result:
    from preprocess.boxes import main

    return CliRunner().invoke(main, arguments(layout, *more))


def start(module: str, layout: DatasetLayout, *more: object) -> subprocess.Popen:
    """`python -m MODULE` as a process of its own.

    It hears SIGINT wherever the tests run: a shell without job control has what it runs in the
    background ignore it.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments(layout, *more)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def checksums(folder: Path) -> dict[str, str]:
    """sha256 by name of everything in a folder under a final name, options.json left out."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("[!.]*")
        if path.name != "options.json"
    }
