"""Names of files that are still being written: hidden, with a random part, and the ending .tmp."""

from __future__ import annotations

import secrets
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """A new name beside `path`, for a file that is to become `path` in one step."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def temporary_pattern(name: str | None = None) -> str:
    """The glob pattern of temporary names; those that were to become `name`, or any."""
    return ".*.tmp" if name is None else f".{name}.*.tmp"
