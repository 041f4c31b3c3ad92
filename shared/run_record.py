"""What a run leaves behind to be understood and repeated, and the lock that keeps runs apart."""

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
    """Write options.json: resolved options, command line, versions and git commit."""
    record = {
        "command": command_line(),
        "options": options,
        "versions": versions(),
        "git_commit": git_commit(),
    }
    write_atomically(path, json.dumps(record, indent=1, default=str).encode() + b"\n")


def command_line() -> str:
    """The command as it can be given again."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    program = ["python", "-m", spec.name] if spec else ["python", *sys.argv[:1]]
    return shlex.join([*program, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Python and the packages that decide results; those not installed are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of this program, with `+changes` where the tree differs; None outside git."""
    root = Path(__file__).resolve().parents[1]
    # Without its lock: `git status` killed while it refreshes the index would leave that behind.
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
    """Appends one JSON object a line; each line is whole on disk when `write` returns.

    A last line that a kill or a full disk cut short is taken out first: behind it the next one
    would not be a line of its own.
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
    """All whole lines of a log; a last line that a kill cut short is left out.

    Args:
        skip_damaged: leave out lines that are not JSON, such as a power cut leaves.

    Raises:
        InputError: with its number, a line that is not JSON.
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
                    f"{path}, line {number} is not JSON ({error}), as after a power cut; mend the "
                    "line or take it out",
                ) from None
    return events


class RunLock:
    """Refuses a second run on the same folder, naming the first. A context manager.

    A kernel lock (flock) on the file, which ends with the process however it ends: the lock of a
    killed run does not block, and the descriptor is not inherited by its workers.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __enter__(self) -> RunLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(self._descriptor)
                raise InputError(
                    "not-supported",
                    f"{self.path} cannot be locked ({error.strerror}), so two runs could not be "
                    "kept apart; mount its file system with flock (Lustre: -o flock), or give an "
                    "OUT on another",
                ) from None
            holder = os.pread(self._descriptor, 4096, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise InputError(
                "locked",
                f"{self.path.parent} is in use by another run ({holder or 'starting'}); wait for "
                "it, stop it, or give another OUT",
            ) from None
        os.ftruncate(self._descriptor, 0)
        # Paths on the command line may be bytes that are no UTF-8.
        own = f"process {os.getpid()}: {command_line()}".encode(errors="surrogateescape")
        os.pwrite(self._descriptor, own, 0)
        return self

    def __exit__(self, *raised: object) -> None:
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
