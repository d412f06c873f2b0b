"""Commands whose modules are imported only when they are called or listed: ingest needs no web server, a worker no Arrow.

With everything imported a process takes 170 MB and 1.3 s before it does anything; ingest and its workers take 70.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import typer
from typer.core import TyperGroup

#: Modules that have a Typer named `app`, by the name of the command or group.
_MODULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "api": "citybeat.commands.serving",
        "dashboards": "citybeat.commands.dashboards",
        "devices": "citybeat.commands.registry",
        "keys": "citybeat.commands.keys",
        "quarantine": "citybeat.commands.quarantine",
        "simulate": "citybeat.commands.simulate",
    }
)


class LazyGroup(TyperGroup):
    """A group of imported commands and of commands to import. Its arguments are typed Any: typer bundles a click of its own."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands, in alphabetical order."""
        return sorted({*super().list_commands(ctx), *_MODULES})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, or None."""
        if cmd_name not in _MODULES:
            return super().get_command(ctx, cmd_name)
        command = typer.main.get_command(importlib.import_module(_MODULES[cmd_name]).app)
        command.name = cmd_name
        return command
