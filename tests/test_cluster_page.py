"""docs/cluster.md and the Dockerfile: what can be run or checked without a cluster."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from dataset_fixtures import checksums, copy_of, make_dataset, run_flows
from markdown_blocks import read_blocks

from preprocess.flow_run.config import default_workers

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cluster.md"
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def blocks(language: str) -> list[str]:
    return [block.text for block in read_blocks(PAGE) if block.language == language]


def check_syntax(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}\n{script}"


@pytest.mark.parametrize("script", [*blocks("bash"), *blocks("")])
def test_every_script_is_bash(script):
    check_syntax(script)


def array_job() -> str:
    (script,) = [text for text in blocks("bash") if "--array" in text]
    return script


def test_the_array_has_as_many_tasks_as_parts():
    (last,) = re.findall(r"--array=1-(\d+)", array_job())
    assert re.findall(r"SLURM_ARRAY_TASK_ID/(\d+)", array_job()) == [last]


@pytest.mark.slow
def test_the_array_job_by_hand(tmp_path):
    """Each task of the job in a process of its own, two at a time, then the end."""
    layout = make_dataset(tmp_path / "shared", num_clips=7, num_frames=3)
    whole = copy_of(layout, tmp_path / "whole")
    assert run_flows(whole, "--clips-per-shard", 1).exit_code == 0
    named = f"DATASET={layout.dataset} OUT={layout.out} CLIPS_PER_SHARD=1"
    script = re.sub(r"DATASET=\S+ VIDEOS=\S+ OUT=\S+", named, array_job())
    script = script.replace("/16", "/4") + " ARGS='--pool in-process'\n"
    for tasks in ((3, 1), (2, 4)):
        jobs = [
            subprocess.Popen(
                ["bash"],
                cwd=ROOT,
                env={**os.environ, "SLURM_ARRAY_TASK_ID": str(task)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for task in tasks
        ]
        for job in jobs:
            job.stdin.write(script)
            job.stdin.close()
        for job in jobs:
            said = job.stdout.read()
            assert job.wait(timeout=300) == 0, said
            assert "is finished" in said
    end = subprocess.run(
        ["make", "--no-print-directory", "flows", *named.split(), "ARGS=--finish"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert end.returncode == 0, end.stdout + end.stderr
    for kind in ("frames", "flows"):
        assert checksums(layout.root / kind) == checksums(whole.root / kind)


def test_the_counts_of_the_kubernetes_job_fit_its_pods():
    (text,) = blocks("yaml")
    job = yaml.safe_load(text)["spec"]
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    num_cpus = group["replicas"] * int(container["resources"]["limits"]["cpu"])
    assert workers_in(job["entrypoint"]) == default_workers(num_cpus, 0, one_core_each=True)


def test_the_counts_of_the_slurm_job_fit_its_machines():
    (script,) = [text for text in blocks("bash") if "ray start" in text]
    nodes = int(re.search(r"--nodes=(\d+)", script)[1])
    head, others = map(int, re.findall(r"--num-cpus=(\d+)", script))
    num_cpus = head + (nodes - 1) * others
    assert workers_in(script) == default_workers(num_cpus, 0, one_core_each=True)


def workers_in(command: str) -> tuple[int, ...]:
    return tuple(
        int(re.search(rf"--{name} (\d+)", command)[1]) for name in ("decoders", "flow-workers")
    )


def test_the_dockerfile_copies_what_exists_and_runs_bash():
    joined = DOCKERFILE.replace("\\\n", "")
    copied = [
        word for line in re.findall(r"^COPY (.*)", joined, re.M) for word in line.split()[:-1]
    ]
    missing = [name for name in copied if not (ROOT / name).exists()]
    assert not missing and {"preprocess", "shared", "train", "constraints.txt"} <= set(copied)
    for script in re.findall(r"^RUN (.*)", joined, re.M):
        check_syntax(script)
    assert "-c constraints.txt" in joined
