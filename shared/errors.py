"""How commands fail: one line that says what was found, what is allowed and what to do.

Each such error has a code beside its message, such as `[missing-file]`: a word for what kind of
mistake it is, which a person can look up and a test or a script can compare. `CODES` has them all.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn, ParamSpec, TypeGuard, TypeVar

EXIT_ERROR = 1
EXIT_SET_ASIDE = 3  # finished, but some clips were set aside (see failures.jsonl)
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)
OF_THE_MACHINE = (*OUT_OF_SPACE, *TOO_MANY_OPEN)
"""What the machine lacks, whichever file was in use; see `is_of_the_machine`."""
PRINTED = re.compile(r"error: (?P<message>.*) \[(?P<code>[a-z-]+)\]")  # the line of `fail`

P = ParamSpec("P")
R = TypeVar("R")


CODES: dict[str, str] = {
    # Files and folders
    "missing-file": "A file that was named, or that is needed, does not exist. Check the path.",
    "missing-folder": "A folder that was named, or that is needed, does not exist. Check the path.",
    "existing-output": "Something has the name of an output already. Choose another name, or give "
    "--overwrite where the command has it.",
    "unsafe-path": "A path leaves the folder that it must lie in, or is no ordinary file. Give a "
    "relative path to an ordinary file.",
    "bad-name": "A name has characters or a length that are not allowed. Choose another name.",
    "wrong-format": "A file has another format than the one that is read here. Give a file of the "
    "format that the message names.",
    "other-version": "A file has another version of its format. Use the version of the program "
    "that wrote it, or make the file again.",
    "bad-entry": "A row, line or entry of a file has a value that is not allowed. Correct it at "
    "the place that the message names.",
    "duplicate": "Something is there twice that must be unique. Remove one of the two.",
    "empty": "A file, folder or split holds nothing to work on. Add to it, or name another one.",
    "damaged-file": "A file was cut short, edited or damaged. Make or download it again; "
    "`make verify` lists all damaged shards.",
    "unsafe-file": "A file could run code when it is read, or refers to data outside of it. Get "
    "the data in a plain format.",
    # Options, recipes and tables
    "missing-option": "The command needs an option that was not given. Give it.",
    "option-conflict": "Two options exclude each other. Leave one of them out.",
    "option-needs-another": "An option has a meaning only beside another one. Give both, or none.",
    "option-unused": "An option has no effect with the other choices. Leave it out.",
    "bad-setting": "An option's value is not written as it must be. Write it as the message says.",
    "unknown-name": "A name is none of those that exist. Choose one of those that are listed.",
    "unknown-key": "A table has a key that is not known there. Correct or remove the key.",
    "missing-key": "A table lacks a key or column that it must have. Add it.",
    "wrong-type": "A value or array has another type or shape than the one that is expected.",
    "out-of-range": "A number or a combination of numbers is not allowed. Give one that is.",
    "not-finite": "Values are NaN or infinite, or training has diverged.",
    # What earlier commands made
    "not-finished": "An earlier step was not run, or not to its end. Run the command that the "
    "message names.",
    "missing-data": "Files lack a kind of data that is needed, such as tracks. Make them with the "
    "option that the message names.",
    "missing-label": "Clips have no class of the kind that is learned. Add labels, or leave these "
    "clips out.",
    "too-few-clips": "There are too few clips or classes for what was asked. Add clips, or ask "
    "for less.",
    "no-match": "The names in one place do not occur in another. Check that both belong to the "
    "same data.",
    "other-options": "The output was begun with other options. Give the same ones, choose another "
    "output, or give --overwrite.",
    "other-manifest": "Shards were made of another manifest than the one there is now. Make them "
    "again.",
    "other-clips": "Two files or folders do not hold the same clips. Make the older one again.",
    "other-classes": "Labels and lists of classes do not agree. Make the manifest again.",
    "other-kind": "A file or folder holds another kind of data than the one that is needed.",
    "other-inputs": "Videos, recipes or weights have changed since they were last used.",
    "other-model": "Weights and the model that was asked for do not fit. Change the one or the "
    "other.",
    "other-processes": "The number of processes, or what a launcher says of them, does not fit.",
    # Clips that are set aside, beside the codes above
    "worker-lost": "A clip ended its worker process, or took too long, twice. Check the video, or "
    "raise --clip-timeout.",
    "program-fault": "A fault of this program, not of the video. Report it with its traceback.",
    # The machine
    "locked": "Another run is using the folder. Wait for it, stop it, or choose another folder.",
    "no-gpu": "There is no GPU, or there are fewer than were asked for. Ask for fewer, or use the "
    "CPU.",
    "missing-package": "A package or program is not installed. Install it.",
    "no-workers": "Worker processes do not start. The message has the reason.",
    "process-died": "A worker process ended in the middle of its work, usually for want of memory. "
    "Give fewer --workers.",
    "not-supported": "A file format, codec, library or service cannot do what was asked.",
    "service-refused": "A service on the network refused. The message has the reason.",
    "no-space": "The disk is full. Free some space and run the same command again.",
    "no-permission": "The file system allows this to somebody else only. Choose another folder, "
    "or change its permissions.",
    "file-system": "The file system reported an error. The message has the reason.",
}
"""What kind of mistake each code stands for, and what to do. A closed list."""


class InputError(ValueError):
    """Something a user gave is wrong; the message is shown as it is, without a traceback.

    `InputError("missing-file", f"no recipe at {path}")`; `str(error)` is the message alone.

    Attributes:
        code: the kind of mistake, a key of CODES.
        message: what was found, what is allowed and what to do, with the values.
    """

    def __init__(self, code: str, message: str) -> None:
        assert code in CODES, f"{code!r} is no code of shared/errors.py"
        super().__init__(code, message)  # both, so that it survives pickling
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message

    def at(self, where: object) -> InputError:
        """The same error with its place before the message: `raise error.at(path) from None`."""
        return InputError(self.code, f"{where}: {self.message}")


def user_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command: an error that a user can cause becomes one line and an exit status.

    InputError and errors of the file system end with status 1, Ctrl-C with 130. Any other
    exception is an error of ours and keeps its traceback.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        _print_any_path()
        try:
            with _no_lost_interrupt():
                return command(*args, **kwargs)
        except InputError as error:
            fail(error.code, error.message)
        except KeyboardInterrupt:
            print("\nstopped; run the same command again to continue", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        except OSError as error:
            if error.errno is None:
                raise
            fail(*_describe(error))

    return wrapped


@contextlib.contextmanager
def _no_lost_interrupt() -> Iterator[None]:
    """Within it, Ctrl-C ends the command wherever it comes.

    Python cannot raise an exception out of a destructor or the callback of a weak reference: it
    prints the exception with a traceback and goes on. A Ctrl-C that comes there is raised again
    a moment later. A timer does so and no thread, since the code underneath may hold any lock.
    """
    before = sys.unraisablehook

    def raise_again(lost: sys.UnraisableHookArgs) -> None:
        if lost.exc_type is not KeyboardInterrupt:
            before(lost)
            return
        alarms.append(signal.signal(signal.SIGALRM, signal.default_int_handler))
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    alarms: list[signal._HANDLER] = []
    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        sys.unraisablehook = before
        if alarms:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarms[0])


def _print_any_path() -> None:
    """What stdout cannot encode, such as a path that is no UTF-8, is escaped as on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def fail(code: str, message: str) -> NoReturn:
    """Print one line, `error: MESSAGE [code]`, on stderr and exit with status 1."""
    print(f"error: {message} [{code}]", file=sys.stderr)
    sys.exit(EXIT_ERROR)


