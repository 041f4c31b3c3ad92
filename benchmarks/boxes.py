"""How well do motion boxes agree with annotated ones? By preset, flow source and set of clips.

    python -m benchmarks.boxes --samples ../shared/samples --toy out \\
        --out benchmarks/results/boxes.json

Runs the commands as a user would: manifest of a folder of videos, `flows` of all sources in one
decode, `boxes` for each source and preset, and their evaluation. Sets: the annotated clips of
Something-Something V2 and DAVIS in --samples, and the toy dataset in --toy. Minutes on two cores.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import click

from benchmarks.datasets import run
from preprocess.annotated_boxes.matching import ReadOptions
from preprocess.evaluate_boxes import evaluate, summary
from preprocess.flow.sources import MOTION_VECTORS
from preprocess.motion_boxes.presets import OF_BOUNDARIES, PRESETS
from shared.errors import user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.run_record import command_line, git_commit, versions

SOURCES = ("tvl1", "dis", MOTION_VECTORS)


@click.command(help=__doc__.split("\n")[0], context_settings={"show_default": True})
@click.option("--samples", required=True, type=click.Path(path_type=Path), metavar="FOLDER",
              help="with ssv2/ and davis/")  # fmt: skip
@click.option("--toy", type=click.Path(path_type=Path), metavar="OUT",
              help="OUT of a rendered toy dataset; without it, that set is left out")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="JSON to write")
@user_errors
def main(samples: Path, toy: Path | None, out: Path | None) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sets = {
            "ssv2": (
                samples / "ssv2",
                "something-else",
                samples / "ssv2/something_else_boxes.json",
            ),
            "davis": (samples / "davis", "csv", samples / "davis"),
        }
        if toy is not None:
            root = DatasetLayout(toy, "toy").root
            sets["toy"] = (root / "videos", "csv", root / "truth" / "boxes")
        for name, (videos, box_format, annotations) in sets.items():
            layout = DatasetLayout(Path(folder), f"boxes-of-{name}")  # no official files
            make_flows(layout, videos)
            for source in SOURCES:
                for preset in PRESETS:
                    if source == MOTION_VECTORS and preset in OF_BOUNDARIES:
                        continue  # their maps need flow of every pixel
                    boxes = f"{source}-{preset}"
                    given = ("--source", source, "--preset", preset, "--name", boxes)
                    run("preprocess.boxes", *place_of(layout), *given)
                    figures = summary(
                        evaluate(
                            layout.boxes_of(boxes), box_format, annotations, None, ReadOptions()
                        )
                    )
                    rows.append({"set": name, "source": source, "preset": preset, **figures})
                    print(text_of(rows[-1]), flush=True)
    if out is not None:
        content = {
            "command": command_line(),
            "versions": versions(),
            "git_commit": git_commit(),
            "rows": rows,
        }
        write_atomically(out, json.dumps(content, indent=1).encode() + b"\n")


def make_flows(layout: DatasetLayout, videos: Path) -> None:
    """Copy the mp4 files of a folder into the dataset's own, and make flows of all sources."""
    for video in sorted(videos.rglob("*.mp4")):
        layout.videos.mkdir(parents=True, exist_ok=True)
        shutil.copy(video, layout.videos / video.name)
    given = (*place_of(layout), "--videos", str(layout.videos))
    run("preprocess.manifest", *given)
    sources = ("--source", ",".join(SOURCES), "--boundaries")
    run("preprocess.flows", *given, "--pool", "in-process", *sources)


def place_of(layout: DatasetLayout) -> tuple[str, ...]:
    return ("--dataset", layout.dataset, "--out", str(layout.out))


def text_of(row: dict) -> str:
    trivial = {name: row[f"iou_{name}"] for name in ("full_frame", "centre_half", "centre_70")}
    best = max(trivial, key=trivial.__getitem__)
    return (
        f"{row['set']:6} {row['source']:15} {row['preset']:10} IoU {row['iou']:.3f} "
        f"(best trivial: {best} {trivial[best]:.3f})  recall {row['recall']:.2f} "
        f"area {row['area']:.2f}"
    )


if __name__ == "__main__":
    main()
