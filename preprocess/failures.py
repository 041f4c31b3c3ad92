"""failures.jsonl: the clips set aside, each once, with the stage and the reason in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shared.files import write_atomically
from shared.manifest import Clip


def failure_record(clip: Clip, stage: str, reason: str) -> dict[str, Any]:
    return {"clip_id": clip.clip_id, "video": clip.video, "stage": stage, "reason": reason}


def write_failures(path: Path, failures: list[dict[str, Any]]) -> None:
    """Write the file anew; without failures there is none."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    text = "".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures)
    write_atomically(path, text.encode())
