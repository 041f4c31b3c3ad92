"""Weights go to and from Hugging Face with the lowest and with the newest transformers.

Each version is installed into a folder of its own, so that the packages of the environment stay as
they are, and the tests of weights run with it.
"""

import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = (
    "test_weights",
    "test_huggingface_folder",
    "test_foreign_classifiers",
    "test_foreign_names",
)
TIED = ("huggingface-hub", "tokenizers")  # transformers refuses other versions of these


def lowest() -> str:
    [version] = set(re.findall(r"transformers>=([\d.]+)", (ROOT / "setup.cfg").read_text()))
    return f"=={version}"


def install(folder: Path, *requirements: str) -> None:
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder))
    done = subprocess.run([*pip, *requirements], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install {' '.join(requirements)}: {done.stderr[-300:]}")


def install_transformers(folder: Path, version: str) -> str:
    """Install a version of transformers and what it is tied to; returns its number."""
    install(folder, f"transformers{version}")
    [found] = list(distributions(path=[str(folder)]))
    needed = [line.split(";")[0].strip() for line in found.requires or () if "extra" not in line]
    install(folder, *(line for line in needed if line.lower().startswith(TIED)))
    return found.version


@pytest.mark.slow
@pytest.mark.parametrize("version", ["lowest", "newest"])
def test_weights_come_and_go_with(version: str, tmp_path: Path) -> None:
    number = install_transformers(tmp_path, lowest() if version == "lowest" else "")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    shown = (sys.executable, "-c", "import transformers; print(transformers.__version__)")
    output = subprocess.run(shown, env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == number
    files = [f"tests/{name}.py" for name in TESTS]
    pytest_of_it = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files)
    done = subprocess.run(pytest_of_it, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout.splitlines()[-1]
