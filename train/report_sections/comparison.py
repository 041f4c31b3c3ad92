"""The sections of the report about all runs: a comparison, and how each run was made."""

from __future__ import annotations

import json

from shared.wording import counted
from train.objectives.target import LossWords
from train.pictures.charts import curves_chart
from train.report_sections.runs import Run
from train.report_sections.training import predictor_level
from train.tables.nested import flatten

MOST_CURVES = 8
NOTHING = "\u2013"


def comparison_section(runs: list[Run], unreadable: list[str]) -> dict:
    """A table of all runs, and the curves of runs of one kind in one chart."""
    missing = list(unreadable)
    if not runs:
        missing.append("There are no runs yet.")
        return {"missing": missing}
    columns = [
        ("run", False),
        ("state", False),
        ("started from", False),
        ("mask or head", False),
        ("epochs", True),
        ("minutes", True),
        ("last loss", True),
        ("best val top-1", True),
        ("test top-1", True),
    ]
    in_order = sorted(runs, key=lambda run: run.kind, reverse=True)  # pretraining first
    tested = [run for run in runs if run.kind == "finetune"]
    charts = [
        *_loss_charts([run for run in runs if run.kind == "pretrain"]),
        *_curves_of("Validation top-1", tested, "top1", "validate", "val top-1, %"),
    ]
    return {
        "differences": [
            (kind, *option_differences([run for run in runs if run.kind == kind]))
            for kind in ("pretrain", "finetune")
            if sum(run.kind == kind for run in runs) > 1
        ],
        "columns": columns,
        "rows": [_comparison_row(run) for run in in_order],
        "charts": charts,
        "missing": missing,
    }


def _loss_charts(runs: list[Run]) -> list[tuple]:
    """Pretraining losses, one chart for each target: losses of different targets do not compare."""
    by_target: dict[LossWords, list[Run]] = {}
    for run in runs:
        by_target.setdefault(run.loss_words, []).append(run)
    charts = []
    for words, of_target in by_target.items():
        title = "Pretraining loss" + (f" ({words.target})" if len(by_target) > 1 else "")
        charts += _curves_of(title, of_target, "loss", "train", "loss", predictor_level(of_target))
    return charts


def _curves_of(
    title: str,
    runs: list[Run],
    key: str,
    event: str,
    y_label: str,
    reference: tuple[float, str] | None = None,
) -> list[tuple]:
    """A chart with its caption, or nothing if fewer than two runs have a curve."""
    curves = [curve for curve in (run.curve(key, event) for run in runs) if curve.is_line]
    if len(curves) < 2:
        return []
    text = f"{title} of {counted(len(curves), 'run')}"
    if len(curves) > MOST_CURVES:
        text += f"; only the first {MOST_CURVES} by name are shown"
    shown = curves[:MOST_CURVES]
    return [(curves_chart(title, shown, "epoch", y_label, reference), text + ".")]


def option_differences(runs: list[Run]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Names of at most MOST_CURVES runs, and their values of the options that differ.

    An option that a run does not have is a dash.
    """
    runs = runs[:MOST_CURVES]
    flat = [flatten(run.options) for run in runs]
    keys = dict.fromkeys(key for options in flat for key in options)
    rows = []
    for key in keys:
        values = [_plain(options[key]) if key in options else NOTHING for options in flat]
        if len(set(values)) > 1:
            rows.append((key.removeprefix("config."), values))
    return [run.name for run in runs], rows


def runs_made(runs: list[Run]) -> list[dict]:
    """The command, commit, versions and options of each run."""
    made = []
    for run in runs:
        versions = run.record.get("versions") or {}
        named = ", ".join(f"{name} {version}" for name, version in versions.items())
        note = [f"commit {run.record.get('git_commit') or 'unknown'}", named]
        if run.options.get("data"):
            note.append(f"data {run.options['data']}")
        made.append(
            {
                "name": run.name,
                "command": str(run.record.get("command", "unknown")),
                "note": "; ".join(part for part in note if part),
                "options": json.dumps(run.options, indent=1, ensure_ascii=False),
            }
        )
    return made


def _comparison_row(run: Run) -> list[str]:
    source = run.options.get("from") or run.options.get("init") or "none"
    mask, head = run.option("config", "mask"), run.option("config", "head", "kind")
    what = str(head or "")
    if isinstance(mask, dict):
        ratios = [f"{mask[name]:g}" for name in ("mask_ratio", "inside_ratio") if name in mask]
        what = f"{mask.get('kind')} {' / '.join(ratios)}"
    return [
        run.name,
        _state(run),
        "random weights" if source == "none" else str(source),
        what,
        _figure(run.last("epoch"), "{:g}"),
        _figure(run.minutes, "{:.1f}"),
        _figure(run.last("loss"), "{:.3f}"),
        _figure(run.best("top1", "validate"), "{:.1f} %"),
        _figure(run.test_top1, "{:.1f} %"),
    ]


def _state(run: Run) -> str:
    if run.outdated:
        return "of another manifest"
    return "finished" if run.folder.is_finished else "not finished"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _figure(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)
