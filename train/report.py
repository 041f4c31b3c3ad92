"""Writes one self-contained page about a dataset and its runs.

    python -m train.report --dataset toy --out out

Reads the manifest, the shards and the run folders below OUT/DATASET and writes
OUT/DATASET/report.html. The page needs no script and no network, and can be read on a phone, on
paper, and in light and dark mode. Where something is missing, a line in its place says so. It takes
seconds for the toy dataset, about a minute for Something-Something V2 (all boxes are read), and
minutes on a CPU for the pictures of a ViT-B whose weights exist. The last two lines are the test
top-1 of the newest finetuned run and the path of the report.
"""

from __future__ import annotations

from pathlib import Path

import click

from shared.errors import InputError, user_errors
from shared.layout import DatasetLayout
from train.report_sections.page import write_report


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@click.option(
    "--dataset",
    default="toy",
    metavar="NAME",
    help="Name of the dataset that the report describes.",
)
@click.option(
    "--out",
    default="out",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Folder that contains the folders of all datasets.",
)
@click.option(
    "--run",
    metavar="NAME",
    show_default="the newest run that was tested",
    help="Name of the finetuned or pretraining run that the report describes in detail.",
)
@user_errors
def main(dataset: str, out: Path, run: str | None) -> None:
    """Write OUT/DATASET/report.html about a dataset and its runs."""
    layout = DatasetLayout(out, dataset)
    if not layout.root.is_dir():
        raise InputError(
            "missing-folder", f"no folder {layout.root}; `{layout.make('all')}` makes it"
        )
    write_report(layout, run)


if __name__ == "__main__":
    main()
