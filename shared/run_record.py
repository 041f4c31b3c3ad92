"""The record of a run (options, versions, log), and the lock that allows one run per folder."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.files import write_atomically
from shared.threads import openmp_settings

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "opencv-contrib-python-headless",
    "av",
    "numpy",
    "h5py",
    "ray",
    "deepspeed",
    "safetensors",
    "scikit-learn",
)


def write_options(path: Path, options: dict[str, Any]) -> None:
    """Write options.json: resolved options, command line, versions, git commit and OpenMP."""
    record = {
        "command": command_line(),
        "options": options,
        "versions": versions(),
        "git_commit": git_commit(),
        "openmp": openmp_settings(),
    }
    write_atomically(path, json.dumps(record, indent=1, default=str).encode() + b"\n")


def command_line() -> str:
    """Return the command line of this process in a form that can be run again."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    program = ["python", "-m", spec.name] if spec else ["python", *sys.argv[:1]]
    return shlex.join([*program, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that can change results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of this program, with `+changes` for a changed tree; None outside git."""
    root = Path(__file__).resolve().parents[1]
    # `git status` would leave its lock behind if it were killed while it refreshes the index.
    git = ["git", "--no-optional-locks", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
        )
    except OSError:
        return None
    if commit.returncode != 0:
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


class JsonlLog:
    """Appends JSON objects, one per line; a line is complete in the file when `write` returns.

    An incomplete last line, which a kill or a full disk may leave, is removed first. Otherwise the
    next object would become part of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _cut_to_whole_lines(self.path)
        self._stream = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (until `close`)

    def write(self, event: dict[str, Any]) -> None:
        self._stream.write(json.dumps(event, ensure_ascii=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def _cut_to_whole_lines(path: Path) -> None:
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def read_jsonl(path: Path, skip_damaged: bool = False) -> list[dict[str, Any]]:
    """Read all complete lines of a log; an incomplete last line is left out.

    Args:
        skip_damaged: leave out lines that are not JSON, which a power cut may leave.

    Raises:
        InputError: a line is not JSON; the message has its number.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    events = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            if line:
                events.append(json.loads(line.decode()))
        except ValueError as error:
            if not skip_damaged:
                raise InputError(
                    "damaged-file",
                    f"{path}, line {number} is not JSON ({error}), as after a power cut; correct "
                    "or remove the line",
                ) from None
    return events


class RunLock:
    """Refuses a second run on the same folder and names the first. A context manager.

    It is a kernel lock (flock) on a file, which ends with the process. The lock of a killed run
    therefore does not block. Workers do not inherit the descriptor.

    Args:
        path: the file of the lock.
        is_shared: whether other runs may share the lock; each of them has a lock of its own too,
            whose name begins with that of this one.
    """

    def __init__(self, path: Path, is_shared: bool = False) -> None:
        self.path = Path(path)
        self._is_shared = is_shared

    def __enter__(self) -> RunLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        way = fcntl.LOCK_SH if self._is_shared else fcntl.LOCK_EX
        try:
            fcntl.flock(self._descriptor, way | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(self._descriptor)
                raise InputError(
                    "not-supported",
                    f"{self.path} cannot be locked ({error.strerror}), so a second run could not "
                    "be refused; mount its file system with flock (Lustre: -o flock), or give an "
                    "OUT on another one",
                ) from None
            holder = os.pread(self._descriptor, 4096, 0).decode(errors="replace").strip()
            holder = holder or self._first_of_several()
            os.close(self._descriptor)
            raise InputError(
                "locked",
                f"{self.path.parent} is in use by another run ({holder or 'starting'}); wait for "
                "it, stop it, or give another OUT",
            ) from None
        if self._is_shared:
            return self
        os.ftruncate(self._descriptor, 0)
        # Paths on the command line may have bytes that are not UTF-8.
        own = f"process {os.getpid()}: {command_line()}".encode(errors="surrogateescape")
        os.pwrite(self._descriptor, own, 0)
        return self

    def _first_of_several(self) -> str:
        """What one of the runs that share the lock wrote into its own."""
        for path in sorted(self.path.parent.glob(f"{self.path.name}-*")):
            if text := path.read_text(encoding="utf-8", errors="replace").strip():
                return text
        return ""

    def __exit__(self, *raised: object) -> None:
        if not self._is_shared:
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
