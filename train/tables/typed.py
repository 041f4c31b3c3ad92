"""Builds frozen dataclasses from plain tables, and plain tables from dataclasses.

Every key must be known, and every value must have the type of its field. A part of a recipe that is
chosen by name, such as a mask or a crop, is a `Choice`: the name of a function in a registry, and
values for its keyword-only parameters. Options that the function does not have are refused, so that
no option is silently ignored.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeGuard, TypeVar

from shared.errors import InputError
from train.tables.nested import refuse_unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """The name of a function in a registry with its options, such as a mask with its ratios."""

    kind: str
    options: dict[str, Any]

    def to_table(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.options}


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a plain value is a number. True and false are none, although Python counts them."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def build(cls: type[T], table: Any, where: str) -> T:
    """An instance of the dataclass `cls` from a TOML table.

    Args:
        where: name of the table, for messages.

    Raises:
        InputError: a key is unknown or missing, or a value has another type than its field.
    """
    if not isinstance(table, Mapping):
        raise InputError("wrong-type", f"[{where}] is {table!r}; it must be a table")
    assert dataclasses.is_dataclass(cls)
    known = fields_by_name(cls)
    refuse_unknown(table, known, where)
    missing = [name for name, field in known.items() if name not in table and _is_required(field)]
    if missing:
        raise InputError("missing-key", f"[{where}] lacks {', '.join(missing)}")
    hints = typing.get_type_hints(cls)
    values = {name: convert(table[name], hints[name], f"{where}.{name}") for name in table}
    try:
        return cls(**values)
    except InputError as error:
        raise error.at(f"[{where}]") from None


def choose(registry: Mapping[str, Callable[..., Any]], choice: Choice, where: str) -> Choice:
    """Check the options of a choice against the keyword-only parameters of its function.

    Returns:
        The choice with the defaults of the function filled in, so that a run records them.

    Raises:
        InputError: the function does not exist; or an option is unknown, missing or of another
            type.
    """
    if choice.kind not in registry:
        allowed = ", ".join(sorted(registry))
        raise InputError("unknown-name", f"{where}.kind is {choice.kind!r}; allowed: {allowed}")
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
            raise InputError(
                "missing-key", f"[{where}] lacks {name}, which kind {choice.kind!r} needs"
            )
    return Choice(choice.kind, options)


def convert(value: Any, kind: Any, where: str) -> Any:
    """Convert a TOML value to the type `kind`: a number, string, tuple, table, or union with
    None."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Choice:
        return _choice(value, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(value) and isinstance(value, kind):
        return value  # was built before
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return build(kind, value, where)
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in arguments:
            return None
        return convert(value, next(a for a in arguments if a is not types.NoneType), where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError("wrong-type", f"{where} is {value!r}; it must be a list")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise InputError(
                "wrong-type", f"{where} has {len(value)} values; it must have {len(arguments)}"
            )
        return tuple(convert(item, arguments[0], where) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise InputError("wrong-type", f"{where} is {value!r}; it must be of type {kind.__name__}")
    return value


def _choice(value: Any, where: str) -> Choice:
    """A name, or a table with `kind` and options."""
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        raise InputError(
            "wrong-type",
            f'{where} is {value!r}; it must be a name, or a table with kind = "..."',
        )
    return Choice(value["kind"], {k: v for k, v in value.items() if k != "kind"})


def to_table(value: Any) -> Any:
    """Convert a dataclass to plain values, for options.json; the inverse of `build`.

    A value with a method `to_table` decides itself how a recipe writes it.
    """
    if hasattr(value, "to_table"):
        value = value.to_table()
    if isinstance(value, Mapping):
        return {key: to_table(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: to_table(getattr(value, field.name)) for field in fields}
    return list(value) if isinstance(value, tuple) else value


def fields_by_name(cls: type) -> dict[str, dataclasses.Field]:
    """The fields of a dataclass by name, in their order."""
    return {field.name: field for field in dataclasses.fields(cls)}


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@dataclass(frozen=True)
class PlainValues:
    """Base class of dataclasses whose fields are recorded as plain values.

    Attributes:
        what: the thing that the dataclass configures, for messages.
    """

    what: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Build a configuration from plain values; InputError names a field that does not exist."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise InputError(
                "unknown-key",
                f"the {cls.what} has no option {', '.join(unknown)}; allowed: {', '.join(known)}",
            )
        return cls(**fields)
