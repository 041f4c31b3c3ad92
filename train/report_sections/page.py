"""Puts the sections of a report together and writes report.html."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from shared.errors import InputError
from shared.files import write_atomically
from shared.layout import DatasetLayout
from shared.manifest import ClassList, read_classes, read_manifest
from shared.run_record import command_line, git_commit
from shared.wording import counted
from train.clips.stored_boxes import BoxTable, read_box_table, split_rows
from train.pictures.style import visible
from train.report_sections.comparison import comparison_section, runs_made
from train.report_sections.models import (
    finetuning_pictures,
    pretraining_pictures,
    snapshot_pictures,
)
from train.report_sections.runs import (
    Run,
    from_random_weights,
    mask_settings,
    newest,
    read_runs,
    without_outdated_results,
)
from train.report_sections.sections import (
    Dataset,
    dataset_section,
    percent,
    read_box_evaluation,
    samples_section,
    shards_made,
)
from train.report_sections.training import finetuning_section, predictor_level, pretraining_section

TEMPLATE = Path(__file__).parent / "template.html"
SECTIONS = {
    "clips": "Sample clips",
    "dataset": "Dataset",
    "pretraining": "Pretraining",
    "finetuning": "Finetuning",
    "runs": "All runs",
    "made": "How it was made",
}


def write_report(layout: DatasetLayout, run: str | None = None) -> None:
    """Write the page of a dataset, and print its test top-1 and its path.

    Args:
        run: see `choose_runs`.

    Raises:
        InputError: there is no run of that name, or the dataset of the named run has changed.
    """
    runs, unreadable = read_runs(layout.runs)
    runs = without_outdated_results(layout, runs, run)
    chosen = choose_runs(runs, run)
    page = build_page(layout, runs, unreadable, chosen)
    write_atomically(layout.report, render(page).encode())
    finetuned = chosen.finetuned
    if finetuned is not None and finetuned.test_top1 is not None:
        scratch = from_random_weights(finetuned, runs)
        beside = "" if scratch is None else f" (random weights {scratch.test_top1:.1f} %)"
        print(f"{finetuned.tested_split} top-1 {finetuned.test_top1:.1f} %{beside}")
    print(f"report {layout.report}")


@dataclass(frozen=True)
class ChosenRuns:
    """The runs that the page describes in detail."""

    pretrained: Run | None
    finetuned: Run | None


def choose_runs(runs: list[Run], name: str | None) -> ChosenRuns:
    """Choose a pretraining run and a finetuned run that belong together.

    Args:
        name: a finetuned run, which is shown with the pretraining run that it started from; or a
            pretraining run, which is shown with the newest run that started from it, if any. None
            chooses the newest finetuned run.

    Raises:
        InputError: there is no pretraining and no finetuned run of that name.
    """
    of_name = {run.name: run for run in runs if run.kind in ("pretrain", "finetune")}
    if name is not None and name not in of_name:
        known = ", ".join(sorted(of_name)) or "none"
        raise InputError("unknown-name", f"--run {name}: no run of that name; there are: {known}")
    named = of_name.get(name or "")
    if named is not None and named.kind == "pretrain":
        followers = [run for run in runs if run.options.get("from") == named.name]
        return ChosenRuns(named, newest(followers, "finetune"))
    finetuned = named or newest(runs, "finetune")
    source = finetuned.options.get("from") if finetuned else None
    pretrained = next((run for run in runs if run.name == source), newest(runs, "pretrain"))
    return ChosenRuns(pretrained, finetuned)


def build_page(
    layout: DatasetLayout, runs: list[Run], unreadable: list[str], chosen: ChosenRuns
) -> dict[str, Any]:
    """Return all values that the template shows."""
    unavailable: list[str] = []
    clips = _or_say(unavailable, [], read_manifest, layout.manifest)
    classes = _or_say(unavailable, ClassList(), read_classes, layout.classes)
    boxes: BoxTable | None = _or_say(unavailable, None, read_box_table, layout)
    dataset = Dataset(layout, clips, classes, boxes)
    mask = mask_settings(chosen.pretrained)
    pretraining = pretraining_section(layout, chosen.pretrained)
    predicted = pretraining_pictures(dataset, chosen.pretrained, runs)
    pretraining["missing"] += predicted.pop("missing")
    predicted |= snapshot_pictures(chosen.pretrained)
    finetuning = finetuning_section(dataset, chosen.finetuned)
    explained = finetuning_pictures(dataset, chosen.finetuned)
    finetuning["missing"] += explained.pop("missing")
    return {
        "dataset": layout.dataset,
        "lead": _lead(dataset),
        "numbers": _numbers(dataset, chosen, runs),
        "unavailable": unavailable,
        "sections": list(SECTIONS.items()),
        "samples": samples_section(dataset, mask),
        "data": dataset_section(dataset, mask),
        "pretraining": pretraining | predicted,
        "finetuning": finetuning | explained,
        "comparison": comparison_section(runs, unreadable),
        "made": {"runs": runs_made(runs), **shards_made(layout)},
        "command": command_line(),
        "commit": git_commit(),
    }


def render(page: dict[str, Any]) -> str:
    """Render the page as HTML. Every value is escaped, except the markup of charts."""
    environment = jinja2.Environment(
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(page)


def _or_say(unavailable: list[str], otherwise: Any, read: Any, what: Any) -> Any:
    """Return the result of `read`; if it fails, `otherwise`, and add the reason to the list."""
    try:
        return read(what)
    except InputError as error:
        unavailable.append(str(error))
        return otherwise


def _small(percentage: float) -> str:
    """A percentage as 12.5, 0.6 or 0.003; chance is that small for pairs of verbs and nouns."""
    return f"{percentage:.1f}" if percentage >= 0.1 else f"{percentage:.1g}"


def _lead(dataset: Dataset) -> str:
    named = len(dataset.classes.label)
    parts = [f"{len(dataset.clips):,} clips"] if dataset.clips else []
    parts += [f"{named:,} classes"] if named else []
    return " · ".join(parts) or "The manifest has no clips."


def _numbers(dataset: Dataset, chosen: ChosenRuns, runs: list[Run]) -> list[dict[str, str]]:
    """The numbers at the top of the page."""
    numbers = []
    finetuned, pretrained, table = chosen.finetuned, chosen.pretrained, dataset.boxes
    if finetuned is not None and finetuned.test_top1 is not None:
        notes = [] if finetuned.chance is None else [f"chance {_small(finetuned.chance)} %"]
        kinds = list(finetuned.num_classes)
        notes += [f"{' and '.join(kinds)} both right"] if len(kinds) > 1 else []
        scratch = from_random_weights(finetuned, runs)
        notes += [] if scratch is None else [f"random weights {scratch.test_top1:.1f} %"]
        notes += [] if finetuned.folder.is_finished else ["not finished"]
        notes += [counted((finetuned.metrics or {}).get("clips", 0), "clip"), finetuned.name]
        numbers.append((f"{finetuned.tested_split} top-1", f"{finetuned.test_top1:.1f} %", notes))
    if pretrained is not None and pretrained.last("loss") is not None:
        level = predictor_level([pretrained])
        notes = [] if level is None else [f"{level[1]} {level[0]:.3f}"]
        notes.append(pretrained.name)
        notes += [] if pretrained.folder.is_finished else ["not finished"]
        numbers.append(("pretraining loss", f"{pretrained.last('loss'):.3f}", notes))
    evaluation = read_box_evaluation(dataset.layout)
    if evaluation is not None:
        others = [("full frame", "iou_full_frame"), ("centred half", "iou_centre_half")]
        notes = [f"{name} {evaluation[key]:.3f}" for name, key in others if key in evaluation]
        numbers.append(("IoU of the boxes", f"{evaluation['iou']:.3f}", notes))
    if dataset.clips:
        notes = [f"{name} {clips:,}" for name, clips, _ in split_rows(dataset.clips)]
        numbers.append(("clips", f"{len(dataset.clips):,}", notes))
    if table is not None:
        moving = len(table.clip_id) - table.num_without_motion
        notes = [f"{moving:,} of {len(table.clip_id):,}"]
        numbers.append(("clips with motion", percent(moving / len(table.clip_id)), notes))
    return [
        {"label": label, "value": value, "note": " \u00b7 ".join(notes)}
        for label, value, notes in numbers
    ]
