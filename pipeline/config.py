"""Configs are frozen dataclasses: to JSON and back, changed by path, compared and fingerprinted. Standard library only.

A config class validates itself in `__post_init__` and raises `ValueError("lr: must be positive, got -1.0")`, the
name of its own field first. This module puts the path of the config in front: `optim.lr: must be positive, got -1.0`.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import sys
import types
import typing
from collections.abc import Iterable, Sequence
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
    return _encode(value, type(value), identity)


def _encode(value: Any, annotation: Any, identity: bool) -> Any:
    if type(value) is int and float in _alternatives(annotation) and int not in _alternatives(annotation):
        return float(value)  # `clip=1` in a recipe and `--set clip=1` on the command line are the same config
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = typing.get_type_hints(type(value))
        fields = [f for f in dataclasses.fields(value) if not (identity and f.metadata.get("execution"))]
        data = {f.name: _encode(getattr(value, f.name), hints[f.name], identity) for f in fields}
        return data if len(_classes(annotation)) == 1 else {KIND: type(value).__name__, **data}
    if isinstance(value, tuple):
        items = _items(annotation, len(value))
        if len(items) != len(value):
            raise ConfigError(f"a config cannot hold {value!r} where {len(items)} values are asked for")
        return [_encode(item, a, identity) for item, a in zip(value, items, strict=True)]
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
        if not any(type(choice) is type(data) and choice == data for choice in args):
            raise ConfigError(f"{at}: {data!r} is not one of {', '.join(map(repr, args))}{meant(data, args)}")
        return data
    if origin is tuple:
        return _decode_tuple(annotation, data, path)
    if annotation is float and type(data) in (int, float):
        if not abs(data) <= sys.float_info.max:
            raise ConfigError(f"{at}: expected a finite number, got {data!r}")
        return float(data)
    if dataclasses.is_dataclass(annotation):
        return _decode_dataclass(annotation, data, path)
    if type(data) is not annotation:
        raise ConfigError(f"{at}: expected {getattr(annotation, '__name__', annotation)}, got {data!r}")
    return data


def _decode_tuple(annotation: Any, data: Any, path: str) -> Any:
    at = path or "the config"
    if not isinstance(data, list | tuple):
        raise ConfigError(f"{at}: expected a list such as [1,2], got {data!r}")
    items = _items(annotation, len(data))
    if len(items) != len(data):
        raise ConfigError(f"{at}: expected {len(items)} values, got {len(data)}")
    return tuple(decode(a, v, f"{path}[{i}]") for i, (a, v) in enumerate(zip(items, data, strict=True)))


def _decode_union(args: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None and type(None) in args:
        return None
    inner = [a for a in args if a is not type(None)]
    classes = {_name(a): a for a in inner if dataclasses.is_dataclass(a)}
    if isinstance(data, dict) and len(classes) > 1:
        kind = data.get(KIND)
        if kind not in classes:
            raise ConfigError(f"{_join(path, KIND)}: {kind!r} is not one of {', '.join(classes)}{meant(kind, classes)}")
        return decode(classes[kind], {k: v for k, v in data.items() if k != KIND}, path)
    if len(inner) == 1:
        return decode(inner[0], data, path)
    for alternative in sorted(inner, key=lambda a: a is not type(data)):  # the exact type first: 1 is int before float
        if isinstance(data, dict) == dataclasses.is_dataclass(alternative):
            try:
                return decode(alternative, data, path)
            except ConfigError:
                if isinstance(data, dict):
                    raise
    how = f'; a class is named as {{"{KIND}": "{next(iter(classes))}", ...}}' if classes else ""
    raise ConfigError(f"{path or 'the config'}: {data!r} is none of {', '.join(map(_name, inner))}{how}")


def _decode_dataclass(annotation: Any, data: Any, path: str) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(f"{path or 'the config'}: expected the fields of {annotation.__name__}, got {data!r}")
    hints = _fields(annotation)
    for name in data:
        if name not in hints:
            raise ConfigError(_no_field(_join(path, name), name, annotation.__name__, hints))
    for field in dataclasses.fields(annotation):
        if field.default is field.default_factory is dataclasses.MISSING and field.name not in data:
            raise ConfigError(f"{_join(path, field.name)}: missing, and {annotation.__name__} has no default for it")
    values = {name: decode(hints[name], value, _join(path, name)) for name, value in data.items()}
    try:
        return annotation(**values)
    except ValueError as error:
        raise ConfigError(_join(path, str(error))) from error


def override(config: T, assignments: Iterable[str], *, at: str = "") -> T:
    """A copy with every `path=value` applied; a value is JSON, or a bare word for a string.

    All of them together make the new config, so values that must fit each other can be changed in any order.
    Errors put `at`, the path of the config itself, in front.
    """
    changes = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"expected path=value, got {assignment!r}")
        changes.append((path.split("."), _value(text), _join(at, path)))
    return _replaced(config, changes, at) if changes else config


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


Change = tuple[list[str], Any, str]  # the names that lead to a field from here, its new value, the path as given


def _replaced(config: Any, changes: Sequence[Change], path: str) -> Any:
    """A copy of the dataclass `config`, itself at `path`, with the changes made; each checked against its type."""
    if not dataclasses.is_dataclass(config):
        given = changes[0][2]
        raise ConfigError(f"{given}: {path or 'the config'} is {config!r} and has no fields; set it as a whole")
    hints, values, deeper = _fields(type(config)), {}, {}
    for (name, *rest), value, given in changes:
        if name not in hints:
            raise ConfigError(_no_field(given, name, type(config).__name__, hints))
        if rest:
            deeper.setdefault(name, []).append((rest, value, given))
        else:
            values[name] = decode(hints[name], value, given)
            deeper.pop(name, None)  # what was set inside before is set as a whole now
    for name, inner in deeper.items():
        values[name] = _replaced(values.get(name, getattr(config, name)), inner, _join(path, name))
    try:
        return dataclasses.replace(typing.cast(Any, config), **values)
    except ValueError as error:
        raise ConfigError(_join(path, str(error))) from error


def _no_field(path: str, name: str, owner: str, hints: dict[str, Any]) -> str:
    return f"{path}: no field {name!r} in {owner}; it has {', '.join(hints) or 'none'}{meant(name, hints)}"


def meant(word: Any, choices: Iterable[Any]) -> str:
    """` — did you mean 'x'?` where one of the choices looks like the word, else nothing."""
    close = difflib.get_close_matches(str(word), [str(c) for c in choices], n=1)
    return f" — did you mean {close[0]!r}?" if close else ""


_ABSENT = object()


def diff(old: Any, new: Any, path: str = "") -> list[str]:
    """`path: old -> new` for every leaf that differs between two pieces of JSON data.

    A key that is absent equals null: a config that gained an optional field is still the same config.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [line for k in keys for line in diff(old.get(k, _ABSENT), new.get(k, _ABSENT), _join(path, k))]
    nothing = (None, _ABSENT)
    return [] if old == new or (old in nothing and new in nothing) else [f"{path}: {_show(old)} -> {_show(new)}"]


def _show(value: Any) -> str:
    return "(absent)" if value is _ABSENT else json.dumps(value)


def fingerprint(data: Any) -> str:
    """Twelve hex digits that change if and only if the JSON data does."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """What a union is of; an annotation that is none is the one alternative."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def _classes(annotation: Any) -> list[Any]:
    return [a for a in _alternatives(annotation) if dataclasses.is_dataclass(a)]


def _items(annotation: Any, size: int) -> list[Any]:
    """The annotations of the items of a tuple; of one whose length is not fixed, `size` times the same."""
    args = next((typing.get_args(a) for a in _alternatives(annotation) if typing.get_origin(a) is tuple), (Any, ...))
    return [args[0]] * size if args[-1] is Ellipsis else list(args)


def _fields(annotation: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(annotation)
    return {field.name: hints[field.name] for field in dataclasses.fields(annotation) if field.init}


def _name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(map(repr, typing.get_args(annotation)))
    return str(annotation) if typing.get_args(annotation) else annotation.__name__


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
