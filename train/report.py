"""One self-contained page of everything that is known of a dataset and its runs.

    python -m train.report --dataset toy --out out

Reads the manifest, the shards and the run folders below OUT/DATASET and writes
OUT/DATASET/report.html: no script, no network, readable on a phone, in print, light and dark. What
is missing is said in one line in its place. Takes seconds for the toy dataset, about a minute for
Something-Something V2 (its boxes are all read), and minutes on the CPU for the pictures of what a
ViT-B does, where runs have weights. Ends with two lines: the test top-1 of the newest finetuned
run, and where the report lies.
"""

from __future__ import annotations

from pathlib import Path

import click

from shared.errors import InputError, user_errors
from shared.layout import DatasetLayout
from train.report_sections.page import write_report


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@click.option("--dataset", default="toy", metavar="NAME", help="Folder below OUT to report on.")
@click.option(
    "--out",
    default="out",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Where all datasets lie.",
)
@click.option(
    "--run",
    metavar="NAME",
    show_default="the newest that was tested",
    help="The finetuned run on top of the page and in its section, or the pretraining in its own.",
)
@user_errors
def main(dataset: str, out: Path, run: str | None) -> None:
    """Write OUT/DATASET/report.html from the files that lie there."""
    layout = DatasetLayout(out, dataset)
    if not layout.root.is_dir():
        raise InputError(f"no folder {layout.root}; `{layout.make('all')}` fills it")
    write_report(layout, run)


if __name__ == "__main__":
    main()
