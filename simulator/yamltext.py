"""YAML with positions: a mapping that knows the line of each key, so that an error can name it. Numbers are exact decimals.

PyYAML alone lets the last of two equal keys win, turns 1.609344 into a float and "No" into False, and forgets the lines. Here equal
keys are an error, numbers are read from their digits, and every getter names what it expected. Decision 1 says why ruamel.yaml
would not make this smaller.
"""

import re
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import yaml

from citybeat.devices.clock import to_us
from citybeat.simulator.errors import MapError, ScenarioError

_MAP: Final = "tag:yaml.org,2002:map"
_LENGTH: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_UNITS: Final = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}

#: Error for a document that cannot be used, by the kind of document.
Failure = type[MapError] | type[ScenarioError]


class _Loader(yaml.SafeLoader):
    """Mappings become `Keys`, numbers Decimal."""


class Keys:
    """A mapping of a YAML document, with getters by key. Each key is used up once, so that the keys that are left are unknown.

    A getter without a default raises `fail` when its key is missing, and every getter when the value is of another kind.
    """

    def __init__(self, entries: dict[str, Any], lines: dict[str, int], line: int) -> None:
        self._entries = entries
        self._lines = lines
        self.line = line  # 1-based
        self.where = ""  # path in the document, as error messages have it
        self._origin = ""
        self._failure: Failure = MapError

    def rooted(self, origin: str, path: str = "", failure: Failure = MapError) -> "Keys":
        """Copy it, with its document and its place in it (an alias of YAML stands in several places)."""
        copy = Keys(dict(self._entries), self._lines, self.line)
        copy._origin = origin
        copy._failure = failure
        copy.where = path
        return copy

    def below(self, key: str, place: str = "") -> str:
        """Return the path of something under a key."""
        return ".".join(part for part in (self.where, key) if part) + place

    def fail(self, key: str | None, problem: str) -> MapError | ScenarioError:
        """Make an error that names origin, line and key."""
        line = self.line if key is None else self._lines.get(key, self.line)
        path = self.below(key or "")
        return self._failure(f"{self._origin}, line {line}: {f'{path}: ' if path else ''}{problem}")

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._entries))

    def finish(self) -> None:
        """Refuse keys that no getter has asked for."""
        for key in self._entries:
            raise self.fail(key, "no such key here")

    def _take(self, key: str, default: Any, fits: Callable[[Any], bool], wanted: str, hint: str = "") -> Any:
        """Use up a key; its value, if it fits, or the default."""
        if key not in self._entries:
            if default is ...:
                raise self.fail(None, f"key {key!r} is missing")
            return default
        value = self._entries.pop(key)
        if not fits(value):
            raise self.fail(key, f"{wanted} expected, not {_shown(value)}{hint}")
        return value

    def text(self, key: str, default: Any = ...) -> Any:
        """Return a string, or the default."""
        return self._take(key, default, lambda value: isinstance(value, str), "a text is", "; put it in quotes")

    def choice(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        """Return one of some words; the default has to be one of them too."""
        value = self._entries.setdefault(key, default)
        return str(self._take(key, value, lambda value: value in allowed, f"one of {', '.join(allowed)} is"))

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        return bool(self._take(key, default, lambda value: isinstance(value, bool), "true or false is"))

    def number(self, key: str, default: Any = ...) -> Any:
        """Return a finite Decimal, or the default."""
        return self._take(key, default, lambda value: isinstance(value, Decimal), "a number is")

    def texts(self, key: str, default: Any = ...) -> Any:
        """Return a tuple of strings, or the default; one string stands for a list of one."""
        value = self._take(
            key, default, lambda value: isinstance(value, str) or _all(value, str), "a list of texts is", "; put each in quotes"
        )
        return (value,) if isinstance(value, str) else value if value is default else tuple(value)

    def numbers(self, key: str) -> tuple[Decimal, ...]:
        """Return a tuple of Decimals; empty where the key is absent."""
        return tuple(self._take(key, [], lambda value: _all(value, Decimal), "a list of numbers is"))

    def keys(self, key: str, default: Any = ...) -> Any:
        """Return a mapping, or the default."""
        value = self._take(key, default, lambda value: isinstance(value, Keys), "a mapping is")
        return value.rooted(self._origin, self.below(key), self._failure) if isinstance(value, Keys) else value

    def sequence(self, key: str) -> list["Keys"]:
        """Return a list of mappings, at least one."""
        value = self._take(key, ..., lambda value: isinstance(value, list) and bool(value), "a list is")
        for item in value:
            if not isinstance(item, Keys):
                raise self.fail(key, f"mappings are expected in the list, not {_shown(item)}")
        return [item.rooted(self._origin, self.below(key, f"[{i}]"), self._failure) for i, item in enumerate(value)]

    def entries(self, key: str, named: str) -> list["Keys"]:
        """Return a list of mappings, at least one; a text in it stands for a mapping that has only this key."""
        value = self._entries.get(key)
        if isinstance(value, list):
            line = self._lines.get(key, self.line)
            self._entries[key] = [Keys({named: item}, {}, line) if isinstance(item, str) else item for item in value]
        return self.sequence(key)

    def holds(self, key: str, *kinds: type) -> bool:
        """Return True if a key is there with a value of one of these types: Keys, list, str, Decimal, bool."""
        return isinstance(self._entries.get(key), kinds)

    def whole(self, key: str, default: Any = ..., *, least: int, most: int) -> Any:
        """Return a whole number, or the default."""
        value = self.number(key, default)
        if value is default:
            return value
        if value != value.to_integral_value() or not least <= value <= most:
            raise self.fail(key, f"a whole number from {least} to {most} is expected, not {value}")
        return int(value)

    def seconds(self, key: str, default: Any = ...) -> Any:
        """Return a length of time as a Decimal, in seconds: a number of them, or a text such as 500ms, 30s, 5m, 2h, 1d."""
        wanted = "seconds, or a length of time such as 30s, 5m, 2h or 1d, are"
        value = self._take(key, default, lambda value: _seconds(value) is not None, wanted)
        return value if value is default else _seconds(value)

    def moment(self, key: str, default: Any = ...) -> Any:
        """Return a time with an offset, in us since 1970 UTC; or the default."""
        wanted = "a time with an offset is expected, such as 2026-02-16T18:00:00+07:00"
        value = self._take(key, default, lambda _: True, "")
        if value is default:
            return value
        time = _read(datetime.fromisoformat, value)
        if not isinstance(time, datetime) or time.tzinfo is None:
            raise self.fail(key, f"{wanted}, not {_shown(value)}")
        return to_us(time)

    def dates(self, key: str, default: Any = ...) -> Any:
        """Return a tuple of dates, or the default."""
        value = self._take(key, default, lambda value: isinstance(value, list), "a list of dates is")
        return value if value is default else tuple(self._date(key, item) for item in value)

    def _date(self, key: str, value: Any) -> date:
        day = _read(date.fromisoformat, value)
        if not isinstance(day, date) or isinstance(day, datetime):
            raise self.fail(key, f"dates such as 2026-02-17 are expected, not {_shown(value)}")
        return day


def _all(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _seconds(value: object) -> Decimal | None:
    """Read a length of time; None if it is none."""
    found = _LENGTH.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is not None:
        return Decimal(found[1]) * _UNITS[found[2]]
    return value if isinstance(value, Decimal) and value >= 0 else None


def _read(reader: Callable[[str], Any], value: object) -> object:
    """Read a text; YAML has read other values already. None if it cannot be read."""
    try:
        return reader(value) if isinstance(value, str) else value
    except ValueError:
        return None


def parse(text: str, *, origin: str, failure: Failure = MapError) -> Keys:
    """Read a YAML document that is a mapping.

    Raises
    ------
    MapError
        Or what `failure` says: not YAML, not a mapping, or a key stands twice.
    """
    try:
        document = yaml.load(text, _Loader)  # noqa: S506 - _Loader is a SafeLoader
    except MapError as exc:
        raise failure(f"{origin}, {exc}") from None
    except yaml.MarkedYAMLError as exc:
        line = "" if exc.problem_mark is None else f", line {exc.problem_mark.line + 1}"
        raise failure(f"{origin}{line}: not YAML: {exc.problem}") from exc
    except yaml.YAMLError as exc:
        raise failure(f"{origin}: not YAML: {exc}") from exc
    if not isinstance(document, Keys):
        raise failure(f"{origin}: a mapping is expected, not {_shown(document)}")
    return document.rooted(origin, failure=failure)


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


def _construct_time(loader: _Loader, node: yaml.ScalarNode) -> date:
    try:
        time: date = loader.construct_yaml_timestamp(node)
    except ValueError:
        raise MapError(f"line {node.start_mark.line + 1}: there is no such date: {node.value}") from None
    return time


def _shown(value: object) -> str:
    if isinstance(value, Keys):
        return "a mapping"
    if isinstance(value, Decimal):
        return f"the number {value}"
    if isinstance(value, datetime | date):
        return str(value)
    return "nothing" if value is None else repr(value)


_Loader.add_constructor(_MAP, _construct_map)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_number)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _construct_time)
