"""failures.jsonl: the clips that were set aside, each once, with the stage and the reason."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from shared.errors import EXIT_ERROR, EXIT_SET_ASIDE, InputError
from shared.files import remove_file, write_atomically
from shared.manifest import Clip
from shared.run_record import read_jsonl
from shared.wording import counted

KEYS = ("clip_id", "video", "stage", "reason")
INTERNAL_STAGE = "internal"  # stage of a clip that met a fault of this program


def failure_record(
    clip: Clip, stage: str, reason: str, code: str = "", traceback: str = ""
) -> dict[str, Any]:
    """One line of failures.jsonl; a fault of this program also has its traceback.

    Files of older versions have no code.
    """
    record = dict(zip(KEYS, (clip.clip_id, clip.video, stage, reason), strict=True))
    further = {"code": code, "traceback": traceback}
    return record | {key: text for key, text in further.items() if text}


def read_failures(path: Path) -> list[dict[str, Any]]:
    """The records of the file; none if there is no file.

    Raises:
        InputError: a line is not a record.
    """
    records = read_jsonl(path)
    for record in records:
        if not (isinstance(record, dict) and all(isinstance(record.get(key), str) for key in KEYS)):
            raise InputError(
                "bad-entry",
                f"{path} has the line {str(record)[:80]}. A line is an object with the text keys "
                f"{', '.join(KEYS)}. Correct the line or delete it",
            )
    return records


def write_failures(path: Path, failures: list[dict[str, Any]]) -> None:
    """Replace the file; without failures, delete it."""
    if not failures:
        remove_file(path)
        return
    text = "".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures)
    write_atomically(path, text.encode())


def report_failures(path: Path, failures: list[dict[str, Any]]) -> None:
    """If clips failed, print how many and exit with status 3.

    Clips that met a fault of this program are not bad clips: the exit status is then 1.
    """
    faults = [record for record in failures if record["stage"] == INTERNAL_STAGE]
    if len(failures) > len(faults):
        set_aside = counted(len(failures) - len(faults), "clip")
        print(f"{set_aside} set aside; see {path}", file=sys.stderr)
    if faults:
        print(
            f"{counted(len(faults), 'clip')} left out because of a fault of this program, not of "
            f"the videos ({faults[0]['clip_id']}: {faults[0]['reason']}). Please report it with "
            f"the traceback in {path}. `make retry` tries these clips again.",
            file=sys.stderr,
        )
        sys.exit(EXIT_ERROR)
    if failures:
        sys.exit(EXIT_SET_ASIDE)
