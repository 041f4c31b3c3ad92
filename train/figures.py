"""Draws pictures of one run as files in its folder, and writes the report of its dataset.

    python -m train.figures out/toy/runs/pretrain-mofo
    python -m train.figures out/toy/runs/pretrain-mofo --beside out/toy/runs/pretrain-videomae
    python -m train.figures out/toy/runs/finetune-mofo-mean --block 5
    python -m train.figures out/toy/runs/finetune-mofo-mca --wrong-in out/toy/runs/OTHER
    python -m train.figures out/toy/runs/finetune-mofo-mean --clip toy00017 --format pdf

A pretraining run that predicts pixels gets figures/reconstructions.png: held-out clips, their
visible patches, and what each run predicts for the masked patches under the same mask. It also gets
figures/overview.png, which adds the motion box and the motion map. A run that predicts trajectories
gets figures/trajectories.png: predicted tracks beside the true ones. A finetuned run gets
figures/gradcam.png: the tokens of held-out clips that support a class, and the confusion matrix if
it was tested; with --wrong-in also figures/gained.png: clips that this run gets right and the other
run wrong, with the GradCAM of both. Every run gets figures/attention.png, the attention of the
encoder from one token, and its curves. Runs with verbs and nouns have one picture for each
(confusion-matrix-of-verbs.png). With --format, files are SVG or PDF. The command takes seconds for
the toy dataset, and minutes for a ViT-B on a CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from shared.errors import InputError, user_errors
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import PLURAL, ClassList, read_classes
from shared.shard_index import read_index
from shared.wording import counted
from train.options.config import LAYERS
from train.pictures.style import FILE_KINDS, Chart
from train.report_sections.page import write_report
from train.report_sections.runs import Run, read_run, without_outdated_results
from train.report_sections.sections import Dataset
from train.report_sections.training import finetuning_section, pretraining_section
from train.running.run_folder import RunFolder

FOLDER = click.Path(path_type=Path)
NUM_TIMES = 8  # frames of a clip in a row


@click.command(context_settings={"show_default": True, "max_content_width": 100})
@click.argument("run", type=FOLDER)
@click.option(
    "--beside",
    multiple=True,
    type=FOLDER,
    metavar="RUN",
    help="Folder of another pretraining run, which predicts the same clips under the same mask. "
    "May be repeated.",
)
@click.option(
    "--clips",
    metavar="N",
    type=click.IntRange(min=1),
    show_default="4",
    help="Number of held-out clips that are drawn. They are spread over the classes.",
)
@click.option(
    "--clip",
    "clip_ids",
    multiple=True,
    metavar="ID",
    help="Draw this clip of the held-out split instead, named by its clip_id. May be repeated.",
)
@click.option(
    "--block",
    metavar="N",
    type=click.IntRange(min=1),
    show_default="the fifth, or the last if there are fewer",
    help="Number of the encoder block whose GradCAM and attention are drawn, counted from 1.",
)
@click.option(
    "--query",
    nargs=3,
    metavar="STEP ROW COLUMN",
    type=click.IntRange(min=0),
    show_default="the middle of the motion box",
    help="Token whose attention is drawn: time step, row and column, each counted from 0.",
)
@click.option(
    "--layer",
    type=click.Choice(LAYERS),
    default=LAYERS[0],
    help="Where in the block GradCAM takes the tokens: at its end (output), or after its first "
    "norm, as MOFO's public code does (norm1).",
)
@click.option(
    "--wrong-in",
    type=FOLDER,
    metavar="RUN",
    help="Folder of another finetuned run. Draw clips that RUN gets right and this one gets wrong.",
)
@click.option(
    "--format",
    "suffix",
    default="png",
    type=click.Choice(FILE_KINDS),
    help="Kind of file in which pictures are written.",
)
@click.option("--report/--no-report", default=True, help="Also write the report of the dataset.")
@user_errors
def main(
    run: Path,
    beside: tuple[Path, ...],
    clips: int | None,
    clip_ids: tuple[str, ...],
    block: int | None,
    query: tuple[int, int, int] | None,
    layer: str,
    wrong_in: Path | None,
    suffix: str,
    report: bool,
) -> None:
    """Draw pictures of the run in the folder RUN into RUN/figures/, and write the report."""
    found = read_run(run)
    if found.kind not in ("pretrain", "finetune"):
        raise InputError(
            "other-kind",
            f"{run} was written by {found.kind!r}; only pretrain and finetune runs have pictures",
        )
    if beside and found.option("config", "target") != "normalised_pixels":
        raise InputError(
            "option-unused",
            f"--beside compares reconstructions, and {run} has none; leave it out",
        )
    given = [
        name for name, value in (("--layer", layer != LAYERS[0]), ("--wrong-in", wrong_in)) if value
    ]
    if given and found.kind != "finetune":
        raise InputError(
            "option-unused",
            f"{' and '.join(given)}: only finetuned runs have GradCAM, and {run} is a pretraining; "
            "leave it out",
        )
    if clips is not None and clip_ids:
        raise InputError(
            "option-conflict",
            "--clips is the number of clips that are chosen for you, and --clip names them; give "
            "one of the two",
        )
    [found] = without_outdated_results(layout_of(run), [found], found.name)
    if clip_ids:
        _check_clips(found, clip_ids)
    folder = run / "figures"
    for name, chart in charts_of(found).items():
        _write(folder / f"{name}.{suffix}", chart.file(suffix))
    drawn = clips_of(found, beside, clip_ids or clips or 4, block, query, layer, wrong_in)
    for name, blocks in drawn.items():
        from train.pictures.rows import rows_file

        _write(folder / f"{name}.{suffix}", rows_file(blocks, suffix))
    if report:
        write_report(layout_of(run), found.name)


def layout_of(run: Path) -> DatasetLayout:
    """The dataset that the run OUT/<dataset>/runs/<run> belongs to."""
    root = run.resolve().parents[1]
    return DatasetLayout(root.parent, root.name)


def charts_of(run: Run) -> dict[str, Chart]:
    """The charts of a run by file name without suffix."""
    layout = layout_of(run.folder.path)
    if run.kind == "pretrain":
        section = pretraining_section(layout, run)
    else:
        section = finetuning_section(Dataset(layout, [], read_classes(layout.classes), None), run)
    charts = [chart for chart, _ in section.get("charts", [])]
    for confusion in section.get("confusions", []):
        charts += [confusion["chart"], *(chart for chart, _ in confusion["more_charts"])]
    return {chart.title.lower().replace(" ", "-"): chart for chart in charts}


def _check_clips(run: Run, clip_ids: tuple[str, ...]) -> None:
    """Refuse clips that the held-out split of the run does not have."""
    from train.pictures.inputs import read_held_out

    table, split = read_held_out(layout_of(run.folder.path), preferred=run.tested_split)
    known = [clip_id.decode() for clip_id in table.ids]
    unknown = [clip_id for clip_id in clip_ids if clip_id not in known]
    if unknown:
        raise InputError(
            "no-match",
            f"split {split}, whose clips are drawn, has no clip {', '.join(unknown)}; its "
            f"{counted(len(known), 'clip')} include {', '.join(known[:3])}",
        )


def clips_of(
    run: Run,
    beside: tuple[Path, ...],
    shown: int | tuple[str, ...],
    block: int | None,
    query: tuple[int, int, int] | None,
    layer: str = LAYERS[0],
    wrong_in: Path | None = None,
) -> dict[str, list[tuple[str, list]]]:
    """Rows of pictures of held-out clips (see pictures/rows.py) by file name without suffix.

    Args:
        shown: number or ids of clips, as for `chosen_clips`.
    """
    from train.pictures.attention import attention_maps  # only these pictures need torch
    from train.pictures.overview import overview_rows
    from train.pictures.reconstruction import reconstruct

    layout, folder = layout_of(run.folder.path), run.folder
    classes = read_classes(layout.classes)

    def titled(clip: Any, rows: list | None = None, kind: str = "label") -> tuple[str, list]:
        name = classes.class_name(clip.label, kind)
        title = f"{name}, clip {clip.clip_id} of split {clip.split}"
        return title, clip.rows(NUM_TIMES) if rows is None else rows

    figures: dict[str, list[tuple[str, list]]] = {}
    if run.kind == "finetune":
        figures |= _gradcam(run, layout, classes, shown, block, layer, titled)
        if wrong_in is not None:
            num_clips = shown if isinstance(shown, int) else len(shown)
            figures |= _gained(run, layout, classes, wrong_in, num_clips, block, layer)
    elif run.picture == "tracks":
        figures |= _trajectories(folder, layout, shown, titled)
    elif run.picture == "pixels":
        folders = [folder, *(read_run(path).folder for path in beside)]
        rebuilt = reconstruct(layout, folders, shown)
        figures["reconstructions"] = [titled(clip) for clip in rebuilt]
        if read_index(layout.boxes) is not None:
            overview = overview_rows(layout, folder, shown, NUM_TIMES)
            figures["overview"] = [titled(clip, rows) for clip, rows in overview]
    attention = attention_maps(layout, folder, shown, block, query)
    figures["attention"] = [titled(clip) for clip in attention]
    return figures


def _gradcam(
    run: Run,
    layout: DatasetLayout,
    classes: ClassList,
    shown: int | tuple[str, ...],
    block: int | None,
    layer: str,
    titled: Callable[..., tuple[str, list]],
) -> dict[str, list[tuple[str, list]]]:
    """One figure for each kind of label that the run learned."""
    from train.pictures.gradcam import class_maps

    figures = {}
    for kind, count in run.num_classes.items():
        names = classes.class_names(kind, count)
        found = class_maps(layout, run.folder, shown, block, kind, layer)
        name = "gradcam" if kind == "label" else f"gradcam-of-{PLURAL[kind]}"
        figures[name] = [titled(clip, clip.rows(names, NUM_TIMES), kind) for clip in found]
    return figures


def _gained(
    run: Run,
    layout: DatasetLayout,
    classes: ClassList,
    other: Path,
    num_clips: int,
    block: int | None,
    layer: str,
) -> dict[str, list[tuple[str, list]]]:
    """One figure for each kind of label that the run learned."""
    from train.pictures.gained import gained_rows

    theirs = read_run(other).folder
    figures = {}
    for kind, count in run.num_classes.items():
        names = classes.class_names(kind, count)
        name = "gained" if kind == "label" else f"gained-of-{PLURAL[kind]}"
        figures[name] = gained_rows(
            layout, run.folder, theirs, names, num_clips, NUM_TIMES, block, layer, kind
        )
    return figures


def _trajectories(
    folder: RunFolder,
    layout: DatasetLayout,
    shown: int | tuple[str, ...],
    titled: Callable[..., tuple[str, list]],
) -> dict[str, list[tuple[str, list]]]:
    """A figure of tracks; nothing, and a line that says so, if the run predicts something else."""
    from train.pictures.inputs import read_pretraining
    from train.pictures.trajectories import predicts_displacements, tracked_clips

    if not predicts_displacements(read_pretraining(folder)):
        print(
            f"{folder.path} predicts no displacements, so no trajectories are drawn",
            file=sys.stderr,
        )
        return {}
    found = tracked_clips(layout, folder, shown)
    return {"trajectories": [titled(clip) for clip in found]}


def _write(path: Path, image: bytes) -> None:
    write_atomically(path, image)
    print(path)


if __name__ == "__main__":
    main()
