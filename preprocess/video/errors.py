"""Errors of decoding."""

from __future__ import annotations

from shared.errors import CODES


class ClipError(Exception):
    """One clip cannot be used; the run continues without it.

    `ClipError("missing-file", "no file a.mp4 below the video root")`

    Attributes:
        code: the kind of reason, a key of CODES in shared/errors.py.
        reason: the reason as text, for `failures.jsonl`.
        stage: "decode" or "flow".
    """

    def __init__(self, code: str, reason: str, stage: str = "decode") -> None:
        assert code in CODES, f"{code!r} is not a code of shared/errors.py"
        super().__init__(code, reason, stage)  # all of them, so that it survives pickling
        self.code = code
        self.reason = reason
        self.stage = stage

    def __str__(self) -> str:
        return f"{self.stage}: {self.reason}"


class LandedLateError(Exception):
    """Decoding after a seek gives no frame at the start of the span.

    The file must then be read from its start.
    """
