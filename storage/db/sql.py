"""Named SQL: every statement stands in a file of a room's `queries/`, under a line `-- name: …` and a line that says what for."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final, LiteralString, cast

_NAME: Final = re.compile(r"^-- name: (\w+)[ \t]*$", re.MULTILINE)


@cache
def load(file: str, *, room: str = "citybeat.storage") -> Mapping[str, LiteralString]:
    """The statements of `{room}/queries/{file}.sql` by name.

    Raises
    ------
    ValueError
        A name stands twice, or text stands before the first name.
    """
    text = files(room).joinpath("queries", f"{file}.sql").read_text("utf-8")
    head, *parts = _NAME.split(text)
    if any(line and not line.startswith("--") for line in head.splitlines()):
        raise ValueError(f"{file}.sql: SQL before the first '-- name:' line")
    names = parts[::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{file}.sql: a name stands twice")
    # Our own files are as literal as a string in the source.
    statements = {name: cast("LiteralString", body.strip().rstrip(";")) for name, body in zip(names, parts[1::2], strict=True)}
    return MappingProxyType(statements)
