"""Writes the results of benchmarks/real_video.py: a JSON file, tables in Markdown, and a picture.

The JSON file has one entry for each row with its interval, and the difference of each row to random
weights and to VideoMAE. Cells that were asked for and are not finished are listed as missing.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.paired_bootstrap import LEVEL, RESAMPLES, Accuracies, Estimate
from benchmarks.real_video_cells import ALL, MEASURES, METHODS
from benchmarks.real_video_scores import Results, Row
from benchmarks.record import machine
from shared.files import write_atomically
from shared.run_record import versions
from train.pictures.charts import Curve, curves_chart

RESULTS = Path(__file__).parent / "results" / "real_video.json"
SHIFT = 0.008  # of the axis, between the curves of two methods
BASELINES = ("random", "videomae")
TITLES = {
    "probe": "Linear probe on means of frozen features",
    "fisher": "Linear probe on Fisher vectors of frozen features",
    "predictions": "Linear probe on Fisher vectors of what the frozen model predicts",
    "finetune": "Finetuning",
}


def write_results(
    results: Results, missing: list[dict[str, Any]], setting: dict[str, Any], path: Path = RESULTS
) -> None:
    """Write the JSON file, and the tables and the picture of the same name beside it.

    Args:
        missing: fold, method, seed, labels and measure of cells that are not finished.
        setting: what the figures were made with: compute, folds, seeds, clips, command.
    """
    content = {
        **setting,
        "machine": machine(),
        "versions": versions(),
        "interval": {"level": LEVEL, "resamples": RESAMPLES, "of": "source videos"},
        "rows": [_row(results, row) for row in sorted(results.rows(), key=_order)],
        "missing": missing,
    }
    write_atomically(path, json.dumps(content, indent=1).encode() + b"\n")
    write_atomically(path.with_suffix(".md"), tables(content, path.name).encode())
    for measure in sorted({row["measure"] for row in content["rows"]}):
        png = path.with_name(f"{path.stem}-{measure}.png")
        write_atomically(png, efficiency_curves(content, measure))


def tables(content: dict[str, Any], name: str) -> str:
    """The content of the results file as Markdown, which links to the file `name`."""
    folds, seeds = (", ".join(map(str, content[name])) for name in ("folds", "seeds"))
    lines = [
        "# Pretraining on real clips",
        "",
        f"`{content['command']}`",
        "",
        f"JHMDB-21, folds {folds} by source video, seeds {seeds}; chance is 4.8 %. In brackets:",
        f"the {LEVEL:.0%} interval over source videos; differences are paired. All figures: "
        f"[{name}]({name}).",
    ]
    if content["pretrainings"]:
        lines += ["", *_costs(content)]
    for measure in MEASURES:
        rows = [row for row in content["rows"] if row["measure"] == measure]
        if rows:
            lines += ["", f"## {TITLES[measure]}", "", *_table(rows)]
    if content["missing"]:
        lines += ["", f"Not run yet: {len(content['missing'])} cells, listed in {name}."]
    return "\n".join(lines) + "\n"


def _costs(content: dict[str, Any]) -> list[str]:
    """What a pretraining of each method takes."""
    lines = [
        f"| pretraining ({content['machine']['processor']}) | epochs | clips seen | "
        "TFLOP | threads | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for key, cost in content["pretrainings"].items():
        lines.append(
            f"| {METHODS[key].name} | {cost['epochs']:g} | {cost['clips_seen']:,.0f} | "
            f"{cost['teraflops']:.2f} | {cost['threads']:g} | {60 * cost['hours']:.1f} |"
        )
    return lines


def efficiency_curves(content: dict[str, Any], measure: str) -> bytes:
    """A PNG with top-1 over labelled clips, one curve with intervals for each method."""
    chosen = [row for row in content["rows"] if row["measure"] == measure]
    keys = [key for key in METHODS if any(row["method"] == key for row in chosen)]
    widest = max((row["labelled_clips"] for row in chosen), default=0.0)
    curves = []
    for place, key in enumerate(keys):
        aside = (place - (len(keys) - 1) / 2) * SHIFT * widest  # so that bars stand side by side
        points = sorted(
            (
                row["labelled_clips"] + aside,
                *(row["top1"][name] for name in ("value", "low", "high")),
            )
            for row in chosen
            if row["method"] == key
        )
        x, y, low, high = zip(*points, strict=True)
        curves.append(Curve(METHODS[key].name, x, y, list(zip(low, high, strict=True))))
    chart = curves_chart(
        TITLES[measure], curves, "labelled clips", "test top-1, %", from_zero=True, width=5.0
    )
    return chart.file()


def _row(results: Results, row: Row) -> dict[str, Any]:
    key, labels, measure = row
    cells = results.cells_of(row)
    entry: dict[str, Any] = {
        "method": key,
        "labels_per_class": labels or "all",
        "measure": measure,
        "folds": sorted({fold for fold, _, _ in cells}),
        "seeds": sorted({seed for _, seed, _ in cells}),
        "draws": len({draw for _, _, draw in cells}),
        "labelled_clips": results.labelled_clips(row),
        **_rounded(results.accuracies(row)),
    }
    for baseline in BASELINES:
        if baseline != key and key != "random":
            difference = results.difference(row, (baseline, labels, measure))
            if difference is not None:
                entry[f"minus_{baseline}"] = _rounded(difference)
    return entry


def _table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| labels a class | method | folds x seeds x draws | top-1 | mean class | "
        "minus random weights | minus VideoMAE |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            str(row["labels_per_class"]),
            METHODS[row["method"]].name,
            f"{len(row['folds'])} x {len(row['seeds'])} x {row['draws']}",
            _text(row["top1"]),
            f"{row['mean_class']['value']:.1f}",
            *(
                _text(row[f"minus_{baseline}"]["top1"], "+") if f"minus_{baseline}" in row else ""
                for baseline in BASELINES
            ),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _rounded(accuracies: Accuracies) -> dict[str, dict[str, float]]:
    return {
        name: {key: round(value, 2) for key, value in estimate.items()}
        for name, estimate in asdict(accuracies).items()
    }


def _text(estimate: dict[str, float], sign: str = "") -> str:
    """`+8.3 [4.1, 12.4]`."""
    numbers = Estimate(**estimate)
    return f"{numbers.value:{sign}.1f} [{numbers.low:.1f}, {numbers.high:.1f}]"


def _order(row: Row) -> tuple[str, int, int]:
    key, labels, measure = row
    return measure, labels if labels != ALL else 10**9, list(METHODS).index(key)
