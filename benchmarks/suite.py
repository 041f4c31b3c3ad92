"""Measures all headline figures beside those of peers, and shows changes since the last run.

    make bench
    python -m benchmarks.suite --samples ../shared/samples --only loader,flows

The command writes benchmarks/results/DATE-HOST.json and prints a table. With --only, the other
parts in that file stay. It takes at most about 15 minutes on two cores: a part that would start
after `--minutes` is skipped, and a line says so. Parts that need sample clips are skipped without
them. Peers that are not installed are named (.venv/bin/pip install '.[bench]' installs them). The
benchmarks themselves measure more: python -m benchmarks.tvl1, camera, ...
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import click
import cv2
import torch

from benchmarks.options import chosen_parts, out_option, parts_option, samples_option
from benchmarks.record import RESULTS, Figure, host_kind, machine, text_of, write_record
from shared.errors import InputError, user_errors
from shared.run_record import git_commit, versions

NAMED_BY_DATE = re.compile(r"\d{4}-\d\d-\d\d-(.+)\.json")

Part = Callable[[Path, Path], list[Figure]]  # (scratch, samples) -> figures


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@samples_option("Folder of real clips. Without it, rendered clips are used.")
@parts_option
@click.option("--minutes", type=click.FloatRange(min=0), default=13.0, metavar="MINUTES",
              help="Start no further part after this time.")  # fmt: skip
@out_option("DATE-HOST")
@user_errors
def main(samples: Path, only: str | None, minutes: float, out: Path | None) -> None:
    path = out or RESULTS / f"{date.today()}-{host_kind()}.json"
    before = last_results(path)
    chosen = parts(only)
    rows, taken = earlier_parts(path, set(chosen)) if only else ([], {})
    described = machine()
    print(", ".join(f"{name} {value}" for name, value in (described | versions()).items()))
    figures: list[Figure] = []
    deadline = time.monotonic() + 60 * minutes
    # Every part measures the CPU time of one thread, whatever ran before it.
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        for name, part in chosen.items():
            began = time.monotonic()
            print(f"{name} ...", flush=True)
            if began > deadline:
                found = [
                    Figure(name, "", None, note=f"skipped, because {minutes:g} minutes are over")
                ]
            else:
                found = _measured(name, part, Path(scratch), samples)
            print_table(found, before)
            figures += found
            rows += [{"part": name, **figure.to_dict()} for figure in found]
            taken[name] = {
                "seconds": round(time.monotonic() - began, 1),
                "load": machine()["load"],
                "git_commit": git_commit(),
            }
            write_record(path, rows, parts=taken)  # a stopped run keeps its results
    missed = [f.name for f in figures if f.target and f.ratio and f.ratio < f.target]
    if missed:
        print(f"below target: {'; '.join(missed)}")
    print(f"{path} ({sum(taken[name]['seconds'] for name in chosen) / 60:.1f} minutes)")


def parts(only: str | None) -> dict[str, Part]:
    """The parts by name; the most informative ones for their time come first.

    Raises:
        InputError: a name is unknown.
    """
    known: dict[str, Part] = {
        "loader": _loader,
        "tvl1": _tvl1,
        "motion vectors": _motion_vectors,
        "camera": _camera,
        "storage": _storage,
        "flows": _flows,
        "overlap": _overlap,
        "pretraining step": partial(_step, "pretraining"),
        "finetuning step": partial(_step, "finetuning"),
        "data wait": _data_wait,
    }
    return {name: known[name] for name in chosen_parts(only, known)}


def _measured(name: str, part: Part, scratch: Path, samples: Path) -> list[Figure]:
    try:
        return part(scratch, samples)
    except InputError as error:
        return [Figure(name, "", None, note=f"not measured: {error}")]


# -------------------------------------------------------------------------------------- parts


def _loader(scratch: Path, samples: Path) -> list[Figure]:
    from benchmarks.loader import measure

    return measure(scratch, samples, rounds=3, soak=10_000)


def _step(task: str, scratch: Path, samples: Path) -> list[Figure]:
    from benchmarks.step import measure

    return measure(task, rounds=1, batch_size=2)


def _flows(scratch: Path, samples: Path) -> list[Figure]:
    from benchmarks.flows import end_to_end

    return end_to_end(scratch, samples, pairs=2, rounds=1)


def _overlap(scratch: Path, samples: Path) -> list[Figure]:
    from benchmarks.flows import overlap

    return overlap(scratch, samples, rounds=1)


def _data_wait(scratch: Path, samples: Path) -> list[Figure]:
    from benchmarks.data_wait import measure

    return measure(scratch / "data-wait")


def _tvl1(scratch: Path, samples: Path) -> list[Figure]:
    from benchmarks.tvl1 import against_opencv
    from benchmarks.tvl1_pairs import rubberwhale

    row = against_opencv(rubberwhale(_needed(samples)), "fast", repeats=3)
    names = (("error_px", "px"), ("energy", "per pixel"))
    return [
        Figure(
            "TV-L1, RubberWhale 584x388, one thread",
            "pairs/s",
            1 / row["seconds"],
            "OpenCV",
            1 / row["opencv_seconds"],
            target=15.0,
        ),
        *(
            Figure(
                f"TV-L1, RubberWhale: {name}",
                unit,
                row[name],
                "OpenCV",
                row[f"opencv_{name}"],
                more_is_better=False,
                target=1.0,
            )
            for name, unit in names
        ),
    ]


def _motion_vectors(scratch: Path, samples: Path) -> list[Figure]:
    from benchmarks.motion_vectors import measure

    rows = [
        measure(_needed(samples) / name, 240, pairs=2, repeats=2, scratch=scratch)
        for name in ("ssv2/2003.mp4", "motion_vectors/vid_mpeg4_part2.mp4")
    ]
    return [
        Figure(
            f"motion vectors, {row.video}: decoding and map",
            "ms a frame",
            row.vectors_ms,
            "decoding and OpenCV TV-L1",
            row.vectors_ms * row.times_opencv,
            more_is_better=False,
            target=30.0,
            note=f"{row.times_fast:.1f} times the speed of our TV-L1 with its decoding",
        )
        for row in rows
    ]


def _camera(scratch: Path, samples: Path) -> list[Figure]:
    from benchmarks.camera import decode, measure, render

    frames = decode(_needed(samples) / "davis" / "car-shadow.mp4", 240)
    row = measure("rendered", [render(frames[i], "suite", i) for i in (0, 10, 20)], "mean")
    return [
        Figure(
            "camera, rendered still scenes: flow that is left",
            "px",
            row.warp,
            "as it is",
            row.as_it_is,
            more_is_better=False,
        )
    ]


def _storage(scratch: Path, samples: Path) -> list[Figure]:
    from benchmarks.map_storage import SSV2_FRAMES, clip_maps, stored_maps
    from shared.motion_maps import LEVELS

    num_bytes = num_frames = 0
    for name in ("2003", "862"):
        maps, _, _ = clip_maps(_needed(samples) / "ssv2" / f"{name}.mp4")
        num_bytes += stored_maps(maps, 64, LEVELS)[1]
        num_frames += len(maps)
    projected = num_bytes / num_frames * SSV2_FRAMES / 1e9
    return [
        Figure(
            "motion maps of all of Something-Something V2, projected",
            "GB",
            projected,
            "the project's own limit",
            30.0,
            more_is_better=False,
            target=1.0,
            note=f"{num_bytes / num_frames:.0f} bytes a frame of two clips",
        )
    ]


def _needed(samples: Path) -> Path:
    if not samples.is_dir():
        raise InputError("missing-folder", f"no sample clips in {samples}; give --samples FOLDER")
    return samples


# ------------------------------------------------------------------------------ earlier results


def last_results(path: Path) -> dict[str, Any] | None:
    """The newest results of this kind of machine; those of today are read before they change."""
    here = []
    for each in sorted(RESULTS.glob("*.json")):
        named = NAMED_BY_DATE.fullmatch(each.name)
        if named and named[1] == host_kind() and each.name <= path.name:
            here.append(each)
    return json.loads(here[-1].read_text()) if here else None


def earlier_parts(
    path: Path, chosen: set[str]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Rows and parts of the existing file, without those that are measured again."""
    if not path.is_file():
        return [], {}
    record = json.loads(path.read_text())
    rows = [row for row in record["figures"] if row["part"] not in chosen]
    return rows, {name: part for name, part in record["parts"].items() if name not in chosen}


def print_table(figures: list[Figure], before: dict[str, Any] | None) -> None:
    """Print one line for each figure, with its change since the results before."""
    rows = before["figures"] if before else []
    earlier = {row["name"]: row for row in rows}
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        line = f"  {figure.name:<{width}}  {text_of(figure)}"
        print(line + change(figure, earlier.get(figure.name)), flush=True)


def change(figure: Figure, earlier: dict[str, Any] | None) -> str:
    """The change of a figure since it was last measured.

    If there are ratios, these are compared, because a busy machine is slow for both contenders.
    """
    if earlier is None or figure.ours is None or not earlier["ours"]:
        return ""
    if figure.ratio is not None and earlier["ratio"]:
        return (
            f" [before: {earlier['ratio']:.2f} times, {figure.ratio / earlier['ratio'] - 1:+.0%}]"
        )
    return f" [before: {earlier['ours']:.4g}, {figure.ours / earlier['ours'] - 1:+.0%}]"


if __name__ == "__main__":
    main()
