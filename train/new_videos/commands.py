"""Runs a command of preprocess/ as a process of its own.

The two programs meet only in files. What a training program needs of a video, it reads from shards,
and shards are made by the commands that make them for training too. So frames, boxes and views of a
new video are those that the model was trained and tested with, to the bit.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shared.errors import EXIT_ERROR, EXIT_SET_ASIDE, printed_error

ROOT = Path(__file__).resolve().parents[2]
SHOWN = " so far, "  # only lines of progress have this text: shared/progress.py


def run_preprocess(command: str, *arguments: object) -> None:
    """Run `python -m preprocess.COMMAND`, and show its progress.

    Clips that it sets aside are no error; they are in failures.jsonl of the dataset.

    Args:
        arguments: of the command line. Paths must be absolute, because the process runs in the root
            of the project.

    Raises:
        InputError: the command refused its input. Code and message are those of the command.
    """
    words = [sys.executable, "-m", f"preprocess.{command}", *map(str, arguments)]
    with subprocess.Popen(
        words,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if SHOWN in line:
                print(line, end="", file=sys.stderr)
    if process.returncode in (0, EXIT_SET_ASIDE):
        return
    if process.returncode == EXIT_ERROR:
        for line in reversed(lines):
            if (error := printed_error(line)) is not None:
                raise error
    raise RuntimeError(
        f"preprocess.{command} ended with status {process.returncode}:\n{''.join(lines)}"
    )
