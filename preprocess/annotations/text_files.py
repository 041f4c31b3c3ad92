"""Text, CSV and JSON of annotation files, with errors that name file and row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.errors import InputError


def read_text(path: Path) -> str:
    """A whole file as UTF-8, without a byte order mark.

    Raises:
        InputError: another encoding, with the position of the first wrong byte.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        position, wrong = error.start, error.object[error.start]
        row = error.object.count(b"\n", 0, position) + 1
        raise InputError(
            f"{path}, row {row}: not UTF-8 (byte {position} is 0x{wrong:02x}); save the file as "
            "UTF-8"
        ) from None


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(where, line) of every line that is not blank, without line ends and outer spaces."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            yield f"{path}, row {number}", line.strip()


def read_csv(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """(where, row) of a CSV file with a header that has at least `columns`.

    Raises:
        InputError: columns missing, or a row that is cut short.
    """
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        found = [name.strip() for name in rows.fieldnames or []]
        rows.fieldnames = found
        missing = [column for column in columns if column not in found]
        if missing:
            raise InputError(
                f"{path}, row 1: column {', '.join(missing)} missing; found {','.join(found)[:200]}"
            )
        for row in rows:
            where = f"{path}, row {rows.line_num}"
            if any(row[column] is None for column in columns):
                raise InputError(f"{where}: fewer values than the header has columns")
            yield where, row
    except csv.Error as error:
        raise InputError(f"{path}, row {rows.reader.line_num}: not CSV ({error})") from None


@contextmanager
def json_errors(path: Path) -> Iterator[None]:
    """Says of a text that cannot be decoded where and why.

    Raises:
        InputError: in place of what `json` raises.
    """
    try:
        yield
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, row {error.lineno}: not JSON ({error.msg})") from None
    except RecursionError:
        raise InputError(f"{path}: not JSON that anyone means (nested too deep)") from None
    except InputError:
        raise
    except ValueError:  # Python's limit on the digits of a number
        raise InputError(f"{path}: not JSON that anyone means (a number of 4,300 digits)") from None


def read_json(path: Path, kind: type) -> Any:
    """A JSON file that holds a list or an object, as `kind` says.

    Raises:
        InputError: not JSON, or of another kind.
    """
    text = read_text(path)
    with json_errors(path):
        content = json.loads(text)
    if not isinstance(content, kind):
        expected = "a list" if kind is list else "an object"
        raise InputError(f"{path}: {expected} is expected, not {type(content).__name__}")
    return content


def read_entries(
    path: Path, keys: dict[str, type], optional: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, entry) of a JSON list of objects that have `keys` of the given types.

    An `optional` key may be absent or null; either way the entry comes without it.

    Raises:
        InputError: an entry that is no object, lacks a key or has a value of another type.
    """
    for number, entry in enumerate(read_json(path, list), start=1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict):
            raise InputError(f"{where}: an object is expected, not {type(entry).__name__}")
        for key, kind in keys.items():
            if key in optional and entry.get(key) is None:
                entry.pop(key, None)
                continue
            if type(entry.get(key)) is not kind:
                found = f"{entry[key]!r:.60}" if key in entry else "missing"
                raise InputError(f"{where}: {key} is {found}; {_words(kind)} is expected")
        yield where, entry


def whole_number(text: str, what: str, where: str, below: int | None = None) -> int:
    """A number from 0, below `below` where that is given.

    Raises:
        InputError: with `where`, what the number stands for, and what is allowed.
    """
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else -1
    if number < 0 or (below is not None and number >= below):
        allowed = "a whole number" if below is None else f"0 to {below - 1}"
        raise InputError(f"{where}: {what} is {text[:60]!r}; {allowed} is allowed")
    return number


def _words(kind: type) -> str:
    return {str: "a text", int: "a whole number", list: "a list"}[kind]
