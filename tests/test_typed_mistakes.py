"""A typed mistake is reported before torch is imported, which takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from run_fixtures import write_finetune_run
from shard_fixtures import write_moving_squares
from training_fixtures import TINY_RECIPE

ROOT = Path(__file__).resolve().parents[1]
RUN = """
import runpy, sys
sys.argv = ["-m", *{arguments!r}]
try:
    runpy.run_module({module!r}, run_name="__main__")
except SystemExit as ended:
    slow = [name for name in ("torch", "timm", "deepspeed", "sklearn") if name in sys.modules]
    print("exit", ended.code, *slow)
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    layout = write_moving_squares(out, num_clips=10)
    write_finetune_run(layout, weights=False, evaluated=False)
    options = layout.runs / "finetune-mofo-mean" / "options.json"
    record = json.loads(options.read_text())
    record["options"] |= {"evaluate": {}, "loader": {"workers": 0}}
    options.write_text(json.dumps(record))
    (out / "tiny.toml").write_text(TINY_RECIPE)
    return out


@pytest.mark.parametrize(
    ("module", "arguments", "named"),
    [
        ("train.pretrain", "--method nope", "nope"),
        ("train.pretrain", "--dataset nowhere", "nowhere"),
        ("train.pretrain", "--set optim.weight_decy=0.1", "weight_decy"),
        ("train.pretrain", "--set mask.kind=nope", "nope"),
        ("train.pretrain", "--set target=nope", "nope"),
        ("train.pretrain", "--init nowhere.pth", "nowhere.pth"),
        ("train.finetune", "--head nope", "nope"),
        ("train.finetune", "--dataset nowhere --from none", "nowhere"),
        ("train.finetune", "--from nope", "nope"),
        ("train.finetune", "--from none --set head.dept=2 --head mca", "dept"),
        ("train.finetune", "--from none --set early_stop_epochs=x", "early_stop_epochs"),
        ("train.evaluate", "--run nope", "nope"),
        ("train.evaluate", "--dataset nowhere", "nowhere"),
        ("train.evaluate", "--run finetune-mofo-mean --on nowhere", "nowhere"),
        ("train.probe", "--pool nope", "nope"),
        ("train.probe", "--dataset nowhere", "nowhere"),
        ("train.probe", "--from nope", "nope"),
    ],
)
def test_torch_is_not_imported(out, module, arguments, named):
    own = arguments.split()
    given = [] if "--dataset" in own else ["--dataset", "squares"]
    given += ["--out", str(out), *own]
    if module != "train.evaluate":
        given += ["--recipe", str(out / "tiny.toml")]
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(module=module, arguments=given)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    last = done.stdout.splitlines()[-1].split()
    assert last[:1] == ["exit"] and last[1] in ("1", "2"), done.stdout + done.stderr
    assert named in done.stderr
    assert last[2:] == []
