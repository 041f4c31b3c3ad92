"""One self-contained page of everything that is known of a dataset and its runs.

    python -m train.report --dataset toy --out out

Reads the manifest, the shards and the run folders below OUT/DATASET and writes
OUT/DATASET/report.html: no script, no network, readable on a phone, in print, light and dark. What
is missing is said in one line in its place. Takes seconds for the toy dataset, about a minute for
Something-Something V2 (its boxes are all read). Ends with two lines: the test top-1 of the newest
finetuned run, and where the report lies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import jinja2

from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import read_classes, read_manifest
from shared.run_record import command_line, git_commit
from train.report_clips import MaskSettings
from train.report_dataset import BoxTable, read_box_table, split_rows
from train.report_sections import Dataset, dataset_section, samples_section, shards_made

TEMPLATE = Path(__file__).with_name("report_template.html")
SECTIONS = {
    "clips": "Sample clips",
    "dataset": "Dataset",
    "pretraining": "Pretraining",
    "finetuning": "Finetuning",
    "runs": "Runs side by side",
    "made": "How it was made",
}


@click.command(context_settings={"show_default": True})
@click.option("--dataset", default="toy", metavar="NAME", help="Folder below OUT to report on.")
@click.option(
    "--out",
    default="out",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Where all datasets lie.",
)
@user_errors
def main(dataset: str, out: Path) -> None:
    """Write OUT/DATASET/report.html from the files that lie there."""
    layout = DatasetLayout(out, dataset)
    if not layout.root.is_dir():
        raise InputError(f"no folder {layout.root}; `make DATASET={dataset}` fills it")
    page = build_page(layout)
    write_atomically(layout.report, render(page).encode())
    print(f"report {layout.report}")


def build_page(layout: DatasetLayout) -> dict[str, Any]:
    """Everything that the template shows."""
    unavailable: list[str] = []
    clips = _or_say(unavailable, [], read_manifest, layout.manifest)
    boxes: BoxTable | None = _or_say(unavailable, None, read_box_table, layout)
    dataset = Dataset(layout, clips, read_classes(layout.classes), boxes)
    mask = MaskSettings()
    return {
        "dataset": layout.dataset,
        "lead": _lead(dataset),
        "numbers": _numbers(dataset),
        "unavailable": unavailable,
        "sections": list(SECTIONS.items()),
        "samples": samples_section(dataset, mask),
        "data": dataset_section(dataset, mask),
        "made": {"shards": shards_made(layout)},
        "command": command_line(),
        "commit": git_commit(),
    }


def render(page: dict[str, Any]) -> str:
    """The page as HTML; every value is escaped unless it is markup of our own charts."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.ChainableUndefined, trim_blocks=True
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(page)


def _or_say(unavailable: list[str], otherwise: Any, read: Any, what: Any) -> Any:
    """What `read` gives, or `otherwise` and a line that says why not."""
    try:
        return read(what)
    except InputError as error:
        unavailable.append(str(error))
        return otherwise


def _lead(dataset: Dataset) -> str:
    named = len(dataset.classes.label)
    parts = [f"{len(dataset.clips):,} clips"] if dataset.clips else []
    parts += [f"{named:,} classes"] if named else []
    return " · ".join(parts) or "nothing is known of the clips"


def _numbers(dataset: Dataset) -> list[dict[str, str]]:
    """The figures on top of the page."""
    numbers = []
    if dataset.clips:
        splits = " · ".join(f"{name} {clips:,}" for name, clips, _ in split_rows(dataset.clips))
        numbers.append({"label": "clips", "value": f"{len(dataset.clips):,}", "note": splits})
    return numbers


if __name__ == "__main__":
    main()
