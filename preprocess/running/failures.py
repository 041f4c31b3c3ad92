"""failures.jsonl: the clips set aside, each once, with the stage and the reason in words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from shared.errors import EXIT_SET_ASIDE, InputError
from shared.files import write_atomically
from shared.manifest import Clip
from shared.run_record import read_jsonl
from shared.wording import counted

KEYS = ("clip_id", "video", "stage", "reason")


def failure_record(clip: Clip, stage: str, reason: str) -> dict[str, Any]:
    return dict(zip(KEYS, (clip.clip_id, clip.video, stage, reason), strict=True))


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
    """Say how many clips were set aside, if any, and end with the exit status that says so."""
    if failures:
        set_aside = counted(len(failures), "clip")
        print(f"{set_aside} set aside, see {path}", file=sys.stderr)
        sys.exit(EXIT_SET_ASIDE)
