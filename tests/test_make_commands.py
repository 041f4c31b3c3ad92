"""The command lines that messages give are those of the very dataset, and Make takes them."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from shared.layout import DatasetLayout
from shared.make_commands import make_around, make_boxes, make_flows
from shared.shard_index import DatasetIndex, write_index

ROOT = Path(__file__).resolve().parents[1]
SSV2 = DatasetLayout(Path("/data/out"), "ssv2")


def test_what_the_makefile_takes_anyway_is_left_out():
    assert DatasetLayout(Path("out"), "toy").make("flows") == "make flows"
    assert DatasetLayout(Path("out"), "ssv2").make("all") == "make all DATASET=ssv2"
    said = "make flows DATASET=ssv2 OUT=/data/out ARGS='--trajectories --overwrite'"
    assert SSV2.make("flows", "--trajectories --overwrite") == said
    assert SSV2.make("pretrain", METHOD="mme").endswith(" OUT=/data/out METHOD=mme")


@pytest.mark.parametrize("layout", [DatasetLayout(Path("out"), "toy"), SSV2])
def test_make_runs_the_command_of_that_dataset(layout, tmp_path):
    """As the user would copy it: `make -n` prints what would run."""
    words = shlex.split(layout.make("boxes", "--source dis --name dis"))
    # What `$DATASET` and `$OUT` of the recipe stand for is printed too.
    probe = tmp_path / "probe.mk"
    probe.write_text("include Makefile\n$(info is $(OUT) $(DATASET))\n")
    done = subprocess.run(
        [*words, "-n", "-f", str(probe)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"is {layout.out} {layout.dataset}\n" in done.stdout
    boxes = [line for line in done.stdout.splitlines() if "-m preprocess.boxes" in line]
    assert len(boxes) == 1 and "--source dis --name dis" in boxes[0]


@pytest.mark.parametrize(
    ("folder", "arguments"),
    [
        ("flows", ""),
        ("flows-dis", " ARGS='--source tvl1,dis'"),
        ("flows-tvl1-length", " ARGS='--source tvl1 --lengths'"),
        ("flows-dis-boundaries", " ARGS='--source tvl1,dis --boundaries'"),
        ("flows-tvl1-unstabilised", " ARGS='--source tvl1 --stabilise ... --keep-unstabilised'"),
    ],
)
def test_further_flows_are_made_beside_the_first(folder, arguments):
    made = make_flows(SSV2, SSV2.root / folder)
    assert made == f"make flows DATASET=ssv2 OUT=/data/out{arguments}"


def test_the_first_source_is_the_one_that_lies_in_flows(tmp_path):
    layout = DatasetLayout(tmp_path, "mine")
    write_index(layout.flows, DatasetIndex("flows", "mine", {"flow_source": "dis"}, 8, "0" * 64))
    assert "--source dis,raft'" in make_flows(layout, layout.flows_of("raft"))


def test_boxes_of_a_name():
    assert make_boxes(SSV2, SSV2.boxes) == SSV2.make("boxes")
    assert make_boxes(SSV2, SSV2.boxes_of("dis")) == SSV2.make("boxes", "--name dis ...")


def test_a_copy_of_shards_is_of_no_dataset(tmp_path):
    layout = DatasetLayout(tmp_path, "mine")
    layout.root.mkdir()
    assert make_around(layout.boxes, "boxes") == "`make boxes` of its dataset"
    assert make_around(layout.manifest, "manifest") == f"`{layout.make('manifest')}`"
    layout.manifest.touch()
    made = layout.make("verify", "--repair")
    assert make_around(layout.boxes, "verify", "--repair") == f"`{made}`"
