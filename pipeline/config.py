"""Configs are frozen dataclasses: to JSON and back, changed by path, compared and fingerprinted. Standard library only.

A config class validates itself in `__post_init__` and raises `ValueError("lr: must be positive, got -1.0")`, the
name of its own field first. This module puts the path of the config in front: `optim.lr: must be positive, got -1.0`.
"""

import dataclasses
import difflib
import enum
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")

KIND = "is"  # the key that names the class where the annotation leaves several open


class ConfigError(ValueError):
    """The user asked for a config that does not exist. The message names the path."""


def execution(default: Any) -> Any:
    """A dataclass field that says how a result is computed, not what it is: changing it makes no output stale."""
    return dataclasses.field(default=default, metadata={"execution": True})


def encode(value: Any, *, identity: bool = False) -> Any:
    """Plain JSON data for a config. Refuses what would not read the same in another process.

    With `identity`, execution fields are left out, so that equal data means interchangeable results.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = typing.get_type_hints(type(value))
        data = {}
        for field in dataclasses.fields(value):
            if identity and field.metadata.get("execution"):
                continue
            data[field.name] = encode(getattr(value, field.name), identity=identity)
            if isinstance(data[field.name], dict) and len(_classes(hints[field.name])) != 1:
                data[field.name] = {KIND: type(getattr(value, field.name)).__name__, **data[field.name]}
        return data
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [encode(item, identity=identity) for item in value]
    if isinstance(value, dict):
        return {str(key): encode(item, identity=identity) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ConfigError(f"a config cannot hold {value!r}, a {type(value).__qualname__}")


def decode(annotation: Any, data: Any, path: str = "") -> Any:
    """Build `annotation` from JSON data, strictly: unknown keys and wrong types are errors that name the path."""
    at = path or "the config"
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(args, data, path)
    if origin is typing.Literal:
        if data not in args:
            raise ConfigError(f"{at}: {data!r} is not one of {', '.join(map(repr, args))}{_meant(data, args)}")
        return data
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise ConfigError(f"{at}: expected a list such as [1,2], got {data!r}")
        if args[-1] is not Ellipsis and len(data) != len(args):
            raise ConfigError(f"{at}: expected {len(args)} values, got {len(data)}")
        item = [args[0]] * len(data) if args[-1] is Ellipsis else args
        return tuple(decode(a, v, f"{path}[{i}]") for i, (a, v) in enumerate(zip(item, data, strict=True)))
    if origin is dict:
        if not isinstance(data, dict):
            raise ConfigError(f"{at}: expected names with values, got {data!r}")
        return {key: decode(args[1], value, _join(path, key)) for key, value in data.items()}
    if dataclasses.is_dataclass(annotation):
        return _decode_dataclass(annotation, data, path)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return annotation(data)
    if annotation is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if type(data) is not annotation:
        raise ConfigError(f"{at}: expected {getattr(annotation, '__name__', annotation)}, got {data!r}")
    return data


def _decode_union(args: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None and type(None) in args:
        return None
    inner = [a for a in args if a is not type(None)]
    if len(inner) == 1:
        return decode(inner[0], data, path)
    names = {getattr(a, "__name__", str(a)): a for a in inner}
    if isinstance(data, dict) and data.get(KIND) in names:
        return decode(names[data[KIND]], {k: v for k, v in data.items() if k != KIND}, path)
    plain = [a for a in inner if type(data) is a]
    if plain:
        return decode(plain[0], data, path)
    raise ConfigError(f"{path or 'the config'}: {data!r} is none of {', '.join(names)}")


def _decode_dataclass(annotation: Any, data: Any, path: str) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(f"{path or 'the config'}: expected the fields of a {annotation.__name__}, got {data!r}")
    hints = typing.get_type_hints(annotation)
    for name in data:
        if name not in hints:
            raise ConfigError(_no_field(_join(path, name), name, annotation.__name__, hints))
    values = {name: decode(hints[name], value, _join(path, name)) for name, value in data.items()}
    try:
        return annotation(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(_join(path, str(error))) from error


def override(config: T, assignments: Iterable[str]) -> T:
    """A copy with every `path=value` applied; a value is JSON, or a bare word for a string."""
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"expected path=value, got {assignment!r}")
        config = replace_at(config, path.split("."), _value(text), path)
    return config


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def replace_at(config: Any, names: list[str], value: Any, path: str) -> Any:
    """A copy of the dataclass `config` in which the field reached by `names` is `value`, checked against its type."""
    name, rest = names[0], names[1:]
    hints = typing.get_type_hints(type(config)) if dataclasses.is_dataclass(config) else {}
    if name not in hints:
        raise ConfigError(_no_field(path, name, type(config).__name__, hints))
    new = replace_at(getattr(config, name), rest, value, path) if rest else decode(hints[name], value, path)
    try:
        return dataclasses.replace(typing.cast(Any, config), **{name: new})
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        parent = path.rsplit(".", len(rest) + 1)[0] if path.count(".") > len(rest) else ""
        raise ConfigError(_join(parent, str(error))) from error


def _no_field(path: str, name: str, owner: str, hints: dict[str, Any]) -> str:
    return f"{path}: no field {name!r} in {owner}; it has {', '.join(hints) or 'none'}{_meant(name, hints)}"


def _meant(word: Any, choices: Iterable[Any]) -> str:
    close = difflib.get_close_matches(str(word), [str(c) for c in choices], n=1)
    return f" — did you mean {close[0]!r}?" if close else ""


def meant(word: str, choices: Iterable[str]) -> str:
    """` — did you mean 'x'?` where one of the choices looks like the word, else nothing."""
    return _meant(word, choices)


def diff(old: Any, new: Any, path: str = "") -> list[str]:
    """`path: old -> new` for every leaf that differs between two pieces of JSON data."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [line for key in keys for line in diff(old.get(key), new.get(key), _join(path, key))]
    return [] if old == new else [f"{path}: {_show(old)} -> {_show(new)}"]


def _show(value: Any) -> str:
    return "(absent)" if value is None else json.dumps(value)


def fingerprint(data: Any) -> str:
    """Twelve hex digits that change if and only if the JSON data does."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def _classes(annotation: Any) -> list[Any]:
    args = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else ()
    return [a for a in (args or (annotation,)) if dataclasses.is_dataclass(a)]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
