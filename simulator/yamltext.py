"""YAML with its lines: a mapping that says where each key stands, so that an error can name the line. Numbers are exact decimals.

PyYAML alone lets the last of two equal keys win, turns 1.609344 into a float and "No" into False, and forgets where things stood.
Here equal keys are an error, numbers are read from their digits, and every getter names what it expected.
"""

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import yaml

from simulator.errors import MapError

_MAP: Final = "tag:yaml.org,2002:map"


class _Loader(yaml.SafeLoader):
    """Mappings become `Keys`, numbers Decimal."""


class Keys:
    """A mapping of a YAML document: getters by key, each used up once, so that what is left over is unknown."""

    def __init__(self, entries: dict[str, Any], lines: dict[str, int], line: int) -> None:
        self._entries = entries
        self._lines = lines
        self.line = line  # 1-based
        self.where = ""  # origin and path, as error messages begin
        self._origin = ""

    def rooted(self, origin: str, path: str = "") -> "Keys":
        """A fresh copy that knows its document and its place in it (an alias of YAML stands in several places)."""
        copy = Keys(dict(self._entries), self._lines, self.line)
        copy._origin = origin
        copy.where = path
        return copy

    def fail(self, key: str | None, problem: str) -> MapError:
        """An error that names origin, line and key."""
        line = self.line if key is None else self._lines.get(key, self.line)
        path = ".".join(part for part in (self.where, key) if part)
        return MapError(f"{self._origin}, line {line}: {f'{path}: ' if path else ''}{problem}")

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._entries))

    def finish(self) -> None:
        """Complain about keys that nobody asked for."""
        for key in self._entries:
            raise self.fail(key, "no such key here")

    def _take(self, key: str, default: Any) -> Any:
        if key not in self._entries:
            if default is ...:
                raise self.fail(None, f"key {key!r} is missing")
            return default
        return self._entries.pop(key)

    def text(self, key: str, default: Any = ...) -> Any:
        """A string, or the default."""
        value = self._take(key, default)
        if value is not default and not isinstance(value, str):
            raise self.fail(key, f"a text is expected, not {_shown(value)}; put it in quotes")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        """One of some words."""
        value = self._take(key, default)
        if value not in allowed:
            raise self.fail(key, f"one of {', '.join(allowed)} is expected, not {_shown(value)}")
        return str(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, f"true or false is expected, not {_shown(value)}")
        return value

    def number(self, key: str, default: Any = ...) -> Any:
        """A finite Decimal, or the default."""
        value = self._take(key, default)
        if value is not default and not isinstance(value, Decimal):
            raise self.fail(key, f"a number is expected, not {_shown(value)}")
        return value

    def texts(self, key: str, default: Any = ...) -> Any:
        """A tuple of strings; one string stands for a list of one."""
        value = self._take(key, default)
        if value is default:
            return value
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise self.fail(key, f"a list of texts is expected, not {_shown(value)}; put each in quotes")
        return tuple(items)

    def numbers(self, key: str) -> tuple[Decimal, ...]:
        """A tuple of Decimals; empty where the key is absent."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, Decimal) for item in value):
            raise self.fail(key, f"a list of numbers is expected, not {_shown(value)}")
        return tuple(value)

    def keys(self, key: str, default: Any = ...) -> Any:
        """A mapping, or the default."""
        value = self._take(key, default)
        if value is default:
            return value
        if not isinstance(value, Keys):
            raise self.fail(key, f"a mapping is expected, not {_shown(value)}")
        return value.rooted(self._origin, ".".join(part for part in (self.where, key) if part))

    def sequence(self, key: str) -> list["Keys"]:
        """A list of mappings, at least one."""
        value = self._take(key, ...)
        if not isinstance(value, list) or not value:
            raise self.fail(key, f"a list is expected, not {_shown(value)}")
        for item in value:
            if not isinstance(item, Keys):
                raise self.fail(key, f"mappings are expected in the list, not {_shown(item)}")
        return [item.rooted(self._origin, f"{key}[{i}]") for i, item in enumerate(value)]


def parse(text: str, *, origin: str) -> Keys:
    """Read a YAML document that is a mapping.

    Raises
    ------
    MapError
        Not YAML, not a mapping, or a key stands twice.
    """
    try:
        document = yaml.load(text, _Loader)  # noqa: S506 - _Loader is a SafeLoader
    except MapError as exc:
        raise MapError(f"{origin}, {exc}") from None
    except yaml.MarkedYAMLError as exc:
        line = "" if exc.problem_mark is None else f", line {exc.problem_mark.line + 1}"
        raise MapError(f"{origin}{line}: not YAML: {exc.problem}") from exc
    except yaml.YAMLError as exc:
        raise MapError(f"{origin}: not YAML: {exc}") from exc
    if not isinstance(document, Keys):
        raise MapError(f"{origin}: a mapping is expected, not {_shown(document)}")
    return document.rooted(origin)


def _construct_map(loader: _Loader, node: yaml.MappingNode) -> Keys:
    entries: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise MapError(f"line {line}: a key must be a text, not {_shown(key)}; put it in quotes")
        if key in entries:
            raise MapError(f"line {line}: key {key!r} stands twice")
        entries[key] = loader.construct_object(value_node, deep=True)
        lines[key] = line
    return Keys(entries, lines, node.start_mark.line + 1)


def _construct_number(_loader: _Loader, node: yaml.ScalarNode) -> Decimal:
    try:
        number = Decimal(node.value.replace("_", ""))
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise MapError(f"line {node.start_mark.line + 1}: {node.value} is not a plain decimal number")
    return number


def _shown(value: object) -> str:
    if isinstance(value, Keys):
        return "a mapping"
    if isinstance(value, Decimal):
        return f"the number {value}"
    return "nothing" if value is None else repr(value)


_Loader.add_constructor(_MAP, _construct_map)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_number)
