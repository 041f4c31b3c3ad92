"""The picture of the main job's finetunings."""

import json
from pathlib import Path

from click.testing import CliRunner
from errors import refused
from run_fixtures import write_finetune_run
from shard_fixtures import write_moving_squares

from benchmarks import toy_curves
from shared.layout import DatasetLayout


def draw(layout: DatasetLayout, picture: Path):
    options = ["--dataset", layout.dataset, "--out", str(layout.out), "--run", "main", str(picture)]
    return CliRunner().invoke(toy_curves.main, options)


def test_both_finetunings_are_drawn(tmp_path):
    layout, picture = write_moving_squares(tmp_path), tmp_path / "pictures" / "curves.png"
    runs = {"main": {"from": "pretrain-mofo"}, "scratch": {"from": "none"}}
    for name, options in runs.items():
        folder = write_finetune_run(layout, name, weights=False)
        record = json.loads(folder.options.read_text())
        record["options"] |= options
        folder.options.write_text(json.dumps(record))
        if name == "main":
            refused(draw(layout, picture), "not-finished", layout.runs, "main")
    done = draw(layout, picture)
    assert done.exit_code == 0, done.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    lines = (layout.runs / "main" / "log.jsonl").read_text().splitlines()
    last = [json.loads(line)["top1"] for line in lines if '"validate"' in line][-1]
    assert f"pretrained on motion {last:.1f} %, random weights {last:.1f} %" in done.stdout
