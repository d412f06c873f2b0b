"""Commands whose modules are imported when they are called, or listed: ingest needs no web server, and a worker no Arrow.

With everything imported a process takes 170 MB and 1.3 s before it does anything; ingest and its workers take 70.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import typer
from typer.core import TyperGroup

#: Modules with a Typer named `app`, by name of the command or group.
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
    """The commands that are there, and those that can be imported. Arguments are of the click that typer carries inside itself."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, in order."""
        return sorted({*super().list_commands(ctx), *_MODULES})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name; None: there is none."""
        if cmd_name not in _MODULES:
            return super().get_command(ctx, cmd_name)
        command = typer.main.get_command(importlib.import_module(_MODULES[cmd_name]).app)
        command.name = cmd_name
        return command