def printed_error(line: str) -> InputError | None:
    """The error of a line that `fail` printed in another process; None for other lines."""
    match = PRINTED.fullmatch(line.strip())
    if match is None or match["code"] not in CODES:
        return None
    return InputError(match["code"], match["message"])


def is_of_the_machine(error: BaseException | None) -> TypeGuard[OSError]:
    """Whether an error says that the machine lacks something, whichever file was in use.

    A full disk says nothing about the video that is decoded at that moment, and the next one would
    fail as well.
    """
    return isinstance(error, OSError) and error.errno in OF_THE_MACHINE


def _describe(error: OSError) -> tuple[str, str]:
    """Code and message of an error of the file system."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in OUT_OF_SPACE:
        return "no-space", (
            f"no space left to write{where}: {error.strerror}; what was finished is kept, "
            "free some space and run the same command again"
        )
    if error.errno in TOO_MANY_OPEN:
        return "file-system", (
            f"no further file can be opened{where}: {error.strerror}; what was finished is kept, "
            "allow more (`ulimit -n`) or use fewer processes, and run the same command again"
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return (
            "existing-output",
            f"a file is there where a folder is expected{where}; name another folder",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            "no-permission",
            f"{error.strerror}{where}; name another folder, or change who may use this one",
        )
    return "file-system", f"{error.strerror}{where}"
