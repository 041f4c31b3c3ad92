"""Published tables: every command resolves, figures have sources, runs fill the cells."""

import json
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from shard_fixtures import write_moving_squares
from track_fixtures import add_tracks

from benchmarks import paper, plan
from benchmarks.paper_tables import mofo
from benchmarks.paper_tables.costs import GPUS, hours
from benchmarks.paper_tables.resolve import resolve, whole_command
from benchmarks.paper_tables.rows import PaperTable
from benchmarks.paper_tables.steps import FULL, Evaluation, Finetuning, Pretraining, Scale
from shared.layout import DatasetLayout
from train.network.model_config import named_config
from train.running.throughput import pretraining_flops

ROOT = Path(__file__).resolve().parents[1]
TOY = Scale(
    "toy",
    ("--epochs", "1", "--batch-size", "8", "--device", "cpu", "--dry-run"),
    ("--epochs", "1", "--batch-size", "8", "--device", "cpu", "--dry-run", "--set", "flips=[]"),
)


def show(*arguments: str) -> str:
    done = CliRunner().invoke(paper.main, [*arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    """OUT with the moving squares in place of the toy dataset, with tracks and other motion."""
    out = tmp_path_factory.mktemp("out")
    layout = write_moving_squares(out, num_clips=20)
    add_tracks(layout)
    toy = DatasetLayout(out, "toy")
    shutil.move(layout.root, toy.root)
    for name in ("motion-vectors-length", "tvl1-length"):
        shutil.copytree(toy.flows, toy.flows_of(name))
    return out


def test_all_tables_are_listed():
    listed = show()
    names = [f"{p}-{n}" for p, most in (("mofo", 4), ("mgm", 4), ("mme", 7))
             for n in range(1, most + 1)]  # fmt: skip
    assert [line.split()[0] for line in listed.splitlines()] == names


@pytest.mark.parametrize("table", paper.TABLES)
@pytest.mark.parametrize("size", [(), ("--toy",)], ids=["full", "toy"])
def test_every_command_of_a_table_resolves(table, size):
    said = show(table, "--dry-run", *size)
    assert said == f"{table}: {len(paper.TABLES[table].steps())} commands resolve\n"


def test_a_command_that_does_not_resolve_is_named():
    start = Pretraining("ssv2", "mofo", {"mask.inside_share": 0.5})
    with pytest.raises(Exception, match="inside_share"):
        resolve(start, Path("out"), FULL)
    with pytest.raises(Exception, match="no-such"):
        resolve(Evaluation(Finetuning("ssv2", start), views=("no-such", 3)), Path("out"), FULL)


@pytest.mark.slow
@pytest.mark.parametrize("paper_name", ["mofo", "mgm", "mme"])
def test_trainings_of_the_tables_pass_the_dry_run_of_their_commands(squares, paper_name):
    """The real commands on real shards: everything up to the first step of training."""
    tables = [table for name, table in paper.TABLES.items() if name.startswith(paper_name)]
    commands = set()
    for step in (step for table in tables for step in table.steps()):
        if isinstance(step, Finetuning):
            step = replace(step, start=None)  # its weights are those of a run that does not exist
        if isinstance(step, Pretraining | Finetuning):
            commands.add((step.module, tuple(whole_command(step, squares, TOY)[2:])))
    assert len(commands) > 5
    for module, arguments in sorted(commands):
        main = __import__(module, fromlist=["main"]).main
        done = CliRunner().invoke(main, list(arguments))
        assert done.exit_code == 0, (arguments, done.output)


def test_make_lines_are_the_commands(tmp_path):
    """`make` turns each kind of line into the command that a toy run starts."""
    (tmp_path / "k400" / "boxes").mkdir(parents=True)
    (tmp_path / "k400" / "boxes" / "dataset.json").touch()
    start = Pretraining("k400", "mgm", {"mask.pattern": "sparse"}, {"epochs": 1600}, "1600")
    tuned = Finetuning("k400", start, "mca", {"head.depth": 2}, {"crop.area": [0.25, 1.0]})
    for step in (start, tuned, Evaluation(tuned, (7, 3))):
        make = [*shlex.split(step.line(tmp_path, FULL)), "-n", "--no-print-directory"]
        said = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        [line] = [line for line in said.splitlines() if f"-m {step.module}" in line]
        run = line.partition(f"-m {step.module}")[2].partition(" || ")[0]
        for variable, value in {
            '"$DATASET"': "k400",
            '"$OUT"': str(tmp_path),
            '"$METHOD"': "mgm",
            '${HEAD:+--head "$HEAD"}': "--head mca" if step is tuned else "",
        }.items():
            run = run.replace(variable, value)
        assert sorted(shlex.split(run)) == sorted(whole_command(step, tmp_path, FULL)[2:])


def test_figures_stand_beside_those_of_runs_that_exist(tmp_path):
    row = mofo.MAIN.rows[3]
    for column, figures in (
        ("SSv2", {"top1": 71.04}),
        ("EPIC verb", {"verb_top1": 60.0, "top1": 40.0}),
    ):
        path = row.cells[column].result.metrics(tmp_path, FULL)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(figures))
    said = show("mofo-2", "--out", str(tmp_path))
    assert "| MOFO-dagger (both) | 75.5 / 71.0 | 74.2 / 60.0 | 68.1 / - | 54.5 / 40.0 |" in said
    assert "| MOFO* (MOFO's pretraining) | 72.7 / - |" in said
    assert f"source: {mofo.README}" in said
    assert f"make pretrain DATASET=ssv2 OUT={tmp_path} METHOD=mofo" in said


def test_a_figure_without_a_source_is_left_empty():
    said = show("mofo-1")
    assert "| 3 heads, depth 1 | - / - |" in said and "source:" not in said
    for table in paper.TABLES.values():
        for cell in table.cells:
            assert cell.published is None or (0 < cell.published.percent < 100)
            assert cell.published is None or cell.published.source


def test_hours_agree_with_the_plan():
    start = Pretraining("ssv2", "videomae")
    rate = 0.4 * 989e12
    clip = pretraining_flops(named_config("vit-b"), plan.NUM_MASKED)
    expected = plan.TRAIN * plan.PRETRAIN_EPOCHS * clip / rate / 3600
    assert hours([start], rate) == pytest.approx([expected / gpus for gpus in GPUS])


def test_rows_of_one_table_share_runs_and_no_two_runs_share_a_name():
    for name, table in paper.TABLES.items():
        steps = [s for s in table.steps() if isinstance(s, Pretraining | Finetuning)]
        runs = [(step.dataset, step.run(FULL)) for step in steps]
        assert len(set(runs)) == len(runs), name
    pretrainings = [s for s in mofo.MAIN.steps() if isinstance(s, Pretraining)]
    assert len(pretrainings) == 4  # two methods on two datasets


@pytest.mark.slow
def test_a_table_runs_at_toy_size_and_continues(tmp_path, monkeypatch):
    table = PaperTable("two rows", mofo.MAIN.rows[2:])
    monkeypatch.setitem(paper.TABLES, "mofo-2", table)
    arguments = ["mofo-2", "--toy", "--out", str(tmp_path), "--clips", "80",
                 "--pretrain-epochs", "1", "--finetune-epochs", "1"]  # fmt: skip
    first = show(*arguments)
    assert first.count(" / -") == 0
    assert show(*arguments).partition("mofo-2:")[2] == first.partition("mofo-2:")[2]
