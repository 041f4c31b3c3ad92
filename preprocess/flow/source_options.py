"""Lets a flow source declare its own options, each in one place.

    @dataclass(frozen=True)
    class DisOptions(SourceOptions):
        dis_preset: str = option("medium", "Preset of OpenCV's DIS.", choices=("fast", "medium"))

The option of the command line (--dis-preset), the key in dataset.json, and the name of the option
in messages all come from this declaration.
"""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from shared.errors import InputError


@dataclass(frozen=True)
class Declaration:
    """One option of a flow source.

    Attributes:
        name: name of the field, and of the option in options.json.
        value_type: str, int, float, bool or Path.
        default: value if the option is not given; None = no value.
        help: one sentence for `--help`.
        metavar: unit or kind of the value; not needed with choices.
        choices: the values that are allowed; empty = any value.
        least, most: range of a number, both ends included; None = no limit.
        config_key: key in dataset.json. Several sources may share one, as sources with presets do.
        is_rare: whether only `--help-all` shows the option.
        is_required: whether the source needs the option.
    """

    name: str
    value_type: type
    default: Any
    help: str
    metavar: str | None
    choices: tuple[str, ...]
    least: float | None
    most: float | None
    config_key: str
    is_rare: bool
    is_required: bool

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return f"--{self.name.replace('_', '-')}"

    def check(self, value: Any) -> None:
        """Refuse a value that is not allowed.

        Raises:
            InputError: the value is none of the choices, or out of range.
        """
        if value is None:
            return
        if self.choices and value not in self.choices:
            raise InputError(
                "unknown-name", f"{self.flag} is {value!r}; allowed: {', '.join(self.choices)}"
            )
        too_small = self.least is not None and value < self.least
        if too_small or (self.most is not None and value > self.most):
            limits = [f"at least {self.least}"] if self.least is not None else []
            limits += [f"at most {self.most}"] if self.most is not None else []
            raise InputError(
                "out-of-range", f"{self.flag} is {value}; {' and '.join(limits)} is allowed"
            )


def option(
    default: Any,
    help: str,
    *,
    metavar: str | None = None,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    config_key: str | None = None,
    is_rare: bool = True,
    is_required: bool = False,
) -> Any:
    """Declare a field of a class derived from SourceOptions; see Declaration for the arguments."""
    metadata = {
        "help": help,
        "metavar": metavar,
        "choices": choices,
        "least": least,
        "most": most,
        "config_key": config_key,
        "is_rare": is_rare,
        "is_required": is_required,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SourceOptions:
    """Base class of the options of a flow source. A source without options uses it directly.

    Raises:
        InputError: a value is not allowed.
    """

    def __post_init__(self) -> None:
        for declared in declarations(type(self)):
            declared.check(getattr(self, declared.name))

    def config(self) -> dict[str, Any]:
        """The options by key of dataset.json. The value of a file is its sha256.

        Raises:
            InputError: a file cannot be read.
        """
        return {
            declared.config_key: _config_value(declared, getattr(self, declared.name))
            for declared in declarations(type(self))
        }

    def values(self) -> dict[str, Any]:
        """The options by name, for options.json."""
        return {each.name: getattr(self, each.name) for each in declarations(type(self))}


def declarations(options: type[SourceOptions]) -> list[Declaration]:
    """The options that a class declares, in the order of its fields."""
    types = typing.get_type_hints(options)
    return [
        Declaration(
            name=each.name,
            value_type=_without_none(types[each.name]),
            default=each.default,
            **{**each.metadata, "config_key": each.metadata["config_key"] or each.name},
        )
        for each in fields(options)
    ]


def read_source_options(
    options: type[SourceOptions], given: Mapping[str, Any]
) -> tuple[SourceOptions, list[str]]:
    """Read the options of one source from the options of `flows`.

    Args:
        options: class of the options.
        given: value by name, from click or options.json. None means "not given". A path may be a
            string.

    Returns:
        the options, and the flags of the options that were given.

    Raises:
        InputError: a value is not allowed.
    """
    values, flags = {}, []
    for declared in declarations(options):
        value = given.get(declared.name)
        if value is None or value is False:
            continue
        values[declared.name] = Path(value) if declared.value_type is Path else value
        flags.append(declared.flag)
    return options(**values), flags


def _without_none(annotation: Any) -> type:
    kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
    return kinds[0] if kinds else annotation


def _config_value(declared: Declaration, value: Any) -> Any:
    return file_digest(declared.flag, value) if declared.value_type is Path else value


def file_digest(flag: str, value: Path | str | None) -> str:
    """The sha256 of the file that an option names.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with open(value or "", "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        code = "missing-file" if isinstance(error, FileNotFoundError) else "file-system"
        raise InputError(code, f"{flag} {value}: {error.strerror}") from None
