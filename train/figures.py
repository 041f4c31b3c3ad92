"""Pictures of one run, as PNG files in its folder.

    python -m train.figures out/toy/runs/pretrain-mofo
    python -m train.figures out/toy/runs/pretrain-mofo --beside out/toy/runs/pretrain-videomae
    python -m train.figures out/toy/runs/finetune-mofo-mean --block 5

A pretraining run gets figures/reconstructions.png: held-out clips, what of them is visible, and
what each run predicts for the rest, under the same mask; and figures/overview.png, with the motion
found in them above. One that predicts trajectories gets figures/trajectories.png, predicted tracks
beside the true ones. A finetuned run gets figures/gradcam.png: which tokens of held-out clips speak
for a class. Every run gets figures/attention.png, where the encoder looks from one patch, and its
curves; one that was evaluated on split test its confusion matrix. Seconds for the toy dataset,
minutes for ViT-B on a CPU.
"""

from __future__ import annotations

from pathlib import Path

import click

from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import ClassList, read_classes
from shared.shard_index import read_index
from train.figure_style import Chart
from train.report_dataset import class_name
from train.report_runs import Run, read_run
from train.report_sections import Dataset
from train.report_training import finetuning_section, pretraining_section

FOLDER = click.Path(path_type=Path)
NUM_TIMES = 8  # frames of a clip in a row


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@click.argument("run", type=FOLDER)
@click.option(
    "--beside",
    multiple=True,
    type=FOLDER,
    metavar="RUN",
    help="Another pretraining run to predict the same clips under the same mask.",
)
@click.option(
    "--clips", default=4, metavar="N", type=click.IntRange(min=1), help="Held-out clips to show."
)
@click.option(
    "--block",
    metavar="N",
    type=click.IntRange(min=1),
    show_default="the fifth, or the last of fewer",
    help="Encoder block of GradCAM and attention, from 1 on.",
)
@click.option(
    "--query",
    nargs=3,
    metavar="STEP ROW COLUMN",
    type=click.IntRange(min=0),
    show_default="the middle of the motion box",
    help="Token whose attention is shown; each from 0 on.",
)
@user_errors
def main(
    run: Path,
    beside: tuple[Path, ...],
    clips: int,
    block: int | None,
    query: tuple[int, int, int] | None,
) -> None:
    """Write pictures of RUN, the folder of a run, into RUN/figures/."""
    found = read_run(run)
    if found.kind not in ("pretrain", "finetune"):
        raise InputError(
            f"{run} was written by {found.kind!r}; there are pictures of pretrain, finetune"
        )
    if beside and found.option("config", "target") != "normalised_pixels":
        raise InputError(f"--beside compares reconstructions, and {run} has none")
    folder = run / "figures"
    for name, chart in charts_of(found).items():
        _write(folder / name, chart.png())
    for name, blocks in clips_of(found, beside, clips, block, query).items():
        from train.figure_rows import rows_png

        _write(folder / name, rows_png(blocks))


def layout_of(run: Path) -> DatasetLayout:
    """The dataset that OUT/<dataset>/runs/<run> belongs to."""
    root = run.resolve().parents[1]
    return DatasetLayout(root.parent, root.name)


def charts_of(run: Run) -> dict[str, Chart]:
    """Charts of a run by file name."""
    layout = layout_of(run.folder.path)
    if run.kind == "pretrain":
        section = pretraining_section(layout, run)
    else:
        section = finetuning_section(Dataset(layout, [], read_classes(layout.classes), None), run)
    charts = [chart for chart, _ in section.get("charts", [])]
    if "confusion" in section:
        charts.append(section["confusion"])
    return {chart.title.lower().replace(" ", "-") + ".png": chart for chart in charts}


def clips_of(
    run: Run,
    beside: tuple[Path, ...],
    num_clips: int,
    block: int | None,
    query: tuple[int, int, int] | None,
) -> dict[str, list[tuple[str, list]]]:
    """Rows of pictures of held-out clips (see figure_rows.py) by file name."""
    from train.figure_attention import attention_maps  # torch, for these pictures alone
    from train.figure_gradcam import class_maps
    from train.figure_overview import overview_rows
    from train.figure_reconstruction import reconstruct
    from train.figure_trajectories import tracked_clips

    layout, folder = layout_of(run.folder.path), run.folder
    classes = read_classes(layout.classes)
    figures: dict[str, list] = {}
    if run.kind == "finetune":
        maps = class_maps(layout, folder, num_clips, block)
        names = class_names(run, classes)
        figures["gradcam.png"] = [(clip, clip.rows(names, NUM_TIMES)) for clip in maps]
    elif run.option("config", "target") == "trajectories":
        tracked = tracked_clips(layout, folder, num_clips)
        figures["trajectories.png"] = [(clip, clip.rows(NUM_TIMES)) for clip in tracked]
    elif run.option("config", "target") == "normalised_pixels":
        folders = [folder, *(read_run(path).folder for path in beside)]
        rebuilt = reconstruct(layout, folders, num_clips)
        figures["reconstructions.png"] = [(clip, clip.rows(NUM_TIMES)) for clip in rebuilt]
        if read_index(layout.boxes) is not None:
            figures["overview.png"] = overview_rows(layout, folder, num_clips, NUM_TIMES)
    attention = attention_maps(layout, folder, num_clips, block, query)
    figures["attention.png"] = [(clip, clip.rows(NUM_TIMES)) for clip in attention]
    return {
        name: [
            (f"{class_name(classes, clip.label)}, clip {clip.clip_id} of split {clip.split}", rows)
            for clip, rows in found
        ]
        for name, found in figures.items()
    }


def class_names(run: Run, classes: ClassList) -> list[str]:
    """Names of the classes of a finetuned run's first kind of label."""
    kinds = run.option("classes")
    kind, count = next(iter(kinds.items()))
    named = ClassList(label=getattr(classes, kind))
    return [class_name(named, number) for number in range(count)]


def _write(path: Path, image: bytes) -> None:
    write_atomically(path, image)
    print(path)


if __name__ == "__main__":
    main()
