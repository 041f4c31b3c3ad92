"""Runs of `preprocess.manifest` on folders of empty files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from preprocess.manifest import main
from shared.manifest import COLUMNS, Clip, read_manifest

HEADER = ",".join(COLUMNS) + "\n"


def touch(root: Path, *paths: str) -> Path:
    """Make empty files below a folder; returns the folder."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def lock(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let nobody read a folder, as it is for others than root."""
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


def invoke(tmp_path: Path, *arguments: object, dataset: str = "mine") -> Result:
    """The command with OUT in `tmp_path`; it may end with an exit status, but not a fault."""
    given = ["--dataset", dataset, "--out", tmp_path / "out", *arguments]
    result = CliRunner().invoke(main, [str(argument) for argument in given])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def manifest_of(tmp_path: Path, *arguments: object, dataset: str = "mine") -> dict[str, Clip]:
    """The clips by id that the command writes; it must succeed."""
    done = invoke(tmp_path, *arguments, dataset=dataset)
    assert done.exit_code == 0, done.output
    clips = read_manifest(tmp_path / "out" / dataset / "manifest.csv")
    return {clip.clip_id: clip for clip in clips}


def own_csv(tmp_path: Path, *rows: str, header: str = HEADER) -> Path:
    """A user's own manifest."""
    path = tmp_path / "mine.csv"
    path.write_text(header + "".join(row + "\n" for row in rows))
    return path
