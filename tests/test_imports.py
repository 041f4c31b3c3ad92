"""Imports run one way: preprocess -> shared <- train; `shared` needs numpy and h5py alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    path for folder in ("preprocess", "shared", "train") for path in (ROOT / folder).rglob("*.py")
)


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module).split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_programs_meet_only_in_shared(path):
    program = path.relative_to(ROOT).parts[0]
    forbidden = {"preprocess", "train", "tests", "benchmarks"} - {program}
    assert not imported(path) & forbidden


@pytest.mark.parametrize("path", sorted((ROOT / "shared").glob("*.py")), ids=lambda path: path.name)
def test_shared_needs_numpy_and_h5py_alone(path):
    allowed = set(sys.stdlib_module_names) | {"numpy", "h5py", "shared"}
    assert imported(path) <= allowed


def test_compute_modules_import_without_ray_and_optflow():
    """Flow, motion and the model are usable and measurable where Ray is not installed."""
    modules = [
        "preprocess.flow.tvl1",
        "preprocess.flow.motion_maps",
        "preprocess.motion_boxes.boxes",
        "preprocess.flow_run.pool",
        "train.network.autoencoder",
        "train.samples.datasets",
    ]
    code = f"import sys; sys.modules['ray'] = None\nimport {', '.join(modules)}\n"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=600)
