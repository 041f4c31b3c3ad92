"""Reads text, CSV and JSON files of annotations, with errors that name the file and the row."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.errors import InputError
from shared.manifest import check_columns


def read_text(path: Path) -> str:
    """Read a whole file as UTF-8, without a byte order mark.

    Raises:
        InputError: the file has another encoding; the message has the position of the first wrong
            byte.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        position, wrong = error.start, error.object[error.start]
        row = error.object.count(b"\n", 0, position) + 1
        is_utf_16 = error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        kind = "UTF-16, not UTF-8" if is_utf_16 else "not UTF-8"
        raise InputError(
            "wrong-format",
            f"{path}, row {row}: {kind} (byte {position} is 0x{wrong:02x}); save the file as UTF-8",
        ) from None


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (where, line) for every line that is not blank, without surrounding white space."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            yield f"{path}, row {number}", line.strip()


def read_csv(
    path: Path, columns: tuple[str, ...], skip_spaces: bool = False
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where, row) for every row of a CSV file whose header has at least `columns`.

    Args:
        path: the file.
        columns: the columns that it must have.
        skip_spaces: whether spaces after a comma are skipped, so that a quote may follow them.

    Raises:
        InputError: a column is missing or there twice, or a row has too few values.
    """
    stream = io.StringIO(read_text(path), newline="")
    rows = csv.DictReader(stream, skipinitialspace=skip_spaces)
    try:
        found = [name.strip() for name in rows.fieldnames or []]
        rows.fieldnames = found
        check_columns(found, str(path))
        missing = [column for column in columns if column not in found]
        if missing:
            raise InputError(
                "missing-key",
                f"{path}, row 1: column {', '.join(missing)} is missing; the header has "
                f"{','.join(found)[:200]}",
            )
        for row in rows:
            where = f"{path}, row {rows.line_num}"
            if any(row[column] is None for column in columns):
                raise InputError(
                    "bad-entry", f"{where}: the row has fewer values than the header has columns"
                )
            yield where, row
    except csv.Error as error:
        raise InputError(
            "wrong-format", f"{path}, row {rows.reader.line_num}: not CSV ({error})"
        ) from None


@contextmanager
def json_errors(path: Path) -> Iterator[None]:
    """Turn the errors of `json` in the block into an InputError with file, row and reason.

    Raises:
        InputError: the text is not JSON.
    """
    try:
        yield
    except json.JSONDecodeError as error:
        raise InputError(
            "wrong-format", f"{path}, row {error.lineno}: not JSON ({error.msg})"
        ) from None
    except RecursionError:
        raise InputError("wrong-format", f"{path}: the JSON is nested too deeply") from None
    except InputError:
        raise
    except ValueError:  # Python's limit on the digits of a number
        raise InputError(
            "wrong-format", f"{path}: the JSON has a number with more than 4,300 digits"
        ) from None


def read_json(path: Path, kind: type) -> Any:
    """Read a JSON file whose content is a list or an object, as `kind` says.

    Raises:
        InputError: the file is not JSON, or its content has another type.
    """
    text = read_text(path)
    with json_errors(path):
        content = json.loads(text)
    if not isinstance(content, kind):
        expected = "a list" if kind is list else "an object"
        raise InputError(
            "wrong-type", f"{path}: {expected} is expected, not {type(content).__name__}"
        )
    return content


def read_entries(
    path: Path, keys: dict[str, type], optional: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, entry) for a JSON list of objects that have `keys` of the given types.

    A key in `optional` may be absent or null. In both cases the entry comes without the key.

    Raises:
        InputError: an entry is not an object, lacks a key, or has a value of another type.
    """
    for number, entry in enumerate(read_json(path, list), start=1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict):
            raise InputError(
                "wrong-type", f"{where}: an object is expected, not {type(entry).__name__}"
            )
        for key, kind in keys.items():
            if key in optional and entry.get(key) is None:
                entry.pop(key, None)
                continue
            if type(entry.get(key)) is not kind:
                if key not in entry:
                    raise InputError("missing-key", f"{where}: {key} is missing")
                raise InputError(
                    "wrong-type",
                    f"{where}: {key} is {entry[key]!r:.60}; {_type_name(kind)} is expected",
                )
        yield where, entry


def whole_number(text: str, what: str, where: str, below: int | None = None) -> int:
    """Read a whole number of at least 0, and below `below` if that is given.

    Args:
        text: the number.
        what: what the number stands for, for messages.
        where: file and row, for messages.
        below: the first number that is not allowed; None = no limit.

    Raises:
        InputError: the text is no such number.
    """
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else -1
    if number < 0 or (below is not None and number >= below):
        allowed = "a whole number" if below is None else f"0 to {below - 1}"
        raise InputError("bad-entry", f"{where}: {what} is {text[:60]!r}; {allowed} is allowed")
    return number


def _type_name(kind: type) -> str:
    return {str: "a text", int: "a whole number", list: "a list"}[kind]
