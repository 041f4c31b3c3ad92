"""Measures on a borrowed GPU what the project promises and projects, the most valuable parts first.

    python -m benchmarks.gpu --minutes 9
    python -m benchmarks.gpu --device cpu --out /tmp/trial.json     shows that each part runs

The parts are those of benchmarks/gpu_parts.py: TV-L1 against the bits of the CPU, gradients against
float64, TV-L1 pairs per second, training steps of ViT-B in bf16 against Hugging Face's, flows from
end to end, nvJPEG, and the wait for data. The command writes benchmarks/results/gpu-NAME.json after
each part, so that a machine that is taken away costs one part. A part that does not end in time is
stopped, and what it measured so far is kept. Nothing is downloaded. Rendered clips are used where
the samples are not at hand.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.gpu_parts import PARTS
from benchmarks.options import chosen_parts, out_option, parts_option, samples_option
from benchmarks.record import RESULTS, Figure, machine, text_of, write_record
from shared.errors import InputError, user_errors
from shared.gpus import why_no_gpu
from shared.run_record import read_jsonl, versions

ROOT = Path(__file__).resolve().parent.parent


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=9.0,
              metavar="MINUTES", help="Time for all parts; what runs then is stopped.")  # fmt: skip
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda",
              help="With cpu, each part runs with small sizes.")  # fmt: skip
@parts_option
@samples_option("Folder of real clips. Without it, rendered clips are used.")
@out_option("gpu-NAME")
@user_errors
def main(minutes: float, device: str, only: str | None, samples: Path, out: Path | None) -> None:
    deadline = time.monotonic() + 60 * minutes
    names = chosen_parts(only, PARTS)
    if device == "cuda" and (reason := why_no_gpu(torch.cuda)):
        raise InputError(
            "no-gpu", f"no GPU can be used here: {reason}; --device cpu shows that the parts run"
        )
    path = out or RESULTS / f"gpu-{device_name(device)}.json"
    print(", ".join(f"{name} {value}" for name, value in (machine() | versions()).items()))
    rows: list[dict[str, Any]] = []
    taken: dict[str, dict[str, Any]] = {}
    for name in names:
        began = time.monotonic()
        print(f"{name} ...", flush=True)
        found, how = run_part(name, device, samples, deadline - began)
        rows += [{"part": name, **row} for row in found]
        taken[name] = {"seconds": round(time.monotonic() - began, 1), "ended": how}
        write_record(path, rows, device=device, parts=taken)
        for row in found:
            print(f"  {row['name']}  {_line(row)}")
        if how != "whole":
            print(f"  {name}: {how}", flush=True)
    print(f"{path} ({sum(part['seconds'] for part in taken.values()) / 60:.1f} minutes)")


def device_name(device: str) -> str:
    """The device as a part of a file name: nvidia-h200, cpu."""
    if device == "cpu":
        return device
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def run_part(
    name: str, device: str, samples: Path, seconds: float
) -> tuple[list[dict[str, Any]], str]:
    """Run a part in a process of its own, for at most so long.

    Returns:
        Its figures, and "whole" or why there are not more.
    """
    if seconds <= 0:
        return [], "skipped, because the time is over"
    with tempfile.TemporaryDirectory() as scratch:
        figures = Path(scratch) / "figures.jsonl"
        command = [sys.executable, "-m", "benchmarks.gpu_parts", name, "--device", device]
        # A session of its own, so that what the part starts ends with it.
        process = subprocess.Popen(
            [*command, "--samples", str(samples.resolve()), "--figures", str(figures)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            how = "stopped, because the time is over"
        else:
            last = said.strip().splitlines()[-1:] or ["no message"]
            status = process.returncode
            how = f"ended with status {status}: {last[0]}" if status else "whole"
        finally:
            _end_session(process)
        return read_jsonl(figures), how


def _end_session(process: subprocess.Popen[str]) -> None:
    """End a process and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.communicate()


def _line(row: dict[str, Any]) -> str:
    return text_of(Figure(**{name: value for name, value in row.items() if name != "ratio"}))


if __name__ == "__main__":
    main()
