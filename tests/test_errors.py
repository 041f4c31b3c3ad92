"""Errors of users: each has a code of a closed list, and is one line on the screen."""

from __future__ import annotations

import ast
import errno
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from errors import refused, refuses

from shared.errors import CODES, EXIT_ERROR, InputError, user_errors

PROGRAM = ("shared", "preprocess", "train", "benchmarks")


def calls_of(name: str) -> list[tuple[Path, ast.Call]]:
    """Every call of a function or class in the program, with its file."""
    return [
        (path, node)
        for folder in PROGRAM
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def codes_of(argument: ast.expr, path: Path) -> list[str]:
    """The codes that an expression may give; none where it takes over that of another error.

    A name is looked up in the same file: what is assigned to it, and the first argument in calls of
    a helper such as `_check(code, ...)`.
    """
    if isinstance(argument, ast.IfExp):
        return codes_of(argument.body, path) + codes_of(argument.orelse, path)
    if isinstance(argument, ast.Constant):
        return [argument.value]
    if isinstance(argument, ast.Name):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        helpers = {
            node.name
            for node in nodes
            if isinstance(node, ast.FunctionDef) and node.args.args[:1]
            if node.args.args[0].arg == argument.id
        }
        given = [
            node.args[0]
            for node in nodes
            if isinstance(node, ast.Call) and ast.unparse(node.func) in helpers
        ]
        given += [
            node.value
            for node in nodes
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == argument.id
        ]
        assert given, f"{path}: nothing says what {argument.id} is"
        return [code for each in given for code in codes_of(each, path)]
    taken_over = ast.unparse(argument)  # `error.code`, or `record["code"]` of a failed clip
    assert taken_over.endswith((".code", "['code']")), taken_over
    return []


def test_every_code_is_of_the_list():
    for path, call in [*calls_of("InputError"), *calls_of("ClipError")]:
        if len(call.args) >= 2:
            where = f"{path.relative_to(ROOT)}:{call.lineno}"
            assert set(codes_of(call.args[0], path)) <= set(CODES), where


def test_every_error_has_a_code():
    bare = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path, call in calls_of("InputError")
        if len(call.args) != 2
    ]
    assert not bare, f"{len(bare)} without a code: {', '.join(bare)}"


def test_every_code_is_in_use():
    """Errors and failed clips take their codes from one list."""
    files = [path for folder in PROGRAM for path in (ROOT / folder).rglob("*.py")]
    texts = [path.read_text() for path in files if path != ROOT / "shared" / "errors.py"]
    of_file_system = {"no-space", "no-permission", "file-system"}  # shared/errors.py gives these
    unused = [code for code in CODES if not any(f'"{code}"' in text for text in texts)]
    assert set(unused) <= of_file_system, unused


def test_codes_are_words_with_a_sentence():
    for code, sentence in CODES.items():
        assert code == code.lower() and code.replace("-", "").isalpha() and len(code) <= 20, code
        assert sentence[0].isupper() and sentence.endswith("."), sentence


def test_code_and_message_survive_pickling():
    error = pickle.loads(pickle.dumps(InputError("missing-file", "no recipe at x.toml")))
    assert (error.code, error.message, str(error)) == (
        "missing-file", "no recipe at x.toml", "no recipe at x.toml",
    )  # fmt: skip


def test_place_of_an_error():
    with refuses("out-of-range", "list.csv, row 3: ", "label", -1):
        try:
            raise InputError("out-of-range", "label is -1; 0 or more is allowed")
        except InputError as error:
            raise error.at("list.csv, row 3") from None


def test_unknown_code_is_an_error_of_ours():
    with pytest.raises(AssertionError, match="no-such-code"):
        InputError("no-such-code", "what was found")


@pytest.mark.parametrize(
    ("raised", "code", "named"),
    [
        (InputError("no-gpu", "--num-gpus 2: there is none"), "no-gpu", "--num-gpus 2"),
        (OSError(errno.ENOSPC, "No space left", "/data/x.h5"), "no-space", "/data/x.h5"),
        (OSError(errno.EMFILE, "Too many open files", "/data/x.h5"), "file-system", "ulimit -n"),
        (OSError(errno.ENOTDIR, "Not a directory", "/data"), "existing-output", "/data"),
        (PermissionError(errno.EACCES, "Permission denied", "/root"), "no-permission", "/root"),
        (OSError(errno.EIO, "Input/output error", "/data"), "file-system", "Input/output"),
    ],
)
def test_command_ends_with_one_line(capsys, raised, code, named):
    @user_errors
    def command():
        raise raised

    with pytest.raises(SystemExit) as caught:
        command()
    assert caught.value.code == EXIT_ERROR
    printed = capsys.readouterr()
    assert printed.out == ""
    refused(printed.err, code, named)


@pytest.mark.parametrize("code", ["missing-file", "no-gpu"])
def test_helpers_find_what_is_wrong(code):
    other = "no-gpu" if code == "missing-file" else "missing-file"
    with pytest.raises(AssertionError), refuses(other):
        raise InputError(code, "no file a.csv")
    with pytest.raises(AssertionError, match="not named: 17"), refuses(code, "a.csv", 17):
        raise InputError(code, "no file a.csv")
    line = f"error: no file a.csv [{code}]\n"
    assert refused(line, code, "a.csv") == "no file a.csv"
    for wrong in ("", line * 2, "error: no file a.csv\n", f"Traceback\n{line}"):
        with pytest.raises(AssertionError):
            refused(wrong, code)
    with pytest.raises(AssertionError):
        refused(line, other)
    with pytest.raises(AssertionError, match=r"not named: b\.csv"):
        refused(line, code, "b.csv")


_CTRL_C_IN_A_DESTRUCTOR = """
import os, signal, time
from shared.errors import user_errors

class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

@user_errors
def command():
    held = Held()
    del held
    time.sleep(30)
    print("it went on")

command()
"""


def test_ctrl_c_ends_a_command_even_where_python_cannot_raise_it():
    ended = subprocess.run(
        [sys.executable, "-c", _CTRL_C_IN_A_DESTRUCTOR],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        # A shell without job control has what it runs in the background ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert ended.returncode == 130
    assert ended.stdout == ""
    assert "run the same command again" in ended.stderr
    assert "Traceback" not in ended.stderr
