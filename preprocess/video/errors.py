"""What decoding raises when a clip cannot be used."""

from __future__ import annotations


class ClipError(Exception):
    """One clip cannot be used; the run continues without it.

    Attributes:
        stage: "decode" or "flow".
        reason: in words, for `failures.jsonl`.
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(stage, reason)  # both, so that it survives pickling
        self.stage = stage
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.stage}: {self.reason}"


class LandedLateError(Exception):
    """Decoding after a seek gives no frame at the start of the span: read from the file's start."""
