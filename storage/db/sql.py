"""Named SQL statements. Each is in a file of a package's `queries/`, under a line `-- name: …` and a line that describes it."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final, LiteralString

from citybeat.devices.device import DEVICE_FIELDS
from citybeat.devices.flags import BAD, Flag

#: Parameters of statements that distinguish good readings from bad ones.
JUDGES: Final = {"bad": int(BAD), "good": int(Flag.MANUAL_GOOD)}
_NAME: Final = re.compile(r"^-- name: (\w+)[ \t]*$", re.MULTILINE)
#: Lists of the fields that describe a device: {fields} of a table, {d.fields} of a row d, {fields types} of a definition, and
#: {fields = n} to set them from a row n.
_FIELDS: Final = re.compile(r"\{(\w+\.)?fields( types)?( = \w+)?\}")


@cache
def load(file: str, *, package: str = "citybeat.storage") -> Mapping[str, LiteralString]:
    """Load the statements of `{package}/queries/{file}.sql`, by name.

    Raises
    ------
    ValueError
        A name is used twice, or SQL comes before the first name.
    """
    text = files(package).joinpath("queries", f"{file}.sql").read_text("utf-8")
    head, *parts = _NAME.split(text)
    if any(line and not line.startswith("--") for line in head.splitlines()):
        raise ValueError(f"{file}.sql: SQL before the first '-- name:' line")
    names = parts[::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{file}.sql: a name is used twice")
    # Our own files are as literal as a string in the source.
    return MappingProxyType(
        {name: _FIELDS.sub(_listed, body.strip().rstrip(";")) for name, body in zip(names, parts[1::2], strict=True)}
    )


def _listed(match: re.Match[str]) -> str:
    row, types, other = match.groups(default="")
    listed = DEVICE_FIELDS.items()
    if other:
        return ", ".join(f"{name}{other}.{name}" for name, _ in listed)
    return ", ".join(f"{row}{name} {about.type}" if types else f"{row}{name}" for name, about in listed)
