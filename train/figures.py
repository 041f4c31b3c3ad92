"""Pictures of one run, as PNG files in its folder.

    python -m train.figures out/toy/runs/pretrain-mofo
    python -m train.figures out/toy/runs/pretrain-mofo --beside out/toy/runs/pretrain-videomae

A pretraining run gets figures/reconstructions.png: held-out clips, what of them is visible, and
what each run predicts for the rest, under the same mask. Every run gets its curves, and one that
was evaluated on split test its confusion matrix. Seconds for the toy dataset.
"""

from __future__ import annotations

from pathlib import Path

import click

from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import read_classes
from train.figure_style import Chart
from train.report_runs import Run, read_run
from train.report_sections import Dataset
from train.report_training import finetuning_section, pretraining_section

FOLDER = click.Path(path_type=Path)


@click.command(context_settings={"show_default": True})
@click.argument("run", type=FOLDER)
@click.option(
    "--beside",
    multiple=True,
    type=FOLDER,
    metavar="RUN",
    help="Another pretraining run to predict the same clips under the same mask.",
)
@click.option(
    "--clips", default=4, metavar="N", type=click.IntRange(min=1), help="Clips to reconstruct."
)
@user_errors
def main(run: Path, beside: tuple[Path, ...], clips: int) -> None:
    """Write pictures of RUN, the folder of a run, into RUN/figures/."""
    found = read_run(run)
    if found.kind not in ("pretrain", "finetune"):
        raise InputError(
            f"{run} was written by {found.kind!r}; there are pictures of pretrain, finetune"
        )
    if beside and found.kind != "pretrain":
        raise InputError(f"--beside compares reconstructions, and {run} is no pretraining run")
    folder = run / "figures"
    for name, chart in charts_of(found).items():
        write_atomically(folder / name, chart.png())
        print(folder / name)
    if found.kind == "pretrain":
        from train.figure_reconstruction import reconstruct, reconstructions_png

        others = [read_run(path).folder for path in beside]
        clips_seen = reconstruct(layout_of(run), [found.folder, *others], clips)
        write_atomically(folder / "reconstructions.png", reconstructions_png(clips_seen))
        print(folder / "reconstructions.png")


def layout_of(run: Path) -> DatasetLayout:
    """The dataset that OUT/<dataset>/runs/<run> belongs to."""
    root = run.resolve().parents[1]
    return DatasetLayout(root.parent, root.name)


def charts_of(run: Run) -> dict[str, Chart]:
    """Charts of a run by file name."""
    layout = layout_of(run.folder.path)
    if run.kind == "pretrain":
        section = pretraining_section(run)
    else:
        section = finetuning_section(Dataset(layout, [], read_classes(layout.classes), None), run)
    charts = [chart for chart, _ in section.get("charts", [])]
    if "confusion" in section:
        charts.append(section["confusion"])
    return {chart.title.lower().replace(" ", "-") + ".png": chart for chart in charts}


if __name__ == "__main__":
    main()
