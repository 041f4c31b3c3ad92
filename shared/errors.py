"""How commands fail: one line that says what was found, what is allowed and what to do."""

from __future__ import annotations

import errno
import functools
import io
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

EXIT_ERROR = 1
EXIT_SET_ASIDE = 3  # finished, but some clips were set aside (see failures.jsonl)
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

P = ParamSpec("P")
R = TypeVar("R")


class InputError(ValueError):
    """Something a user gave is wrong; the message is shown as it is, without a traceback."""


def user_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command: an error that a user can cause becomes one line and an exit status.

    InputError and errors of the file system end with status 1, Ctrl-C with 130. Any other
    exception is an error of ours and keeps its traceback.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        _print_any_path()
        try:
            return command(*args, **kwargs)
        except InputError as error:
            fail(str(error))
        except KeyboardInterrupt:
            print("\nstopped; run the same command again to go on", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        except OSError as error:
            if error.errno is None:
                raise
            fail(_describe(error))

    return wrapped


def _print_any_path() -> None:
    """What stdout cannot encode, such as a path that is no UTF-8, is escaped as on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def fail(message: str) -> NoReturn:
    """Print one `error:` line on stderr and exit with status 1."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_ERROR)


def _describe(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"no space left to write{where}: {error.strerror}; what was finished is kept, "
            "free some space and run the same command again"
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"a file is there where a folder is expected{where}; name another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror}{where}; name another folder, or change who may use this one"
    return f"{error.strerror}{where}"
