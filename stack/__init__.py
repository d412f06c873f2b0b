"""The servers on one machine: TimescaleDB and Mosquitto, given by URL, run by Docker, or run from a private Debian root.

This package imports only the standard library: `make` runs parts of it before anything is installed.
"""

from citybeat.stack.errors import (
    CredentialsError,
    PortTakenError,
    RootBuildError,
    SandboxError,
    ServerFailedError,
    SettingsConflictError,
    StackError,
    ToolMissingError,
)
from citybeat.stack.lifecycle import credentials, down, reset, running, status, up
from citybeat.stack.model import Servers, ServerStatus, StackSettings
from citybeat.stack.process import spawn

__all__ = [
    "CredentialsError",
    "PortTakenError",
    "RootBuildError",
    "SandboxError",
    "ServerFailedError",
    "ServerStatus",
    "Servers",
    "SettingsConflictError",
    "StackError",
    "StackSettings",
    "ToolMissingError",
    "credentials",
    "down",
    "reset",
    "running",
    "spawn",
    "status",
    "up",
]
