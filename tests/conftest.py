"""Fixtures of all tests."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure: nothing here asserts how long a property takes.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]

# `make test` hands its variables on, a shell may too; a test that runs make means its own.
TAKEN = re.findall(r"^([A-Z_]+) +\?=", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "RAY_ADDRESS", *TAKEN):
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def samples() -> Path:
    """Real sample clips beside the repository; tests that use them are skipped without them."""
    folder = ROOT.parent / "shared" / "samples"
    if not (folder / "README.md").is_file():
        pytest.skip("no folder of sample clips beside the repository")
    return folder
