"""failures.jsonl: the clips set aside, each once, with the stage and the reason in words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from shared.errors import EXIT_ERROR, EXIT_SET_ASIDE, InputError
from shared.files import write_atomically
from shared.manifest import Clip
from shared.run_record import read_jsonl
from shared.wording import counted

KEYS = ("clip_id", "video", "stage", "reason")
INTERNAL_STAGE = "internal"  # of a clip that met a fault of this program; nothing is said of it


def failure_record(clip: Clip, stage: str, reason: str, traceback: str = "") -> dict[str, Any]:
    """A line of failures.jsonl; a fault of this program has a traceback too."""
    record = dict(zip(KEYS, (clip.clip_id, clip.video, stage, reason), strict=True))
    return record | ({"traceback": traceback} if traceback else {})


def read_failures(path: Path) -> list[dict[str, Any]]:
    """The records of the file; none where there is no file.

    Raises:
        InputError: a line that is not a record.
    """
    records = read_jsonl(path)
    for record in records:
        if not (isinstance(record, dict) and all(isinstance(record.get(key), str) for key in KEYS)):
            raise InputError(
                f"{path}: {str(record)[:80]} is not a clip set aside, with {', '.join(KEYS)}; mend "
                "the line or take it out"
            )
    return records


def write_failures(path: Path, failures: list[dict[str, Any]]) -> None:
    """Write the file anew; without failures there is none."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    text = "".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures)
    write_atomically(path, text.encode())


def report_failures(path: Path, failures: list[dict[str, Any]]) -> None:
    """Say how many clips were set aside, if any, and end with the exit status that says so.

    Clips that met a fault of this program are not bad clips: the status is that of an error.
    """
    faults = [record for record in failures if record["stage"] == INTERNAL_STAGE]
    if len(failures) > len(faults):
        set_aside = counted(len(failures) - len(faults), "clip")
        print(f"{set_aside} set aside, see {path}", file=sys.stderr)
    if faults:
        print(
            f"{counted(len(faults), 'clip')} left out by a fault of this program, not of the "
            f"videos ({faults[0]['clip_id']}: {faults[0]['reason']}); please report it with the "
            f"traceback in {path}; `retry` tries these clips again",
            file=sys.stderr,
        )
        sys.exit(EXIT_ERROR)
    if failures:
        sys.exit(EXIT_SET_ASIDE)
