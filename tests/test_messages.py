"""What users run into in the first hour is answered in one sentence, without a traceback."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from dataset_fixtures import ROOT, make_dataset, run_flows
from errors import refused, refuses

import preprocess.manifest
import train.gpus
from shared import gpus
from train.running.engine import slow_bf16

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def manifest(*arguments: object) -> str:
    result = CliRunner().invoke(preprocess.manifest.main, list(map(str, arguments)))
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    return one_line(result.output)


def one_line(printed: str) -> str:
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in printed
    return line


def test_wrong_dataset(tmp_path):
    said = manifest("--dataset", "ssv3", "--out", tmp_path)
    refused(said, "unknown-name", "'ssv3'", "ssv2, toy", "--videos (VIDEOS=folder)")


def test_missing_videos(tmp_path):
    (tmp_path / "labels").mkdir()
    given = ("--dataset", "ssv2", "--out", tmp_path, "--annotations", tmp_path / "labels")
    refused(manifest(*given), "missing-option", "ssv2", "--videos (VIDEOS=folder)")
    said = manifest("--dataset", "mine", "--out", tmp_path, "--videos", tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'}" in said
    layout = make_dataset(tmp_path, num_clips=1)
    layout.videos.rename(tmp_path / "elsewhere")
    refused(run_flows(layout), "missing-folder", layout.videos, "--videos")


def test_missing_annotations(tmp_path):
    said = manifest("--dataset", "ssv2", "--out", tmp_path, "--videos", tmp_path)
    refused(said, "missing-option", "ssv2", "--annotations (ANNOTATIONS=folder)", ".json")


def test_no_space(tmp_path):
    """A limit on the size of files stands for the full disk: the same call fails."""
    layout = make_dataset(tmp_path, num_clips=1)
    command = f"ulimit -f 0; exec {sys.executable} -m preprocess.manifest --dataset more"
    done = subprocess.run(
        ["bash", "-c", f"{command} --out {tmp_path} --videos {layout.videos}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    refused(done, "no-space")


def test_a_file_where_a_folder_is_expected(tmp_path):
    layout = make_dataset(tmp_path, num_clips=1)
    (tmp_path / "file").touch()
    said = manifest("--dataset", "a", "--out", tmp_path / "file", "--videos", layout.videos)
    assert "a file is there where a folder is expected" in said and "name another folder" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    layout = make_dataset(tmp_path, num_clips=1)
    (tmp_path / "shut").mkdir(mode=0o500)
    said = manifest("--dataset", "a", "--out", tmp_path / "shut", "--videos", layout.videos)
    assert "Permission denied" in said and "name another folder" in said


@without_gpu
def test_no_gpu(tmp_path):
    result = CliRunner().invoke(train.gpus.main, ["2"])
    said = one_line(result.output)
    assert "NUM_GPUS 2: no GPU can be used here: " in said and "compute on the CPU" in said
    result = run_flows(make_dataset(tmp_path, num_clips=1), "--num-gpus", 2)
    refused(result, "no-gpu", "--num-gpus 2")


class Cuda:
    """`torch.cuda` of a machine that is not at hand."""

    def __init__(self, count: int, reason: str | None = None) -> None:
        self.count, self.reason = count, reason

    def is_available(self) -> bool:
        return self.reason is None

    def device_count(self) -> int:
        return self.count

    def init(self) -> None:
        raise RuntimeError(self.reason)


OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version"
)


def test_old_driver(monkeypatch, tmp_path):
    with refuses("no-gpu", "--num-gpus 1", "too old (found version 11040)", "update the driver"):
        gpus.refuse_too_few(Cuda(0, OLD), 1, "--num-gpus")
    monkeypatch.setattr(gpus, "DRIVER", tmp_path)
    assert "computing on the CPU: The NVIDIA driver" in (gpus.unused_gpu(Cuda(0, OLD)) or "")
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "none")
    assert gpus.unused_gpu(Cuda(0, OLD)) is None and gpus.unused_gpu(Cuda(1)) is None


def test_too_few_gpus():
    gpus.refuse_too_few(Cuda(2), 2, "NUM_GPUS")
    with refuses("no-gpu", "NUM_GPUS 4", "2 GPUs"):
        gpus.refuse_too_few(Cuda(2), 4, "NUM_GPUS")


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 14, 0), (2, 7, 18)])
def test_wrong_python(version, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / ".preflight.py"))
    said = one_line(capsys.readouterr().err)
    assert stop.value.code == 1
    assert f"Python 3.11, 3.12 or 3.13 is needed, found {'.'.join(map(str, version))}" in said
    assert "make PYTHON=python3.12" in said


def test_no_compiler_is_no_error(monkeypatch, capsys, tmp_path: Path):
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / ".preflight.py"))
    assert stop.value.code == 0 and "warning: no g++" in capsys.readouterr().err


def test_make_show_without_a_video():
    command = ["make", "--no-print-directory", "show", "ARGS="]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert one_line(done.stderr) == 'error: name a video: make show ARGS="clip.mp4"'


@pytest.mark.parametrize("capability", ["NO AVX", "AVX2", "AVX512", "DEFAULT"])
def test_bf16_without_instructions_for_it_is_said(monkeypatch, capability):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    is_slow = capability in ("NO AVX", "AVX2")
    line = slow_bf16("bf16", uses_cuda=False)
    assert (capability in line and "precision=fp32" in line) if is_slow else line == ""
    assert slow_bf16("auto", uses_cuda=False) == slow_bf16("fp32", uses_cuda=False) == ""
    assert slow_bf16("bf16", uses_cuda=True) == ""
