"""Builds frozen dataclasses from plain tables and back: every key known, every value of its type.

A part of a recipe that is chosen by name (a mask, a crop) is a `Choice`: the name of a function in
a registry, and values for its keyword-only parameters. What the function does not take is refused,
so that an option is never ignored.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

from shared.errors import InputError
from train.tables.nested import refuse_unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """One function of a registry with its options, such as a mask with its ratios."""

    kind: str
    options: dict[str, Any]

    def to_table(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.options}


def build(cls: type[T], table: Any, where: str) -> T:
    """An instance of the dataclass `cls` from a TOML table.

    Args:
        where: the table's name, for messages.

    Raises:
        InputError: an unknown or missing key, or a value of another type than the field's.
    """
    if not isinstance(table, Mapping):
        raise InputError(f"[{where}] is {table!r}; a table is expected")
    assert dataclasses.is_dataclass(cls)
    known = fields_by_name(cls)
    refuse_unknown(table, known, where)
    missing = [name for name, field in known.items() if name not in table and _is_required(field)]
    if missing:
        raise InputError(f"[{where}] lacks {', '.join(missing)}")
    hints = typing.get_type_hints(cls)
    values = {name: convert(table[name], hints[name], f"{where}.{name}") for name in table}
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"[{where}] {error}") from None


def choose(registry: Mapping[str, Callable[..., Any]], choice: Choice, where: str) -> Choice:
    """The choice with its options checked against the function's keyword-only parameters.

    Options that the function has a default for are filled in, so that a run records them.

    Raises:
        InputError: no such function, or an option that it lacks, needs or has of another type.
    """
    if choice.kind not in registry:
        allowed = ", ".join(sorted(registry))
        raise InputError(f"{where}.kind is {choice.kind!r}; allowed: {allowed}")
    function = registry[choice.kind]
    hints = typing.get_type_hints(function)
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    refuse_unknown(choice.options, parameters, f"{where}, kind {choice.kind!r}")
    options: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if name in choice.options:
            options[name] = convert(choice.options[name], hints[name], f"{where}.{name}")
        elif parameter.default is not inspect.Parameter.empty:
            options[name] = parameter.default
        else:
            raise InputError(f"[{where}] kind {choice.kind!r} needs {name}")
    return Choice(choice.kind, options)


def convert(value: Any, kind: Any, where: str) -> Any:
    """A TOML value as a value of type `kind`: numbers, texts, tuples, tables, unions with None."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Choice:
        if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
            raise InputError(f'{where} is {value!r}; a table with kind = "..." is expected')
        return Choice(value["kind"], {k: v for k, v in value.items() if k != "kind"})
    if isinstance(kind, type) and dataclasses.is_dataclass(value) and isinstance(value, kind):
        return value  # built already
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return build(kind, value, where)
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return None
        return convert(value, next(a for a in arguments if a is not types.NoneType), where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where} is {value!r}; a list is expected")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise InputError(f"{where} has {len(value)} values; {len(arguments)} are expected")
        return tuple(convert(item, arguments[0], where) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{where} is {value!r}; a value of type {kind.__name__} is expected")
    return value


def to_table(value: Any) -> Any:
    """A dataclass as plain values, for options.json; the inverse of `build`. A value that has a
    method `to_table` says itself how a recipe writes it."""
    if hasattr(value, "to_table"):
        value = value.to_table()
    if isinstance(value, Mapping):
        return {key: to_table(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_table(getattr(value, field.name)) for field in fields}
    return list(value) if isinstance(value, tuple) else value


def fields_by_name(cls: type) -> dict[str, dataclasses.Field]:
    """The fields of a dataclass, in its order."""
    return {field.name: field for field in dataclasses.fields(cls)}


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@dataclass(frozen=True)
class PlainValues:
    """Base of the dataclasses whose fields are recorded.

    Attributes:
        what: it configures, for messages.
    """

    what: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """A configuration from plain values; InputError names a field that does not exist."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise InputError(
                f"unknown {cls.what} option {', '.join(unknown)}; allowed: {', '.join(known)}"
            )
        return cls(**fields)
