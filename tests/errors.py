"""What tests ask of a mistake: its code, and the values that its message names. Not its prose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from preprocess.video.errors import ClipError
from shared.errors import CODES, InputError


@contextmanager
def refuses(code: str, *named: object) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """The block raises an InputError of this code whose message has each of the named values.

    `with refuses("out-of-range", "mask_ratio", 1.5): ...` Gives what `pytest.raises` gives.
    """
    assert code in CODES, f"{code!r} is no code of shared/errors.py"
    with pytest.raises(InputError) as caught:
        yield caught
    assert caught.value.code == code, f"[{caught.value.code}] {caught.value.message}"
    _assert_named(caught.value.message, named)


@contextmanager
def sets_aside(code: str, *named: object) -> Iterator[pytest.ExceptionInfo[ClipError]]:
    """The block raises a ClipError of this code whose reason has each of the named values."""
    assert code in CODES, f"{code!r} is no code of shared/errors.py"
    with pytest.raises(ClipError) as caught:
        yield caught
    assert caught.value.code == code, f"[{caught.value.code}] {caught.value.reason}"
    _assert_named(caught.value.reason, named)


def refused(output: object, code: str, *named: object) -> str:
    """A command ended with one `error:` line of this code that has each of the named values.

    Args:
        output: the text of stderr, or of stdout and stderr; or what has both, the result of
            click's runner or of `subprocess.run(..., text=True)`, whose status must be 1.

    Returns:
        The message, without `error: ` and code.
    """
    assert code in CODES, f"{code!r} is no code of shared/errors.py"
    status = getattr(output, "returncode", getattr(output, "exit_code", 1))
    text = output if isinstance(output, str) else output.stderr
    assert status == 1, (status, text)
    assert "Traceback" not in text, text
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, text
    message, separator, found = lines[0].removeprefix("error: ").rpartition(" [")
    assert separator and found == f"{code}]", lines[0]
    _assert_named(message, named)
    return message


def _assert_named(message: str, named: tuple[object, ...]) -> None:
    lacking = [str(value) for value in named if str(value) not in message]
    assert not lacking, f"not named: {', '.join(lacking)}, in: {message}"
