"""Fixtures of all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def samples() -> Path:
    """Real sample clips beside the repository; tests that use them are skipped without them."""
    folder = ROOT.parent / "shared" / "samples"
    if not (folder / "README.md").is_file():
        pytest.skip("no folder of sample clips beside the repository")
    return folder
