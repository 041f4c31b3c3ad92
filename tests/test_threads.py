"""Idle OpenMP threads sleep soon unless a user has chosen, and the record of a run says so."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.run_record import write_options
from shared.threads import CHOICES, POLICY

ROOT = Path(__file__).resolve().parents[1]


def settings_after(code: str, tmp_path: Path, **variables: str) -> dict[str, str]:
    """What options.json of a new process records after it ran `code`."""
    inherited = {name: value for name, value in os.environ.items() if name not in CHOICES}
    record = "; from pathlib import Path; from shared.run_record import write_options"
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"{code}{record}; write_options(Path({str(tmp_path / 'o')!r}), {{}})",
        ],
        cwd=ROOT,
        env=inherited | variables,
        check=True,
    )
    return json.loads((tmp_path / "o").read_text())["openmp"]


@pytest.mark.parametrize("program", ["preprocess", "train"])
def test_idle_threads_sleep_soon(program, tmp_path):
    assert POLICY.items() <= settings_after(f"import {program}", tmp_path).items()


@pytest.mark.parametrize("name", CHOICES)
def test_a_users_own_setting_is_left_alone(name, tmp_path):
    found = settings_after("import train", tmp_path, **{name: "1"})
    assert found[name] == "1" and not (set(POLICY) - {name}) & set(found)


def test_a_setting_that_comes_too_late_is_not_recorded(tmp_path):
    """OpenMP has read its variables when PyTorch is loaded."""
    code = "import sys; sys.modules['torch'] = None; import train"
    assert not set(POLICY) & set(settings_after(code, tmp_path))


def test_the_openmp_of_pytorch_reads_the_setting(tmp_path):
    """OpenMP itself says what it uses: a setting after it was loaded would not be among it."""
    [package] = importlib.util.find_spec("torch").submodule_search_locations
    library = next(Path(package).glob("lib/libgomp*"), None)
    if library is None:
        pytest.skip("this PyTorch has another OpenMP than GNU's")
    done = subprocess.run(
        [sys.executable, "-c", f"import train, ctypes; ctypes.CDLL({str(library)!r})"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in CHOICES}
        | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "GOMP_SPINCOUNT = '10000'" in done.stderr


def test_the_record_names_what_this_process_has(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    write_options(tmp_path / "options.json", {})
    assert json.loads((tmp_path / "options.json").read_text())["openmp"]["OMP_NUM_THREADS"] == "3"
